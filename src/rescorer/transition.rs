//! The transition scorer: how well a candidate follows the candidate before it, given the backbone's hidden state.
//!
//! `S_t(a, b) = c_j U_t(b) + <A(a) * G_j(h_t), B(b)>` for candidate b of slot j behind candidate a of slot j - 1, with `U_t(b)`
//! the slot's head score and `c_j`, `A`, `B`, `G_j` learnt: `A` and `B` are linear maps of the backbone's embeddings to a low
//! rank, `G_j(h) = 1 + W h + s_j`. Locally normalised over the slot's candidates it is a probability, as for a 2-gram. The
//! form is that of recent lattice rerankers; the slot's own `c_j` and `s_j` are ours.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::lattice_training::{Blocks, LatticeNetwork, unit_rows};
use super::{Opening, Rescorer, Scores, Table};
use crate::backbone::Model;
use crate::config::StorageType;
use crate::error::Result;
use crate::kernels::{PackedMatrix, products};
use crate::nn::{Init, Linear, to_host};

/// What is trained.
#[derive(Module, Debug)]
pub struct TransitionNetwork {
    before: Linear,
    after: Linear,
    gate: Linear,
    /// `[H - 1, rank]`
    slot_gates: Param<Tensor<2>>,
    /// `[H - 1]`
    head_weights: Param<Tensor<1>>,
}

impl TransitionNetwork {
    /// For blocks of `slots` slots behind the pinned one, on hidden states and embeddings of width `d`. Untrained, it gives
    /// the head scores.
    pub fn new(slots: usize, d: usize, rank: usize, init: &mut Init) -> Self {
        let deviation = (d as f32).powf(-0.5);
        Self {
            before: init.linear(rank, d, deviation),
            after: init.zero_linear(rank, d),
            gate: init.zero_linear(rank, d),
            slot_gates: init.zero_matrix(slots, rank).weight,
            head_weights: init.vector(slots, 1.0),
        }
    }
}

impl LatticeNetwork for TransitionNetwork {
    fn scores(&self, blocks: &Blocks) -> Tensor<3> {
        let [n, slots, k] = blocks.head_scores.dims();
        let before = self.before.forward(blocks.before.clone());
        let rank = before.dims()[1];
        let gate = self.gate.forward(blocks.hidden.clone()).reshape([n, 1, rank]);
        let gate = gate + self.slot_gates.val().reshape([1, slots, rank]) + 1.0;
        let query = before.reshape([n, slots, rank]) * gate;
        let after = blocks.spread(self.after.forward(blocks.tokens.clone()));
        let transitions = (query.reshape([n * slots, 1, rank]) * after).sum_dim(2).reshape([n, slots, k]);
        blocks.head_scores.clone() * self.head_weights.val().reshape([1, slots, 1]) + transitions
    }
}

/// A fitted transition scorer, as tables over the vocabulary in this process's memory.
pub struct Transition {
    rank: usize,
    /// `[V, rank]`
    before: Vec<f32>,
    /// `[V, rank]`
    after: Vec<f32>,
    gate: PackedMatrix,
    slot_gates: Vec<f32>,
    head_weights: Vec<f32>,
}

impl Transition {
    /// Of a trained network above `model`.
    pub fn new(network: &TransitionNetwork, model: &Model) -> Self {
        let tokens: Vec<u32> = (0..model.config().vocab_size as u32).collect();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for part in tokens.chunks(4096) {
            let embedded = unit_rows(model.embed(part));
            before.extend(to_host(network.before.forward(embedded.clone())));
            after.extend(to_host(network.after.forward(embedded)));
        }
        let bias = network.gate.bias.as_ref().map_or_else(Vec::new, |bias| to_host(bias.val()));
        let [rank, d] = network.gate.weight.val().dims();
        Self {
            rank,
            before,
            after,
            gate: PackedMatrix::new(&to_host(network.gate.weight.val()), d, bias, StorageType::Float32),
            slot_gates: to_host(network.slot_gates.val()),
            head_weights: to_host(network.head_weights.val()),
        }
    }

    fn rows(&self, table: &[f32], ids: &[u32]) -> Vec<f32> {
        ids.iter().flat_map(|&id| &table[id as usize * self.rank..][..self.rank]).copied().collect()
    }
}

impl Rescorer for Transition {
    fn scores<'a>(&'a self, _: &[u32], block: &Opening) -> Result<Scores<'a>> {
        let lattice = block.lattice;
        let mut gate = Vec::new();
        self.gate.multiply(&unit_row(block.hidden), &mut gate);
        let of_slot = |slot: usize| {
            if slot == 0 {
                return vec![0.0; lattice.width(0)];
            }
            let head = lattice.scores(slot);
            let mut queries = self.rows(&self.before, lattice.ids(slot - 1));
            let slot_gate = &self.slot_gates[(slot - 1) * self.rank..][..self.rank];
            for query in queries.chunks_mut(self.rank) {
                for (x, (gate, of_slot)) in query.iter_mut().zip(gate.iter().zip(slot_gate)) {
                    *x *= 1.0 + gate + of_slot;
                }
            }
            let mut scores = Vec::with_capacity(lattice.width(slot - 1) * head.len());
            products(&queries, &self.rows(&self.after, lattice.ids(slot)), self.rank, &mut scores);
            let weight = self.head_weights[slot - 1];
            let rows = scores.chunks(head.len());
            rows.flat_map(|row| log_probabilities(row.iter().zip(head).map(|(x, u)| x + weight * (u - head[0]))))
                .collect()
        };
        Ok(Scores::Table(Table::new(lattice, of_slot)?))
    }
}

/// A vector scaled to a root mean square of 1.
pub(super) fn unit_row(row: &[f32]) -> Vec<f32> {
    let mean_square = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
    let scale = (mean_square + 1e-12).sqrt().recip();
    row.iter().map(|x| x * scale).collect()
}

/// Log-softmax of a slot's scores.
pub(super) fn log_probabilities(scores: impl Iterator<Item = f32>) -> Vec<f64> {
    let mut scores: Vec<f64> = scores.map(f64::from).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|x| (x - most).exp()).sum();
    let normaliser = most + sum.ln();
    scores.iter_mut().for_each(|x| *x -= normaliser);
    scores
}
