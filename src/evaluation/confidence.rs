//! How far ahead heads lose confidence step by step, and whether that foretells block efficiency (arXiv 2404.09221).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest i such that the mean entropies of heads 2 to i rise strictly; `entropies` begin with head 2's.
///
/// Head 1 is left out, unlike in the paper: it is the frozen backbone, and heads that were trained on its greedy text are often
/// surer than it is itself, so that the rise would end before it begins.
pub fn h_max(entropies: &[f64]) -> usize {
    let rises = entropies.windows(2).take_while(|pair| pair[1] > pair[0]).count();
    if entropies.is_empty() { 1 } else { 2 + rises }
}

/// A straight line through points, by least squares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// Points.
    pub sets: u64,
    /// Rise of y for 1 of x.
    pub slope: f64,
    /// y at x = 0.
    pub intercept: f64,
    /// Pearson's correlation.
    pub r: f64,
}

/// The line through `[x, y]` points; none of fewer than three, or where all x or all y are equal.
pub fn regression(points: &[[f64; 2]]) -> Option<Regression> {
    let n = points.len() as f64;
    let mean = |axis: usize| points.iter().map(|p| p[axis]).sum::<f64>() / n;
    let [x, y] = [mean(0), mean(1)];
    let moment = |a: usize, b: usize| points.iter().map(|p| (p[a] - [x, y][a]) * (p[b] - [x, y][b])).sum::<f64>();
    let [xx, xy, yy] = [moment(0, 0), moment(0, 1), moment(1, 1)];
    let line = || {
        let slope = xy / xx;
        Regression { sets: points.len() as u64, slope, intercept: y - slope * x, r: xy / (xx * yy).sqrt() }
    };
    (points.len() >= 3 && xx > 0.0 && yy > 0.0).then(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_must_rise_from_head_to_head() {
        assert_eq!(h_max(&[1.0, 2.0, 3.0, 2.9, 4.0]), 4);
        assert_eq!(h_max(&[1.0, 2.0, 3.0]), 4);
        assert_eq!(h_max(&[1.0, 1.0, 3.0]), 2);
        assert_eq!(h_max(&[1.0]), 2);
        assert_eq!(h_max(&[]), 1);
    }

    #[test]
    fn a_line_is_that_of_another_implementation() {
        // Python's statistics.linear_regression(x, y) and statistics.correlation(x, y).
        let found = regression(&[[3.0, 1.1], [5.0, 1.7], [9.0, 3.12], [4.0, 1.27]]).unwrap();
        for (found, expected) in [
            (found.slope, 0.347_590_361_445_783_1),
            (found.intercept, -0.027_349_397_590_361_146),
            (found.r, 0.996_768_909_268_639_1),
        ] {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn two_points_or_a_point_thrice_make_no_line() {
        assert_eq!(regression(&[[1.0, 2.0], [2.0, 3.0]]), None);
        assert_eq!(regression(&[[1.0, 2.0], [1.0, 3.0], [1.0, 4.0]]), None);
        assert_eq!(regression(&[[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]]), None);
    }
}
