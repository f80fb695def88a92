//! `kind = "correlation"`: how well every candidate follows every one of the slot before, from what both are among all
//! candidates of the block (LiLiCorr, arXiv 2608.20530).
//!
//! Candidate i of slot s enters as a sum: its embedding and the heads' state in its slot, both projected, an MLP of five
//! numbers (log p, p, log p less the largest, rank / (k - 1), whether it is the first), and learnt vectors for its slot and
//! for its rank. Layers of attention over all candidates of the block follow, with learnt biases for the distance of two
//! slots and for the same slot. With x what leaves them and a the anchor, each candidate has
//! `f = silu(W [x; a; x * a] + b)`, from which two vectors of length 1 are made, one for what follows it and one for what it
//! follows. Their product is the score of a transition, next to the head score:
//! `S_t(a, b) = c_j U_t(b) + 10 g_j <out(a), in(b)>`, where c_j and g_j are learnt and g_j is 0 at first. What precedes slot 2
//! is a vector made of the anchor alone.
//!
//! Departures: p is normalised over the slot's candidates, since the whole vocabulary's is not kept; the anchor is made of the
//! backbone's last hidden state and the pinned token; and the paths are searched exactly, not greedily.
//!
//! Training and drafting run the same tensors, so unlike the other networks of lattices this one is written once.

use burn::module::{Module, Param};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lattice_network::{
    Blocks, LatticeKind, LatticeLoss, LatticeNetwork, LatticeShape, NetworkOptions, TokenTable, add_heads,
    log_probabilities, unit_row,
};
use super::scoring::{BlockScores, GlobalScoring, Rescorer, Scoring};
use super::{BlockContext, BlockShape, RescoringCost, Table};
use crate::backbone::Model;
use crate::error::{Result, bail};
use crate::kernels::products;
use crate::lattice::Lattice;
use crate::nn::{Init, Linear, Norm, from_host, indices, to_host};
use crate::training::OptimizationConfig;

/// `kind = "correlation"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CorrelationConfig {
    /// The width of what represents a candidate.
    #[schemars(range(min = 1))]
    pub hidden: usize,
    /// The number of layers of attention over the candidates of a block.
    #[schemars(range(min = 1, max = 1024))]
    pub layers: usize,
    /// The number of attention heads, which divides `hidden`.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// The length of the vectors whose products are the scores.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// The loss that is minimised.
    pub loss: LatticeLoss,
    /// The number of blocks per training step.
    #[schemars(range(min = 1, max = 65_536))]
    pub blocks_per_step: usize,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
}

impl Default for CorrelationConfig {
    fn default() -> Self {
        Self {
            hidden: 64,
            layers: 2,
            heads: 4,
            rank: 64,
            loss: LatticeLoss::default(),
            blocks_per_step: 64,
            training: OptimizationConfig { steps: 300, learning_rate: 3e-3, ..OptimizationConfig::default() },
        }
    }
}

/// The ranks that have a vector of their own. Candidates behind them share the last one.
const RANKS: usize = 16;
/// The numbers that say how a candidate stands in its slot.
const FEATURES: usize = 5;
/// The factor of the products of two vectors of length 1, so that they can matter beside logits.
const SCALE: f64 = 10.0;
const EPSILON: f64 = 1e-6;

impl LatticeKind for CorrelationConfig {
    const NAME: &'static str = "correlation";
    type Network = CorrelationNetwork;

