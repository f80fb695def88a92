//! `kind = "transition"`: a bilinear score of how well a candidate follows the candidate before it, given a hidden state.
//!
//! For candidate b of slot j after candidate a of slot j - 1, the score is
//! `S_t(a, b) = c_j U_t(b) + <A(a) * G_j, B(b)>`. Here `U_t(b)` is the slot's head score. `A` and `B` are linear maps of
//! the backbone's embeddings to a low rank, or codebooks with a vector for every token. The gate is
//! `G_j = 1 + W h + s_j`, where h is the backbone's last hidden state before the block, or the heads' own state in slot
//! j. The maps, `W`, `c_j` and `s_j` are learnt. With codebooks and the heads' states, this is the candidate selector of
//! DFlash2 (z-lab/dflash), which is walked greedily there.
//!
//! After training by cross-entropy, scores are normalised over the slot's candidates, so they are log-probabilities
//! like those of a 2-gram model. After training as a random field, only whole paths have probabilities. Their
//! normaliser is the same for all paths of a lattice and is left out.
//!
//! The form is that of recent lattice rerankers. The `c_j` and `s_j` of each slot are an addition.

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lattice_network::{
    Blocks, LatticeKind, LatticeLoss, LatticeNetwork, LatticeShape, NetworkOptions, TokenTable, add_heads,
    log_probabilities, multiplied, packed, unit_row,
};
use super::scoring::{BlockScores, GlobalScoring, PrefixReader, Rescorer, Scoring};
use super::{BlockContext, BlockShape, PrefixToken, RescoringCost, Table};
use crate::backbone::Model;
use crate::error::{Result, bail};
use crate::kernels::{PackedMatrix, products};
use crate::nn::{Init, TokenVectors, TransitionNetwork, TransitionShape, to_host};
use crate::training::OptimizationConfig;

/// `kind = "transition"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TransitionConfig {
    /// The width to which tokens and hidden states are mapped.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// The hidden state that the gate reads.
    pub state: GateState,
    /// What maps tokens to their vectors.
    pub tokens: TokenVectors,
    /// The loss that is minimised.
    pub loss: LatticeLoss,
    /// The number of blocks per training step.
    #[schemars(range(min = 1, max = 65_536))]
    pub blocks_per_step: usize,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
}

/// The hidden state that a gate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GateState {
    /// The backbone's last hidden state before the block.
    Backbone,
    /// The heads' own state in every slot, which is kept beside their candidates. Drafts that grow have none, so the rescorer
    /// takes no part in them.
    Slots,
}

impl Default for TransitionConfig {
    fn default() -> Self {
        Self {
            rank: 64,
            state: GateState::Backbone,
            tokens: TokenVectors::Embeddings,
            loss: LatticeLoss::default(),
            blocks_per_step: 256,
            training: OptimizationConfig { steps: 300, learning_rate: 3e-3, ..OptimizationConfig::default() },
        }
    }
}

impl LatticeKind for TransitionConfig {
    const NAME: &'static str = "transition";
    type Network = TransitionNetwork;

    fn options(&self) -> NetworkOptions<'_> {
        let &Self { rank, loss, blocks_per_step, ref training, .. } = self;
        NetworkOptions { rank, loss, blocks_per_step, training }
    }

    fn scores_paths(&self) -> bool {
        !LatticeKind::reads_states(self)
    }

    fn reads_states(&self) -> bool {
        self.state == GateState::Slots
    }

    fn network(&self, LatticeShape { slots, width, vocabulary }: LatticeShape, init: &mut Init) -> TransitionNetwork {
        let &Self { tokens, rank, state, .. } = self;
        let shape = TransitionShape { tokens, rank, of_slots: state == GateState::Slots };
        TransitionNetwork::new(shape, slots, (width, vocabulary), init)
    }

    fn rescorer(&self, network: &TransitionNetwork, model: &Model) -> Box<dyn Rescorer> {
        Box::new(Transition::new(network, model, self.loss))
    }
}

/// Returns the gates `[n, slots, rank]` of blocks.
fn gates(network: &TransitionNetwork, blocks: &Blocks) -> Tensor<3> {
    let [n, ..] = blocks.head_scores.dims();
    let states = match network.of_slots {
        true => blocks.states.clone().expect("whoever reads the heads' states has them kept"),
        false => blocks.hidden.clone(),
    };
    network.gates(states, n)
}

impl LatticeNetwork for TransitionNetwork {
    fn scores(&self, blocks: &Blocks) -> Tensor<3> {
        let after = blocks.spread(self.after.forward(&blocks.tokens));
        self.behind(&blocks.before, gates(self, blocks), after, blocks.head_scores.clone())
    }

    fn pairs(&self, blocks: &Blocks) -> Option<Tensor<4>> {
        let ([n, slots, k], rank) = (blocks.head_scores.dims(), self.rank());
        if slots < 2 {
            return None;
        }
        let spread = |of_tokens: Tensor<2>| blocks.spread(of_tokens).reshape([n, slots, k, rank]);
        let before = spread(self.before.forward(&blocks.tokens)).narrow(1, 0, slots - 1);
        let after = spread(self.after.forward(&blocks.tokens)).narrow(1, 1, slots - 1);
        let gates = gates(self, blocks).narrow(1, 1, slots - 1).reshape([n, slots - 1, 1, rank]);
        let heads = blocks.weighted_heads(&self.head_weights).narrow(1, 1, slots - 1).reshape([n, slots - 1, 1, k]);
        Some((before * gates).matmul(after.swap_dims(2, 3)) + heads)
    }
}

