//! What happens to one row at a time: norms, activations, rotary positions.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ARCH;

/// Numbers worth a thread of their own.
const PARALLEL: usize = 1 << 14;

/// e^x to 2 units in the last place between -87 and 88, and clamped there. Branch-free, so that loops over it become
/// vectors; the polynomial is Moshier's (Cephes, `expf`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding this leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with few enough bits that its product with n is exact.
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let p = 1.987_569_1e-4f32
        .mul_add(r, 1.398_199_9e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 0.166_666_66)
        .mul_add(r, 0.5);
    let e = (r * r).mul_add(p, r + 1.0);
    f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// The nonlinearity of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// `x Phi(x)`, Phi the normal distribution function.
    Gelu,
    /// Its approximation by a hyperbolic tangent.
    GeluTanh,
}

/// `x / (1 + e^-x)`
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // (1 + tanh u) / 2 = 1 / (1 + e^-2u)
    let u = 0.797_884_6 * (0.044_715 * x * x).mul_add(x, x);
    x / (1.0 + exp(-2.0 * u))
}

/// Calls `work(rows of x, rows of y)` with vector instructions, on several threads where there is enough to do. A row has
/// `x_width` numbers of `x` and `y_width` of `y`.
fn by_rows(x: &[f32], x_width: usize, y: &mut [f32], y_width: usize, work: impl Fn(&[f32], &mut [f32]) + Sync) {
    let rows = (PARALLEL / x_width).max(1);
    if x.len() <= 2 * rows * x_width {
        return ARCH.dispatch(|| work(x, y));
    }
    let parts = x.par_chunks(rows * x_width).zip(y.par_chunks_mut(rows * y_width));
    parts.for_each(|(x, y)| ARCH.dispatch(|| work(x, y)));
}

/// Applies `kind` to every number.
pub fn activate(kind: Activation, x: &[f32]) -> Vec<f32> {
    #[inline(always)]
    fn each(f: impl Fn(f32) -> f32 + Sync) -> impl Fn(&[f32], &mut [f32]) + Sync {
        move |x, y| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x))
    }
    let mut y = vec![0.0; x.len()];
    match kind {
        Activation::Silu => by_rows(x, 1, &mut y, 1, each(silu)),
        Activation::Gelu => by_rows(x, 1, &mut y, 1, each(gelu)),
        Activation::GeluTanh => by_rows(x, 1, &mut y, 1, each(gelu_tanh)),
    }
    y
}

/// Rows `[gate | up]` of twice `width` numbers to rows `kind(gate) * up`.
pub fn gate(kind: Activation, x: &[f32], width: usize) -> Vec<f32> {
    #[inline(always)]
    fn each(width: usize, f: impl Fn(f32) -> f32 + Sync) -> impl Fn(&[f32], &mut [f32]) + Sync {
        move |x, y| {
            for (x, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
                let (gate, up) = x.split_at(width);
                y.iter_mut().zip(gate).zip(up).for_each(|((y, &gate), &up)| *y = f(gate) * up);
            }
        }
    }
    let mut y = vec![0.0; x.len() / 2];
    match kind {
        Activation::Silu => by_rows(x, 2 * width, &mut y, width, each(width, silu)),
        Activation::Gelu => by_rows(x, 2 * width, &mut y, width, each(width, gelu)),
        Activation::GeluTanh => by_rows(x, 2 * width, &mut y, width, each(width, gelu_tanh)),
    }
    y
}

/// The sum of `f` over a row, in sixteen partial sums: a fixed order that vectors can follow.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += f(x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, &x)| *sum += f(x));
    sums.iter().sum()
}

