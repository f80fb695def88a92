//! `kind = "chimera"`: rows made of three tokens, which attend to the text twice.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, blocks};
use super::joined::embeddings_and;
use super::{AttentionHeads, own_style};
use crate::backbone::{Departures, Feature, FeatureTensors, ModelConfig};
use crate::error::Result;
use crate::heads::{HeadKind, HeadShape};
use crate::nn::{Init, Linear};

/// `kind = "chimera"`: Chimera (Zeng et al. 2024, arXiv 2402.15758; kafkayu/Chimera). A row is made of the embeddings of a token and
/// of the two before it, `z_t = A (c + silu(B c + b))` with `c = [e_{t-2}; e_{t-1}; e_t]`. One decoder layer runs over the rows. Row
/// z_t stands at position t and sees the rows of the text and of its own path up to itself, and the backbone's last states h of the
/// text, each at its own position: so of every token of the text there are two pairs of keys and values, and of the block one. What
/// leaves the layer predicts the next token as it is, beside the state before the block, with `U (h + out)`.
///
/// The layer has the sizes of the backbone's, and Llama's style. The authors train `[U U]` `[V, 2 d]` on `[h; out]` for every head,
/// which begins as this. Before a text's first token there are embeddings of zeros, where they repeat tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChimeraConfig {}

/// What makes rows of three tokens. Behind z, a row carries on the embeddings of its last two tokens, and h.
#[derive(Module, Debug)]
pub(super) struct TrigramEntry {
    /// B and b.
    change: Linear,
    /// A.
    down: Linear,
}

impl TrigramEntry {
    fn new(d: usize, init: &mut Init) -> Self {
        let change = init.zero_linear(3 * d, 3 * d).with_bias(init);
        Self { change, down: init.linear(d, 3 * d, (3.0 * d as f32).powf(-0.5)) }
    }

    /// Returns z of tokens with these embeddings, the last one last.
    fn made(&self, tokens: [Tensor<2>; 3]) -> Tensor<2> {
        let read = Tensor::cat(tokens.to_vec(), 1);
        self.down.forward(read.clone() + silu(self.change.forward(read)))
    }

    fn row(&self, [before, last, token]: [Tensor<2>; 3], hidden: Tensor<2>) -> Tensor<2> {
        let made = self.made([before, last.clone(), token.clone()]);
        Tensor::cat(vec![made, last, token, hidden], 1)
    }

    /// Returns the rows behind the pinned tokens, given the embeddings of the tokens before the starts.
    pub fn first(&self, states: &FeatureTensors, before: Tensor<2>, pinned: Tensor<2>) -> Tensor<2> {
        let last = states.get(Feature::Layer(0));
        let before = if last.device().is_autodiff() { before.autodiff() } else { before };
        self.row([before, last, pinned], states.get(Feature::Last))
    }

    /// Returns the rows behind others.
    pub fn next(&self, rows: &Tensor<2>, tokens: Tensor<2>) -> Tensor<2> {
        let [_, d] = tokens.dims();
        let carried = |place: usize| rows.clone().narrow(1, place * d, d);
        self.row([carried(1), carried(2), tokens], carried(3))
    }

    /// Returns what rows predict with, given what left the layer.
    pub fn state(&self, rows: &Tensor<2>, left: Tensor<2>) -> Tensor<2> {
        let [_, d] = left.dims();
        left + rows.clone().narrow(1, 3 * d, d)
    }

    /// Returns what stands for the tokens of texts of which these are the states: z and h of each.
    pub fn context(&self, states: &FeatureTensors, mut before: impl FnMut(&Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let token = states.get(Feature::Layer(0));
        let last = before(&token);
        let made = self.made([before(&last), last, token]);
        let hidden = states.get(Feature::Last);
        let hidden = if made.device().is_autodiff() { hidden.autodiff() } else { hidden };
        blocks(vec![made, hidden])
    }

    pub fn linears(&mut self) -> Vec<&mut Linear> {
        vec![&mut self.change, &mut self.down]
    }
}

impl HeadKind for ChimeraConfig {
    const NAME: &'static str = "chimera";
    type Network = AttentionHeads;

    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>> {
        embeddings_and(vec![Feature::Last], backbone)
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let config = own_style(shape.backbone, false);
        let first = shape.backbone.num_hidden_layers - 1;
        let entry = Entry::Trigram(TrigramEntry::new(shape.width(), init));
        AttentionHeads {
            norm: None,
            ..AttentionHeads::new(entry, shape.count, &config, first..first + 1, Departures::default(), init)
        }
    }
}
