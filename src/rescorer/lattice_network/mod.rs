//! The common part of lattice networks, which are networks that read a block's lattice and the backbone's hidden state.
//!
//! In training, a network works on tensors of many blocks at once ([`LatticeNetwork`], `training.rs`). In drafting, it
//! works on one block at a time, with tables over the vocabulary (`host.rs`). Its formula is therefore written twice,
//! and a test checks for every kind that the two agree.

mod host;
mod saved;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod training;

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use serde::Serialize;
use serde_json::{Value, json};

use super::kind::{FitContext, FitEstimate, FitSizes, LoadContext, RescorerKind};
use super::scoring::Rescorer;
use crate::backbone::{Backbone, Model};
use crate::error::Result;
use crate::nn::{Init, Tokens, count_parameters, unit_rows, weighted};
use crate::progress;
use crate::training::{OptimizationConfig, kept_bytes, train};

pub(super) use host::{TokenTable, add_heads, log_probabilities, multiplied, packed, unit_row};
pub(super) use saved::{NetworkShape, load_network, save_network};
pub use training::{LatticeLoss, LatticeTraining, Recorded};

/// A network that scores the candidates of a lattice. Before training, its scores are the head scores.
pub trait LatticeNetwork: Module {
    /// Returns the scores `[blocks, slots, k]` of the candidates of slots 2 to H, given the true token before each
    /// slot. Their softmax over the candidates of a slot is a probability, unless the network is trained as a random
    /// field.
    fn scores(&self, blocks: &Blocks) -> Tensor<3>;

    /// Returns the scores `[blocks, slots - 1, k, k]` of the candidates of slots 3 to H after each candidate of the
    /// slot before. Returns none if there are no such slots, or if the network does not read the candidate before.
    fn pairs(&self, _blocks: &Blocks) -> Option<Tensor<4>> {
        None
    }
}

/// The inputs of a network for n blocks, with s = H - 1 slots after the pinned one.
pub struct Blocks {
    /// The hidden states `[n, d]`, each scaled to a root mean square of 1.
    pub hidden: Tensor<2>,
    /// The heads' states `[n * s, d]`, scaled in the same way, for networks that read them.
    pub states: Option<Tensor<2>>,
    /// The token before each slot in the backbone's own text, `[n * s]`. Embeddings are scaled in the same way.
    pub before: Tokens,
    /// All tokens that are candidates anywhere, each token once, with embeddings scaled in the same way.
    pub tokens: Tokens,
    /// The row of each candidate in `tokens`, `[n * s * k]`.
    pub candidates: Tensor<1, Int>,
    /// The head scores `[n, s, k]`, shifted so that the first candidate of each slot has 0.
    pub head_scores: Tensor<3>,
}

/// Returns tokens of `model`, with embeddings scaled to a root mean square of 1.
pub(super) fn unit_tokens(ids: &[u32], model: &Model) -> Tokens {
    Tokens::new(ids, unit_rows(model.embed(ids)))
}

impl Blocks {
    /// Returns the head scores `[n, s, k]`, multiplied by the weights `[s]` of their slots.
    pub fn weighted_heads(&self, weights: &Param<Tensor<1>>) -> Tensor<3> {
        weighted(self.head_scores.clone(), weights)
    }

    /// Returns the rows `[n * s, k, r]` of all candidates, given the rows `[tokens, r]` that were computed for
    /// `tokens`.
    pub fn spread(&self, of_tokens: Tensor<2>) -> Tensor<3> {
        let ([n, s, k], width) = (self.head_scores.dims(), of_tokens.dims()[1]);
        of_tokens.select(0, self.candidates.clone()).reshape([n * s, k, width])
    }
}

/// A kind of rescorer that is a lattice network. [`RescorerKind`] is implemented for every such kind.
pub trait LatticeKind: Serialize {
    /// The `kind` of the section.
    const NAME: &'static str;
    /// The network that is trained.
    type Network: LatticeNetwork;

    /// Returns the options that the sections of all lattice networks have.
    fn options(&self) -> NetworkOptions<'_>;