    fn options(&self) -> NetworkOptions<'_> {
        let &Self { rank, loss, blocks_per_step, ref training, .. } = self;
        NetworkOptions { rank, loss, blocks_per_step, training }
    }

    fn validate(&self, key: &str) -> Result<()> {
        if !self.hidden.is_multiple_of(self.heads) {
            bail!(
                "`{key}.heads` is {}, which does not divide `{key}.hidden` = {}; take a divisor.",
                self.heads,
                self.hidden
            );
        }
        Ok(())
    }

    fn reads_states(&self) -> bool {
        true
    }

    fn network(&self, LatticeShape { slots, width: d, .. }: LatticeShape, init: &mut Init) -> CorrelationNetwork {
        let w = self.hidden;
        let linear = |init: &mut Init, outputs, inputs: usize| init.linear(outputs, inputs, (inputs as f32).powf(-0.5));
        let biased = |init: &mut Init, outputs, inputs| linear(init, outputs, inputs).with_bias(init);
        let layer = |init: &mut Init| CorrelationLayer {
            attention_norm: init.norm(w, false),
            query_key_value: biased(init, 3 * w, w),
            attention_output: init.zero_linear(w, w).with_bias(init),
            mlp_norm: init.norm(w, false),
            up: biased(init, 2 * w, w),
            down: init.zero_linear(w, 2 * w).with_bias(init),
        };
        CorrelationNetwork {
            token: linear(init, w, d),
            state: linear(init, w, d),
            anchor: linear(init, w, d),
            feature_norm: init.norm(FEATURES, true),
            feature_up: biased(init, w, FEATURES),
            feature_down: biased(init, w, w),
            slots: init.zero_embedding(slots, w).weight,
            ranks: init.zero_embedding(RANKS, w).weight,
            distances: init.zero_embedding(2 * slots - 1, self.heads).weight,
            same_slot: init.vector(self.heads, 0.0),
            layers: (0..self.layers).map(|_| layer(init)).collect(),
            norm: init.norm(w, false),
            anchor_norm: init.norm(w, false),
            factor: biased(init, w, 3 * w),
            outgoing: biased(init, self.rank, w),
            incoming: biased(init, self.rank, w),
            anchor_outgoing: biased(init, self.rank, w),
            gates: init.vector(slots, 0.0),
            head_weights: init.vector(slots, 1.0),
        }
    }

    fn rescorer(&self, network: &CorrelationNetwork, model: &Model) -> Box<dyn Rescorer> {
        Box::new(Correlation::new(network, model, self.loss))
    }
}

/// The network that is trained.
#[derive(Module, Debug)]
pub struct CorrelationNetwork {
    token: Linear,
    state: Linear,
    anchor: Linear,
    feature_norm: Norm,
    feature_up: Linear,
    feature_down: Linear,
    /// The vector of each slot, `[H - 1, hidden]`, and of each rank, `[16, hidden]`.
    slots: Param<Tensor<2>>,
    ranks: Param<Tensor<2>>,
    /// The bias of each distance between two slots, from the farthest before on, `[2 (H - 1) - 1, heads]`.
    distances: Param<Tensor<2>>,
    /// The bias within a slot, `[heads]`.
    same_slot: Param<Tensor<1>>,
    layers: Vec<CorrelationLayer>,
    norm: Norm,
    anchor_norm: Norm,
    factor: Linear,
    outgoing: Linear,
    incoming: Linear,
    anchor_outgoing: Linear,
    /// The weight g_j of the products and c_j of the head scores in each slot, `[H - 1]`.
    gates: Param<Tensor<1>>,
    head_weights: Param<Tensor<1>>,
}

/// A layer of attention over all candidates.
#[derive(Module, Debug)]
struct CorrelationLayer {
    attention_norm: Norm,
    query_key_value: Linear,
    attention_output: Linear,
    mlp_norm: Norm,
    up: Linear,
    down: Linear,
}

/// The candidates of blocks of one shape, as the network reads them: `[n, candidates, ..]`, slot after slot.
struct Entered {
    /// The projected embeddings and states, `[n, candidates, hidden]`.
    x: Tensor<3>,
    /// The anchors before they are normalised, `[n, hidden]`.
    anchor: Tensor<2>,
    /// The head scores of every block, row after row.
    head_scores: Vec<f32>,
    /// The number of candidates in each slot.
    widths: Vec<usize>,
}

/// The vectors whose products score transitions, each of length 1.
struct Vectors {
    /// Of the candidates, `[n, candidates, rank]`.
    outgoing: Tensor<3>,
    incoming: Tensor<3>,
    /// Of what precedes slot 2, `[n, rank]`.
    first: Tensor<2>,
}

impl CorrelationNetwork {
    fn heads(&self) -> usize {
        self.same_slot.dims()[0]
    }

