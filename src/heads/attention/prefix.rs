//! A decoder layer over the text's last states, for heads that read its output in place of the state before the block.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, PrefixEntry};
use super::{AttentionHeads, own_style};
use crate::backbone::Departures;
use crate::heads::HeadShape;
use crate::nn::Init;

/// `heads.architecture.prefix_layer`: a decoder layer over the backbone's last states of the text, with a norm behind it (Hydra++;
/// Ankner et al. 2024, arXiv 2402.05109, section 4.2; zankner/Hydra). What it makes of the last token before a block takes the place
/// of that token's state.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixLayerConfig {
    /// Whether the layer and the norm begin as copies of the backbone's uppermost layer and of its norm, in the backbone's style.
    /// Otherwise they begin at random, in Llama's style, as the authors' do.
    pub warm_start: bool,
    /// The learning rate of the layer and of the norm, as a share of `heads.training.learning_rate`.
    #[schemars(range(min = 0.0))]
    pub learning_rate: f64,
}

impl Default for PrefixLayerConfig {
    fn default() -> Self {
        Self { warm_start: false, learning_rate: 1.0 }
    }
}

impl PrefixLayerConfig {
    /// Makes the layer as heads with one row a block, whose state is the layer's output.
    pub(in crate::heads) fn network(self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let config = if self.warm_start { shape.backbone.clone() } else { own_style(shape.backbone, false) };
        let first = shape.backbone.num_hidden_layers - 1;
        let entry = Entry::Prefix(PrefixEntry {});
        AttentionHeads {
            warm_start: self.warm_start,
            layers_learning_rate: self.learning_rate,
            ..AttentionHeads::new(entry, 1, &config, first..first + 1, Departures::default(), init)
        }
    }
}
