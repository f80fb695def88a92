//! The part of the vocabulary that the backbone writes most often.

use std::collections::HashMap;

use crate::traces::Trace;

/// Some of the tokens, numbered from 0 in the order of their ids. Ties therefore go to the same token by number as by
/// id.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Vocabulary {
    ids: Vec<u32>,
    numbers: HashMap<u32, u32>,
}

impl Vocabulary {
    /// Makes the vocabulary of these ids, which must be ascending.
    pub fn new(ids: Vec<u32>) -> Self {
        let numbers = ids.iter().zip(0..).map(|(&id, number)| (id, number)).collect();
        Self { ids, numbers }
    }

    /// Returns the `size` tokens that occur most often in the continuations of `traces`. Ties go to the smaller id. If
    /// fewer tokens occur at all, the smallest other ids of the `whole` vocabulary are added.
    pub fn most_frequent(traces: &[&Trace], size: usize, whole: usize) -> Self {
        let mut counts = vec![0u64; whole];
        continuations(traces).for_each(|token| counts[token as usize] += 1);
        let mut ids: Vec<u32> = (0..whole as u32).collect();
        ids.sort_by_key(|&id| std::cmp::Reverse(counts[id as usize]));
        ids.truncate(size);
        ids.sort_unstable();
        Self::new(ids)
    }

    /// Returns the ids, ascending.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Returns the number of a token, if it is in this vocabulary.
    pub fn number(&self, token: u32) -> Option<u32> {
        self.numbers.get(&token).copied()
    }

    /// Returns the share of the continuations' tokens that are in this vocabulary.
    pub fn coverage(&self, traces: &[&Trace]) -> f64 {
        let (all, covered) = continuations(traces).fold((0u64, 0u64), |(all, covered), token| {
            (all + 1, covered + u64::from(self.numbers.contains_key(&token)))
        });
        covered as f64 / all.max(1) as f64
    }
}

fn continuations<'a>(traces: &[&'a Trace]) -> impl Iterator<Item = u32> {
    let of_trace = |trace: &'a Trace| trace.documents().iter().flat_map(|document| trace.continuation(document));
    traces.iter().copied().flat_map(of_trace).copied()
}
