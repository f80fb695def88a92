//! Gradients of the operations on rows: norms and activations.

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::ARCH;
use super::rows::{Activation, Function, Gelu, GeluTanh, NormWeights, Silu, sum};

/// The rows of one task. It is fixed, since each task sums its rows' share of a gradient: sums come out the same for
/// any number of threads.
const ROWS: usize = 32;

/// The gradient of a norm's parameters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NormGradient {
    /// `[width]`
    pub weight: Vec<f32>,
    /// `[width]`, or empty where the norm has no bias.
    pub bias: Vec<f32>,
}

impl NormGradient {
    /// Adds another one to this; one that is empty counts as zeros.
    pub fn add(&mut self, other: &Self) {
        for (all, more) in [(&mut self.weight, &other.weight), (&mut self.bias, &other.bias)] {
            all.resize(more.len().max(all.len()), 0.0);
            all.iter_mut().zip(more).for_each(|(all, more)| *all += more);
        }
    }
}

impl NormWeights {
    /// Adds d loss/d`x` to `dx`, given the rows `x` that were normalised and d loss/d`y` of the normalised ones, and adds
    /// the gradient of the parameters to `gradient`.
    pub fn backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32], gradient: &mut NormGradient) {
        assert!(x.len() == dy.len() && x.len() == dx.len());
        let size = ROWS * self.weight.len();
        let parts = x.par_chunks(size).zip(dy.par_chunks(size)).zip(dx.par_chunks_mut(size));
        let part = |((x, dy), dx)| ARCH.dispatch(NormRows { norm: self, x, dy, dx });
        let parts: Vec<NormGradient> = parts.map(part).collect();
        parts.iter().for_each(|part| gradient.add(part));
    }
}

struct NormRows<'a> {
    norm: &'a NormWeights,
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for NormRows<'_> {
    type Output = NormGradient;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> NormGradient {
        let NormWeights { weight, bias, epsilon } = self.norm;
        let width = weight.len();
        let mut gradient = NormGradient { weight: vec![0.0; width], bias: vec![0.0; bias.len()] };
        // x without its mean, times the scale; and d loss/d of that.
        let (mut unit, mut slope) = (vec![0.0; width], vec![0.0; width]);
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width)).zip(self.dx.chunks_exact_mut(width));
        for ((x, dy), dx) in rows {
            let mean = if bias.is_empty() { 0.0 } else { sum(x, 0.0, false) / width as f32 };
            let scale = (sum(x, mean, true) / width as f32 + epsilon).sqrt().recip();
            for (((unit, slope), (x, dy)), (weight, total)) in
                unit.iter_mut().zip(&mut slope).zip(x.iter().zip(dy)).zip(weight.iter().zip(&mut gradient.weight))
            {
                *unit = (x - mean) * scale;
                *slope = dy * weight;
                *total += dy * *unit;
            }
            gradient.bias.iter_mut().zip(dy).for_each(|(total, dy)| *total += dy);
            let along = inner(&unit, &slope) / width as f32;
            let mean = if bias.is_empty() { 0.0 } else { sum(&slope, 0.0, false) / width as f32 };
            for ((dx, unit), slope) in dx.iter_mut().zip(&unit).zip(&slope) {
                *dx += scale * (slope - mean - unit * along);
            }
        }
        gradient
    }
}

/// Returns the inner product of two rows, as sixteen partial sums.
#[inline(always)]
pub(super) fn inner(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let mut total = 0.0;
    for sum in sums {
        total += sum;
    }
    for (a, b) in a_rest.iter().zip(b_rest) {
        total += a * b;
    }
    total
}

/// Fills `dx` with d loss/d`x`, given the rows `x` `[n, width]` that [`activate`](super::activate) took and d loss/d`y` of
/// what it gave.
pub fn activate_backward(kind: Activation, x: &[f32], width: usize, dy: &[f32], dx: &mut [f32]) {
    backward(kind, false, width, x, dy, dx);
}

/// Fills `dx` `[n, 2 * width]` with d loss/d`x`, given the rows `x` `[n, 2 * width]` that [`gate`](super::gate) took and d
/// loss/d`y` `[n, width]` of what it gave.
pub fn gate_backward(kind: Activation, x: &[f32], width: usize, dy: &[f32], dx: &mut [f32]) {
    backward(kind, true, width, x, dy, dx);
}

fn backward(kind: Activation, gated: bool, width: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let inputs = if gated { 2 * width } else { width };
    assert!(x.len() == dx.len() && x.len() / inputs == dy.len() / width);
    let parts = x.par_chunks(ROWS * inputs).zip(dy.par_chunks(ROWS * width)).zip(dx.par_chunks_mut(ROWS * inputs));
    parts.for_each(|((x, dy), dx)| match kind {
        Activation::Silu => ARCH.dispatch(Slopes { gated, width, x, dy, dx, function: PhantomData::<Silu> }),
        Activation::Gelu => ARCH.dispatch(Slopes { gated, width, x, dy, dx, function: PhantomData::<Gelu> }),
        Activation::GeluTanh => ARCH.dispatch(Slopes { gated, width, x, dy, dx, function: PhantomData::<GeluTanh> }),
    });
}

struct Slopes<'a, F> {
    gated: bool,
    width: usize,
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    function: PhantomData<F>,
}

impl<F: Function> WithSimd for Slopes<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { gated, width, x, dy, dx, .. } = self;
        if !gated {
            for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = dy * F::slope(x);
            }
            return;
        }
        let rows = x.chunks_exact(2 * width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(2 * width));
        for ((x, dy), dx) in rows {
            let ((gate, up), (of_gate, of_up)) = (x.split_at(width), dx.split_at_mut(width));
            for ((((&gate, up), dy), of_gate), of_up) in gate.iter().zip(up).zip(dy).zip(of_gate).zip(of_up) {
                *of_gate = dy * up * F::slope(gate);
                *of_up = dy * F::at(gate);
            }
        }
    }
}
