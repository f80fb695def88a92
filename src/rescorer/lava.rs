//! `kind = "lava"`: vocabulary attention with look-around (LAVA; Li et al. 2020, arXiv 2002.03084) on a lattice. Each
//! slot attends over its candidates' embeddings, looks at what its neighbours found, and adjusts its scores. All slots
//! are computed in parallel.
//!
//! Let slot j have candidates c with head scores U(c), and let h be the backbone's hidden state and e(c) an embedding.
//! The view of the slot is `m_j = sum over c of softmax_c(U(c) + <Q_j, K e(c)>) V e(c)` with `Q_j = W_q h + q_j`. From
//! its own view and those of its neighbours, it computes what it looks for,
//! `z_j = tanh(L m_{j-1} + O m_j + R m_{j+1} + W_h h + p_j)`. The score of a candidate is `c_j U(c) + <z_j, B e(c)>`,
//! where `c_j` is a weight of the slot.
//!
//! In the paper, the attention is part of a translation model and covers the whole vocabulary. Here it covers only the
//! few candidates that the lattice has for a slot.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::{softmax, tanh};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lattice_network::{
    Blocks, LatticeKind, LatticeLoss, LatticeNetwork, LatticeShape, NetworkOptions, TokenTable, add_heads,
    log_probabilities, multiplied, packed, unit_row,
};
use super::scoring::{BlockScores, GlobalScoring, Rescorer, Scoring};
use super::{BlockContext, BlockShape, RescoringCost, Table};
use crate::backbone::Model;
use crate::error::Result;
use crate::kernels::{PackedMatrix, products};
use crate::lattice::Lattice;
use crate::nn::{Init, Linear, to_host};
use crate::training::OptimizationConfig;

/// `kind = "lava"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LavaConfig {
    /// The width to which embeddings and hidden states are mapped.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// The number of blocks per training step.
    #[schemars(range(min = 1, max = 65_536))]
    pub blocks_per_step: usize,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
}

impl Default for LavaConfig {
    fn default() -> Self {
        Self {
            rank: 64,
            blocks_per_step: 256,
            training: OptimizationConfig { steps: 300, learning_rate: 3e-3, ..OptimizationConfig::default() },
        }
    }
}

impl LatticeKind for LavaConfig {
    const NAME: &'static str = "lava";
    type Network = LavaNetwork;

    fn options(&self) -> NetworkOptions<'_> {
        let &Self { rank, blocks_per_step, ref training } = self;
        // The network scores each slot on its own, so a random field over paths would have the same loss as
        // cross-entropy.
        NetworkOptions { rank, loss: LatticeLoss::CrossEntropy, blocks_per_step, training }
    }

    fn network(&self, LatticeShape { slots, width: d, .. }: LatticeShape, init: &mut Init) -> LavaNetwork {
        let rank = self.rank;
        let (of_width, of_rank) = ((d as f32).powf(-0.5), (rank as f32).powf(-0.5));
        LavaNetwork {
            query: init.zero_linear(rank, d),
            key: init.linear(rank, d, of_width),
            value: init.linear(rank, d, of_width),
            left: init.linear(rank, rank, of_rank),
            own: init.linear(rank, rank, of_rank),
            right: init.linear(rank, rank, of_rank),
            hidden: init.linear(rank, d, of_width),
            score: init.zero_linear(rank, d),
            slot_queries: init.zero_embedding(slots, rank).weight,
            slot_biases: init.zero_embedding(slots, rank).weight,
            head_weights: init.vector(slots, 1.0),
        }
    }

    fn rescorer(&self, network: &LavaNetwork, model: &Model) -> Box<dyn Rescorer> {
        Box::new(Lava::new(network, model))
    }
}

/// The network that is trained.
#[derive(Module, Debug)]
pub struct LavaNetwork {
    query: Linear,
    key: Linear,
    value: Linear,
    left: Linear,
    own: Linear,
    right: Linear,
    hidden: Linear,
    score: Linear,
    /// The query vector `q_j` of each slot, `[H - 1, rank]`.
    slot_queries: Param<Tensor<2>>,
    /// The bias `p_j` of each slot, `[H - 1, rank]`.
    slot_biases: Param<Tensor<2>>,
    /// The weight of the head scores in each slot, `[H - 1]`.
    head_weights: Param<Tensor<1>>,
}

impl LavaNetwork {
    fn rank(&self) -> usize {
        self.key.weight.val().dims()[0]
    }
}

impl LatticeNetwork for LavaNetwork {
    fn scores(&self, blocks: &Blocks) -> Tensor<3> {
        let ([n, slots, k], rank) = (blocks.head_scores.dims(), self.rank());
        let of_block = |layer: &Linear| layer.forward(blocks.hidden.clone()).reshape([n, 1, rank]);
        let of_slot = |rows: &Param<Tensor<2>>| rows.val().reshape([1, slots, rank]);
        let query = (of_block(&self.query) + of_slot(&self.slot_queries)).reshape([n * slots, 1, rank]);
        let keys = blocks.spread(self.key.forward(blocks.tokens.embeddings.clone()));
        let values = blocks.spread(self.value.forward(blocks.tokens.embeddings.clone()));
        let attention =
            (query * keys).sum_dim(2).reshape([n * slots, k]) + blocks.head_scores.clone().reshape([n * slots, k]);
        let attention = softmax(attention, 1).reshape([n * slots, k, 1]);
        let views = (attention * values).sum_dim(1).reshape([n, slots, rank]);
        // To the left of slot 2 is the pinned token, and to the right of slot H there is nothing.
        let pinned = self.value.forward(blocks.before.embeddings.clone()).reshape([n, slots, rank]).narrow(1, 0, 1);
        let nothing = Tensor::zeros([n, 1, rank], &views.device());
        let around = Tensor::cat(vec![pinned, views, nothing], 1);
        let seen = [(&self.left, 0), (&self.own, 1), (&self.right, 2)]
            .map(|(layer, first)| (layer, around.clone().narrow(1, first, slots)))
            .map(|(layer, views)| layer.forward(views.reshape([n * slots, rank])).reshape([n, slots, rank]));
        let [left, own, right] = seen;
        let wanted = tanh(left + own + right + of_block(&self.hidden) + of_slot(&self.slot_biases));
        let scores = blocks.spread(self.score.forward(blocks.tokens.embeddings.clone()));
        let adjustment = (wanted.reshape([n * slots, 1, rank]) * scores).sum_dim(2).reshape([n, slots, k]);
        blocks.weighted_heads(&self.head_weights) + adjustment
    }
}

