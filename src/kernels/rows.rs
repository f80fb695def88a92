//! Operations on one row at a time: norms, activations, rotary position embeddings.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{ARCH, PART};

/// Returns e^x to 2 units in the last place for x between -87 and 88, and clamps x to that range. It has no branch, so
/// that loops over it become vector code. The polynomial is Moshier's (Cephes, `expf`).
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
    /// `x Phi(x)`, where Phi is the standard normal distribution function (Hendrycks and Gimpel 2016).
    Gelu,
    /// The approximation of [`Activation::Gelu`] by a hyperbolic tangent.
    GeluTanh,
}

/// A function of one number, to be inlined into loops.
pub(super) trait Function: Sync {
    fn at(x: f32) -> f32;

    /// Returns the derivative.
    fn slope(x: f32) -> f32;
}

pub(super) struct Silu;
pub(super) struct Gelu;
pub(super) struct GeluTanh;

impl Function for Silu {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        x / (1.0 + exp(-x))
    }

    #[inline(always)]
    fn slope(x: f32) -> f32 {
        let share = 1.0 / (1.0 + exp(-x));
        share * (1.0 + x * (1.0 - share))
    }
}

impl Function for Gelu {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
    }

    #[inline(always)]
    fn slope(x: f32) -> f32 {
        // The density of the normal distribution at 0 is 0.3989...
        0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)) + x * 0.398_942_3 * exp(-0.5 * x * x)
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        // (1 + tanh u) / 2 = 1 / (1 + e^-2u)
        let u = 0.797_884_6 * (0.044_715 * x * x).mul_add(x, x);
        x / (1.0 + exp(-2.0 * u))
    }

    #[inline(always)]
    fn slope(x: f32) -> f32 {
        let u = 0.797_884_6 * (0.044_715 * x * x).mul_add(x, x);
        let share = 1.0 / (1.0 + exp(-2.0 * u));
        let rise = 0.797_884_6 * (3.0 * 0.044_715 * x).mul_add(x, 1.0);
        share + 2.0 * x * share * (1.0 - share) * rise
    }
}

/// An operation on rows. It is a trait and takes no closures, because only methods can be forced inline, and code that
/// is not inlined is not compiled for this machine's vectors.
trait RowWork: Sync {
    /// Returns the lengths of a row of `x` and of a row of `y`.
    fn widths(&self) -> (usize, usize);

    /// Computes the row `y` from the row `x`.
    fn row(&self, x: &[f32], y: &mut [f32]);
}

/// Some rows of `x` and `y`, and the operation on them.
struct Rows<'a, W>(&'a W, &'a [f32], &'a mut [f32]);

impl<W: RowWork> WithSimd for Rows<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Rows(work, x, y) = self;
        let (from, to) = work.widths();
        for (x, y) in x.chunks_exact(from).zip(y.chunks_exact_mut(to)) {
            work.row(x, y);
        }
    }
}

/// Fills `y` row by row from `x`, on several threads where that pays.
fn by_rows(work: &impl RowWork, x: &[f32], y: &mut Vec<f32>) {
    let (from, to) = work.widths();
    y.resize(x.len() / from * to, 0.0);
    let rows = (PART / from).max(1);
    if x.len() <= 2 * rows * from {
        return ARCH.dispatch(Rows(work, x, y));
    }
    let parts = x.par_chunks(rows * from).zip(y.par_chunks_mut(rows * to));
    parts.for_each(|(x, y)| ARCH.dispatch(Rows(work, x, y)));
}

struct Activate<F>(usize, PhantomData<F>);

impl<F: Function> RowWork for Activate<F> {
    fn widths(&self) -> (usize, usize) {
        (self.0, self.0)
    }

    #[inline(always)]
    fn row(&self, x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = F::at(x);
        }
    }
}

/// Fills `y` with `kind` of every number of `x`, whose rows have `width` numbers.
pub fn activate(kind: Activation, x: &[f32], width: usize, y: &mut Vec<f32>) {
    match kind {
        Activation::Silu => by_rows(&Activate(width, PhantomData::<Silu>), x, y),
        Activation::Gelu => by_rows(&Activate(width, PhantomData::<Gelu>), x, y),
        Activation::GeluTanh => by_rows(&Activate(width, PhantomData::<GeluTanh>), x, y),
    }
}

struct Gate<F>(usize, PhantomData<F>);

impl<F: Function> RowWork for Gate<F> {
    fn widths(&self) -> (usize, usize) {
        (2 * self.0, self.0)
    }

    #[inline(always)]
    fn row(&self, x: &[f32], y: &mut [f32]) {
        let (gate, up) = x.split_at(self.0);
        for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
            *y = F::at(gate) * up;
        }
    }
}

/// Fills `y` `[n, width]` with `kind(gate) * up` of the rows `[gate | up]` of `x` `[n, 2 * width]` (gated linear units,
/// Shazeer 2020).
pub fn gate(kind: Activation, x: &[f32], width: usize, y: &mut Vec<f32>) {
    match kind {
        Activation::Silu => by_rows(&Gate(width, PhantomData::<Silu>), x, y),
        Activation::Gelu => by_rows(&Gate(width, PhantomData::<Gelu>), x, y),
        Activation::GeluTanh => by_rows(&Gate(width, PhantomData::<GeluTanh>), x, y),
    }
}

/// Returns the sum over a row of `x - mean` or, if `squared`, of its square. There are sixteen partial sums, a fixed
/// order that suits vectors of any length.
#[inline(always)]
pub(super) fn sum(row: &[f32], mean: f32, squared: bool) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut sums = [0.0; 16];
    let mut last = [mean; 16];
    last[..rest.len()].copy_from_slice(rest);
    for chunk in chunks.iter().chain([&last]) {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            let x = x - mean;
            *sum += if squared { x * x } else { x };
        }
    }
    let mut total = 0.0;
    for sum in sums {
        total += sum;
    }
    total
}