    /// Returns the vectors of all candidates.
    fn vectors(&self, Entered { x, anchor, head_scores, widths }: Entered) -> Vectors {
        let ([n, all, w], device) = (x.dims(), x.device());
        let flat = |x: Tensor<3>| x.reshape([n * all, w]);
        let slots: Vec<usize> = (0..widths.len()).flat_map(|slot| vec![slot; widths[slot]]).collect();
        let ranks = widths.iter().flat_map(|&width| 0..width).map(|rank| rank.min(RANKS - 1));
        let places = self.slots.val().select(0, indices(slots.iter().copied(), &device))
            + self.ranks.val().select(0, indices(ranks, &device));
        let features = from_host(features(&head_scores, &widths), [n * all, FEATURES], &device);
        let features = self.feature_up.forward(self.feature_norm.forward(features, EPSILON));
        let features = self.feature_down.forward(silu(features)).reshape([n, all, w]);
        let mut x = x + features + places.unsqueeze();
        let biases = self.biases(&slots, &device);
        for layer in &self.layers {
            x = layer.forward(x, &biases, self.heads());
        }
        let x = self.norm.forward(flat(x), EPSILON);
        let anchor = self.anchor_norm.forward(anchor, EPSILON);
        let spread = anchor.clone().reshape([n, 1, w]).expand([n, all, w]).reshape([n * all, w]);
        let factors = silu(self.factor.forward(Tensor::cat(vec![x.clone(), spread.clone(), x * spread], 1)));
        let of_candidates = |layer: &Linear| {
            let vectors = unit_length(layer.forward(factors.clone()));
            let rank = vectors.dims()[1];
            vectors.reshape([n, all, rank])
        };
        Vectors {
            outgoing: of_candidates(&self.outgoing),
            incoming: of_candidates(&self.incoming),
            first: unit_length(self.anchor_outgoing.forward(anchor)),
        }
    }

    /// Returns what is added to the attention between candidates of these slots, `[1, heads, candidates, candidates]`.
    fn biases(&self, slots: &[usize], device: &Device) -> Tensor<4> {
        let (all, heads) = (slots.len(), self.heads());
        let number = self.slots.dims()[0];
        let pairs = || slots.iter().flat_map(|&q| slots.iter().map(move |&k| (q, k)));
        let distances = self.distances.val().select(0, indices(pairs().map(|(q, k)| q + number - 1 - k), device));
        let same = pairs().map(|(q, k)| if q == k { 1.0 } else { 0.0 }).collect();
        let same: Tensor<2> = from_host(same, [all * all, 1], device);
        let biases = distances + same * self.same_slot.val().reshape([1, heads]);
        biases.reshape([all, all, heads]).permute([2, 0, 1]).unsqueeze()
    }

    /// Returns the projected anchors `[n, hidden]`, given the backbone's last hidden states and the embeddings of the pinned
    /// tokens, `[n, d]` both.
    fn anchors(&self, hidden: Tensor<2>, pinned: Tensor<2>) -> Tensor<2> {
        self.anchor.forward(hidden) + self.token.forward(pinned)
    }

    /// Returns the vectors of blocks in training, `[n, slots, k, rank]` where they are of candidates.
    fn vectors_of(&self, blocks: &Blocks) -> (Tensor<4>, Tensor<4>, Tensor<2>) {
        let [n, slots, k] = blocks.head_scores.dims();
        let w = self.slots.dims()[1];
        let tokens = blocks.spread(self.token.forward(blocks.tokens.embeddings.clone()));
        let states = blocks.states.clone().expect("whoever reads the heads' states has them kept");
        let states = self.state.forward(states).reshape([n * slots, 1, w]);
        let d = blocks.before.embeddings.dims()[1];
        let pinned = blocks.before.embeddings.clone().reshape([n, slots, d]).narrow(1, 0, 1).reshape([n, d]);
        let entered = Entered {
            x: (tokens + states).reshape([n, slots * k, w]),
            anchor: self.anchors(blocks.hidden.clone(), pinned),
            head_scores: to_host(blocks.head_scores.clone()),
            widths: vec![k; slots],
        };
        let Vectors { outgoing, incoming, first } = self.vectors(entered);
        let rank = first.dims()[1];
        (outgoing.reshape([n, slots, k, rank]), incoming.reshape([n, slots, k, rank]), first)
    }

    /// Returns the weights of the products in every slot, times [`SCALE`], `[H - 1]`.
    fn scales(&self) -> Tensor<1> {
        self.gates.val().mul_scalar(SCALE)
    }
}

