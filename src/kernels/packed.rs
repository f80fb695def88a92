//! A matrix of weights, stored in the order in which products read it.

use std::fmt;
use std::ops::Range;

use half::{bf16, f16};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::interleaved::Interleaved;
use super::tile::{Bfloat16, Float16, Float32, Format, Target, tile};
use super::{ARCH, Aligned, PANEL, Shared, threads_for};
use crate::storage_type::StorageType;

/// `W` `[outputs, inputs]` with an optional bias, for `y = x W^T + b`.
///
/// The outputs are cut into panels of two vectors. A panel stores, for one input after the other, the weights of its
/// outputs, so that a product streams through memory once.
pub struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    panels: Panels,
    /// `[outputs]`, or empty.
    bias: Vec<f32>,
}

enum Panels {
    Float32(Aligned<f32>),
    Float16(Aligned<u32>, Float16),
    Bfloat16(Aligned<u32>),
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedMatrix {{ outputs: {}, inputs: {} }}", self.outputs, self.inputs)
    }
}

impl PackedMatrix {
    /// Packs `values` `[outputs, inputs]`, rounded to `storage`. `bias` is `[outputs]` or empty.
    ///
    /// # Panics
    /// When the sizes do not agree.
    pub fn new(values: &[f32], inputs: usize, bias: Vec<f32>, storage: StorageType) -> Self {
        let outputs = values.len() / inputs;
        assert!(values.len() == outputs * inputs && (bias.is_empty() || bias.len() == outputs));
        let panels = match storage {
            StorageType::Float32 => Panels::Float32(fill(values, inputs, *PANEL, |row, out| out.copy_from_slice(row))),
            StorageType::Float16 => {
                // Scale away from float16's subnormal numbers, which some processors decode slowly. Powers of two are
                // exact.
                let largest = values.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
                let scale = 2f32.powi((15.0 - largest.log2().ceil()).clamp(0.0, 14.0) as i32);
                let half = |x: f32| f16::from_f32(f16::from_f32(x).to_f32() * scale).to_bits();
                Panels::Float16(fill_words(values, inputs, half), Float16 { scale: scale.recip() })
            }
            StorageType::Bfloat16 => Panels::Bfloat16(fill_words(values, inputs, |x| bf16::from_f32(x).to_bits())),
        };
        Self { outputs, inputs, panels, bias }
    }

    /// Returns the number of rows of `W`.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the number of columns of `W`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the bias, `[outputs]` or empty.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// Returns the size of weights and bias in bytes.
    pub fn bytes(&self) -> usize {
        let words = match &self.panels {
            Panels::Float32(numbers) => numbers.len(),
            Panels::Float16(words, _) | Panels::Bfloat16(words) => words.len(),
        };
        4 * (words + self.bias.len())
    }

    /// Fills `y` `[n, outputs]` with `x W^T + b` of `x` `[n, inputs]`.
    pub fn multiply(&self, x: &[f32], y: &mut Vec<f32>) {
        self.multiply_part(0..self.outputs, x, y);
    }

    /// Does the same as [`PackedMatrix::multiply`] for a range of the outputs: `y` becomes `[n, outputs.len()]`.
    ///
    /// # Panics
    /// When `outputs.start` is not a multiple of 64, or the range ends beyond the matrix.
    pub fn multiply_part(&self, outputs: Range<usize>, x: &[f32], y: &mut Vec<f32>) {
        y.resize(x.len() / self.inputs * outputs.len(), 0.0);
        self.product(outputs, x, y, false);
    }

    /// Adds `x W^T + b` of `x` `[n, inputs]` to `y` `[n, outputs]`.
    pub fn multiply_onto(&self, x: &[f32], y: &mut [f32]) {
        self.product(0..self.outputs, x, y, true);
    }

    /// Computes the product for a range of the outputs; adds it to `y` if `add`, else overwrites `y`.
    fn product(&self, outputs: Range<usize>, x: &[f32], y: &mut [f32], add: bool) {
        assert!(x.len().is_multiple_of(self.inputs) && x.len() / self.inputs * outputs.len() == y.len());
        assert!(outputs.start.is_multiple_of(64) && outputs.end <= self.outputs, "{outputs:?}");
        let rows = Interleaved::new(x, self.inputs);
        match &self.panels {
            Panels::Float32(numbers) => self.share_out(Float32, numbers, outputs, &rows, y, add),
            Panels::Float16(words, format) => self.share_out(*format, words, outputs, &rows, y, add),
            Panels::Bfloat16(words) => self.share_out(Bfloat16, words, outputs, &rows, y, add),
        }
    }