/// `x / sqrt(mean(x^2) + epsilon) * weight`, row by row.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let width = weight.len();
    let mut y = vec![0.0; x.len()];
    by_rows(x, width, &mut y, width, |x, y| {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let scale = (sum(x, |x| x * x) / width as f32 + epsilon).sqrt().recip();
            y.iter_mut().zip(x).zip(weight).for_each(|((y, x), w)| *y = x * scale * w);
        }
    });
    y
}

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias`, row by row (Ba et al. 2016).
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let width = weight.len();
    let mut y = vec![0.0; x.len()];
    by_rows(x, width, &mut y, width, |x, y| {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let mean = sum(x, |x| x) / width as f32;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
            let scale = (variance + epsilon).sqrt().recip();
            let rows = y.iter_mut().zip(x).zip(weight.iter().zip(bias));
            rows.for_each(|((y, x), (w, b))| *y = (x - mean) * scale * w + b);
        }
    });
    y
}

/// Rotary positions of some tokens: for each, cosine and sine of every angle (Su et al. 2021).
pub struct Rotations {
    /// `[tokens, angles]`
    pub cos: Vec<f32>,
    /// `[tokens, angles]`
    pub sin: Vec<f32>,
    /// Half the numbers of a head that are turned.
    pub angles: usize,
}

impl Rotations {
    /// Cosine and sine of `position x frequency` for every token and frequency.
    pub fn new(positions: &[usize], frequencies: &[f32]) -> Self {
        let angles = positions.iter().flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f));
        let (cos, sin) = angles.map(|a| (a.cos(), a.sin())).unzip();
        Self { cos, sin, angles: frequencies.len() }
    }

    /// Turns a head of token `token`: numbers `i` and `angles + i` become `(a cos - b sin, b cos + a sin)`; those behind
    /// stay.
    pub fn turn(&self, token: usize, head: &mut [f32]) {
        let range = token * self.angles..(token + 1) * self.angles;
        let (a, b) = head[..2 * self.angles].split_at_mut(self.angles);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(&self.cos[range.clone()]).zip(&self.sin[range]) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_near_that_of_the_library() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / expected - 1.0).abs() < 2.5e-7, "{x}: {found} {expected}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e30) < 1e-37 && exp(1e30) > 1e38);
    }

    #[test]
    fn activations_are_those_of_their_definitions() {
        let x: Vec<f32> = (-800..800).map(|i| i as f32 * 0.01).collect();
        let wide = |f: fn(f64) -> f64| x.iter().map(|&x| f(f64::from(x))).collect::<Vec<_>>();
        for (kind, expected) in [
            (Activation::Silu, wide(|x| x / (1.0 + (-x).exp()))),
            (Activation::Gelu, wide(|x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())))),
            (
                Activation::GeluTanh,
                wide(|x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())),
            ),
        ] {
            let found = activate(kind, &x);
            assert!(found.iter().zip(&expected).all(|(f, e)| (f64::from(*f) - e).abs() < 1e-6), "{kind:?}");
            let pairs: Vec<f32> = x.iter().flat_map(|&x| [x, 2.0]).collect();
            assert!(gate(kind, &pairs, 1).iter().zip(&found).all(|(gated, f)| *gated == 2.0 * f));
        }
    }

    #[test]
    fn norms_give_rows_of_the_asked_moments_alone_and_side_by_side() {
        let width = 37;
        let x: Vec<f32> = (0..width * 3000).map(|i| ((i * 7919) % 1013) as f32 * 0.01 - 3.0).collect();
        let (ones, zeros) = (vec![1.0; width], vec![0.0; width]);
        let (rms, layer) = (rms_norm(&x, &ones, 0.0), layer_norm(&x, &ones, &zeros, 0.0));
        for (rms, layer) in rms.chunks(width).zip(layer.chunks(width)) {
            let mean =
                |row: &[f32], f: fn(f64) -> f64| row.iter().map(|&x| f(f64::from(x))).sum::<f64>() / width as f64;
            assert!((mean(rms, |x| x * x) - 1.0).abs() < 1e-5);
            assert!(mean(layer, |x| x).abs() < 1e-5 && (mean(layer, |x| x * x) - 1.0).abs() < 1e-5);
        }
        let row = 2000 * width..2001 * width;
        assert_eq!(rms_norm(&x[row.clone()], &ones, 0.0), rms[row]);
    }
}
