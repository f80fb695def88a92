//! What a loss measures between a distribution and its prediction.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the loss of a prediction q measures, given the distribution p that it is to equal. Their overlap is
/// `alpha = sum_v min(p_v, q_v)`: the probability with which a token drawn from q is accepted as one of p.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// `-sum_v p_v log q_v`: the Kullback-Leibler divergence, but for the entropy of p.
    CrossEntropy,
    /// The total variation `1 - alpha`.
    Tv,
    /// `-log alpha`, where alpha counts as at least 1e-5. Where p is a single token, this is the cross-entropy.
    Lk,
    /// `w KL(p, q) + (1 - w) (1 - alpha)` with `w = e^(-3 alpha)`, which counts as a constant (Samarin et al. 2026, arXiv
    /// 2602.23881).
    LkHybrid,
}

/// The loss of a row, with the factors of which its gradient is made.
pub(super) struct Blend {
    pub loss: f64,
    /// The factor of the gradient of the divergence.
    pub divergence: f64,
    /// The factor of the gradient of `-alpha`.
    pub overlap: f64,
}

/// The least overlap that a loss is computed from.
const LEAST_OVERLAP: f64 = 1e-5;
/// How fast the hybrid turns from the divergence to the overlap. The authors' best.
const TURN: f64 = 3.0;

impl Criterion {
    /// Returns the loss of a row whose distributions have this overlap and divergence. Only the hybrid reads the latter.
    pub(super) fn blend(self, alpha: f64, divergence: f64) -> Blend {
        let least = alpha.max(LEAST_OVERLAP);
        match self {
            Self::CrossEntropy => Blend { loss: divergence, divergence: 1.0, overlap: 0.0 },
            Self::Tv => Blend { loss: 1.0 - alpha, divergence: 0.0, overlap: 1.0 },
            Self::Lk => Blend { loss: -least.ln(), divergence: 0.0, overlap: 1.0 / least },
            Self::LkHybrid => {
                let weight = (-TURN * alpha).exp();
                let loss = weight * divergence + (1.0 - weight) * (1.0 - alpha);
                Blend { loss, divergence: weight, overlap: 1.0 - weight }
            }
        }
    }

    /// Returns whether the loss depends on the divergence.
    pub(super) fn reads_divergence(self) -> bool {
        matches!(self, Self::CrossEntropy | Self::LkHybrid)
    }
}
