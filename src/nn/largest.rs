//! The largest logits of a projection. On an accelerator, no other logits leave the device.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{Projection, to_host};
use crate::kernels::{SoftmaxStats, softmax_stats, top_k};

/// The largest logits of one state, and optionally the statistics of its softmax.
#[derive(Debug, Clone, PartialEq)]
pub struct Largest {
    /// The outputs, best first; among equal logits, the smaller id comes first.
    pub ids: Vec<u32>,
    /// The logits of `ids`.
    pub logits: Vec<f32>,
    /// The statistics of the softmax over all outputs, if they were asked for.
    pub stats: Option<SoftmaxStats>,
}

impl Largest {
    /// Finds the `k` largest of a row of logits in this process's memory and, with `stats`, computes its softmax
    /// statistics.
    pub fn of(row: &[f32], k: usize, stats: bool) -> Self {
        let (mut ids, mut logits) = (Vec::with_capacity(k), Vec::with_capacity(k));
        top_k(row, k, &mut ids, &mut logits);
        let stats = stats.then(|| softmax_stats(row, logits.first().copied().unwrap_or(f32::NAN)));
        Self { ids, logits, stats }
    }

    /// Returns the best output and its lead over the second best, or 0 and NaN if no logit is a number.
    pub fn first(&self) -> (u32, f32) {
        let logit = |place: usize| self.logits.get(place).copied().unwrap_or(f32::NEG_INFINITY);
        (self.ids.first().copied().unwrap_or(0), logit(0) - logit(1))
    }

    /// Returns whether there are `k` logits (NaN is never among them) and all numbers are finite.
    pub fn is_finite(&self, k: usize) -> bool {
        self.ids.len() == k
            && self.logits.iter().all(|logit| logit.is_finite())
            && self.stats.is_none_or(|stats| stats.entropy.is_finite())
    }
}

/// Logits this far below the largest add nothing to a softmax of float32.
const LEAST: f32 = -87.0;

impl Projection {
    /// Finds the `k` largest logits (or all, if there are fewer) of each of the states `[n, d]`. With `stats` it also
    /// computes the softmax statistics, at the cost of an exponential for every logit.
    ///
    /// NaN is never among the logits. If more logits equal the k-th than there is room for, the CPU takes those with
    /// the smallest ids, and an accelerator may take any.
    pub fn largest(&self, states: Tensor<2>, k: usize, stats: bool) -> Vec<Largest> {
        let outputs = self.dims()[0];
        let k = k.min(outputs);
        match self {
            Self::Packed(_) => self.logits(states).par_chunks(outputs).map(|row| Largest::of(row, k, stats)).collect(),
            Self::Tensor(matrix) => on_device(states.matmul(matrix.as_ref().clone().transpose()), k, stats),
        }
    }
}

/// Finds the largest of the logits `[n, V]` with tensor operations, on any device.
fn on_device(logits: Tensor<2>, k: usize, stats: bool) -> Vec<Largest> {
    let outputs = logits.dims()[1];
    let stats = stats.then(|| {
        let most = logits.clone().max_dim(1);
        let below = (logits.clone() - most.clone()).clamp_min(LEAST);
        let weights = below.clone().exp();
        let sum = weights.clone().sum_dim(1);
        let log = sum.clone().log();
        let entropy = log.clone() - (weights * below).sum_dim(1) / sum;
        to_host(Tensor::cat(vec![most + log, entropy], 1))
    });
    let (values, ids) = logits.topk_with_indices(k, 1);
    let ids: Vec<i64> = ids.into_data().convert::<i64>().try_into_vec().expect("converted to i64");
    let of_row = |(row, (values, ids)): (usize, (&[f32], &[i64]))| {
        let mut best: Vec<(f32, u32)> = values
            .iter()
            .zip(ids)
            .filter(|(value, id)| !value.is_nan() && (0..outputs as i64).contains(*id))
            .map(|(value, id)| (*value, *id as u32))
            .collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let stats = stats.as_ref().map(|s| SoftmaxStats { log_sum: s[2 * row], entropy: s[2 * row + 1] });
        let (logits, ids) = best.into_iter().unzip();
        Largest { ids, logits, stats }
    };
    to_host(values).chunks(k).zip(ids.chunks(k)).enumerate().map(of_row).collect()
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::nn::from_host;

    const OUTPUTS: usize = 100;

    fn numbers(n: usize, shift: f32) -> Vec<f32> {
        (0..n).map(|at| 2.0 * (at as f32 * 0.7 + shift).sin()).collect()
    }

    fn projections() -> [Projection; 2] {
        let matrix: Tensor<2> = from_host(numbers(OUTPUTS * 5, 0.2), [OUTPUTS, 5], &Device::flex());
        [Projection::new(matrix.clone()), Projection::Tensor(Box::new(matrix))]
    }

    #[test]
    fn the_largest_are_the_first_of_all_logits_in_order() {
        for projection in projections() {
            let states = || from_host(numbers(15, 1.3), [3, 5], &Device::flex());
            let found = projection.largest(states(), 7, true);
            for (found, all) in found.iter().zip(projection.logits(states()).chunks(OUTPUTS)) {
                let mut order: Vec<u32> = (0..OUTPUTS as u32).collect();
                order.sort_by(|&a, &b| all[b as usize].total_cmp(&all[a as usize]).then(a.cmp(&b)));
                assert_eq!(found.ids, order[..7]);
                assert_eq!(found.first(), (order[0], all[order[0] as usize] - all[order[1] as usize]));
                assert!(found.is_finite(7) && !found.is_finite(8));
                let sum: f64 = all.iter().map(|&x| f64::from(x).exp()).sum();
                let entropy: f64 = all.iter().map(|&x| f64::from(x).exp() / sum).map(|p| -p * p.ln()).sum();
                let stats = found.stats.unwrap();
                assert!((f64::from(stats.log_sum) - sum.ln()).abs() < 1e-5, "{stats:?}");
                assert!((f64::from(stats.entropy) - entropy).abs() < 1e-5, "{stats:?}");
            }
        }
    }

    #[test]
    fn nan_is_not_taken() {
        for projection in projections() {
            let states = from_host(vec![f32::NAN; 5], [1, 5], &Device::flex());
            let found = projection.largest(states, 3, true).remove(0);
            assert!(!found.is_finite(3));
            assert!(found.first().1.is_nan());
        }
    }
}
