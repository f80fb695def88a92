//! Attention of new tokens over a cache of keys and values.
//!
//! Both are kept in panels, as weights are: within a panel of columns, keys are stored input by input, so that scores
//! come from the same inner loop as every other product, and likewise the mixed values. Sums run over the visible
//! columns in ascending order, so the columns that a token does not see cannot change its result.

use std::cell::Cell;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::rows::exp;
use super::tile::{Float32, ROWS, Target, next_rows, tile};
use super::{ARCH, PANEL, Shared, threads_for};

/// The columns of its text's cache that a new token may attend to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisibleSpan {
    /// The first column of the prefix, which is `first..prefix`.
    pub first: usize,
    /// The end of the prefix, exclusive.
    pub prefix: usize,
    /// Further columns, ascending, none below `prefix`: a token in a branch of a draft tree sees its ancestors and
    /// itself.
    pub others: Vec<usize>,
}

impl VisibleSpan {
    /// Returns the end of the visible columns, exclusive.
    pub(super) fn end(&self) -> usize {
        self.others.last().map_or(self.prefix, |last| last + 1)
    }

    /// Returns the first visible column.
    pub(super) fn start(&self) -> usize {
        if self.first < self.prefix { self.first } else { self.others.first().copied().unwrap_or(self.first) }
    }
}

/// The keys and values of one text in one layer.
pub struct LayerCache {
    pub(super) heads: usize,
    pub(super) width: usize,
    capacity: usize,
    /// `[heads, panels of columns, width, columns of a panel]`
    pub(super) keys: Vec<f32>,
    /// `[heads, panels of numbers, capacity, numbers of a panel]`
    pub(super) values: Vec<f32>,
}

impl LayerCache {
    /// Makes an empty cache for `heads` heads of `width` numbers, with room for `capacity` columns, rounded up to whole
    /// panels.
    pub fn new(heads: usize, width: usize, capacity: usize) -> Self {
        let capacity = capacity.max(1).next_multiple_of(*PANEL);
        let keys = vec![0.0; heads * width * capacity];
        let values = vec![0.0; heads * width.next_multiple_of(*PANEL) * capacity];
        Self { heads, width, capacity, keys, values }
    }

    /// Returns the number of columns that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns where the keys of a column begin; further inputs follow a panel's width apart.
    pub(super) fn key_offset(&self, head: usize, column: usize) -> usize {
        (head * self.capacity + column / *PANEL * *PANEL) * self.width + column % *PANEL
    }

    /// Returns where the numbers of panel `panel` of a column's values begin.
    pub(super) fn value_offset(&self, head: usize, panel: usize, column: usize) -> usize {
        ((head * self.width.div_ceil(*PANEL) + panel) * self.capacity + column) * *PANEL
    }

    /// Writes the keys and the values, both `[heads, width]`, of a column.
    pub fn write(&mut self, column: usize, keys: &[f32], values: &[f32]) {
        for head in 0..self.heads {
            let range = head * self.width..(head + 1) * self.width;
            let place = self.key_offset(head, column);
            self.keys[place..].iter_mut().step_by(*PANEL).zip(&keys[range.clone()]).for_each(|(to, &from)| *to = from);
            for (panel, numbers) in values[range].chunks(*PANEL).enumerate() {
                let place = self.value_offset(head, panel, column);
                self.values[place..place + numbers.len()].copy_from_slice(numbers);
            }
        }
    }

    /// Appends the keys and the values, both `[heads, width]`, of a column to `keys` and `values`.
    pub fn read(&self, column: usize, keys: &mut Vec<f32>, values: &mut Vec<f32>) {
        for head in 0..self.heads {
            keys.extend(self.keys[self.key_offset(head, column)..].iter().step_by(*PANEL).take(self.width));
            for panel in 0..self.width.div_ceil(*PANEL) {
                let count = (*PANEL).min(self.width - panel * *PANEL);
                values.extend_from_slice(&self.values[self.value_offset(head, panel, column)..][..count]);
            }
        }
    }