impl LatticeNetwork for CorrelationNetwork {
    /// A true token before a slot that is not among its candidates has no vector. What follows it is scored by the heads alone.
    fn scores(&self, blocks: &Blocks) -> Tensor<3> {
        let [n, slots, k] = blocks.head_scores.dims();
        let (outgoing, incoming, first) = self.vectors_of(blocks);
        let rank = first.dims()[1];
        let mut before = first.reshape([n, 1, rank]);
        if slots > 1 {
            let ids = blocks.tokens.ids.clone().select(0, blocks.candidates.clone()).reshape([n, slots, k]);
            let truth = blocks.before.ids.clone().reshape([n, slots, 1]).narrow(1, 1, slots - 1);
            let is_true = ids.narrow(1, 0, slots - 1).equal(truth.expand([n, slots - 1, k])).float();
            let is_true = is_true.reshape([n, slots - 1, k, 1]).cast(outgoing.dtype());
            let chosen = (outgoing.narrow(1, 0, slots - 1) * is_true).sum_dim(2).reshape([n, slots - 1, rank]);
            before = Tensor::cat(vec![before, chosen], 1);
        }
        let correlations = (incoming * before.reshape([n, slots, 1, rank])).sum_dim(3).reshape([n, slots, k]);
        blocks.weighted_heads(&self.head_weights) + correlations * self.scales().reshape([1, slots, 1])
    }

    fn pairs(&self, blocks: &Blocks) -> Option<Tensor<4>> {
        let [n, slots, k] = blocks.head_scores.dims();
        if slots < 2 {
            return None;
        }
        let (outgoing, incoming, _) = self.vectors_of(blocks);
        let heads = blocks.weighted_heads(&self.head_weights).narrow(1, 1, slots - 1).reshape([n, slots - 1, 1, k]);
        let scales = self.scales().narrow(0, 1, slots - 1).reshape([1, slots - 1, 1, 1]);
        let after = incoming.narrow(1, 1, slots - 1).swap_dims(2, 3);
        Some(outgoing.narrow(1, 0, slots - 1).matmul(after) * scales + heads)
    }
}

impl CorrelationLayer {
    fn forward(&self, x: Tensor<3>, biases: &Tensor<4>, heads: usize) -> Tensor<3> {
        let [n, all, w] = x.dims();
        let flat = |x: Tensor<3>| x.reshape([n * all, w]);
        let normed = self.attention_norm.forward(flat(x.clone()), EPSILON);
        let projected = self.query_key_value.forward(normed).reshape([n, all, 3 * heads, w / heads]).swap_dims(1, 2);
        let [q, k, v] = [0, 1, 2].map(|part| projected.clone().narrow(1, part * heads, heads));
        let scores = q.matmul(k.swap_dims(2, 3)).mul_scalar((w as f64 / heads as f64).powf(-0.5)) + biases.clone();
        let mixed = softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([n * all, w]);
        let x = flat(x) + self.attention_output.forward(mixed);
        let inner = silu(self.up.forward(self.mlp_norm.forward(x.clone(), EPSILON)));
        (x + self.down.forward(inner)).reshape([n, all, w])
    }
}

/// Scales each row to length 1.
fn unit_length(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().square().sum_dim(1).add_scalar(EPSILON).sqrt();
    x / length
}

/// Returns five numbers for each candidate, given head scores in slots of these widths, best first; of several blocks one after
/// the other.
fn features(head_scores: &[f32], widths: &[usize]) -> Vec<f32> {
    let (mut found, mut rest) = (Vec::with_capacity(FEATURES * head_scores.len()), head_scores);
    for &width in widths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (slot, others) = rest.split_at(width);
        rest = others;
        let most = log_probabilities(slot.iter().copied());
        for (rank, &log_p) in most.iter().enumerate() {
            let (of_rank, is_first) = (rank as f64 / (width.max(2) - 1) as f64, if rank == 0 { 1.0 } else { 0.0 });
            found.extend([log_p, log_p.exp(), log_p - most[0], of_rank, is_first].map(|x| x as f32));
        }
    }
    found
}

/// A fitted network, which drafts.
pub struct Correlation {
    network: CorrelationNetwork,
    loss: LatticeLoss,
    /// The projected embeddings of all tokens.
    tokens: TokenTable,
    gates: Vec<f32>,
    head_weights: Vec<f32>,
}

