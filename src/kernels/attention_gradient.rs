//! Gradients of attention over a cache of keys and values.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::attention::{LayerCache, VisibleSpan, softmax};
use super::interleaved::Interleaved;
use super::outer::{Part, add_outer};
use super::rows::sum;
use super::rows_gradient::inner;
use super::tile::{Float32, Target, tile};
use super::{ARCH, Shared};

/// The gradients of the keys and values of one text in one layer, column by column.
pub struct ColumnGradients {
    columns: Range<usize>,
    /// The text's cache with keys and values exchanged: gradients flow through keys as values do forward, and the other
    /// way round.
    exchanged: LayerCache,
    /// `[heads, columns, width]`
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl ColumnGradients {
    /// Makes zeros for the given columns of `cache`, which end behind the last one written. Columns before them, say
    /// those of a context that is not trained, have no gradient, which saves time. There may be none.
    pub fn new(cache: &LayerCache, columns: Range<usize>) -> Self {
        let (heads, width) = (cache.heads, cache.width);
        let mut exchanged = LayerCache::new(heads, width, columns.end);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for column in 0..columns.end {
            keys.clear();
            values.clear();
            cache.read(column, &mut keys, &mut values);
            exchanged.write(column, &values, &keys);
        }
        let zeros = vec![0.0; heads * numbers_of_head(&columns, width)];
        Self { columns, exchanged, keys: zeros.clone(), values: zeros }
    }

    /// Returns the gradients of the keys and of the values, both `[heads, width]`, of a column as far as they have been
    /// added up.
    pub fn column(&self, column: usize) -> [Vec<f32>; 2] {
        let width = self.exchanged.width;
        let of = |numbers: &[f32]| {
            let heads = numbers.chunks(self.columns.len() * width);
            heads.flat_map(|head| &head[(column - self.columns.start) * width..][..width]).copied().collect()
        };
        [of(&self.keys), of(&self.values)]
    }
}

/// Returns how many numbers a head has. Without columns it has one that nothing is added to, since heads are walked by their numbers.
fn numbers_of_head(columns: &Range<usize>, width: usize) -> usize {
    (columns.len() * width).max(1)
}

/// Given the arguments of an [`attend`](super::attend) and d loss/d of what it gave, `dout`, fills `dqueries` with d
/// loss/d`queries` and adds the gradients of the keys and values to `gradients`.
///
/// # Panics
/// When the sizes do not agree.
pub fn attend_backward(
    queries: &[f32],
    spans: &[VisibleSpan],
    cache: &LayerCache,
    dout: &[f32],
    dqueries: &mut [f32],
    gradients: &mut ColumnGradients,
) {
    let (heads, width) = (cache.heads, cache.width);
    let group = queries.len() / spans.len() / width / heads;
    assert!(queries.len() == spans.len() * heads * group * width);
    assert!(dout.len() == queries.len() && dqueries.len() == queries.len());
    let size = numbers_of_head(&gradients.columns, width);
    let (columns, exchanged) = (&gradients.columns, &gradients.exchanged);
    let parts = gradients.keys.par_chunks_mut(size).zip(gradients.values.par_chunks_mut(size)).enumerate();
    let of_heads: Vec<Vec<f32>> = parts
        .map(|(head, (of_keys, of_values))| {
            // The rows of one head of the cache: query head after query head of token after token.
            let rows = |numbers: &[f32]| -> Vec<f32> {
                let tokens = numbers.chunks(heads * group * width);
                tokens.flat_map(|token| &token[head * group * width..][..group * width]).copied().collect()
            };
            let (queries, dout) = (&rows(queries)[..], &rows(dout)[..]);
            ARCH.dispatch(Head { queries, spans, group, cache, exchanged, head, dout, columns, of_keys, of_values })
        })
        .collect();
    for (head, rows) in of_heads.iter().enumerate() {
        let tokens = dqueries.chunks_mut(heads * group * width).zip(rows.chunks(group * width));
        tokens.for_each(|(to, from)| to[head * group * width..][..group * width].copy_from_slice(from));
    }
}

/// The rows of one head of the cache.
struct Head<'a> {
    queries: &'a [f32],
    spans: &'a [VisibleSpan],
    group: usize,
    cache: &'a LayerCache,
    exchanged: &'a LayerCache,
    head: usize,
    dout: &'a [f32],
    columns: &'a Range<usize>,
    of_keys: &'a mut [f32],
    of_values: &'a mut [f32],
}