/// The parameters of a norm.
pub struct NormWeights {
    /// `[width]`, the factor of each column.
    pub weight: Vec<f32>,
    /// `[width]` for layer normalisation (Ba et al. 2016); empty for root-mean-square normalisation (Zhang and Sennrich
    /// 2019).
    pub bias: Vec<f32>,
    /// The number added to the variance or to the mean square.
    pub epsilon: f32,
}

impl RowWork for NormWeights {
    fn widths(&self) -> (usize, usize) {
        (self.weight.len(), self.weight.len())
    }

    #[inline(always)]
    fn row(&self, x: &[f32], y: &mut [f32]) {
        let width = x.len() as f32;
        if self.bias.is_empty() {
            let scale = (sum(x, 0.0, true) / width + self.epsilon).sqrt().recip();
            for ((y, x), w) in y.iter_mut().zip(x).zip(&self.weight) {
                *y = x * scale * w;
            }
        } else {
            let mean = sum(x, 0.0, false) / width;
            let scale = (sum(x, mean, true) / width + self.epsilon).sqrt().recip();
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(&self.weight).zip(&self.bias) {
                *y = (x - mean) * scale * w + b;
            }
        }
    }
}

impl NormWeights {
    /// Fills `y` with the normalised rows of `x`: `(x - mean) / sqrt(variance + epsilon) * weight + bias`, or without a
    /// bias `x / sqrt(mean(x^2) + epsilon) * weight`.
    pub fn forward(&self, x: &[f32], y: &mut Vec<f32>) {
        by_rows(self, x, y);
    }

    /// Returns the shapes and the numbers of `weight` and, where there is one, `bias`.
    pub fn parameters(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let parts = [("weight", &self.weight), ("bias", &self.bias)].into_iter().filter(|(_, part)| !part.is_empty());
        parts.map(|(name, numbers)| (name.to_owned(), (vec![numbers.len()], numbers.clone()))).collect()
    }
}

/// Rotary position embeddings of some tokens: for each, the cosine and sine of every angle (Su et al. 2021).
pub struct Rotations {
    /// `[tokens, angles]`
    pub cos: Vec<f32>,
    /// `[tokens, angles]`
    pub sin: Vec<f32>,
    /// The number of angles: half the numbers of a head that are rotated.
    pub angles: usize,
}

impl Rotations {
    /// Computes the cosine and sine of `position x frequency` for every token and frequency.
    pub fn new(positions: &[usize], frequencies: &[f32]) -> Self {
        let angles = positions.iter().flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f));
        let (cos, sin) = angles.map(|a| (a.cos(), a.sin())).unzip();
        Self { cos, sin, angles: frequencies.len() }
    }

    /// Rotates a head of token `token`: the numbers `a` at `i` and `b` at `angles + i` become `a cos - b sin` and `b
    /// cos + a sin`. Any numbers after those stay as they are.
    pub fn turn(&self, token: usize, head: &mut [f32]) {
        let range = token * self.angles..(token + 1) * self.angles;
        let (a, b) = head[..2 * self.angles].split_at_mut(self.angles);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(&self.cos[range.clone()]).zip(&self.sin[range]) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }

    /// Undoes [`Rotations::turn`]; it is also what takes the gradient of a rotated head back through the rotation.
    pub fn turn_back(&self, token: usize, head: &mut [f32]) {
        let range = token * self.angles..(token + 1) * self.angles;
        let (a, b) = head[..2 * self.angles].split_at_mut(self.angles);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(&self.cos[range.clone()]).zip(&self.sin[range]) {
            (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
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
            let (mut found, mut gated) = (Vec::new(), Vec::new());
            activate(kind, &x, 100, &mut found);
            assert!(found.iter().zip(&expected).all(|(f, e)| (f64::from(*f) - e).abs() < 1e-6), "{kind:?}");
            let pairs: Vec<f32> = x.iter().flat_map(|&x| [x, 2.0]).collect();
            gate(kind, &pairs, 1, &mut gated);
            assert!(gated.iter().zip(&found).all(|(gated, f)| *gated == 2.0 * f));
        }
    }

    #[test]
    fn norms_give_rows_the_asked_moments_alone_and_side_by_side() {
        let width = 37;
        let x: Vec<f32> = (0..width * 3000).map(|i| ((i * 7919) % 1013) as f32 * 0.01 - 3.0).collect();
        let norm = |bias: Vec<f32>, x: &[f32]| {
            let mut y = Vec::new();
            NormWeights { weight: vec![1.0; width], bias, epsilon: 0.0 }.forward(x, &mut y);
            y
        };
        let (rms, layer) = (norm(Vec::new(), &x), norm(vec![0.0; width], &x));
        for (rms, layer) in rms.chunks(width).zip(layer.chunks(width)) {
            let mean =
                |row: &[f32], f: fn(f64) -> f64| row.iter().map(|&x| f(f64::from(x))).sum::<f64>() / width as f64;
            assert!((mean(rms, |x| x * x) - 1.0).abs() < 1e-5);
            assert!(mean(layer, |x| x).abs() < 1e-5 && (mean(layer, |x| x * x) - 1.0).abs() < 1e-5);
        }
        let row = 2000 * width..2001 * width;
        assert_eq!(norm(Vec::new(), &x[row.clone()]), rms[row.clone()]);
        assert_eq!(norm(vec![0.0; width], &x[row.clone()]), layer[row]);
    }
}
