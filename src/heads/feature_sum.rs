//! The input of heads that read several states of the backbone: the sum of these states, each of them projected except
//! `last`.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::backbone::{Feature, FeatureTensors};
use crate::error::{Result, bail};
use crate::nn::{Init, Linear};

/// The sum `x = h + sum_f P_f r_f`. Here h is the last hidden state, and r_f is the state of another feature f, scaled
/// to a mean square of 1 because residual streams are large. Every `P_f` `[d, d]` starts at zero, so that x equals h
/// before training.
#[derive(Module, Debug)]
pub struct FeatureSum {
    projections: Vec<Linear>,
    /// The feature of each projection.
    #[module(skip)]
    others: Vec<Feature>,
}

impl FeatureSum {
    /// Makes the sum of `features` of width `d`, one of which is `last`.
    pub fn new(features: &[Feature], d: usize, init: &mut Init) -> Self {
        let others: Vec<Feature> = features.iter().copied().filter(|&feature| feature != Feature::Last).collect();
        let mut projection = |_: &Feature| {
            let mut linear = init.zero_linear(d, d);
            linear.bias = None;
            linear
        };
        Self { projections: others.iter().map(&mut projection).collect(), others }
    }

    /// Checks a list of features that are to be summed. `key` is its name in messages.
    ///
    /// # Errors
    /// Returns an error if the list lacks `last`.
    pub fn validate(key: &str, features: &[Feature]) -> Result<()> {
        if !features.contains(&Feature::Last) {
            bail!("`{key}` lacks \"last\", to which heads add what they read of the others; add it.");
        }
        Ok(())
    }

    /// Returns the features in the sum.
    pub fn features(&self) -> Vec<Feature> {
        self.others.iter().copied().chain([Feature::Last]).collect()
    }

    /// Returns the sum x, `[n, d]`.
    pub fn read(&self, read: &FeatureTensors) -> Tensor<2> {
        let projected = |(projection, &feature): (&Linear, &Feature)| projection.forward(scaled(read.get(feature)));
        self.projections.iter().zip(&self.others).map(projected).fold(read.get(Feature::Last), |x, y| x + y)
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
