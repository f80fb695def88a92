//! The passes of a softmax over a long row, and statistics of a softmax that is never written down.

use pulp::{Simd, WithSimd};

use super::ARCH;
use super::rows::exp;

/// Partial results kept side by side: with a single one, each addition would wait for the last.
const PARTS: usize = 32;

/// The least exponent that counts: e to this power is next to nothing.
const LEAST: f32 = -87.0;

/// Returns the position and the value of a row's largest number; among equal ones, the first.
///
/// # Panics
/// When the row is empty.
pub fn largest(row: &[f32]) -> (usize, f32) {
    struct Largest<'a>(&'a [f32]);
    impl WithSimd for Largest<'_> {
        type Output = f32;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> f32 {
            let (chunks, rest) = self.0.as_chunks::<PARTS>();
            let mut most = [f32::NEG_INFINITY; PARTS];
            for chunk in chunks {
                for (most, &x) in most.iter_mut().zip(chunk) {
                    *most = if x > *most { x } else { *most };
                }
            }
            most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &x| if x > most { x } else { most })
        }
    }
    assert!(!row.is_empty());
    let most = ARCH.dispatch(Largest(row));
    (row.iter().position(|&x| x == most).unwrap_or(0), most)
}

/// Replaces every number `x` of a row by `e^(x - shift)` and returns their sum.
pub fn exponentiate(row: &mut [f32], shift: f32) -> f32 {
    struct Exponentiate<'a>(&'a mut [f32], f32);
    impl WithSimd for Exponentiate<'_> {
        type Output = f32;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> f32 {
            let Self(row, shift) = self;
            let (chunks, rest) = row.as_chunks_mut::<PARTS>();
            let mut sums = [0.0; PARTS];
            for chunk in chunks {
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *x = exp(*x - shift);
                    *sum += *x;
                }
            }
            for (sum, x) in sums.iter_mut().zip(rest) {
                *x = exp(*x - shift);
                *sum += *x;
            }
            sums.iter().sum()
        }
    }
    ARCH.dispatch(Exponentiate(row, shift))
}

/// Softmax statistics of a row of logits, in natural logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxStats {
    /// `ln(sum of e^x)`; a logit minus this is a log-probability.
    pub log_sum: f32,
    /// `-sum of p ln p`, in nats.
    pub entropy: f32,
}

/// Returns the softmax statistics of a row of logits, in one pass that writes nothing. `most` is the largest logit of
/// the row. A NaN in the row makes both results NaN.
pub fn softmax_stats(row: &[f32], most: f32) -> SoftmaxStats {
    struct Sums<'a>(&'a [f32], f32);
    impl WithSimd for Sums<'_> {
        type Output = (f32, f32);
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> Self::Output {
            let Self(row, most) = self;
            let (chunks, rest) = row.as_chunks::<PARTS>();
            let (mut sums, mut weighted) = ([0.0; PARTS], [0.0; PARTS]);
            let mut last = [f32::NEG_INFINITY; PARTS];
            last[..rest.len()].copy_from_slice(rest);
            for chunk in chunks.iter().chain([&last]) {
                for ((sum, weighted), &x) in sums.iter_mut().zip(&mut weighted).zip(chunk) {
                    // Clamped as in `exp`, and minus infinity counts for nothing. A comparison, unlike `max`, lets NaN
                    // pass.
                    let x = x - most;
                    let x = if x < LEAST { LEAST } else { x };
                    let e = if x == LEAST { 0.0 } else { exp(x) };
                    *sum += e;
                    *weighted += e * x;
                }
            }
            (sums.iter().sum(), weighted.iter().sum())
        }
    }
    let (sum, weighted) = ARCH.dispatch(Sums(row, most));
    SoftmaxStats { log_sum: most + sum.ln(), entropy: sum.ln() - weighted / sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_agree_with_their_definitions_at_every_length() {
        for length in 1..100 {
            let row: Vec<f32> = (0..length).map(|i| ((i * 37) % 41) as f32 * 0.25 - 3.0).collect();
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let first = row.iter().position(|&x| x == most).unwrap();
            assert_eq!(largest(&row), (first, most));
            let mut found = row.clone();
            let sum = exponentiate(&mut found, most);
            let expected: Vec<f64> = row.iter().map(|&x| f64::from(x - most).exp()).collect();
            assert!(found.iter().zip(&expected).all(|(f, e)| (f64::from(*f) - e).abs() < 1e-6));
            assert!((f64::from(sum) - expected.iter().sum::<f64>()).abs() < 1e-5);
        }
    }

    #[test]
    fn statistics_agree_with_their_definitions() {
        let shapes: [fn(i32) -> f32; 3] = [|i| ((i * 37) % 41) as f32 * 0.25 - 3.0, |_| 5.0, |i| -3.0 * i as f32];
        for (shape, length) in shapes.into_iter().flat_map(|shape| (1..100).chain([50_000]).map(move |n| (shape, n))) {
            let row: Vec<f32> = (0..length).map(shape).collect();
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            let probabilities = row.iter().map(|&x| f64::from(x).exp() / sum).filter(|p| *p > 0.0);
            let entropy: f64 = probabilities.map(|p| -p * p.ln()).sum();
            let found = softmax_stats(&row, row.iter().copied().fold(f32::MIN, f32::max));
            assert!((f64::from(found.log_sum) - sum.ln()).abs() < 1e-5, "{length}: {found:?} {}", sum.ln());
            assert!((f64::from(found.entropy) - entropy).abs() < 1e-4, "{length}: {found:?} {entropy}");
        }
    }

    #[test]
    fn minus_infinity_counts_for_nothing_and_nan_spoils_the_statistics() {
        let found = softmax_stats(&[0.0, f32::NEG_INFINITY, 0.0], 0.0);
        assert!((found.entropy - 2f32.ln()).abs() < 1e-6 && (found.log_sum - 2f32.ln()).abs() < 1e-6);
        let broken = softmax_stats(&[0.0, f32::NAN], 0.0);
        assert!(broken.entropy.is_nan() && broken.log_sum.is_nan());
    }

    #[test]
    fn nan_reaches_the_sum() {
        let mut row = vec![1.0; 40];
        row[7] = f32::NAN;
        assert_eq!(largest(&row), (0, 1.0));
        assert!(exponentiate(&mut row, 1.0).is_nan());
    }
}
