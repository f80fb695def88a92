//! The input of heads that read several states of the backbone: the sum of these states, each of them projected except one.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::backbone::{Feature, FeatureTensors};
use crate::nn::{Init, Linear};

/// The sum `x = b + sum_f P_f r_f`. Here b is one state as it is, and r_f is the state of another feature f, scaled to a mean
/// square of 1 because residual streams are large. Every `P_f` `[d, d]` starts at zero, so that x equals b before training.
#[derive(Module, Debug)]
pub struct FeatureSum {
    projections: Vec<Linear>,
    #[module(skip)]
    base: Feature,
    /// The feature of each projection.
    #[module(skip)]
    others: Vec<Feature>,
}

impl FeatureSum {
    /// Makes the sum of states of width `d`: `base` as it is, and `others`.
    pub fn new(base: Feature, others: &[Feature], d: usize, init: &mut Init) -> Self {
        Self { projections: others.iter().map(|_| init.zero_linear(d, d)).collect(), base, others: others.to_vec() }
    }

    /// Returns the features in the sum.
    pub fn features(&self) -> Vec<Feature> {
        self.others.iter().copied().chain([self.base]).collect()
    }

    /// Returns the sum x, `[n, d]`.
    pub fn read(&self, read: &FeatureTensors) -> Tensor<2> {
        let projected = |(projection, &feature): (&Linear, &Feature)| projection.forward(scaled(read.get(feature)));
        self.projections.iter().zip(&self.others).map(projected).fold(read.get(self.base), |x, y| x + y)
    }

    /// Returns every projection.
    pub fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.projections.iter_mut()
    }
}

/// A small number that is added to mean squares, which could be zero.
const EPSILON: f64 = 1e-5;

/// Scales each row to a mean square of 1.
pub(super) fn scaled(x: Tensor<2>) -> Tensor<2> {
    let scale = x.clone().square().mean_dim(1).add_scalar(EPSILON).sqrt().recip();
    x * scale
}
