//! Networks that read a block's lattice and the backbone's hidden state: what their kinds have in common.
//!
//! A network is trained as tensors over many blocks at once ([`LatticeNetwork`], `training.rs`) and drafts one block at a time
//! on tables over the vocabulary (`host.rs`). So its formula is written twice; a test holds the two together for every kind.

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
use crate::nn::{Init, count_parameters};
use crate::progress;
use crate::training::{OptimizationConfig, kept_bytes, train};

pub(super) use host::{TokenTable, add_heads, log_probabilities, multiplied, packed, unit_row};
use saved::{NetworkShape, load_network, save_network};
pub use training::{LatticeLoss, LatticeTraining, Recorded};

/// A network that scores the candidates of a lattice.
pub trait LatticeNetwork: Module {
    /// Makes a network for blocks of `slots` slots behind the pinned one, on hidden states and embeddings of width `d`, which
    /// it maps to `rank` numbers. Untrained, it gives the head scores.
    fn new(slots: usize, d: usize, rank: usize, init: &mut Init) -> Self;

    /// Scores `[blocks, slots, k]` of the candidates of slots 2 to H, whose softmax over the candidates of a slot is their
    /// probability.
    fn scores(&self, blocks: &Blocks) -> Tensor<3>;

    /// Scores `[blocks, slots - 1, k, k]` of the candidates of slots 3 to H behind each candidate of the slot before; none where
    /// there are no such slots, and of a network that does not read the candidate before.
    fn pairs(&self, _blocks: &Blocks) -> Option<Tensor<4>> {
        None
    }
}

/// What networks read of some blocks: n of them, with s = H - 1 slots behind the pinned one.
pub struct Blocks {
    /// Hidden states `[n, d]`, each scaled to a root mean square of 1.
    pub hidden: Tensor<2>,
    /// Embeddings `[n * s, d]` of the token before each slot, as the backbone wrote it, scaled likewise.
    pub before: Tensor<2>,
    /// Embeddings of the tokens that are candidates anywhere, each once, scaled likewise.
    pub tokens: Tensor<2>,
    /// `[n * s * k]`: the candidates' rows in `tokens`.
    pub candidates: Tensor<1, Int>,
    /// Head scores `[n, s, k]`, a slot's first being 0.
    pub head_scores: Tensor<3>,
}

impl Blocks {
    /// Head scores `[n, s, k]`, each times its slot's weight `[s]`.
    pub fn weighted_heads(&self, weights: &Param<Tensor<1>>) -> Tensor<3> {
        let [_, slots, _] = self.head_scores.dims();
        self.head_scores.clone() * weights.val().reshape([1, slots, 1])
    }

    /// Rows `[n * s * k, r]` of something computed for each of `tokens`, as `[n * s, k, r]`.
    pub fn spread(&self, of_tokens: Tensor<2>) -> Tensor<3> {
        let ([n, s, k], width) = (self.head_scores.dims(), of_tokens.dims()[1]);
        of_tokens.select(0, self.candidates.clone()).reshape([n * s, k, width])
    }
}

/// Embeddings or hidden states, each row scaled to a root mean square of 1.
pub(super) fn unit_rows(rows: Tensor<2>) -> Tensor<2> {
    let mean_square = rows.clone().powi_scalar(2).mean_dim(1);
    rows / (mean_square + 1e-12).sqrt()
}

/// A kind of rescorer that is a lattice network: the rest of [`RescorerKind`] follows.
pub trait LatticeKind: Serialize {
    /// The `kind` of the section.
    const NAME: &'static str;
    /// What is trained.
    type Network: LatticeNetwork;

    /// Returns what the sections of all lattice networks have in common.
    fn options(&self) -> NetworkOptions<'_>;

    /// Returns what drafts with a trained network above `model`.
    fn rescorer(&self, network: &Self::Network, model: &Model) -> Box<dyn Rescorer>;
}

/// What the sections of all lattice networks have in common.
#[derive(Debug, Clone, Copy)]
pub struct NetworkOptions<'a> {
    /// Width to which embeddings and hidden states are mapped.
    pub rank: usize,
    /// What it learns from.
    pub loss: LatticeLoss,
    /// Blocks per training step.
    pub blocks_per_step: usize,
    /// Steps, learning rate and the rest.
    pub training: &'a OptimizationConfig,
}

/// Returns a network without values, and what its files must say of themselves.
fn empty<'a, K: LatticeKind>(
    kind: &K,
    slots: usize,
    backbone: &'a Backbone,
    init: &mut Init,
) -> (K::Network, NetworkShape<'a>) {
    let (rank, width) = (kind.options().rank, backbone.model.config().hidden_size);
    (K::Network::new(slots, width, rank, init), NetworkShape { kind: K::NAME, slots, rank, backbone: &backbone.hash })
}

impl<K: LatticeKind> RescorerKind for K {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn validate(&self, _: &str, _: bool) -> Result<()> {
        Ok(())
    }

    fn fitted(&self) -> Value {
        json!(self)
    }

    fn reads_lattices(&self) -> bool {
        true
    }

    fn fit(&self, context: &FitContext) -> Result<()> {
        let FitContext { backbone, device, seed, place, data } = context;
        let NetworkOptions { loss, blocks_per_step, training, .. } = self.options();
        let lattices = data.lattices()?;
        let init = &mut Init::seeded(*seed, &(*device).clone().autodiff());
        let (network, shape) = empty(self, lattices.slots, backbone, init);
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
        // Every distinct token is mapped once: about one for eight candidates.
        FitEstimate { operations: candidates as f64 * 6.0 * map as f64 / 8.0, bytes: kept_bytes(3 * map) }
    }
}
