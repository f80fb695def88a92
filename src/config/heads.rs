//! `[heads]`: the prediction heads, their architecture, their loss and their training.

use serde::{Deserialize, Serialize};

use super::OptimizationConfig;
use super::schema::at_least;
use crate::error::{Result, bail};

/// `[heads]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadsConfig {
    /// H: tokens proposed at once. Head 1 is the backbone's own prediction, H - 1 heads are trained.
    pub block_size: usize,
    /// What a head is made of.
    pub architecture: HeadArchitecture,
    /// Heads per training step.
    pub loss: HeadLoss,
    /// How much each head counts in the loss.
    pub loss_weights: LossWeights,
    /// Positions per training step.
    pub positions_per_step: usize,
    /// Whether positions whose target lies in the prompt are trained on as well.
    pub prompt_positions: bool,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
}

impl Default for HeadsConfig {
    fn default() -> Self {
        Self {
            block_size: 9,
            architecture: HeadArchitecture::default(),
            loss: HeadLoss::All,
            loss_weights: LossWeights::Constant,
            positions_per_step: 1024,
            prompt_positions: false,
            training: OptimizationConfig { steps: 200, learning_rate: 2e-3, ..OptimizationConfig::default() },
        }
    }
}

/// `[heads.architecture]`, by its `kind`. All read the backbone's last hidden state h, end in its frozen unembedding, and
/// repeat its own prediction before they are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum HeadArchitecture {
    /// One hidden layer with a residual (Stern et al. 2018).
    Ffn(FfnConfig),
    /// Residual blocks (Medusa-1; Cai et al. 2024).
    Medusa(MedusaConfig),
    /// A linear probe.
    Linear(LinearConfig),
}

impl Default for HeadArchitecture {
    fn default() -> Self {
        Self::Ffn(FfnConfig::default())
    }
}

/// `kind = "ffn"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FfnConfig {
    /// Units of the hidden layer per head.
    pub hidden: usize,
    /// "separate" or "shared".
    pub first_layer: FirstLayer,
}

impl Default for FfnConfig {
    fn default() -> Self {
        Self { hidden: 512, first_layer: FirstLayer::Separate }
    }
}

/// Which units of the hidden layer a head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstLayer {
    /// Its own `hidden` units.
    Separate,
    /// All (H - 1) x `hidden` units of all heads, as in the paper.
    Shared,
}

/// `kind = "medusa"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MedusaConfig {
    /// Residual blocks per head.
    pub blocks: usize,
}

impl Default for MedusaConfig {
    fn default() -> Self {
        Self { blocks: 1 }
    }
}

/// `kind = "linear"`, which has no keys of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearConfig {}

/// Which heads a training step covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadLoss {
    /// The weighted mean cross-entropy of all heads.
    All,
    /// One head drawn uniformly, its loss times its weight over the mean weight: an unbiased estimate of that mean (Stern
    /// et al. 2018).
    OneRandom,
}

/// How much each head counts: with mean cross-entropies L_2 .. L_H, the loss is `sum_j w_j L_j / sum_j w_j`, in
/// training and on dev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    rename_all = "lowercase",
    expecting = "`loss_weights` is \"constant\", { decay = 0.8 }, or a list with a number for each head"
)]
pub enum LossWeights {
    /// w_j = 1
    Constant,
    /// w_j = decay^(j - 2): 1 for head 2; above 0, at most 1. Medusa-1 takes 0.8.
    Decay(f64),
    /// w_2 .. w_H: H - 1 numbers above 0.
    #[serde(untagged)]
    List(Vec<f64>),
}

impl LossWeights {
    /// The weights of `count` heads, scaled to a mean of 1: a constant weight is then exactly 1.
    pub fn with_mean_one(&self, count: usize) -> Vec<f64> {
        let weights = match self {
            Self::Constant => vec![1.0; count],
            Self::Decay(decay) => (0..count).map(|head| decay.powi(head as i32)).collect(),
            Self::List(weights) => weights.clone(),
        };
        let mean = weights.iter().sum::<f64>() / count as f64;
        weights.into_iter().map(|weight| weight / mean).collect()
    }

    fn validate(&self, count: usize) -> Result<()> {
        let positive = |weight: &f64| *weight > 0.0 && weight.is_finite();
        match self {
            Self::Decay(decay) if !(*decay > 0.0 && *decay <= 1.0) => {
                bail!("`heads.loss_weights.decay` is {decay}; it must be above 0 and at most 1.")
            }
            Self::List(weights) if weights.len() != count => bail!(
                "`heads.loss_weights` has {} numbers, but `heads.block_size` = {} trains {count} heads; give one number for each of heads 2 to {}.",
                weights.len(),
                count + 1,
                count + 1
            ),
            Self::List(weights) if !weights.iter().all(positive) => {
                bail!("`heads.loss_weights` is {weights:?}; every number must be above 0.")
            }
            _ => Ok(()),
        }
    }
}

impl HeadsConfig {
    pub(super) fn validate(&self) -> Result<()> {
        at_least("heads.block_size", self.block_size, 2)?;
        match &self.architecture {
            HeadArchitecture::Ffn(ffn) => at_least("heads.architecture.hidden", ffn.hidden, 1)?,
            HeadArchitecture::Medusa(medusa) => at_least("heads.architecture.blocks", medusa.blocks, 1)?,
            HeadArchitecture::Linear(LinearConfig {}) => {}
        }
        self.loss_weights.validate(self.block_size - 1)?;
        at_least("heads.positions_per_step", self.positions_per_step, 1)?;
        self.training.validate("heads.training")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_a_mean_of_one_and_constant_ones_are_exactly_one() {
        for count in 1..60 {
            assert_eq!(LossWeights::Constant.with_mean_one(count), vec![1.0; count]);
        }
        assert_eq!(LossWeights::List(vec![3.0, 1.0]).with_mean_one(2), [1.5, 0.5]);
        assert_eq!(LossWeights::Decay(0.5).with_mean_one(3), [12.0 / 7.0, 6.0 / 7.0, 3.0 / 7.0]);
    }
}