    /// Copies column `from` over column `to`.
    pub fn move_column(&mut self, from: usize, to: usize) {
        for head in 0..self.heads {
            let (old, new) = (self.key_offset(head, from), self.key_offset(head, to));
            for input in 0..self.width {
                self.keys[new + input * *PANEL] = self.keys[old + input * *PANEL];
            }
            for panel in 0..self.width.div_ceil(*PANEL) {
                let (old, new) = (self.value_offset(head, panel, from), self.value_offset(head, panel, to));
                self.values.copy_within(old..old + *PANEL, new);
            }
        }
    }

    /// Grows to at least `capacity` columns, keeping what is stored.
    pub fn grow(&mut self, capacity: usize) {
        let mut larger = Self::new(self.heads, self.width, capacity);
        for head in 0..self.heads {
            let (old, new) = (self.key_offset(head, 0), larger.key_offset(head, 0));
            let size = self.width * self.capacity;
            larger.keys[new..new + size].copy_from_slice(&self.keys[old..old + size]);
            for panel in 0..self.width.div_ceil(*PANEL) {
                let (old, new) = (self.value_offset(head, panel, 0), larger.value_offset(head, panel, 0));
                let size = self.capacity * *PANEL;
                larger.values[new..new + size].copy_from_slice(&self.values[old..old + size]);
            }
        }
        *self = larger;
    }
}

/// Attends with each row of `queries` to the columns of `cache` that its token may see, and writes the mixed values to
/// `out`.
///
/// `queries`, already scaled, and `out` are `[tokens, query heads, width]`; `spans` has one entry for each token. Query
/// heads share the cache's heads in equal groups (grouped-query attention, Ainslie et al. 2023).
///
/// # Panics
/// When the sizes do not agree.
pub fn attend(queries: &[f32], spans: &[VisibleSpan], cache: &LayerCache, out: &mut [f32]) {
    let width = cache.width;
    let query_heads = queries.len() / spans.len() / width;
    let group = query_heads / cache.heads;
    assert!(queries.len() == out.len() && queries.len() == spans.len() * cache.heads * group * width);
    let rows = spans.len() * group;
    let mut blocks = Vec::new();
    let mut first = 0;
    while first < rows {
        let count = next_rows(rows - first);
        blocks.extend((0..cache.heads).map(|head| (head, first, count)));
        first += count;
    }
    let columns = spans.iter().map(|span| span.end().saturating_sub(span.start())).max().unwrap_or(0);
    // Each query is multiplied by the keys, and its weights by the values.
    let share = blocks.len().div_ceil(threads_for(2 * queries.len() * columns));
    let out = Shared::new(out);
    blocks.into_par_iter().with_min_len(share).for_each(|(head, first, rows)| {
        let mut scratch = SCRATCH.take();
        let block = BlockOfRows { queries, spans, cache, out, head, group, first, rows };
        ARCH.dispatch(Attend(block, &mut scratch));
        SCRATCH.set(scratch);
    });
}

/// The largest number of columns of a panel: two vectors of 1024 bits.
const MOST_COLUMNS: usize = 64;

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// The buffers of one thread.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    /// `[rows, columns]`
    scores: Vec<f32>,
    /// `[columns, rows]`
    weights: Vec<f32>,
}

/// Some query rows of one key head. Row `r` belongs to query head `r % group` of token `r / group`.
struct BlockOfRows<'a> {
    queries: &'a [f32],
    spans: &'a [VisibleSpan],
    cache: &'a LayerCache,
    out: Shared,
    head: usize,
    group: usize,
    first: usize,
    rows: usize,
}

impl BlockOfRows<'_> {
    /// Returns where row `row` of the block begins, in the queries and in the output.
    #[inline(always)]
    fn offset(&self, row: usize) -> usize {
        let (token, query) = ((self.first + row) / self.group, (self.first + row) % self.group);
        ((token * self.cache.heads + self.head) * self.group + query) * self.cache.width
    }

    #[inline(always)]
    fn visible(&self, row: usize) -> &VisibleSpan {
        &self.spans[(self.first + row) / self.group]
    }
}

