//! Sums of outer products of rows, by the inner loop of all other products: the gradients of matrices.

use std::cell::Cell;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::tile::{Float32, Target, next_rows, tile};
use super::{ARCH, Aligned, PANEL, PART, Shared, threads_for};

/// Some columns of a row-major matrix with `stride` columns.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub numbers: &'a [f32],
    pub stride: usize,
    pub columns: Range<usize>,
}

/// The outputs that one task computes: the gradients of so many at 1,024 rows stay in the second-level cache.
const OUTPUTS: usize = 48;

/// The panels that one task fills: it reads that many times a panel's width of a row at once.
const PANELS: usize = 4;

impl Part<'_> {
    /// Fills `blocks`: blocks of columns, as many as a tile takes, each row after row.
    #[inline(always)]
    fn interleave(&self, blocks: &mut Vec<f32>) {
        let Self { numbers, stride, ref columns } = *self;
        let rows = numbers.len() / stride;
        blocks.resize(rows * columns.len(), 0.0);
        let mut first = 0;
        while first < columns.len() {
            let count = next_rows(columns.len() - first);
            let begin = columns.start + first;
            copy_columns(numbers, stride, begin..begin + count, &mut blocks[rows * first..][..rows * count]);
            first += count;
        }
    }
}

/// Copies some columns of `x` `[rows, width]` to `to`, row after row. For as many as a tile or a panel has, the compiler knows the
/// number: a call for every few numbers would cost more than the copy.
#[inline(always)]
fn copy_columns(x: &[f32], width: usize, columns: Range<usize>, to: &mut [f32]) {
    match columns.len() {
        6 => copy_fixed::<6>(x, width, columns.start, to),
        12 => copy_fixed::<12>(x, width, columns.start, to),
        16 => copy_fixed::<16>(x, width, columns.start, to),
        32 => copy_fixed::<32>(x, width, columns.start, to),
        count => {
            for (to, row) in to.chunks_exact_mut(count).zip(x.chunks_exact(width)) {
                to.copy_from_slice(&row[columns.clone()]);
            }
        }
    }
}

/// Does the work of [`copy_columns`] for `N` columns from `first` on.
#[inline(always)]
fn copy_fixed<const N: usize>(x: &[f32], width: usize, first: usize, to: &mut [f32]) {
    for (to, row) in to.as_chunks_mut::<N>().0.iter_mut().zip(x.chunks_exact(width)) {
        to.copy_from_slice(&row[first..first + N]);
    }
}

/// Fills `panels`, panel after panel, with the columns `first..` of every row of `x` `[rows, width]`; 0 where `x` ends.
#[inline(always)]
fn fill_panels(x: &[f32], width: usize, first: usize, panels: &mut [f32]) {
    let size = x.len() / width * *PANEL;
    for (number, panel) in panels.chunks_exact_mut(size).enumerate() {
        let begin = first + number * *PANEL;
        let columns = begin..width.min(begin + *PANEL);
        if columns.len() == *PANEL {
            copy_columns(x, width, columns, panel);
        } else {
            for (to, row) in panel.chunks_exact_mut(*PANEL).zip(x.chunks_exact(width)) {
                let (to, padding) = to.split_at_mut(columns.len());
                to.copy_from_slice(&row[columns.clone()]);
                padding.fill(0.0);
            }
        }
    }
}

/// Returns d loss/d`W` `[outputs, inputs]` of `y = x W^T`: the sum over rows of the outer products of `dy` `[rows,
/// outputs]` and `x` `[rows, inputs]`. Rows are summed in their order.
///
/// # Panics
/// When the sizes do not agree.
pub fn weight_gradient(dy: &[f32], outputs: usize, x: &[f32], inputs: usize) -> Vec<f32> {
    let rows = x.len() / inputs;
    assert!(x.len() == rows * inputs && dy.len() == rows * outputs);
    let mut gradient = vec![0.0; outputs * inputs];
    let mut panels = SPARE.replace(Aligned::new(0));
    panels.resize(inputs.div_ceil(*PANEL) * *PANEL * rows, 0.0);
    if rows > 0 {
        let all = panels
            .par_chunks_mut(PANELS * rows * *PANEL)
            .enumerate()
            .with_min_len(PART.div_ceil(PANELS * rows * *PANEL));
        all.for_each(|(task, panels)| fill_panels(x, inputs, task * PANELS * *PANEL, panels));
    }
    let share = outputs.div_ceil(OUTPUTS).div_ceil(threads_for(dy.len() * inputs));
    gradient.par_chunks_mut(OUTPUTS * inputs).enumerate().with_min_len(share.max(1)).for_each(|(task, gradient)| {
        let first = task * OUTPUTS;
        let a = Part { numbers: dy, stride: outputs, columns: first..outputs.min(first + OUTPUTS) };
        ARCH.dispatch(Outer { a, panels: &panels, width: inputs, out: gradient });
    });
    SPARE.set(panels);
    gradient
}

thread_local! {
    /// The panels of this thread's last sum, for the next one: allocating afresh costs more than filling them.
    static SPARE: Cell<Aligned<f32>> = Cell::new(Aligned::new(0));
    static BLOCKS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Adds the sum over rows of the outer products of `a` and `b` `[rows, width]` to `out` `[a's columns, width]`.
#[inline(always)]
pub(super) fn add_outer<S: Simd>(simd: S, a: Part, b: &[f32], width: usize, out: &mut [f32]) {
    let mut panels = SPARE.replace(Aligned::new(0));
    let rows = b.len() / width;
    panels.resize(width.div_ceil(*PANEL) * *PANEL * rows, 0.0);
    fill_panels(b, width, 0, &mut panels);
    Outer { a, panels: &panels, width, out }.with_simd(simd);
    SPARE.set(panels);
}

struct Outer<'a> {
    a: Part<'a>,
    /// Panels of the rows of `b`.
    panels: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl WithSimd for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { a, panels, width, out } = self;
        let (rows, panel) = (a.numbers.len() / a.stride, 2 * S::F32_LANES);
        assert!(out.len() == a.columns.len() * width && panels.len() == width.div_ceil(panel) * panel * rows);
        let mut blocks = BLOCKS.take();
        a.interleave(&mut blocks);
        let out = Shared::new(out);
        for (number, values) in panels.chunks_exact((rows * panel).max(1)).enumerate() {
            let column = number * panel;
            let mut first = 0;
            while first < a.columns.len() {
                let count = next_rows(a.columns.len() - first);
                let block = &blocks[rows * first..rows * (first + count)];
                // SAFETY: the columns of `a` and those of the panel lie within `out`, as asserted above.
                unsafe {
                    let target = Target {
                        first: out.at(first * width + column),
                        stride: width,
                        width: panel.min(width - column),
                        bias: &[],
                        add: true,
                    };
                    tile(simd, Float32, count, block, values, target);
                }
                first += count;
            }
        }
        BLOCKS.set(blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_the_definition() {
        let numbers = |count: usize, factor: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * factor) % 17) as f32 - 8.0).collect()
        };
        for (rows, outputs, inputs) in [(0, 3, 4), (1, 1, 1), (5, 7, 16), (9, 50, 33), (20, 101, 65)] {
            let (dy, x) = (numbers(rows * outputs, 7), numbers(rows * inputs, 11));
            let found = weight_gradient(&dy, outputs, &x, inputs);
            for (o, i) in (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))) {
                let expected: f32 = (0..rows).map(|r| dy[r * outputs + o] * x[r * inputs + i]).sum();
                assert_eq!(found[o * inputs + i], expected, "small whole numbers are exact");
            }
        }
    }
}
