//! The two passes of a softmax over a long row.

use pulp::{Simd, WithSimd};

use super::ARCH;
use super::rows::exp;

/// Partial results, so that a loop has no chain longer than the vectors hide.
const PARTS: usize = 32;

/// The largest number of a row and its place; of equal ones the first.
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

/// Replaces every number `x` of a row by `e^(x - shift)`; gives their sum.
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
    fn what_is_no_number_reaches_the_sum() {
        let mut row = vec![1.0; 40];
        row[7] = f32::NAN;
        assert_eq!(largest(&row), (0, 1.0));
        assert!(exponentiate(&mut row, 1.0).is_nan());
    }
}
