//! `kind = "speculator"`: heads that read the tokens drafted before them. A state is handed from head to head, and each
//! head adds one token to it.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::gelu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::carried::{self, Carries};
use super::feature_sum::scaled;
use super::unembedding::StateOutput;
use super::{Begun, DraftHeads, HeadKind, HeadShape, Starts};
use crate::backbone::{Feature, ModelConfig};
use crate::error::{Result, bail};
use crate::nn::{Embedding, Init, Linear, Norm, TokenMap, TokenVectors, Tokens};

/// `kind = "speculator"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpeculatorConfig {
    /// The width of the state that is handed from head to head.
    #[schemars(range(min = 1))]
    pub inner: usize,
    /// Where embedding and unembedding come from.
    pub weights: SpeculatorWeights,
    /// Whether all heads share one embedding, norm and unembedding, and all but the first one matrix of the state. For weights of
    /// their own.
    pub tie_weights: bool,
    /// Whether the backbone's state is scaled to a mean square of 1/2 before it is read. For weights of their own.
    pub scale_input: bool,
}

/// Where a speculator's embedding and unembedding come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpeculatorWeights {
    /// The backbone's, frozen: heads read a map of the embedding, and add to the backbone's state.
    Backbone,
    /// Heads have their own, 2 x V x `inner` parameters each, as in the paper.
    Own,
}

impl Default for SpeculatorConfig {
    fn default() -> Self {
        Self { inner: 512, weights: SpeculatorWeights::Backbone, tie_weights: false, scale_input: false }
    }
}

impl HeadKind for SpeculatorConfig {
    const NAME: &'static str = "speculator";
    type Network = SpeculatorHeads;

    fn validate(&self) -> Result<()> {
        if self.weights == SpeculatorWeights::Backbone && (self.tie_weights || self.scale_input) {
            bail!(
                "`heads.architecture.tie_weights` and `heads.architecture.scale_input` are of speculators with weights of their own. Leave them out, or set `heads.architecture.weights` to \"own\"."
            );
        }
        Ok(())
    }

    fn owns_unembedding(&self) -> bool {
        self.weights == SpeculatorWeights::Own
    }

    fn state_width(&self, backbone: &ModelConfig) -> usize {
        if self.owns_unembedding() { self.inner } else { backbone.hidden_size }
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> SpeculatorHeads {
        let (d, inner, vocabulary, count) = (shape.width(), self.inner, shape.backbone.vocab_size, shape.count);
        let own = self.owns_unembedding();
        let deviation = |inputs: usize| (inputs as f32).powf(-0.5);
        // The original draws everything from one distribution.
        let mut carry = |index: usize| {
            let inputs = if index == 0 { d } else { inner };
            init.linear(inner, inputs, deviation(if own { inner } else { inputs }))
        };
        let (carried, others) = if self.tie_weights { (count.min(2), 1) } else { (count, count) };
        SpeculatorHeads {
            carry: (0..carried).map(&mut carry).collect(),
            token: (0..others)
                .map(|_| match self.weights {
                    SpeculatorWeights::Backbone => {
                        TokenMap::new(TokenVectors::Embeddings, inner, (d, vocabulary), init)
                    }
                    SpeculatorWeights::Own => {
                        TokenMap::Codebook(Embedding { weight: init.matrix(vocabulary, inner, deviation(inner)) })
                    }
                })
                .collect(),
            norm: (0..others)
                .map(|_| match self.weights {
                    SpeculatorWeights::Backbone => StateNorm::Layer(init.norm(inner, true)),
                    SpeculatorWeights::Own => StateNorm::RootMeanSquare(ShiftedNorm {
                        weight: init.vector(inner, 1.0),
                        shift: init.vector(inner, 0.0),
                    }),
                })
                .collect(),
            output: (0..others)
                .map(|_| match self.weights {
                    SpeculatorWeights::Backbone => StateOutput::Added(init.zero_linear(d, inner).with_bias(init)),
                    SpeculatorWeights::Own => {
                        StateOutput::Own(Embedding { weight: init.matrix(vocabulary, inner, deviation(inner)) })
                    }
                })
                .collect(),
            count,
            scale_input: self.scale_input,
        }
    }
}

/// The token/embedding speculator (Wertheimer et al. 2024, arXiv 2404.19124, section 2; its code is in foundation-model-stack's
/// fms-extras). For head j, with the token x that was drafted just before, it computes
///
/// `s <- gelu(N_j(P_j s + (w_e / w_s) E_j[x]))`, and logits `U_j s`,
///
/// starting from s = h, or with `scale_input` from h scaled to a mean square of 1/2. N scales to a mean square of 1 and has a
/// weight and a shift, `w_s = 0.5^(0.5/n)` for n heads, and `w_e = sqrt((1 - w_s^2) inner / 2)`.
///
/// With the backbone's weights, s starts from h scaled to a mean square of 1, `E_j e(x)` is a map of the backbone's scaled embedding
/// with `w_e = sqrt(1 - w_s^2)`, N is a layer normalisation, and the backbone's unembedding follows `h + O_j s`. O starts at zero.
#[derive(Module, Debug)]
pub struct SpeculatorHeads {
    /// P, by head. Where lists are shorter than there are heads, their last member is that of all further heads.
    carry: Vec<Linear>,
    /// E.
    token: Vec<TokenMap>,
    /// N.
    norm: Vec<StateNorm>,
    output: Vec<StateOutput>,
    #[module(skip)]
    count: usize,
    #[module(skip)]
    scale_input: bool,
}

/// What normalises the state.
#[derive(Module, Debug)]
enum StateNorm {
    Layer(Norm),
    RootMeanSquare(ShiftedNorm),
}

#[derive(Module, Debug)]
struct ShiftedNorm {
    weight: Param<Tensor<1>>,
    shift: Param<Tensor<1>>,
}

impl StateNorm {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Layer(norm) => norm.forward(x, 1e-5),
            Self::RootMeanSquare(ShiftedNorm { weight, shift }) => {
                let scale = x.clone().square().mean_dim(1).add_scalar(1e-6).sqrt().recip();
                x * scale * weight.val().unsqueeze() + shift.val().unsqueeze()
            }
        }
    }
}

