//! A bilinear score of how well a token follows another, given a state.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Init, Linear, TokenMap, TokenVectors, Tokens};

/// Scores the candidates of slots behind the tokens before them: for candidate b of slot j behind token a, `c_j U_j(b) + <A(a) * G_j,
/// B(b)>`. Here `U_j(b)` is the score of the heads, A and B map tokens to a low rank, and the gate is `G_j = 1 + W h_j + s_j`, where h_j
/// is a state scaled to a mean square of 1. A, B, `W`, `c_j` and `s_j` are learnt. At first B and W are zero, so that scores are the
/// heads'.
///
/// With a state of each slot and codebooks, this is the candidate selector of DFlash2 (z-lab/dflash). The `c_j` and `s_j` are an
/// addition.
#[derive(Module, Debug)]
pub struct TransitionNetwork {
    /// A.
    pub before: TokenMap,
    /// B.
    pub after: TokenMap,
    /// W, `[rank, d]`.
    pub gate: Linear,
    /// The part `s_j` of each slot's gate, `[slots, rank]`.
    pub slot_gates: Param<Tensor<2>>,
    /// The weight `c_j` of the heads' scores in each slot, `[slots]`.
    pub head_weights: Param<Tensor<1>>,
    /// Whether `h_j` is a state of the slot itself. Otherwise there is one for the whole block.
    #[module(skip)]
    pub of_slots: bool,
}

/// What tells networks of one sort apart.
#[derive(Debug, Clone, Copy)]
pub struct TransitionShape {
    /// What A and B are.
    pub tokens: TokenVectors,
    /// The width that they map tokens to.
    pub rank: usize,
    /// Whether every slot has a state of its own.
    pub of_slots: bool,
}

impl TransitionNetwork {
    /// Makes a network for so many slots, above embeddings and states of width `d` and so many tokens.
    pub fn new(
        TransitionShape { tokens, rank, of_slots }: TransitionShape,
        slots: usize,
        (d, vocabulary): (usize, usize),
        init: &mut Init,
    ) -> Self {
        Self {
            before: TokenMap::new(tokens, rank, (d, vocabulary), init),
            after: TokenMap::zero(tokens, rank, (d, vocabulary), init),
            gate: init.zero_linear(rank, d),
            slot_gates: init.zero_embedding(slots, rank).weight,
            head_weights: init.vector(slots, 1.0),
            of_slots,
        }
    }

    /// Returns the rank.
    pub fn rank(&self) -> usize {
        self.slot_gates.val().dims()[1]
    }

    /// Returns the gates `[n, slots, rank]` of n blocks, given one state for each slot, `[n * slots, d]`, or one for each block,
    /// `[n, d]`.
    pub fn gates(&self, states: Tensor<2>, n: usize) -> Tensor<3> {
        let ([rows, _], [slots, rank]) = (states.dims(), self.slot_gates.val().dims());
        let gate = self.gate.forward(states).reshape([n, rows / n, rank]);
        gate + self.slot_gates.val().reshape([1, slots, rank]) + 1.0
    }

    /// Returns the scores `[n, slots, k]` of candidates behind one token for each slot, `[n * slots]`, given the gates, what B maps
    /// the candidates to, `[n * slots, k, rank]`, and the heads' scores of them, `[n, slots, k]`.
    pub fn behind(&self, before: &Tokens, gates: Tensor<3>, after: Tensor<3>, heads: Tensor<3>) -> Tensor<3> {
        let ([n, slots, k], rank) = (heads.dims(), self.rank());
        let query = self.before.forward(before).reshape([n, slots, rank]) * gates;
        let transitions = (query.reshape([n * slots, 1, rank]) * after).sum_dim(2).reshape([n, slots, k]);
        weighted(heads, &self.head_weights) + transitions
    }
}

/// Returns the heads' scores `[n, slots, k]`, each times the weight of its slot, of `[slots]`.
pub fn weighted(heads: Tensor<3>, weights: &Param<Tensor<1>>) -> Tensor<3> {
    let [_, slots, _] = heads.dims();
    heads * weights.val().reshape([1, slots, 1])
}

/// Scales each row of embeddings or states to a root mean square of 1.
pub fn unit_rows(rows: Tensor<2>) -> Tensor<2> {
    let mean_square = rows.clone().powi_scalar(2).mean_dim(1);
    rows / (mean_square + 1e-12).sqrt()
}