    /// Checks what the types of the section, which messages call `key`, cannot express.
    ///
    /// # Errors
    /// Returns an error, which names the key, if a value is out of its range.
    fn validate(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    /// Returns whether the rescorer scores the candidates behind any path ([`Rescorer::reader`]).
    fn scores_paths(&self) -> bool {
        false
    }

    /// Returns whether the network reads the heads' states.
    fn reads_states(&self) -> bool {
        false
    }

    /// Makes a network of this kind.
    fn network(&self, shape: LatticeShape, init: &mut Init) -> Self::Network;

    /// Returns the rescorer of a trained network on top of `model`.
    fn rescorer(&self, network: &Self::Network, model: &Model) -> Box<dyn Rescorer>;
}

/// The sizes of a lattice network that follow from the heads and the backbone.
#[derive(Debug, Clone, Copy)]
pub struct LatticeShape {
    /// The number of slots after the pinned one, H - 1.
    pub slots: usize,
    /// The width d of states and embeddings.
    pub width: usize,
    /// The number of tokens V.
    pub vocabulary: usize,
}

/// The options that the sections of all lattice networks have.
#[derive(Debug, Clone, Copy)]
pub struct NetworkOptions<'a> {
    /// The width to which embeddings and hidden states are mapped.
    pub rank: usize,
    /// The loss of the training.
    pub loss: LatticeLoss,
    /// The number of blocks per training step.
    pub blocks_per_step: usize,
    /// The options of the optimizer, such as the number of steps and the learning rate.
    pub training: &'a OptimizationConfig,
}

/// Returns an untrained network and the shape that its files must have.
fn empty<'a, K: LatticeKind>(
    kind: &K,
    slots: usize,
    backbone: &'a Backbone,
    init: &mut Init,
) -> (K::Network, NetworkShape<'a>) {
    let config = backbone.model.config();
    let shape = LatticeShape { slots, width: config.hidden_size, vocabulary: config.vocab_size };
    let rank = kind.options().rank;
    (kind.network(shape, init), NetworkShape { kind: K::NAME, slots, rank, backbone: &backbone.hash })
}

impl<K: LatticeKind> RescorerKind for K {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn validate(&self, key: &str, _: bool) -> Result<()> {
        LatticeKind::validate(self, key)
    }

    fn fitted(&self) -> Value {
        json!(self)
    }

    fn scores_paths(&self) -> bool {
        LatticeKind::scores_paths(self)
    }

    fn reads_lattices(&self) -> bool {
        true
    }

    fn reads_states(&self) -> bool {
        LatticeKind::reads_states(self)
    }

    fn fit(&self, context: &FitContext) -> Result<()> {
        let FitContext { backbone, device, seed, place, data } = context;
        let NetworkOptions { loss, blocks_per_step, training, .. } = self.options();
        let lattices = data.lattices()?;
        let init = &mut Init::seeded(*seed, &(*device).clone().autodiff());
        let (network, shape) = empty(self, lattices.slots, backbone, init);
        init.require_room("the scorer, its gradients and the optimizer's moments", "Lower its `rank`.")
            .map_err(|e| e.within(place.title))?;
        let task = LatticeTraining::new(lattices, &backbone.model, loss, blocks_per_step, *seed)?;
        progress::say(format!("{}: {} parameters", place.title, count_parameters(&network)));
        let network = train(network, &task, &[], training, place)?;
        save_network(place.folder, &network.valid(), shape)
    }

    fn load(&self, folder: &Path, context: &LoadContext) -> Result<Box<dyn Rescorer>> {
        let (empty, shape) = empty(self, context.slots, context.backbone, &mut Init::empty(context.device));
        Ok(self.rescorer(&load_network(folder, empty, shape)?, &context.backbone.model))
    }

    fn estimate(&self, sizes: &FitSizes) -> FitEstimate {
        let NetworkOptions { rank, blocks_per_step, training, .. } = self.options();
        let candidates = training.batches() * blocks_per_step * sizes.slots * sizes.top_k;
        let map = rank * sizes.width;
        // Each distinct token is mapped only once. There is about one for eight candidates.
        FitEstimate { operations: candidates as f64 * 6.0 * map as f64 / 8.0, bytes: kept_bytes(3 * map) }
    }
}