impl Correlation {
    /// Makes the rescorer of a network on top of `model` that was trained by `loss`.
    pub fn new(network: &CorrelationNetwork, model: &Model, loss: LatticeLoss) -> Self {
        let [tokens] = TokenTable::of([&network.token], model);
        let (gates, head_weights) = (to_host(network.scales()), to_host(network.head_weights.val()));
        Self { network: network.clone(), loss, tokens, gates, head_weights }
    }

    /// Returns the vectors of a block's candidates.
    fn vectors(&self, lattice: &Lattice, block: &BlockContext) -> Vectors {
        let (network, device) = (&self.network, self.network.gates.val().device());
        let row = |row: &[f32]| from_host::<2>(unit_row(row), [1, row.len()], &device);
        let (d, w) = (block.hidden.len(), network.slots.dims()[1]);
        let (mut x, mut head_scores, mut widths) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, state) in (1..lattice.slots()).zip(block.states.chunks(d)) {
            let state = to_host(network.state.forward(row(state)));
            for &id in lattice.ids(slot) {
                x.extend(self.tokens.row(id).iter().zip(&state).map(|(token, state)| token + state));
            }
            head_scores.extend(lattice.scores(slot));
            widths.push(lattice.width(slot));
        }
        let pinned: Tensor<2> = from_host(self.tokens.row(lattice.ids(0)[0]).to_vec(), [1, w], &device);
        network.vectors(Entered {
            x: from_host(x, [1, head_scores.len(), w], &device),
            anchor: network.anchor.forward(row(block.hidden)) + pinned,
            head_scores,
            widths,
        })
    }
}

impl Rescorer for Correlation {
    fn scoring(&self) -> Scoring<'_> {
        Scoring::Global(self)
    }

    fn reads_states(&self) -> bool {
        true
    }

    /// Returns the cost of the layers over all candidates, of their vectors and of all pairs of neighbours.
    fn cost(&self, block: &BlockShape) -> RescoringCost {
        let Self { network, tokens, .. } = self;
        let slots = block.slots - 1;
        let (all, w) = (slots * block.candidates, network.slots.dims()[1]);
        let (d, rank) = (network.state.weight.dims()[1], network.outgoing.weight.dims()[0]);
        let layers = network.layers.len();
        let weights = d * 2 * w + layers * 8 * w * w + 3 * w * w + 3 * rank * w + (FEATURES + w) * w;
        let of_candidates = layers * (8 * w * w + 2 * all * w) + 3 * w * w + 2 * rank * w + (FEATURES + w) * w;
        let pairs = block.candidates + slots.saturating_sub(1) * block.candidates * block.candidates;
        RescoringCost {
            held_bytes: (tokens.bytes() + 4 * weights) as f64,
            read_bytes: (4 * weights) as f64,
            kv_bytes: 0.0,
            flops: 2.0 * (all * of_candidates + slots * d * w + pairs * rank) as f64,
        }
    }
}

