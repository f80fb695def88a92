//! `[*.training]`: how parameters are optimized.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::{above_zero, below_one};

/// `[*.training]`: AdamW with linear warm-up and a cosine to the final rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizationConfig {
    /// The number of optimizer steps.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// The highest learning rate, reached after the warm-up.
    #[schemars(transform = above_zero)]
    pub learning_rate: f64,
    /// The number of steps of linear warm-up.
    pub warmup_steps: usize,
    /// The last learning rate, as a share of the highest. The rate falls to it along a cosine.
    pub final_rate: f64,
    /// AdamW's decoupled weight decay of matrices. Biases and norms have none.
    pub weight_decay: f64,
    /// The largest global L2 norm of the gradient; a larger gradient is scaled down to it.
    #[schemars(transform = above_zero)]
    pub clip_norm: f64,
    /// AdamW's decay rates of the first and second moments.
    #[schemars(inner(range(min = 0.0)), transform = below_one)]
    pub betas: [f64; 2],
    /// The number of steps between evaluations on dev.
    #[schemars(range(min = 1))]
    pub dev_every: usize,
    /// The number of steps between checkpoints.
    #[schemars(range(min = 1))]
    pub checkpoint_every: usize,
    /// The number of batches whose gradients make one step: a batch this many times as large in the memory of one.
    #[schemars(range(min = 1, max = 65_536))]
    pub accumulate: usize,
    /// The decay of the moving average of the weights, such as 0.99; 0 for none. The average is what is evaluated on dev and
    /// what is kept.
    #[schemars(range(min = 0.0), transform = below_one)]
    pub average: f64,
    /// The number of evaluations on dev in a row without a new best after which training ends; 0: it never ends early.
    pub patience: usize,
}

impl Default for OptimizationConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            learning_rate: 1e-3,
            warmup_steps: 20,
            final_rate: 0.1,
            weight_decay: 0.01,
            clip_norm: 1.0,
            betas: [0.9, 0.98],
            dev_every: 50,
            checkpoint_every: 50,
            accumulate: 1,
            average: 0.0,
            patience: 0,
        }
    }
}

impl OptimizationConfig {
    /// Batches that all steps together take.
    pub(crate) fn batches(&self) -> usize {
        self.steps * self.accumulate
    }
}
