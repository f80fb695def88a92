//! Rows interleaved in the order in which the inner loop reads them.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::tile::next_rows;

/// Rows in blocks of up to twelve. A block stores, for one input after the other, the values of that input in all its
/// rows.
pub(super) struct Interleaved {
    values: Vec<f32>,
    rows: usize,
    inputs: usize,
}

/// One block of interleaved rows.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub first: usize,
    pub rows: usize,
    pub values: &'a [f32],
}

thread_local! {
    /// The buffer of the last [`Interleaved`] of this thread, for the next one: allocating afresh costs more than
    /// filling it.
    static SPARE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Drop for Interleaved {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.values));
    }
}

/// Numbers from which on interleaving is worth several threads.
const PARALLEL: usize = 1 << 16;
/// The numbers of a group: 4 MB, which caches hold. Larger ones would be read from memory anew for every panel, and the panels
/// are read anew for every smaller one.
const GROUP: usize = 1 << 20;

impl Interleaved {
    /// Interleaves `x` `[rows, inputs]`.
    pub fn new(x: &[f32], inputs: usize) -> Self {
        let rows = x.len() / inputs;
        let mut values = SPARE.take();
        values.resize(x.len(), 0.0);
        let mut blocks = Vec::new();
        let mut rest = &mut values[..];
        let mut first = 0;
        while first < rows {
            let count = next_rows(rows - first);
            let (block, after) = rest.split_at_mut(count * inputs);
            blocks.push((first, count, block));
            (rest, first) = (after, first + count);
        }
        let fill = |(first, count, block): (usize, usize, &mut [f32])| {
            for (r, row) in x[first * inputs..][..count * inputs].chunks(inputs).enumerate() {
                block[r..].iter_mut().step_by(count).zip(row).for_each(|(to, &from)| *to = from);
            }
        };
        if x.len() >= PARALLEL {
            blocks.into_par_iter().for_each(fill);
        } else {
            blocks.into_iter().for_each(fill);
        }
        Self { values, rows, inputs }
    }

    /// Iterates over the blocks, in the order of their rows.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> + Clone {
        self.blocks_of(0..self.rows)
    }

    /// Iterates over groups of neighbouring blocks, each small enough to stay in the cache while panel after panel is
    /// multiplied by it.
    pub fn groups(&self) -> impl Iterator<Item = impl Iterator<Item = Block<'_>> + Clone> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let begin = first;
            while first < self.rows && (first == begin || (first - begin) * self.inputs < GROUP) {
                first += next_rows(self.rows - first);
            }
            (begin < first).then(|| self.blocks_of(begin..first))
        })
    }

    /// Iterates over the blocks of some rows, which begin and end with whole blocks.
    fn blocks_of(&self, rows: Range<usize>) -> impl Iterator<Item = Block<'_>> + Clone {
        let mut first = rows.start;
        std::iter::from_fn(move || {
            if first == rows.end {
                return None;
            }
            let count = next_rows(self.rows - first);
            let values = &self.values[first * self.inputs..][..count * self.inputs];
            first += count;
            Some(Block { first: first - count, rows: count, values })
        })
    }
}
