//! `kind = "speculator"`: heads that read the tokens drafted before them. A state is handed from head to head, and each
//! head adds one token to it.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::gelu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_sum::scaled;
use super::network::RowStates;
use super::{Begun, DraftHeads, HeadKind, HeadShape, Rows, Starts};
use crate::backbone::Feature;
use crate::nn::{Init, Linear, Norm, indices};

/// `kind = "speculator"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpeculatorConfig {
    /// The width of the state that is handed from head to head.
    #[schemars(range(min = 1))]
    pub inner: usize,
}

impl Default for SpeculatorConfig {
    fn default() -> Self {
        Self { inner: 512 }
    }
}

impl HeadKind for SpeculatorConfig {
    const NAME: &'static str = "speculator";
    type Network = SpeculatorHeads;

    fn is_sequential(&self) -> bool {
        true
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> SpeculatorHeads {
        let (d, inner) = (shape.width(), self.inner);
        let deviation = |inputs: usize| (inputs as f32).powf(-0.5);
        let stage = |index: usize| {
            let inputs = if index == 0 { d } else { inner };
            SpeculatorStage {
                carry: init.linear(inner, inputs, deviation(inputs)),
                embed: init.linear(inner, d, deviation(d)),
                norm: init.norm(inner, true),
                down: init.zero_linear(d, inner).with_bias(init),
            }
        };
        SpeculatorHeads { stages: (0..shape.count).map(stage).collect() }
    }
}

/// The token/embedding speculator (Wertheimer et al. 2024, arXiv 2404.19124, section 2). For head j, with the token x
/// that was drafted just before, it computes
///
/// `s <- P_j s + (w_e / w_s) E_j e(x)`, `s <- gelu(LN_j s)`, state `h + O_j s`
///
/// starting from `s = h`, with `w_s = 0.5^(0.5/n)` for n heads and `w_e = sqrt(1 - w_s^2)`. The original trains an
/// embedding and an unembedding per head. Here `e` is the backbone's embedding, and the backbone's unembedding follows;
/// both are frozen. `h` and `e(x)` are scaled to a mean square of 1 before they are read. `O` starts at zero.
#[derive(Module, Debug)]
pub struct SpeculatorHeads {
    stages: Vec<SpeculatorStage>,
}

#[derive(Module, Debug)]
struct SpeculatorStage {
    /// The matrix P: `[inner, d]` for the first head, `[inner, inner]` for the others.
    carry: Linear,
    /// The matrix E: `[inner, d]`.
    embed: Linear,
    norm: Norm,
    /// The matrix O: `[d, inner]`.
    down: Linear,
}

/// The number that the norms add to the variance.
const EPSILON: f64 = 1e-5;

impl DraftHeads for SpeculatorHeads {
    fn count(&self) -> usize {
        self.stages.len()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.stages.iter_mut().flat_map(|stage| [&mut stage.carry, &mut stage.embed, &mut stage.down]).collect()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let (hidden, n) = (starts.states.get(Feature::Last), starts.pinned.dims()[0]);
        let state = scaled(hidden.clone());
        let (places, states, root) = (Vec::new(), RowStates::new(), hidden.clone());
        let mut rows = SpeculatorRows { heads: self, hidden, places, states, root };
        rows.root = rows.run(state, starts.pinned, (0..n).map(|start| (0, start)).collect());
        Begun::Sequential(Box::new(rows))
    }
}

/// The states s of the rows that were run.
struct SpeculatorRows<'a> {
    heads: &'a SpeculatorHeads,
    /// The backbone's states h, `[n, d]`.
    hidden: Tensor<2>,
    /// The head of each row, and its start.
    places: Vec<(usize, usize)>,
    states: RowStates,
    /// The states that head 2 predicts from.
    root: Tensor<2>,
}

impl SpeculatorRows<'_> {
    /// Adds the tokens `[m, d]` to the states s of rows, which are then the rows at `places`, and returns what their heads
    /// predict from.
    fn run(&mut self, states: Tensor<2>, tokens: Tensor<2>, places: Vec<(usize, usize)>) -> Tensor<2> {
        let head = places[0].0;
        assert!(places.iter().all(|place| place.0 == head), "rows of one depth");
        let (stage, carried) = (&self.heads.stages[head], 0.5f64.powf(0.5 / self.heads.count() as f64));
        let share = (1.0 - carried * carried).sqrt() / carried;
        let token = stage.embed.forward(scaled(tokens));
        let mixed = stage.carry.forward(states) + token.mul_scalar(share);
        let state = gelu(stage.norm.forward(mixed, EPSILON));
        self.states.push(state.clone());
        // One row behind each start, as in training, needs no copy of h.
        let (n, device) = (self.hidden.dims()[0], self.hidden.device());
        let starts: Vec<usize> = places.iter().map(|place| place.1).collect();
        let hidden = self.hidden.clone();
        let hidden = if starts.iter().copied().eq(0..n) { hidden } else { hidden.select(0, indices(starts, &device)) };
        self.places.extend(places);
        hidden + stage.down.forward(state)
    }
}

impl Rows for SpeculatorRows<'_> {
    fn root(&self) -> Tensor<2> {
        self.root.clone()
    }

    fn expand(&mut self, parents: &[usize], tokens: Tensor<2>) -> Tensor<2> {
        let places = parents.iter().map(|&row| (self.places[row].0 + 1, self.places[row].1)).collect();
        self.run(self.states.at(parents), tokens, places)
    }
}
