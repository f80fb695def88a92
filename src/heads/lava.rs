//! `kind = "lava"`: heads that attend to the vocabulary and look around before they predict.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::{DraftedTokens, Learning};
use super::{Begun, DraftHeads, HeadKind, HeadShape, Starts};
use crate::backbone::Feature;
use crate::nn::{FrozenUnembedding, Init, Linear, VocabularyView, count_parameters};

/// `kind = "lava"`: vocabulary attention with look-around (LAVA; Li et al. 2020, arXiv 2002.03084), which was made for models that
/// translate in parallel. Slot j begins as the state of a head with one hidden layer, `s_j = h + W_j silu(U_j h + a_j) + b_j`. It
/// attends to the whole vocabulary and becomes `v_j = V [s_j; softmax(E s_j) E]`, where E is the backbone's unembedding. Then it
/// predicts its neighbours, with the states `l_j = L v_j` and `r_j = R v_j`, and from these its own token, with `O [v_j; l_j; r_j]`.
/// All slots share V, L, R and O.
///
/// l and r learn the tokens of the slots before and behind with `heads.neighbour_loss`. How the paper weighs this loss, and how it
/// reads its neighbours' states, is not confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LavaHeadsConfig {
    /// The number of units of the hidden layer per head.
    #[schemars(range(min = 1))]
    pub hidden: usize,
    /// Whether slots attend to the vocabulary. This reads the unembedding twice more for each slot. Otherwise v_j is s_j.
    pub vocabulary_attention: bool,
    /// Whether slots predict their neighbours. Otherwise they predict from v_j.
    pub look_around: bool,
}

impl Default for LavaHeadsConfig {
    fn default() -> Self {
        Self { hidden: 512, vocabulary_attention: true, look_around: true }
    }
}

/// Returns a map `[d, parts x d]` that passes the first d of its inputs on.
fn first_of(parts: usize, d: usize, init: &mut Init) -> Linear {
    let (mut linear, inputs) = (init.zero_linear(d, parts * d), parts * d);
    let one = |at: usize| f32::from(u8::from(at % inputs == at / inputs));
    linear.weight = init.given((0..d * inputs).map(one).collect(), [d, inputs]);
    linear
}

impl HeadKind for LavaHeadsConfig {
    const NAME: &'static str = "lava";
    type Network = LavaHeads;

    fn network(&self, shape: HeadShape, init: &mut Init) -> LavaHeads {
        let (d, hidden) = (shape.width(), self.hidden);
        let mut slot = |_| SlotState {
            up: init.linear(hidden, d, (d as f32).powf(-0.5)).with_bias(init),
            down: init.zero_linear(d, hidden).with_bias(init),
        };
        LavaHeads {
            heads: (0..shape.count).map(&mut slot).collect(),
            view: self.vocabulary_attention.then(|| first_of(2, d, init)),
            around: self.look_around.then(|| LookAround {
                left: first_of(1, d, init),
                right: first_of(1, d, init),
                own: first_of(3, d, init),
            }),
            vocabulary: shape.backbone.vocab_size,
        }
    }
}

/// Heads of `kind = "lava"`. Before training every state is h.
#[derive(Module, Debug)]
pub struct LavaHeads {
    heads: Vec<SlotState>,
    /// V.
    view: Option<Linear>,
    around: Option<LookAround>,
    #[module(skip)]
    vocabulary: usize,
}

/// What makes s of h.
#[derive(Module, Debug)]
struct SlotState {
    up: Linear,
    down: Linear,
}

/// L, R and O.
#[derive(Module, Debug)]
struct LookAround {
    left: Linear,
    right: Linear,
    own: Linear,
}

/// The states of a slot that predict a token: its own, and those of the slots before and behind it, if it looks around.
struct Predicting {
    own: Tensor<2>,
    beside: Option<[Tensor<2>; 2]>,
}

impl LavaHeads {
    /// Returns s of a slot.
    fn first(&self, head: usize, hidden: Tensor<2>) -> Tensor<2> {
        let SlotState { up, down } = &self.heads[head];
        hidden.clone() + down.forward(silu(up.forward(hidden)))
    }

    /// Returns what a slot predicts with, given s and what it found in the vocabulary.
    fn predicting(&self, state: Tensor<2>, found: Option<Tensor<2>>) -> Predicting {
        let state = match (&self.view, found) {
            (Some(view), Some(found)) => view.forward(Tensor::cat(vec![state, found], 1)),
            _ => state,
        };
        let Some(LookAround { left, right, own }) = &self.around else {
            return Predicting { own: state, beside: None };
        };
        let beside = [left, right].map(|side| side.forward(state.clone()));
        let [left, right] = beside.clone();
        Predicting { own: own.forward(Tensor::cat(vec![state, left, right], 1)), beside: Some(beside) }
    }
}