    /// Shares the panels out equally among the threads that are worth it.
    fn share_out<F: Format>(
        &self,
        format: F,
        numbers: &[F::Number],
        outputs: Range<usize>,
        rows: &Interleaved,
        y: &mut [f32],
        add: bool,
    ) {
        let size = F::stored(*PANEL) * self.inputs;
        let panels = outputs.start / *PANEL..outputs.end.div_ceil(*PANEL);
        let share = panels.len().div_ceil(threads_for(y.len() * self.inputs)).max(1);
        let y = Shared::new(y);
        let numbers = &numbers[panels.start * size..panels.end * size];
        let bias = self.bias.get(outputs.clone()).unwrap_or_default();
        numbers.par_chunks(share * size).enumerate().for_each(|(i, numbers)| {
            let first = i * share * *PANEL;
            ARCH.dispatch(Share { format, numbers, size, first, stride: outputs.len(), bias, rows, y, add });
        });
    }

    /// Returns the matrix of the given rows of `W`, with their bias, in the same storage type.
    pub fn select(&self, rows: &[u32]) -> Self {
        let values: Vec<f32> = rows.par_iter().flat_map_iter(|&row| self.row(row as usize)).collect();
        let bias = rows.iter().filter_map(|&row| self.bias.get(row as usize).copied()).collect();
        Self::new(&values, self.inputs, bias, self.storage())
    }

    /// Returns the transpose `[inputs, outputs]` of the given rows of `W`, in the same storage type and without a bias.
    pub fn transposed_part(&self, outputs: Range<usize>) -> Self {
        let (count, mut values) = (outputs.len(), vec![0.0; outputs.len() * self.inputs]);
        for (place, output) in outputs.enumerate() {
            let row = self.row(output);
            values.iter_mut().skip(place).step_by(count).zip(row).for_each(|(to, from)| *to = from);
        }
        Self::new(&values, count, Vec::new(), self.storage())
    }

    /// Returns the transpose of `W`, without a bias: what takes gradients of products back to their inputs.
    ///
    /// # Panics
    /// When the weights are not float32.
    pub fn transposed(&self) -> Self {
        let Panels::Float32(numbers) = &self.panels else { panic!("weights in training are float32") };
        let mut turned = Aligned::new(0);
        turned.resize(self.inputs.div_ceil(*PANEL) * self.outputs * *PANEL, 0.0);
        turned.par_chunks_mut(self.outputs * *PANEL).enumerate().for_each(|(panel, turned)| {
            let inputs = panel * *PANEL..self.inputs.min((panel + 1) * *PANEL);
            let sources = numbers.chunks(self.inputs * *PANEL).zip(turned.chunks_mut(*PANEL * *PANEL));
            for (from, to) in sources {
                for (place, row) in from[inputs.start * *PANEL..inputs.end * *PANEL].chunks(*PANEL).enumerate() {
                    to[place..].iter_mut().step_by(*PANEL).zip(row).for_each(|(to, from)| *to = *from);
                }
            }
        });
        Self { outputs: self.inputs, inputs: self.outputs, panels: Panels::Float32(turned), bias: Vec::new() }
    }

    /// Returns the type that the weights are stored in.
    pub fn storage(&self) -> StorageType {
        match &self.panels {
            Panels::Float32(_) => StorageType::Float32,
            Panels::Float16(..) => StorageType::Float16,
            Panels::Bfloat16(_) => StorageType::Bfloat16,
        }
    }

    /// Returns `W[output][input]` after rounding, as products see it.
    fn number(&self, output: usize, input: usize) -> f32 {
        let (panel, column) = (output / *PANEL, output % *PANEL);
        let lanes = *PANEL / 2;
        let word = |words: &[u32]| {
            let pair = words[(panel * self.inputs + input) * lanes + column % lanes];
            (if column < lanes { pair } else { pair >> 16 }) as u16
        };
        match &self.panels {
            Panels::Float32(numbers) => numbers[(panel * self.inputs + input) * *PANEL + column],
            Panels::Float16(words, format) => f16::from_bits(word(words)).to_f32() * format.scale,
            Panels::Bfloat16(words) => bf16::from_bits(word(words)).to_f32(),
        }
    }

