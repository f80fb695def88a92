//! `kind = "glide"`: a drafter of one layer that attends to its own rows, and to keys and values that the backbone made.

use burn::module::Module;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::joined::embeddings_and;
use super::{AttentionHeads, own_style};
use crate::backbone::{Departures, Feature, ModelConfig};
use crate::error::{Result, bail};
use crate::heads::{HeadKind, HeadShape};
use crate::nn::Init;

/// `kind = "glide"`: GLIDE (Du et al. 2024, arXiv 2402.02082; NonvolatileMemory/GliDe_with_a_CaPE_ICML_24). A row enters one decoder
/// layer as the embedding of a token. It attends to the rows of the text and of its own path, then, with queries of its own and, as
/// in the authors' code, without a norm before them, to the keys and values that a layer of the backbone made of the text. An MLP and
/// a norm follow, and what leaves them predicts the next token. The backbone's keys and values are those of the last verification: of
/// the tokens before the pinned one. All rows of a block see the same ones, in training too, where the authors have a mask by blocks
/// for that.
///
/// What departs from the paper: embedding and unembedding are the backbone's, frozen, where the authors train those of a small model.
/// A block begins at any token of the text, where their mask cuts texts into blocks of 5. The layer has the sizes of the backbone's
/// and Llama's style. There is one, as the authors' drafters have; more would each attend to a layer of the backbone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GlideConfig {
    /// The backbone's layer whose keys and values are attended to, counted from 0. Empty: the last, as the authors have it.
    pub layer: Option<usize>,
}

/// Rows that are the embeddings of their tokens. Row j stands at position p + j - 1, sees the rows of the text and those before it,
/// and predicts slot j + 1.
#[derive(Module, Debug)]
pub(super) struct TokenEntry {
    /// The backbone's layer whose keys and values rows attend to.
    #[module(skip)]
    crosses: usize,
}

impl TokenEntry {
    /// Returns the states that are read: those of the text's rows, and what the backbone makes its keys and values of.
    pub fn features(&self) -> Vec<Feature> {
        vec![Feature::Layer(0), Feature::Layer(self.crosses)]
    }
}

impl GlideConfig {
    fn layer(&self, backbone: &ModelConfig) -> usize {
        self.layer.unwrap_or(backbone.num_hidden_layers - 1)
    }
}

impl HeadKind for GlideConfig {
    const NAME: &'static str = "glide";
    type Network = AttentionHeads;

    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>> {
        let (layer, layers) = (self.layer(backbone), backbone.num_hidden_layers);
        if layer >= layers {
            bail!(
                "`heads.architecture.layer` is {layer}, but the backbone has {layers} layers, numbered from 0. Take a smaller number."
            );
        }
        embeddings_and(vec![Feature::Layer(layer)], backbone)
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let (config, crosses) = (own_style(shape.backbone, false), self.layer(shape.backbone));
        let first = shape.backbone.num_hidden_layers - 1;
        let departures = Departures { crosses: Some(crosses), ..Departures::default() };
        let entry = Entry::Token(TokenEntry { crosses });
        AttentionHeads::new(entry, shape.count, &config, first..first + 1, departures, init)
    }
}
