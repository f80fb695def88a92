//! The n-grams of a model as a trie of flat arrays: what is estimated, written to ARPA and read from it.

use super::words::Vocabulary;

/// The n-grams of one order, in file order. `parent[i]` is the index, one order below, of the n-gram without its last
/// word (0 for unigrams).
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Grams {
    pub(super) parent: Vec<u32>,
    pub(super) word: Vec<u32>,
    /// log10 probability, at most 0; minus infinity is log 0.
    pub(super) log10_prob: Vec<f32>,
    /// log10 back-off weight of the n-gram as a context; empty at the highest order.
    pub(super) log10_backoff: Vec<f32>,
}

/// A back-off model's n-grams with their log10 probabilities and back-off weights.
///
/// Whoever makes one ([`super::estimate()`], [`super::arpa`]) sees to it that `<unk>`, `<s>`, `</s>` and every word
/// of an n-gram are among the unigrams, that every context is listed, and that no n-gram is listed twice.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub(super) vocabulary: Vocabulary,
    pub(super) grams: Vec<Grams>,
}

impl Table {
    /// The highest order.
    pub fn order(&self) -> usize {
        self.grams.len()
    }

    /// Number of n-grams of every order, unigrams first.
    pub fn sizes(&self) -> Vec<usize> {
        self.grams.iter().map(|grams| grams.word.len()).collect()
    }

    /// The words of n-gram `index` of order `order`.
    pub(super) fn words(&self, order: usize, index: usize) -> Vec<u32> {
        let mut words = vec![0; order];
        let mut at = index;
        for (grams, word) in self.grams.iter().zip(&mut words).rev() {
            *word = grams.word[at];
            at = grams.parent[at] as usize;
        }
        words
    }
}
