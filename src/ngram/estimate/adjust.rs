//! Turns windows into the counts of all orders, in one pass in suffix order.

use bytemuck::{Pod, Zeroable};

use super::super::counts::MOST;
use super::super::key::Key;
use super::super::sort::{Record, Sorted, Sorter, Stream};
use super::super::words::{BOS, EOS, MAX_ORDER};
use super::{Run, Smoothing};
use crate::error::Result;

/// An n-gram and its count.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Gram {
    /// The context in suffix order, then the last word, so that the n-grams of a context are adjacent.
    pub(super) key: Key,
    /// The count that smoothing uses. The highest bit is set if the n-gram is not to be listed.
    count: u64,
}

const PRUNED: u64 = MOST + 1;

impl Gram {
    pub(super) fn count(&self) -> u64 {
        self.count & !PRUNED
    }

    pub(super) fn pruned(&self) -> bool {
        self.count & PRUNED != 0
    }
}

impl Record for Gram {
    fn key(&self) -> Key {
        self.key
    }
}

/// How many n-grams of an order have a count of 1, 2, ...; index 0 is not used.
pub(super) type CountsOfCounts = [u64; 8];

/// The counts of all orders, unigrams first.
pub(super) struct Adjusted {
    pub(super) grams: Vec<Sorted<Gram>>,
    pub(super) of_counts: Vec<CountsOfCounts>,
    /// The number of n-grams of each order that are to be listed.
    pub(super) kept: Vec<u64>,
    /// Whether `</s>` occurs.
    pub(super) ended: bool,
}

/// What is known so far of one suffix of the current window.
#[derive(Default, Clone, Copy)]
struct Open {
    raw: u64,
    /// The number of distinct words to its left.
    left: u64,
}

impl Run<'_> {
    /// Computes the counts of all orders.
    pub(super) fn adjust(&self) -> Result<Adjusted> {
        let order = self.order();
        let mut out = Out {
            run: self,
            sorters: (0..order).map(|_| self.sorter()).collect(),
            of_counts: vec![[0; 8]; order],
            kept: vec![0; order],
            ended: false,
        };
        let mut windows = self.counts.read()?;
        let mut open = [Open::default(); MAX_ORDER];
        let (mut before, mut before_length) = (Key::EMPTY, 0);
        while let Some(window) = windows.next()? {
            let length = self.packing.length(window.key, order);
            let shared = self.packing.common(before, window.key, length.min(before_length));
            for n in shared + 1..=before_length {
                out.close(before, n, open[n - 1])?;
            }
            for (n, open) in (1..).zip(&mut open[..length]) {
                if n > shared {
                    *open = Open::default();
                }
                open.raw = open.raw.saturating_add(window.count).min(MOST);
                // A suffix that is one word longer begins here.
                open.left += u64::from(n >= shared && n < length);
            }
            (before, before_length) = (window.key, length);
        }
        for n in 1..=before_length {
            out.close(before, n, open[n - 1])?;
        }
        let grams = out.sorters.into_iter().map(Sorter::finish).collect::<Result<_>>()?;
        Ok(Adjusted { grams, of_counts: out.of_counts, kept: out.kept, ended: out.ended })
    }
}

/// The counts that have been computed so far.
struct Out<'a> {
    run: &'a Run<'a>,
    sorters: Vec<Sorter<Gram>>,
    of_counts: Vec<CountsOfCounts>,
    kept: Vec<u64>,
    ended: bool,
}

impl Out<'_> {
    /// Emits the n-gram of length `n` that ends `window`, once all its occurrences are counted.
    fn close(&mut self, window: Key, n: usize, open: Open) -> Result<()> {
        let packing = self.run.packing;
        let begins = packing.word(window, n - 1) == BOS;
        let count = match self.run.options.smoothing {
            // Nothing stands to the left of <s>.
            Smoothing::KneserNey if n < self.run.order() && !begins => open.left,
            _ => open.raw,
        };
        if let Some(number) = self.of_counts[n - 1].get_mut(count as usize) {
            *number += 1;
        }
        let ends = n == 1 && packing.word(window, 0) == EOS;
        self.ended |= ends;
        let pruned = open.raw <= self.run.thresholds[n - 1] && !ends;
        self.kept[n - 1] += u64::from(!pruned);
        let key = packing.rotate(packing.prefix(window, n), n);
        self.sorters[n - 1].push(Gram { key, count: if pruned { count | PRUNED } else { count } })
    }
}
