//! A part of the vocabulary: the tokens that the backbone writes most.

use std::collections::HashMap;

use crate::traces::Trace;

/// Some tokens, numbered from 0 in the order of their ids, so that ties go by id here as there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Vocabulary {
    ids: Vec<u32>,
    numbers: HashMap<u32, u32>,
}

impl Vocabulary {
    /// Of ids in ascending order.
    pub fn new(ids: Vec<u32>) -> Self {
        let numbers = ids.iter().zip(0..).map(|(&id, number)| (id, number)).collect();
        Self { ids, numbers }
    }

    /// The `size` tokens that are most frequent in the continuations of `traces`; of equally frequent ones those of smaller
    /// ids, and after all that occur the smallest ids of the `whole` vocabulary.
    pub fn most_frequent(traces: &[&Trace], size: usize, whole: usize) -> Self {
        let mut counts = vec![0u64; whole];
        continuations(traces).for_each(|token| counts[token as usize] += 1);
        let mut ids: Vec<u32> = (0..whole as u32).collect();
        ids.sort_by_key(|&id| std::cmp::Reverse(counts[id as usize]));
        ids.truncate(size);
        ids.sort_unstable();
        Self::new(ids)
    }

    /// The ids, ascending.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The number of a token, where it is one of these.
    pub fn number(&self, token: u32) -> Option<u32> {
        self.numbers.get(&token).copied()
    }

    /// The share of the continuations' tokens that is among these.
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
