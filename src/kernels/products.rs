//! Inner products of a few short rows with a few others.

use pulp::{Simd, WithSimd};

use super::ARCH;

/// Partial sums kept side by side.
const LANES: usize = 16;

/// Appends the inner product of every row of `a` `[m, width]` with every row of `b` `[n, width]` to `out`, as `[m, n]`.
pub fn products(a: &[f32], b: &[f32], width: usize, out: &mut Vec<f32>) {
    struct Products<'a>(&'a [f32], &'a [f32], usize, &'a mut Vec<f32>);
    impl WithSimd for Products<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(a, b, width, out) = self;
            for row in a.chunks_exact(width) {
                out.extend(b.chunks_exact(width).map(|other| inner(row, other)));
            }
        }
    }
    ARCH.dispatch(Products(a, b, width, out));
}

/// Returns the inner product of two rows, summed in an order that does not depend on the length of the machine's
/// vectors.
#[inline(always)]
fn inner(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agree_with_the_definition() {
        let width = 37;
        let row = |seed: usize| (0..width).map(move |i| ((i * 7 + seed * 5) % 11) as f32 - 5.0);
        let (a, b): (Vec<f32>, Vec<f32>) = ((0..3).flat_map(row).collect(), (3..7).flat_map(row).collect());
        let mut found = vec![9.0];
        products(&a, &b, width, &mut found);
        assert_eq!((found.len(), found[0]), (13, 9.0));
        for (i, j) in (0..3).flat_map(|i| (0..4).map(move |j| (i, j))) {
            let expected: f32 = (0..width).map(|at| a[i * width + at] * b[j * width + at]).sum();
            assert_eq!(found[1 + i * 4 + j], expected, "small whole numbers are exact");
        }
    }
}