/// A fitted network, which drafts.
pub struct Lava {
    rank: usize,
    keys: TokenTable,
    values: TokenTable,
    scores: TokenTable,
    query: PackedMatrix,
    hidden: PackedMatrix,
    left: PackedMatrix,
    own: PackedMatrix,
    right: PackedMatrix,
    slot_queries: Vec<f32>,
    slot_biases: Vec<f32>,
    head_weights: Vec<f32>,
}

impl Lava {
    /// Makes the rescorer of a trained network on top of `model`.
    pub fn new(network: &LavaNetwork, model: &Model) -> Self {
        let [keys, values, scores] = TokenTable::of([&network.key, &network.value, &network.score], model);
        Self {
            rank: network.rank(),
            keys,
            values,
            scores,
            query: packed(&network.query),
            hidden: packed(&network.hidden),
            left: packed(&network.left),
            own: packed(&network.own),
            right: packed(&network.right),
            slot_queries: to_host(network.slot_queries.val()),
            slot_biases: to_host(network.slot_biases.val()),
            head_weights: to_host(network.head_weights.val()),
        }
    }

    /// Returns the view of each slot on its candidates, `[slots, rank]`. That of the pinned slot is the value of its
    /// token.
    fn views(&self, lattice: &Lattice, query: &[f32]) -> Vec<f32> {
        let mut views = self.values.row(lattice.ids(0)[0]).to_vec();
        for slot in 1..lattice.slots() {
            let (ids, head) = (lattice.ids(slot), lattice.scores(slot));
            let of_slot = &self.slot_queries[(slot - 1) * self.rank..][..self.rank];
            let query: Vec<f32> = query.iter().zip(of_slot).map(|(a, b)| a + b).collect();
            let mut attention = Vec::with_capacity(ids.len());
            products(&query, &self.keys.rows(ids), self.rank, &mut attention);
            let shares = log_probabilities(attention.iter().zip(head).map(|(a, u)| a + u - head[0]));
            let mut view = vec![0.0; self.rank];
            for (&id, share) in ids.iter().zip(shares) {
                let (value, share) = (self.values.row(id), share.exp() as f32);
                view.iter_mut().zip(value).for_each(|(x, value)| *x += share * value);
            }
            views.extend(view);
        }
        views
    }
}

impl Rescorer for Lava {
    fn scoring(&self) -> Scoring<'_> {
        Scoring::Global(self)
    }

    /// Returns the cost of two maps of the hidden state, of the products with keys, values and scores of every
    /// candidate, and of three maps of every slot's view.
    fn cost(&self, block: &BlockShape) -> RescoringCost {
        let weights = 4 * self.rank * (2 * self.query.inputs() + 3 * self.rank);
        let tables = self.keys.bytes() + self.values.bytes() + self.scores.bytes();
        let candidates = 3 * (block.slots - 1) * block.candidates;
        let products = 2 * self.query.inputs() + candidates + 3 * block.slots * self.rank;
        RescoringCost {
            held_bytes: (weights + tables) as f64,
            read_bytes: weights as f64,
            kv_bytes: 0.0,
            flops: 2.0 * (products * self.rank) as f64,
        }
    }
}

impl GlobalScoring for Lava {
    fn scores<'a>(&'a self, _: &[u32], block: &BlockContext<'a>) -> Result<Box<dyn BlockScores + 'a>> {
        let (lattice, rank) = (block.lattice, self.rank);
        let hidden = unit_row(block.hidden);
        let (query, bias) = (multiplied(&self.query, &hidden), multiplied(&self.hidden, &hidden));
        let views = self.views(lattice, &query);
        let [left, own, right] = [&self.left, &self.own, &self.right].map(|layer| multiplied(layer, &views));
        let of_slot = |slot: usize| {
            if slot == 0 {
                return vec![0.0; lattice.width(0)];
            }
            let row = |views: &[f32], slot: usize, at: usize| views.get(slot * rank + at).copied().unwrap_or(0.0);
            let own_bias = &self.slot_biases[(slot - 1) * rank..][..rank];
            let wanted: Vec<f32> = (0..rank)
                .map(|at| {
                    let looked = row(&left, slot - 1, at) + row(&own, slot, at) + row(&right, slot + 1, at);
                    (looked + bias[at] + own_bias[at]).tanh()
                })
                .collect();
            let (head, mut scores) = (lattice.scores(slot), Vec::new());
            products(&wanted, &self.scores.rows(lattice.ids(slot)), rank, &mut scores);
            log_probabilities(add_heads(&scores, head, self.head_weights[slot - 1]))
        };
        Ok(Box::new(Table::new(lattice, of_slot)?))
    }
}