    /// Returns row `row` of `W`, `[inputs]`, after rounding, as products see it.
    pub fn row(&self, row: usize) -> Vec<f32> {
        (0..self.inputs).map(|input| self.number(row, input)).collect()
    }

    /// Adds `factor` times column `input` of `W` to `to` `[outputs]`.
    pub fn add_column(&self, input: usize, factor: f32, to: &mut [f32]) {
        for (output, to) in to.iter_mut().enumerate() {
            *to += factor * self.number(output, input);
        }
    }

    /// Returns `W` `[outputs, inputs]` after rounding, as products see it.
    pub fn unpack(&self) -> Vec<f32> {
        (0..self.outputs).into_par_iter().flat_map_iter(|row| self.row(row)).collect()
    }
}

/// Makes the panels of `values` `[outputs, inputs]`. For each panel and input, `write` turns the weights of the panel's
/// outputs (0 beyond the last output) into `stored` numbers.
fn fill<T: Copy + Default + Send>(
    values: &[f32],
    inputs: usize,
    stored: usize,
    write: impl Fn(&[f32], &mut [T]) + Sync,
) -> Aligned<T> {
    let outputs = values.len() / inputs;
    let mut all = Aligned::new(0);
    all.resize(outputs.div_ceil(*PANEL) * inputs * stored, T::default());
    all.par_chunks_mut(inputs * stored).enumerate().for_each(|(panel, all)| {
        let columns = panel * *PANEL..outputs.min((panel + 1) * *PANEL);
        let mut row = vec![0.0; *PANEL];
        for (input, out) in all.chunks_mut(stored).enumerate() {
            row.iter_mut().zip(columns.clone()).for_each(|(to, column)| *to = values[column * inputs + input]);
            write(&row, out);
        }
    });
    all
}

/// Makes panels of words that hold two 16-bit numbers each.
fn fill_words(values: &[f32], inputs: usize, half: impl Fn(f32) -> u16 + Sync) -> Aligned<u32> {
    let lanes = *PANEL / 2;
    fill(values, inputs, lanes, |row, out: &mut [u32]| {
        let (low, high) = row.split_at(lanes);
        for ((word, &low), &high) in out.iter_mut().zip(low).zip(high) {
            *word = u32::from(half(low)) | u32::from(half(high)) << 16;
        }
    })
}

/// One thread's part of a product.
struct Share<'a, F: Format> {
    format: F,
    numbers: &'a [F::Number],
    /// Stored numbers per panel.
    size: usize,
    /// The first output of this part, counted from the first one computed.
    first: usize,
    /// The number of outputs that all parts compute, which is the length of a row of `y`.
    stride: usize,
    /// `[stride]`, or empty.
    bias: &'a [f32],
    rows: &'a Interleaved,
    y: Shared,
    add: bool,
}

