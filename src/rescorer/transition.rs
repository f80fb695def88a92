//! The transition scorer: how well a candidate follows the candidate before it, given the backbone's hidden state.
//!
//! `S_t(a, b) = c_j U_t(b) + <A(a) * G_j(h_t), B(b)>` for candidate b of slot j behind candidate a of slot j - 1, with `U_t(b)`
//! the slot's head score and `c_j`, `A`, `B`, `G_j` learnt: `A` and `B` are linear maps of the backbone's embeddings to a low
//! rank, `G_j(h) = 1 + W h + s_j`. Trained by cross-entropy it is normalised over the slot's candidates and so a probability, as
//! for a 2-gram; trained as a random field only whole paths are, by the sum over all of them, which compares no two paths and is
//! left out. The form is that of recent lattice rerankers; the slot's own `c_j` and `s_j` are ours.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::host_tables::{TokenTable, log_probabilities, multiplied, packed, unit_row};
use super::lattice_training::{Blocks, LatticeNetwork};
use super::{BlockContext, BlockShape, Rescorer, RescoringCost, Scores, Table};
use crate::backbone::Model;
use crate::config::LatticeLoss;
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
            slot_gates: init.zero_embedding(slots, rank).weight,
            head_weights: init.vector(slots, 1.0),
        }
    }
}

impl TransitionNetwork {
    /// `G`, `[n, slots, rank]`.
    fn gates(&self, blocks: &Blocks) -> Tensor<3> {
        let ([n, slots, _], [_, rank]) = (blocks.head_scores.dims(), self.slot_gates.dims());
        let gate = self.gate.forward(blocks.hidden.clone()).reshape([n, 1, rank]);
        gate + self.slot_gates.val().reshape([1, slots, rank]) + 1.0
    }

    /// `c U`, `[n, slots, k]`.
    fn weighted_heads(&self, blocks: &Blocks) -> Tensor<3> {
        let [_, slots, _] = blocks.head_scores.dims();
        blocks.head_scores.clone() * self.head_weights.val().reshape([1, slots, 1])
    }
}

impl LatticeNetwork for TransitionNetwork {
    fn scores(&self, blocks: &Blocks) -> Tensor<3> {
        let ([n, slots, k], [_, rank]) = (blocks.head_scores.dims(), self.slot_gates.dims());
        let before = self.before.forward(blocks.before.clone());
        let query = before.reshape([n, slots, rank]) * self.gates(blocks);
        let after = blocks.spread(self.after.forward(blocks.tokens.clone()));
        let transitions = (query.reshape([n * slots, 1, rank]) * after).sum_dim(2).reshape([n, slots, k]);
        self.weighted_heads(blocks) + transitions
    }

    fn pairs(&self, blocks: &Blocks) -> Option<Tensor<4>> {
        let ([n, slots, k], [_, rank]) = (blocks.head_scores.dims(), self.slot_gates.dims());
        if slots < 2 {
            return None;
        }
        let spread = |of_tokens: Tensor<2>| blocks.spread(of_tokens).reshape([n, slots, k, rank]);
        let before = spread(self.before.forward(blocks.tokens.clone())).narrow(1, 0, slots - 1);
        let after = spread(self.after.forward(blocks.tokens.clone())).narrow(1, 1, slots - 1);
        let gates = self.gates(blocks).narrow(1, 1, slots - 1).reshape([n, slots - 1, 1, rank]);
        let heads = self.weighted_heads(blocks).narrow(1, 1, slots - 1).reshape([n, slots - 1, 1, k]);
        Some((before * gates).matmul(after.swap_dims(2, 3)) + heads)
    }
}

/// A fitted transition scorer.
pub struct Transition {
    rank: usize,
    loss: LatticeLoss,
    before: TokenTable,
    after: TokenTable,
    gate: PackedMatrix,
    slot_gates: Vec<f32>,
    head_weights: Vec<f32>,
}

impl Transition {
    /// Of a network above `model` that was trained by `loss`.
    pub fn new(network: &TransitionNetwork, model: &Model, loss: LatticeLoss) -> Self {
        let [before, after] = TokenTable::of([&network.before, &network.after], model);
        Self {
            loss,
            rank: network.gate.weight.val().dims()[0],
            before,
            after,
            gate: packed(&network.gate),
            slot_gates: to_host(network.slot_gates.val()),
            head_weights: to_host(network.head_weights.val()),
        }
    }
}

impl Rescorer for Transition {
    fn scores<'a>(&'a self, _: &[u32], block: &BlockContext) -> Result<Scores<'a>> {
        let lattice = block.lattice;
        let gate = multiplied(&self.gate, &unit_row(block.hidden));
        let of_slot = |slot: usize| {
            if slot == 0 {
                return vec![0.0; lattice.width(0)];
            }
            let head = lattice.scores(slot);
            let mut queries = self.before.rows(lattice.ids(slot - 1));
            let slot_gate = &self.slot_gates[(slot - 1) * self.rank..][..self.rank];
            for query in queries.chunks_mut(self.rank) {
                for (x, (gate, of_slot)) in query.iter_mut().zip(gate.iter().zip(slot_gate)) {
                    *x *= 1.0 + gate + of_slot;
                }
            }
            let mut scores = Vec::with_capacity(lattice.width(slot - 1) * head.len());
            products(&queries, &self.after.rows(lattice.ids(slot)), self.rank, &mut scores);
            let weight = self.head_weights[slot - 1];
            let rows = scores.chunks(head.len());
            let rows = rows.map(|row| row.iter().zip(head).map(|(x, u)| x + weight * (u - head[0])));
            match self.loss {
                LatticeLoss::CrossEntropy => rows.flat_map(log_probabilities).collect(),
                LatticeLoss::Crf => rows.flatten().map(f64::from).collect(),
            }
        };
        Ok(Scores::Table(Table::new(lattice, of_slot)?))
    }

    /// The gate once; then every pair of neighbouring candidates, the first slot of them behind the pinned token alone.
    fn cost(&self, block: &BlockShape) -> RescoringCost {
        let (k, slots) = (block.candidates, block.slots);
        let pairs = if slots < 2 { 0 } else { k + (slots - 2) * k * k };
        let gate = self.gate.inputs() * self.rank;
        RescoringCost {
            held_bytes: (self.before.bytes() + self.after.bytes() + 4 * gate) as f64,
            read_bytes: (4 * gate) as f64,
            kv_bytes: 0.0,
            flops: 2.0 * (gate + pairs * self.rank) as f64,
        }
    }
}