impl WithSimd for Head<'_> {
    /// d loss/d`queries`
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let (width, panel) = (self.cache.width, 2 * S::F32_LANES);
        let start = self.spans.iter().map(VisibleSpan::start).min().unwrap_or(0) / panel * panel;
        let end = self.spans.iter().map(VisibleSpan::end).max().unwrap_or(0);
        let range = start..end;
        let mut scores = by_columns(simd, self.queries, self.cache, self.head, &range);
        let mut slopes = by_columns(simd, self.dout, self.exchanged, self.head, &range);
        let columns = (end - start).next_multiple_of(panel);
        let mut weights = vec![0.0; scores.len()];
        let rows = scores.chunks_exact_mut(columns).zip(slopes.chunks_exact_mut(columns));
        for (row, ((scores, slopes), weights)) in rows.zip(weights.chunks_exact_mut(columns)).enumerate() {
            let visible = &self.spans[row / self.group];
            softmax(visible, start, scores);
            let near = visible.first.min(visible.prefix).max(start) - start..visible.prefix.max(start) - start;
            weights[near.clone()].copy_from_slice(&scores[near]);
            visible.others.iter().for_each(|column| weights[column - start] = scores[column - start]);
            let total = sum(weights, 0.0, false);
            weights.iter_mut().for_each(|weight| *weight /= total);
            // A weight's slope counts from the mean of all slopes, as weights add up to 1.
            let mean = inner(weights, slopes);
            for (slope, weight) in slopes.iter_mut().zip(&*weights) {
                *slope = weight * (*slope - mean);
            }
        }
        let trained = self.columns.start.max(start)..end;
        if !trained.is_empty() {
            let place = (trained.start - self.columns.start) * width..(trained.end - self.columns.start) * width;
            let part = |numbers| Part { numbers, stride: columns, columns: trained.start - start..end - start };
            add_outer(simd, part(&weights), self.dout, width, &mut self.of_values[place.clone()]);
            add_outer(simd, part(&slopes), self.queries, width, &mut self.of_keys[place]);
        }
        by_numbers(simd, &slopes, self.exchanged, self.head, &range)
    }
}

/// Returns the inner products of `rows` `[n, width]` with the keys of columns `range` of `cache`: `[n, columns]`, rounded
/// up to whole panels.
#[inline(always)]
fn by_columns<S: Simd>(simd: S, rows: &[f32], cache: &LayerCache, head: usize, range: &Range<usize>) -> Vec<f32> {
    let (width, panel) = (cache.width, 2 * S::F32_LANES);
    let columns = range.len().next_multiple_of(panel);
    let rows = Interleaved::new(rows, width);
    let mut out = vec![0.0; rows.blocks().map(|block| block.rows).sum::<usize>() * columns];
    let all = Shared::new(&mut out);
    for column in (0..columns).step_by(panel) {
        let place = cache.key_offset(head, range.start + column);
        let keys = &cache.keys[place..place + width * panel];
        for block in rows.blocks() {
            // SAFETY: the block's rows and the panel's columns lie within `out`.
            unsafe {
                let first = all.at(block.first * columns + column);
                let target = Target { first, stride: columns, width: panel, bias: &[], add: false };
                tile(simd, Float32, block.rows, block.values, keys, target);
            }
        }
    }
    out
}

/// Returns the values of columns `range` of `cache`, weighted by `rows` `[n, columns]`, rounded up to whole panels, and
/// added up: `[n, width]`.
#[inline(always)]
fn by_numbers<S: Simd>(simd: S, rows: &[f32], cache: &LayerCache, head: usize, range: &Range<usize>) -> Vec<f32> {
    let (width, panel) = (cache.width, 2 * S::F32_LANES);
    let columns = range.len().next_multiple_of(panel);
    let rows = Interleaved::new(rows, columns);
    let mut out = vec![0.0; rows.blocks().map(|block| block.rows).sum::<usize>() * width];
    let all = Shared::new(&mut out);
    for number in (0..width).step_by(panel) {
        let place = cache.value_offset(head, number / panel, range.start);
        let values = &cache.values[place..place + range.len() * panel];
        for block in rows.blocks() {
            // SAFETY: the block's rows and the panel's numbers lie within `out`.
            unsafe {
                let first = all.at(block.first * width + number);
                let target = Target { first, stride: width, width: panel.min(width - number), bias: &[], add: false };
                tile(simd, Float32, block.rows, block.values, values, target);
            }
        }
    }
    out
}