impl GlobalScoring for Correlation {
    fn scores<'a>(&'a self, _: &[u32], block: &BlockContext<'a>) -> Result<Box<dyn BlockScores + 'a>> {
        let lattice = block.lattice;
        if lattice.slots() < 2 {
            return Ok(Box::new(Table::new(lattice, |slot| vec![0.0; lattice.width(slot)])?));
        }
        let Vectors { outgoing, incoming, first } = self.vectors(lattice, block);
        let rank = first.dims()[1];
        let [outgoing, incoming] = [outgoing, incoming].map(to_host);
        let first = to_host(first);
        // Where each slot's candidates begin; that of slot 2 is the first.
        let begins: Vec<usize> = (1..=lattice.slots())
            .scan(0, |end, slot| {
                let begin = *end;
                *end += if slot < lattice.slots() { lattice.width(slot) } else { 0 };
                Some(begin)
            })
            .collect();
        let of_slot = |slot: usize| {
            if slot == 0 {
                return vec![0.0; lattice.width(0)];
            }
            let rows = |all: &[f32], slot: usize| all[begins[slot - 1] * rank..begins[slot] * rank].to_vec();
            let before = if slot == 1 { first.clone() } else { rows(&outgoing, slot - 1) };
            let (head, mut scores) = (lattice.scores(slot), Vec::new());
            products(&before, &rows(&incoming, slot), rank, &mut scores);
            scores.iter_mut().for_each(|score| *score *= self.gates[slot - 1]);
            let rows = scores.chunks(head.len()).map(|row| add_heads(row, head, self.head_weights[slot - 1]));
            match self.loss {
                LatticeLoss::CrossEntropy => rows.flat_map(log_probabilities).collect(),
                LatticeLoss::Crf => rows.flatten().map(f64::from).collect::<Vec<f64>>(),
            }
        };
        Ok(Box::new(Table::new(lattice, of_slot)?))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use std::collections::BTreeMap;

    use burn::optim::GradientsParams;
    use serde::Deserialize;

    use super::*;
    use crate::nn::Tokens;
    use crate::nn::{gradients_by_name, load_parameters};

    /// What `tests/reference/rescorers/correlation.json` holds, made by its `make.py`.
    #[derive(Deserialize)]
    struct Vectors {
        width: usize,
        hidden: usize,
        heads: usize,
        rank: usize,
        layers: usize,
        /// Blocks, slots and candidates.
        shape: [usize; 3],
        parameters: BTreeMap<String, Parameter>,
        embeddings: Vec<f32>,
        states: Vec<f32>,
        hidden_states: Vec<f32>,
        head_scores: Vec<f32>,
        ids: Vec<usize>,
        before: Vec<usize>,
        coefficients: [Vec<f32>; 2],
        scores: Vec<f32>,
        pairs: Vec<f32>,
    }

    #[derive(Deserialize)]
    struct Parameter {
        shape: Vec<usize>,
        values: Vec<f32>,
        gradient: Vec<f32>,
    }

    fn assert_near(found: &[f32], expected: &[f32], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let largest = expected.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest > 0.0 && far <= 3e-5 * largest, "{what}: {far} of {largest}");
    }

    /// Scores and gradients are what PyTorch computes, candidate by candidate.
    #[test]
    fn scores_and_gradients_are_those_of_the_formulas() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/rescorers/correlation.json");
        let given: Vectors = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let ([n, slots, k], d, device) = (given.shape, given.width, Device::flex());
        let Vectors { hidden, heads, rank, layers, .. } = given;
        let kind = CorrelationConfig { hidden, heads, rank, layers, ..CorrelationConfig::default() };
        let shape = LatticeShape { slots, width: d, vocabulary: given.embeddings.len() / d };
        let network = kind.network(shape, &mut Init::empty(&device.clone().autodiff()));
        let values = given.parameters.iter().map(|(name, one)| (name.clone(), (one.shape.clone(), one.values.clone())));
        let network = load_parameters(network, values.collect()).unwrap();
        let embeddings: Tensor<2> = from_host(given.embeddings.clone(), [shape.vocabulary, d], &device);
        let tokens = |ids: &[usize]| {
            let ids = indices(ids.iter().copied(), &device);
            Tokens { embeddings: embeddings.clone().select(0, ids.clone()), ids }
        };
        let blocks = Blocks {
            hidden: from_host(given.hidden_states.clone(), [n, d], &device),
            states: Some(from_host(given.states.clone(), [n * slots, d], &device)),
            before: tokens(&given.before),
            tokens: tokens(&given.ids),
            candidates: indices(0..given.ids.len(), &device),
            head_scores: from_host(given.head_scores.clone(), [n, slots, k], &device),
        };
        let (scores, pairs) = (network.scores(&blocks), network.pairs(&blocks).unwrap());
        assert_near(&to_host(scores.clone().without_autodiff()), &given.scores, "scores");
        assert_near(&to_host(pairs.clone().without_autodiff()), &given.pairs, "pairs");
        let [of_scores, of_pairs] = &given.coefficients;
        let objective = (scores * from_host(of_scores.clone(), [n, slots, k], &device)).sum()
            + (pairs * from_host(of_pairs.clone(), [n, slots - 1, k, k], &device)).sum();
        let mut backward = objective.backward();
        let gradients = GradientsParams::from_module(&mut backward, &network);
        let found = gradients_by_name(&network, &gradients);
        for (name, Parameter { gradient, .. }) in &given.parameters {
            assert_near(&found[name], gradient, name);
        }
    }
}
