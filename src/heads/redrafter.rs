//! `kind = "redrafter"`: one recurrent head that drafts all slots.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::carried::{self, Carries};
use super::kind::check_blocks;
use super::unembedding::{StateOutput, copy_unembedding};
use super::{Begun, DraftHeads, HeadKind, HeadShape, HeadUnembedding, Starts};
use crate::backbone::{Feature, Model, ModelConfig};
use crate::error::Result;
use crate::nn::{Init, Linear, Tokens};

/// `kind = "redrafter"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedrafterConfig {
    /// The number of residual blocks behind the recurrent state.
    pub blocks: usize,
    /// The matrix that turns the head's state into logits. Its own is one of V x 2d, for all slots.
    pub unembedding: HeadUnembedding,
}

impl Default for RedrafterConfig {
    fn default() -> Self {
        Self { blocks: 2, unembedding: HeadUnembedding::Frozen }
    }
}

impl HeadKind for RedrafterConfig {
    const NAME: &'static str = "redrafter";
    type Network = RedrafterHeads;

    fn validate(&self) -> Result<()> {
        check_blocks("blocks", self.blocks)
    }

    fn owns_unembedding(&self) -> bool {
        self.unembedding == HeadUnembedding::Own
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn state_width(&self, backbone: &ModelConfig) -> usize {
        if self.owns_unembedding() { 2 * backbone.hidden_size } else { backbone.hidden_size }
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> RedrafterHeads {
        let (d, vocabulary) = (shape.width(), shape.backbone.vocab_size);
        let deviation = (d as f32).powf(-0.5);
        RedrafterHeads {
            token: init.linear(d, d, deviation),
            state: init.linear(d, d, deviation).with_bias(init),
            blocks: (0..self.blocks).map(|_| init.zero_linear(2 * d, 2 * d).with_bias(init)).collect(),
            output: match self.unembedding.table(vocabulary, 2 * d, init) {
                Some(table) => StateOutput::Own(table),
                None => StateOutput::Added(init.zero_linear(d, 2 * d)),
            },
            count: shape.count,
        }
    }
}

/// ReDrafter (Zhang et al. 2024, arXiv 2403.09919; apple/ml-recurrent-drafter). The state is `s <- silu(W e(x) + V s + b)`, with the
/// backbone's embedding e of the token x drafted before, and 0 before the block. Blocks `y + silu(B y + c)`, zero at first, follow on
/// `[h; s]`, with the backbone's state h before the block. Logits are `U (h + O y)` with the frozen unembedding, where O is zero at
/// first, or those of the head's own, which begins as `[U 0]` (random in the original).
#[derive(Module, Debug)]
pub struct RedrafterHeads {
    /// W.
    token: Linear,
    /// V and b.
    state: Linear,
    /// B and c.
    blocks: Vec<Linear>,
    output: StateOutput,
    #[module(skip)]
    count: usize,
}

impl Carries for RedrafterHeads {
    fn row(
        &self,
        _: usize,
        read: Vec<Tensor<2>>,
        carried: Option<Tensor<2>>,
        tokens: Tokens,
    ) -> (Tensor<2>, Option<Tensor<2>>) {
        let hidden = read[0].clone();
        let before = carried.unwrap_or_else(|| hidden.zeros_like());
        let state = silu(self.token.forward(tokens.embeddings) + self.state.forward(before));
        let both = Tensor::cat(vec![hidden.clone(), state.clone()], 1);
        let made = self.blocks.iter().fold(both, |y, block| y.clone() + silu(block.forward(y)));
        (self.output.forward(hidden, made), Some(state))
    }
}

impl DraftHeads for RedrafterHeads {
    fn count(&self) -> usize {
        self.count
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let own = [&mut self.token, &mut self.state].into_iter().chain(&mut self.blocks);
        own.chain(self.output.linear()).collect()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let hidden = starts.states.get(Feature::Last);
        carried::begin(self, Box::new(move |_| vec![hidden.clone()]), starts.pinned)
    }

    fn unembedding(&self, _: usize) -> Option<Tensor<2>> {
        self.output.table()
    }

    fn shares_unembedding(&self) -> bool {
        true
    }

    fn products(&self, parameters: usize) -> usize {
        self.count * parameters
    }

    fn warm_start(&mut self, model: &Model) -> Result<()> {
        if let StateOutput::Own(table) = &mut self.output {
            copy_unembedding([table], model);
        }
        Ok(())
    }
}
