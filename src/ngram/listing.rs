//! A model as the sorted lists of its n-grams. The estimation and the ARPA reader make one; ARPA text and the model
//! file are written from it.

use bytemuck::{Pod, Zeroable};

use super::key::{Key, Packing};
use super::sort::{Memory, Reader, Record, Sorted};
use super::words::Vocabulary;
use crate::error::Result;

/// An n-gram with its probability, and its back-off weight as a context.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq)]
#[repr(C)]
pub(super) struct Entry {
    /// The words in text order.
    pub(super) key: Key,
    /// The log10 probability, at most 0; minus infinity is log 0.
    pub(super) log10_prob: f32,
    /// The log10 back-off weight; 0 at the highest order.
    pub(super) log10_backoff: f32,
}

impl Record for Entry {
    fn key(&self) -> Key {
        self.key
    }
}

/// A back-off model's n-grams with their log10 probabilities and back-off weights.
///
/// Whatever makes one ([`super::estimate()`], [`super::arpa`]) ensures that `<unk>`, `<s>`, `</s>` and every word of an
/// n-gram are among the unigrams, that every context is listed, and that no n-gram is listed twice.
pub struct Listing {
    pub(super) vocabulary: Vocabulary,
    pub(super) packing: Packing,
    pub(super) memory: Memory,
    /// The lists of all orders, unigrams first.
    pub(super) orders: Vec<List>,
}

/// The n-grams of one order.
pub(super) struct List {
    pub(super) entries: Sorted<Entry>,
    pub(super) size: u64,
}

impl Listing {
    /// Returns the highest order.
    pub fn order(&self) -> usize {
        self.orders.len()
    }

    /// Returns the number of n-grams of every order, unigrams first.
    pub fn sizes(&self) -> Vec<u64> {
        self.orders.iter().map(|list| list.size).collect()
    }

    /// Returns a reader of the n-grams of order `n`.
    pub(super) fn read(&self, n: usize) -> Result<Reader<'_, Entry>> {
        self.orders[n - 1].entries.read()
    }

    /// Returns the words, the log10 probability and the log10 back-off weight of every n-gram, order by order, for
    /// tests.
    #[cfg(test)]
    pub(super) fn entries(&self) -> Vec<(Vec<u32>, f32, f32)> {
        let mut entries = Vec::new();
        for n in 1..=self.order() {
            let mut reader = self.read(n).unwrap();
            while let Some(entry) = reader.next().unwrap() {
                let words = self.packing.words(entry.key, n).collect();
                entries.push((words, entry.log10_prob, entry.log10_backoff));
            }
        }
        entries
    }
}