/// Returns what a list has for a head.
fn of<T>(list: &[T], head: usize) -> &T {
    &list[head.min(list.len() - 1)]
}

impl Carries for SpeculatorHeads {
    fn row(
        &self,
        head: usize,
        read: Vec<Tensor<2>>,
        carried: Option<Tensor<2>>,
        tokens: Tokens,
    ) -> (Tensor<2>, Option<Tensor<2>>) {
        let hidden = read[0].clone();
        let w_s = 0.5f64.powf(0.5 / self.count as f64);
        let output = of(&self.output, head);
        let (w_e, tokens) = match output {
            StateOutput::Added(_) => {
                let tokens = Tokens { embeddings: scaled(tokens.embeddings), ..tokens };
                ((1.0 - w_s * w_s).sqrt(), tokens)
            }
            StateOutput::Own(table) => {
                let inner = table.weight.val().dims()[1] as f64;
                (((1.0 - w_s * w_s) * inner / 2.0).sqrt(), tokens)
            }
        };
        let first = || match output {
            StateOutput::Added(_) => scaled(hidden.clone()),
            StateOutput::Own(_) if self.scale_input => half_square(hidden.clone()),
            StateOutput::Own(_) => hidden.clone(),
        };
        let token = of(&self.token, head).forward(&tokens).mul_scalar(w_e / w_s);
        let mixed = of(&self.carry, head).forward(carried.unwrap_or_else(first)) + token;
        let state = gelu(of(&self.norm, head).forward(mixed));
        (output.forward(hidden, state.clone()), Some(state))
    }
}

/// Scales each row to a mean square of 1/2.
fn half_square(x: Tensor<2>) -> Tensor<2> {
    let scale = x.clone().square().mean_dim(1).add_scalar(1e-6).mul_scalar(2.0).sqrt().recip();
    x * scale
}

impl DraftHeads for SpeculatorHeads {
    fn count(&self) -> usize {
        self.count
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let tokens = self.token.iter_mut().filter_map(TokenMap::linear);
        let outputs = self.output.iter_mut().filter_map(StateOutput::linear);
        self.carry.iter_mut().chain(tokens).chain(outputs).collect()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let hidden = starts.states.get(Feature::Last);
        carried::begin(self, Box::new(move |_| vec![hidden.clone()]), starts.pinned)
    }

    fn unembedding(&self, head: usize) -> Option<Tensor<2>> {
        of(&self.output, head).table()
    }

    fn shares_unembedding(&self) -> bool {
        self.output.len() < self.count
    }

    fn products(&self, parameters: usize) -> usize {
        let [inner, d] = of(&self.carry, 0).weight.val().dims();
        let output = of(&self.output, 0);
        match output {
            StateOutput::Added(_) => parameters,
            // Embeddings are looked up.
            StateOutput::Own(_) => inner * d + (self.count - 1) * inner * inner + self.count * output.products(),
        }
    }
}
