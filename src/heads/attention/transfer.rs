//! `kind = "hidden-transfer"`: pseudo states of the tokens to come, which run through the backbone's own upper layers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, TransferEntry};
use super::{AttentionHeads, union};
use crate::backbone::{Departures, Feature, ModelConfig, StaggeredRows};
use crate::error::{Result, bail};
use crate::heads::{HeadKind, HeadShape};
use crate::nn::Init;

/// `kind = "hidden-transfer"`: Hidden Transfer (Wu et al. 2024, arXiv 2404.12022). At one of the backbone's layers, a matrix for each
/// slot makes a pseudo state of the state before the block. The pseudo states run through the layers above, which are the
/// backbone's own and stay frozen, over its keys and values of the text. They see the text before the block and those of the slots
/// before them, and predict through the backbone's norm and unembedding. A block is drafted without the pinned token, which stands
/// where the first pseudo state does.
///
/// With `spread`, the matrices of later slots are at higher layers, evenly spread up to the last (FIRP, Wu et al. 2024, arXiv
/// 2410.20488). A pseudo state begins at its layer, so it sees those of earlier slots from there on.
///
/// In the paper the forward that verifies a block makes the next pseudo states on its way. Here they run behind it, which drafts
/// the same and reads the upper layers once more. The paper says neither how the matrices begin nor at which layers they are: they
/// begin as the identity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HiddenTransferConfig {
    /// The layer that pseudo states enter: that of the residual stream `layer-N`. Empty: three quarters of the layers are below.
    pub layer: Option<usize>,
    /// Whether this is the layer of the first pseudo state alone, and those of later slots enter higher layers. The paper does not say
    /// which.
    pub spread: bool,
}

impl HiddenTransferConfig {
    fn layer(&self, backbone: &ModelConfig) -> usize {
        self.layer.unwrap_or(backbone.num_hidden_layers * 3 / 4)
    }
}

impl HeadKind for HiddenTransferConfig {
    const NAME: &'static str = "hidden-transfer";
    type Network = AttentionHeads;

    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>> {
        let (layer, most) = (self.layer(backbone), backbone.num_hidden_layers);
        if layer >= most {
            bail!(
                "`heads.architecture.layer` is {layer}, but the backbone has {most} layers, and pseudo states need one above them. Take a smaller number."
            );
        }
        Ok(union((layer..most).map(Feature::Layer).collect(), Vec::new()))
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let (d, count, backbone) = (shape.width(), shape.count, shape.backbone);
        let (layer, most) = (self.layer(backbone), backbone.num_hidden_layers);
        let staggered = self.spread.then_some(StaggeredRows { count, layers: most - layer });
        let entered = (0..count).map(|row| layer + staggered.map_or(0, |staggered| staggered.layer(row)));
        let entry = Entry::Transfer(TransferEntry::new(entered.map(Feature::Layer).collect(), d, init));
        let departures = Departures { staggered, ..Departures::default() };
        AttentionHeads {
            warm_start: true,
            layers_learning_rate: 0.0,
            ..AttentionHeads::new(entry, count, backbone, layer..most, departures, init)
        }
    }
}