struct Attend<'a>(BlockOfRows<'a>, &'a mut Scratch);

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Attend(block, Scratch { queries, scores, weights }) = self;
        let (cache, rows) = (block.cache, block.rows);
        let (width, panel) = (cache.width, 2 * S::F32_LANES);
        let (mut start, mut end) = (usize::MAX, 0);
        for row in 0..rows {
            let visible = block.visible(row);
            (start, end) = (start.min(visible.start()), end.max(visible.end()));
        }
        start = start / panel * panel;
        let columns = (end - start).next_multiple_of(panel);

        queries.resize(ROWS * width, 0.0);
        for row in 0..rows {
            let query = &block.queries[block.offset(row)..][..width];
            for (to, &from) in queries[row..].iter_mut().step_by(rows).zip(query) {
                *to = from;
            }
        }
        scores.resize(scores.len().max(ROWS * columns), 0.0);
        for column in (0..columns).step_by(panel) {
            let place = cache.key_offset(block.head, start + column);
            let keys = &cache.keys[place..place + width * panel];
            let first = scores[column..].as_mut_ptr();
            let target = Target { first, stride: columns, width: panel, bias: &[], add: false };
            // SAFETY: `scores` has room for all rows and columns, and nothing else borrows it.
            unsafe { tile(simd, Float32, rows, &queries[..rows * width], keys, target) };
        }

        weights.clear();
        weights.resize(rows * columns, 0.0);
        for row in 0..rows {
            let visible = block.visible(row);
            let scores = &mut scores[row * columns..][..columns];
            softmax(visible, start, scores);
            for column in visible.first..visible.prefix {
                weights[(column - start) * rows + row] = scores[column - start];
            }
            for column in &visible.others {
                weights[(column - start) * rows + row] = scores[column - start];
            }
        }
        let mut sums = [0.0f32; ROWS];
        for column in weights.chunks_exact(rows) {
            for (sum, w) in sums.iter_mut().zip(column) {
                *sum += w;
            }
        }

        const { assert!(2 * S::F32_LANES <= MOST_COLUMNS) };
        let mut mixed = [0.0f32; ROWS * MOST_COLUMNS];
        for number in (0..width).step_by(panel) {
            let place = cache.value_offset(block.head, number / panel, start);
            let values = &cache.values[place..place + columns.min(end - start) * panel];
            let target = Target { first: mixed.as_mut_ptr(), stride: panel, width: panel, bias: &[], add: false };
            // SAFETY: a panel has at most MOST_COLUMNS numbers, as asserted above, so `mixed` has room for all rows;
            // nothing else borrows it.
            unsafe { tile(simd, Float32, rows, &weights[..(end - start) * rows], values, target) };
            let count = panel.min(width - number);
            for row in 0..rows {
                // SAFETY: no other block writes rows of this head.
                let out = unsafe { std::slice::from_raw_parts_mut(block.out.at(block.offset(row) + number), count) };
                for (out, m) in out.iter_mut().zip(&mixed[row * panel..]) {
                    *out = m / sums[row];
                }
            }
        }
    }
}

/// Replaces the scores of the visible columns by `e^(score - largest)`; `scores` begins at column `start`.
#[inline(always)]
pub(super) fn softmax(visible: &VisibleSpan, start: usize, scores: &mut [f32]) {
    let prefix = visible.first.min(visible.prefix)..visible.prefix;
    let near = if prefix.is_empty() { 0..0 } else { prefix.start - start..prefix.end - start };
    // Sixteen partial maxima, so that the loop becomes vector code; the order does not change the largest.
    let mut strands = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = scores[near.clone()].as_chunks::<16>();
    for chunk in chunks {
        for (most, &score) in strands.iter_mut().zip(chunk) {
            *most = if score > *most { score } else { *most };
        }
    }
    let mut largest = f32::NEG_INFINITY;
    for &score in strands.iter().chain(rest) {
        largest = largest.max(score);
    }
    for column in &visible.others {
        largest = largest.max(scores[column - start]);
    }
    for score in &mut scores[near] {
        *score = exp(*score - largest);
    }
    for column in &visible.others {
        scores[column - start] = exp(scores[column - start] - largest);
    }
}
