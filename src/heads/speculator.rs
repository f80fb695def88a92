//! `kind = "speculator"`: heads that read the tokens drafted before them. A state is handed from head to head, and each
//! head adds one token to it.

use burn::module::Module;
use burn::tensor::activation::gelu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_sum::scaled;
use super::{DraftHeads, DraftedEmbeddings, HeadKind, HeadShape, States};
use crate::backbone::{Feature, FeatureTensors};
use crate::nn::{Init, Linear, Norm};

/// `kind = "speculator"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpeculatorConfig {
    /// The width of the state that is handed from head to head.
    #[schemars(range(min = 1))]
    pub inner: usize,
}

impl Default for SpeculatorConfig {
    fn default() -> Self {
        Self { inner: 512 }
    }
}

impl HeadKind for SpeculatorConfig {
    const NAME: &'static str = "speculator";
    type Network = SpeculatorHeads;

    fn network(&self, shape: HeadShape, init: &mut Init) -> SpeculatorHeads {
        let (d, inner) = (shape.width, self.inner);
        let deviation = |inputs: usize| (inputs as f32).powf(-0.5);
        let stage = |index: usize| {
            let inputs = if index == 0 { d } else { inner };
            SpeculatorStage {
                carry: init.linear(inner, inputs, deviation(inputs)),
                embed: init.linear(inner, d, deviation(d)),
                norm: init.norm(inner, true),
                down: init.zero_linear(d, inner),
            }
        };
        SpeculatorHeads { stages: (0..shape.count).map(stage).collect() }
    }
}

/// The token/embedding speculator (Wertheimer et al. 2024, arXiv 2404.19124, section 2). For head j, with the token x
/// that was drafted just before, it computes
///
/// `s <- P_j s + (w_e / w_s) E_j e(x)`, `s <- gelu(LN_j s)`, state `h + O_j s`
///
/// starting from `s = h`, with `w_s = 0.5^(0.5/n)` for n heads and `w_e = sqrt(1 - w_s^2)`. The original trains an
/// embedding and an unembedding per head. Here `e` is the backbone's embedding, and the backbone's unembedding follows;
/// both are frozen. `h` and `e(x)` are scaled to a mean square of 1 before they are read. `O` starts at zero.
#[derive(Module, Debug)]
pub struct SpeculatorHeads {
    stages: Vec<SpeculatorStage>,
}

#[derive(Module, Debug)]
struct SpeculatorStage {
    /// The matrix P: `[inner, d]` for the first head, `[inner, inner]` for the others.
    carry: Linear,
    /// The matrix E: `[inner, d]`.
    embed: Linear,
    norm: Norm,
    /// The matrix O: `[d, inner]`.
    down: Linear,
}

/// The number that the norms add to the variance.
const EPSILON: f64 = 1e-5;

impl DraftHeads for SpeculatorHeads {
    fn count(&self) -> usize {
        self.stages.len()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.stages.iter_mut().flat_map(|stage| [&mut stage.carry, &mut stage.embed, &mut stage.down]).collect()
    }

    fn begin<'a>(&'a self, read: &FeatureTensors, drafted: &'a DraftedEmbeddings) -> States<'a> {
        let hidden = read.get(Feature::Last);
        let carried = 0.5f64.powf(0.5 / self.count() as f64);
        let share = (1.0 - carried * carried).sqrt() / carried;
        let (mut state, mut done) = (scaled(hidden.clone()), 0);
        Box::new(move |head| {
            // A head that is left out must still add its token to the state.
            for (slot, stage) in self.stages.iter().enumerate().take(head + 1).skip(done) {
                let token = stage.embed.forward(scaled(drafted(slot)));
                let mixed = stage.carry.forward(state.clone()) + token.mul_scalar(share);
                state = gelu(stage.norm.forward(mixed, EPSILON));
            }
            done = head + 1;
            hidden.clone() + self.stages[head].down.forward(state.clone())
        })
    }

    fn reads_drafted(&self) -> bool {
        true
    }
}