impl<F: Format> WithSimd for Share<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let stride = self.stride;
        for blocks in self.rows.groups() {
            for (i, panel) in self.numbers.chunks_exact(self.size).enumerate() {
                let column = self.first + i * 2 * S::F32_LANES;
                let width = (2 * S::F32_LANES).min(stride - column);
                let bias = self.bias.get(column..column + width).unwrap_or_default();
                for block in blocks.clone() {
                    // SAFETY: the block's rows and the panel's columns lie within `y`, and no other part writes these
                    // columns.
                    unsafe {
                        let first = self.y.at(block.first * stride + column);
                        let target = Target { first, stride, width, bias, add: self.add };
                        tile(simd, self.format, block.rows, block.values, panel, target);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn multiply(packed: &PackedMatrix, x: &[f32]) -> Vec<f32> {
        let mut y = Vec::new();
        packed.multiply(x, &mut y);
        y
    }

    fn direct(x: &[f32], w: &[f32], bias: &[f32], inputs: usize) -> Vec<f64> {
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let row = |x| w.chunks(inputs).zip(bias).map(move |(w, b)| dot(x, w) + f64::from(*b));
        x.chunks(inputs).flat_map(row).collect()
    }

    #[test]
    fn products_are_those_of_the_definition_in_every_type_and_size() {
        for storage in [StorageType::Float32, StorageType::Float16, StorageType::Bfloat16] {
            for (outputs, inputs) in [(1, 1), (3, 5), (32, 16), (33, 7), (70, 19), (129, 40)] {
                let mut weights = numbers(outputs * inputs, 7);
                // Includes a subnormal and a large number of float16.
                weights[0] = 3e-7;
                weights[outputs * inputs - 1] = 1000.5;
                let bias = numbers(outputs, 3);
                let packed = PackedMatrix::new(&weights, inputs, bias.clone(), storage);
                storage.round(&mut weights);
                assert_eq!(packed.unpack(), weights, "{storage:?}");
                let mut column = vec![1.0; outputs];
                packed.add_column(inputs / 2, 2.0, &mut column);
                assert!(column.iter().enumerate().all(|(o, &c)| c == 1.0 + 2.0 * weights[o * inputs + inputs / 2]));
                for n in [1, 2, 7, 11, 12, 13, 23, 24, 25, 40] {
                    let x = numbers(n * inputs, 11);
                    let expected = direct(&x, &weights, &bias, inputs);
                    let mut found = multiply(&packed, &x);
                    for (f, e) in found.iter().zip(&expected) {
                        assert!((f64::from(*f) - e).abs() < 1e-3, "{storage:?} {outputs} {inputs} {n}: {f} {e}");
                    }
                    if outputs > 64 {
                        let mut part = Vec::new();
                        packed.multiply_part(64..outputs - 1, &x, &mut part);
                        let whole = found.chunks(outputs).flat_map(|row| &row[64..outputs - 1]);
                        assert!(part.iter().eq(whole), "{storage:?} {outputs} {n}");
                    }
                    let once = found.clone();
                    packed.multiply_onto(&x, &mut found);
                    assert!(found.iter().zip(&once).all(|(twice, once)| *twice == once + once));
                }
            }
        }
    }

    #[test]
    fn parts_hold_the_same_numbers() {
        for storage in [StorageType::Float32, StorageType::Float16, StorageType::Bfloat16] {
            let packed = PackedMatrix::new(&numbers(70 * 5, 1), 5, numbers(70, 2), storage);
            let some = packed.select(&[69, 3]);
            assert_eq!([some.row(0), some.row(1)], [packed.row(69), packed.row(3)]);
            assert_eq!((some.bias[0], some.storage()), (packed.bias[69], storage));
            if storage == StorageType::Float32 {
                assert_eq!(packed.transposed().unpack(), packed.transposed_part(0..70).unpack());
                assert_eq!(packed.transposed().transposed().unpack(), packed.unpack());
            }
            let turned = packed.transposed_part(64..70);
            assert_eq!((turned.outputs(), turned.inputs()), (5, 6));
            assert!(
                (0..5).all(|input| turned.row(input) == (64..70).map(|o| packed.row(o)[input]).collect::<Vec<_>>())
            );
        }
    }

    /// Rows that are so wide that few of them make a group.
    #[test]
    fn a_row_is_the_same_bits_in_any_group() {
        let (outputs, inputs) = (3, 40_009);
        let packed = PackedMatrix::new(&numbers(outputs * inputs, 1), inputs, Vec::new(), StorageType::Float32);
        for n in [5, 24, 61] {
            let x = numbers(n * inputs, 5);
            let alone: Vec<f32> = x.chunks(inputs).flat_map(|row| multiply(&packed, row)).collect();
            assert_eq!(multiply(&packed, &x), alone);
        }
    }

    #[test]
    fn a_row_is_the_same_bits_beside_any_others() {
        let (outputs, inputs) = (50, 37);
        let packed =
            PackedMatrix::new(&numbers(outputs * inputs, 1), inputs, numbers(outputs, 2), StorageType::Float32);
        let x = numbers(31 * inputs, 5);
        let all = multiply(&packed, &x);
        for n in 1..31 {
            let some = multiply(&packed, &x[..n * inputs]);
            assert_eq!(some, all[..n * outputs]);
            let from = multiply(&packed, &x[n * inputs..]);
            assert_eq!(from, all[n * outputs..]);
        }
    }
}