impl DraftHeads for LavaHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn begin<'a>(&'a self, Starts { model, states, .. }: Starts<'a>) -> Begun<'a> {
        let hidden = states.get(Feature::Last);
        Begun::Parallel(Box::new(move |head| {
            let state = self.first(head, hidden.clone());
            let found = self.view.as_ref().map(|_| model.vocabulary().attend(&state).means);
            self.predicting(state, found).own
        }))
    }

    fn learn<'a>(
        &'a self,
        Starts { model, states, .. }: Starts<'a>,
        _: &'a DraftedTokens<'a>,
    ) -> Box<dyn Learning + 'a> {
        let vocabulary = self.view.as_ref().map(|_| model.vocabulary());
        Box::new(LavaLearning { heads: self, vocabulary, hidden: states.get(Feature::Last), slots: BTreeMap::new() })
    }

    fn neighbours(&self, head: usize) -> Vec<(usize, usize)> {
        if self.around.is_none() {
            return Vec::new();
        }
        let first = self.count() + 2 * head;
        // The token before the first slot is pinned already.
        let left = head.checked_sub(1).map(|left| (first, left));
        left.into_iter().chain([(first + 1, head + 1)]).collect()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let of_slots = self.heads.iter_mut().flat_map(|SlotState { up, down }| [up, down]);
        let around = self.around.iter_mut().flat_map(|LookAround { left, right, own }| [left, right, own]);
        of_slots.chain(&mut self.view).chain(around).collect()
    }

    fn products(&self, parameters: usize) -> usize {
        let shared = self.view.as_ref().map_or(0, count_parameters) + self.around.as_ref().map_or(0, count_parameters);
        let d = self.heads[0].up.weight.val().dims()[1];
        let attention = if self.view.is_some() { 2 * self.vocabulary * d } else { 0 };
        parameters - shared + self.count() * (shared + attention)
    }
}

/// Heads in a training step. Attention to the vocabulary is run and gone back through by the walks of [`FrozenUnembedding`], all else
/// by automatic differentiation before and behind it.
struct LavaLearning<'a> {
    heads: &'a LavaHeads,
    vocabulary: Option<&'a FrozenUnembedding>,
    hidden: Tensor<2>,
    /// The slots that were asked for, by head.
    slots: BTreeMap<usize, LearningSlot>,
}

struct LearningSlot {
    /// s, as the end of the piece that makes it, and as a leaf of the piece behind.
    made: Tensor<2>,
    state: Tensor<2>,
    /// What it found in the vocabulary, and this as a leaf.
    view: Option<(VocabularyView, Tensor<2>)>,
    predicting: Predicting,
}

fn leaf(tensor: Tensor<2>) -> Tensor<2> {
    tensor.without_autodiff().autodiff().require_grad()
}

impl LavaLearning<'_> {
    fn slot(&mut self, head: usize) -> &LearningSlot {
        let Self { heads, vocabulary, hidden, slots } = self;
        slots.entry(head).or_insert_with(|| {
            let made = heads.first(head, hidden.clone());
            let state = leaf(made.clone());
            let view = vocabulary.map(|vocabulary| {
                let view = vocabulary.attend(&state.clone().without_autodiff());
                let means = leaf(view.means.clone());
                (view, means)
            });
            let predicting = heads.predicting(state.clone(), view.as_ref().map(|(_, means)| means.clone()));
            LearningSlot { made, state, view, predicting }
        })
    }

    /// Returns the state of this number, in the graph.
    fn numbered(&mut self, number: usize) -> Tensor<2> {
        match number.checked_sub(self.heads.count()) {
            None => self.slot(number).predicting.own.clone(),
            Some(place) => {
                let beside = self.slot(place / 2).predicting.beside.as_ref();
                beside.expect("heads that look around")[place % 2].clone()
            }
        }
    }
}

impl Learning for LavaLearning<'_> {
    fn state(&mut self, head: usize) -> Tensor<2> {
        self.numbered(head).without_autodiff()
    }

    fn back(mut self: Box<Self>, gradients: Vec<(usize, Tensor<2>)>) -> (Tensor<1>, GradientsParams) {
        let products: Vec<Tensor<1>> =
            gradients.into_iter().map(|(number, gradient)| (self.numbered(number) * gradient).sum()).collect();
        let mut backward = products.into_iter().reduce(|a, b| a + b).expect("at least one head").backward();
        let objectives = self.slots.values().map(|LearningSlot { made, state, view, .. }| {
            let mut of_state = state.grad_remove(&mut backward).expect("what a slot predicts is made of s");
            if let (Some((view, means)), Some(vocabulary)) = (view, self.vocabulary) {
                let of_means = means.grad_remove(&mut backward).expect("what a slot predicts is made of its view");
                of_state = of_state + vocabulary.attend_backward(&state.clone().without_autodiff(), view, &of_means);
            }
            (made.clone() * of_state).sum()
        });
        let objective = objectives.collect::<Vec<_>>().into_iter().reduce(|a, b| a + b).expect("at least one head");
        (objective, GradientsParams::from_module(&mut backward, self.heads))
    }
}