/// A fitted network, which drafts.
pub struct Transition {
    rank: usize,
    loss: LatticeLoss,
    before: TokenTable,
    after: TokenTable,
    gate: PackedMatrix,
    slot_gates: Vec<f32>,
    head_weights: Vec<f32>,
    reads_states: bool,
}

impl Transition {
    /// Makes the rescorer of a network on top of `model` that was trained by `loss`.
    pub fn new(network: &TransitionNetwork, model: &Model, loss: LatticeLoss) -> Self {
        let [before, after] = TokenTable::of([&network.before, &network.after], model);
        Self {
            loss,
            rank: network.rank(),
            before,
            after,
            gate: packed(&network.gate),
            slot_gates: to_host(network.slot_gates.val()),
            head_weights: to_host(network.head_weights.val()),
            reads_states: network.of_slots,
        }
    }
}

impl Transition {
    /// Returns the part `W h` of the gates: one for all slots, or one for each slot of the block.
    fn gates(&self, block: &BlockContext) -> Vec<f32> {
        let states = if self.reads_states { block.states } else { block.hidden };
        let rows: Vec<f32> = states.chunks(self.gate.inputs()).flat_map(unit_row).collect();
        multiplied(&self.gate, &rows)
    }

    /// Returns the scores of a slot's candidates behind each of the tokens `before`, row after row. `gates` are those of
    /// [`Transition::gates`]; `head` are the candidates' head scores.
    fn behind(&self, gates: &[f32], slot: usize, before: &[u32], candidates: &[u32], head: &[f32]) -> Vec<f64> {
        let mut queries = self.before.rows(before);
        let gate = if self.reads_states { &gates[(slot - 1) * self.rank..][..self.rank] } else { gates };
        let slot_gate = &self.slot_gates[(slot - 1) * self.rank..][..self.rank];
        for query in queries.chunks_mut(self.rank) {
            for (x, (gate, of_slot)) in query.iter_mut().zip(gate.iter().zip(slot_gate)) {
                *x *= 1.0 + gate + of_slot;
            }
        }
        let mut scores = Vec::with_capacity(before.len() * head.len());
        products(&queries, &self.after.rows(candidates), self.rank, &mut scores);
        let weight = self.head_weights[slot - 1];
        let rows = scores.chunks(head.len()).map(|row| add_heads(row, head, weight));
        match self.loss {
            LatticeLoss::CrossEntropy => rows.flat_map(log_probabilities).collect(),
            LatticeLoss::Crf => rows.flatten().map(f64::from).collect(),
        }
    }
}

impl Rescorer for Transition {
    fn scoring(&self) -> Scoring<'_> {
        Scoring::Global(self)
    }

    fn reader(&self) -> Option<Box<dyn PrefixReader + '_>> {
        (!self.reads_states).then(|| Box::new(TransitionReader { transition: self, gate: Vec::new() }) as _)
    }

    fn reads_states(&self) -> bool {
        self.reads_states
    }

    /// Returns the cost of the gates and of all pairs of neighbouring candidates. The candidates of slot 2 follow the
    /// pinned token alone.
    fn cost(&self, block: &BlockShape) -> RescoringCost {
        let (k, slots) = (block.candidates, block.slots);
        let pairs = if slots < 2 { 0 } else { k + (slots - 2) * k * k };
        let gate = self.gate.inputs() * self.rank;
        let gates = if self.reads_states { slots.saturating_sub(1) * gate } else { gate };
        RescoringCost {
            held_bytes: (self.before.bytes() + self.after.bytes() + 4 * gate) as f64,
            read_bytes: (4 * gate) as f64,
            kv_bytes: 0.0,
            flops: 2.0 * (gates + pairs * self.rank) as f64,
        }
    }
}

impl GlobalScoring for Transition {
    fn scores<'a>(&'a self, _: &[u32], block: &BlockContext<'a>) -> Result<Box<dyn BlockScores + 'a>> {
        let (lattice, gates) = (block.lattice, self.gates(block));
        let of_slot = |slot: usize| match slot {
            0 => vec![0.0; lattice.width(0)],
            _ => self.behind(&gates, slot, lattice.ids(slot - 1), lattice.ids(slot), lattice.scores(slot)),
        };
        Ok(Box::new(Table::new(lattice, of_slot)?))
    }
}

/// Scores behind any path, of which only the last token counts.
struct TransitionReader<'a> {
    transition: &'a Transition,
    gate: Vec<f32>,
}

impl PrefixReader for TransitionReader<'_> {
    fn read(&mut self, _: &[u32], _: usize) -> Result<()> {
        Ok(())
    }

    fn hear(&mut self, hidden: &[f32]) {
        self.gate = multiplied(&self.transition.gate, &unit_row(hidden));
    }

    fn extend(&mut self, newest: &[PrefixToken], _: bool) -> Result<Vec<Vec<f64>>> {
        let one = |&PrefixToken { token, slot, candidates, scores, .. }: &PrefixToken| {
            self.transition.behind(&self.gate, slot, &[token], candidates, scores)
        };
        let found: Vec<Vec<f64>> = newest.iter().map(one).collect();
        match found.iter().flatten().all(|score| score.is_finite()) {
            true => Ok(found),
            false => bail!(
                "a transition rescorer gives scores that are not finite. Train it anew with a lower learning rate."
            ),
        }
    }
}
