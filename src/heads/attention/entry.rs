//! What enters the layers: how the rows of a block are made.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::chimera::TrigramEntry;
use super::glide::TokenEntry;
use super::joined::JoinedEntry;
use super::{DflashConfig, union};
use crate::backbone::{BlockRows, Feature, FeatureTensors, Model};
use crate::error::Result;
use crate::heads::FeatureSum;
use crate::heads::feature_sum::scaled;
use crate::nn::{Init, Linear, count_parameters};

/// How rows are made, with n a root-mean-square norm without weights, e(x) the backbone's embedding of a token, and x_p the
/// pinned token.
#[derive(Module, Debug)]
pub(super) enum Entry {
    Sequential(SequentialEntry),
    Parallel(ParallelEntry),
    Masked(MaskedEntry),
    Transfer(TransferEntry),
    Joined(JoinedEntry),
    Prefix(PrefixEntry),
    Trigram(TrigramEntry),
    Token(TokenEntry),
}

/// In the manner of EAGLE-3 (Li et al. 2025, arXiv 2503.01840), with u the backbone's states before the block and o_j what row j
/// leaves the layers as: row 1 enters them as `r_1 = u + A1 n(u) + B1 n(e(x_p))`, and row j as
/// `r_j = r_{j-1} + A n(r_{j-1}) + C n(o_{j-1}) + B n(e(x_{p+j-1}))`. Row j stands at position p + j - 1, sees the context before p
/// and the rows before it, and predicts slot j + 1. All matrices are zero at first.
#[derive(Module, Debug)]
pub(super) struct SequentialEntry {
    inputs: FeatureSum,
    /// A1 and B1.
    first_state: Linear,
    first_token: Linear,
    /// A, C and B.
    input: Linear,
    output: Linear,
    token: Linear,
}

/// Row j enters as `u + W_j n(u) + V_j n(e(x_p)) + b_j`, stands at position p + j - 1 and predicts slot j + 1. It sees the context
/// before p and all rows of its block. All matrices and b are zero at first.
#[derive(Module, Debug)]
pub(super) struct ParallelEntry {
    inputs: FeatureSum,
    /// W and V, by slot; b is the bias of V.
    state: Vec<Linear>,
    token: Vec<Linear>,
}

/// The rows of DFlash (see [`DflashConfig`]): row 1 enters as e(x_p), every other one as the same vector. Row
/// j stands at position p + j - 1 and predicts slot j, or slot j + 1 where the first row predicts as well.
#[derive(Module, Debug)]
pub(super) struct MaskedEntry {
    /// The vector of the rows behind the first, `[1, d]`.
    mask: Param<Tensor<2>>,
    /// The token whose embedding it is, if it does not learn.
    #[module(skip)]
    mask_token: Option<u32>,
    #[module(skip)]
    anchor_predicts: bool,
    #[module(skip)]
    causal: bool,
}

/// The pseudo states of Hidden Transfer (see [`HiddenTransferConfig`](super::HiddenTransferConfig)): row j enters as `W_j u_j`, where
/// u_j is the residual stream below its layer, stands at position p + j - 1 and predicts slot j + 1. It sees the context before p and the rows before it.
#[derive(Module, Debug)]
pub(super) struct TransferEntry {
    /// W, by slot.
    pub state: Vec<Linear>,
    /// u, by slot.
    #[module(skip)]
    features: Vec<Feature>,
}

/// The one row of a block that stands for the text (see [`PrefixLayerConfig`](super::PrefixLayerConfig)): the backbone's last state
/// before the block. It stands where that state's token does, and sees the last states of the text up to it.
#[derive(Module, Debug)]
pub(super) struct PrefixEntry {}

impl Entry {
    /// Returns the states that rows are made from.
    pub fn features(&self) -> Vec<Feature> {
        match self {
            Self::Sequential(SequentialEntry { inputs, .. }) | Self::Parallel(ParallelEntry { inputs, .. }) => {
                inputs.features()
            }
            Self::Masked(_) => Vec::new(),
            Self::Transfer(entry) => union(entry.features.clone(), Vec::new()),
            Self::Joined(entry) => entry.features(),
            Self::Prefix(_) => vec![Feature::Last],
            Self::Trigram(_) => vec![Feature::Layer(0), Feature::Last],
            Self::Token(entry) => entry.features(),
        }
    }

    /// Returns the state that is kept of every token of the text, if rows are made of tokens further back.
    pub fn kept(&self) -> Option<Feature> {
        matches!(self, Self::Trigram(_)).then_some(Feature::Layer(0))
    }

    /// Returns whether a row reads the token that was drafted before it.
    pub fn is_sequential(&self) -> bool {
        match self {
            Self::Sequential(_) | Self::Trigram(_) | Self::Token(_) => true,
            Self::Joined(entry) => !entry.is_parallel(),
            Self::Parallel(_) | Self::Masked(_) | Self::Transfer(_) | Self::Prefix(_) => false,
        }
    }

    /// Returns whether a row is made of the row before it, and not of its token alone.
    pub fn reads_rows(&self) -> bool {
        self.is_sequential() && !matches!(self, Self::Token(_))
    }

    /// Returns how many of a text's first columns in the cache the layers do not see.
    pub fn hidden_columns(&self) -> usize {
        usize::from(matches!(self, Self::Joined(_) | Self::Trigram(_)))
    }

    /// Returns the rows of a block of `count` heads, if all of them are run at once.
    pub fn block(&self, count: usize) -> Option<BlockRows> {
        let causal = BlockRows { count, causal: true, in_place: false };
        match self {
            Self::Sequential(_) | Self::Trigram(_) | Self::Token(_) => None,
            Self::Joined(entry) => entry.is_parallel().then_some(causal),
            Self::Parallel(_) => Some(BlockRows { causal: false, ..causal }),
            Self::Transfer(_) => Some(causal),
            &Self::Masked(MaskedEntry { anchor_predicts, causal, .. }) => {
                Some(BlockRows { count: count + usize::from(!anchor_predicts), causal, in_place: false })
            }
            Self::Prefix(_) => Some(BlockRows { in_place: true, ..causal }),
        }
    }

    /// Returns what enters the layers first, start by start: a row for each, or all rows of each, of blocks of `count` heads. `before`
    /// are the states that were kept of the tokens before the starts. Behind what enters, a row may carry numbers on.
    pub fn first_rows(
        &self,
        states: &FeatureTensors,
        before: Option<Tensor<2>>,
        pinned: Tensor<2>,
        count: usize,
    ) -> Tensor<2> {
        match self {
            Self::Sequential(entry) => entry.first(states, pinned),
            Self::Parallel(entry) => entry.rows(states, pinned),
            Self::Masked(entry) => entry.rows(pinned, count + usize::from(!entry.anchor_predicts)),
            Self::Transfer(entry) => entry.rows(states),
            Self::Joined(entry) => entry.first(states, pinned, count),
            Self::Prefix(_) => states.get(Feature::Last),
            Self::Trigram(entry) => entry.first(states, before.expect("embeddings are kept"), pinned),
            Self::Token(_) => pinned,
        }
    }

    /// Returns what enters the layers behind rows of sequential heads that entered them as `r` and left them as `o`, given
    /// embeddings of the next tokens, `[m, d]`.
    pub fn next(&self, r: Tensor<2>, o: Tensor<2>, tokens: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Sequential(entry) => entry.next(r, o, tokens),
            Self::Joined(entry) => entry.row(tokens, o),
            Self::Trigram(entry) => entry.next(&r, tokens),
            Self::Token(_) => tokens,
            Self::Parallel(_) | Self::Masked(_) | Self::Transfer(_) | Self::Prefix(_) => {
                unreachable!("all rows of a block are run at once")
            }
        }
    }

    /// Returns every linear layer.
    pub fn linears(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Sequential(SequentialEntry { inputs, first_state, first_token, input, output, token }) => {
                [first_state, first_token, input, output, token].into_iter().chain(inputs.linears()).collect()
            }
            Self::Parallel(ParallelEntry { inputs, state, token }) => {
                state.iter_mut().chain(token).chain(inputs.linears()).collect()
            }
            Self::Masked(_) | Self::Prefix(_) | Self::Token(_) => Vec::new(),
            Self::Transfer(entry) => entry.state.iter_mut().collect(),
            Self::Joined(entry) => entry.linears(),
            Self::Trigram(entry) => entry.linears(),
        }
    }

    /// Returns the multiplications needed to make the rows of a chain of `count` heads.
    pub fn products(&self, count: usize) -> usize {
        match self {
            Self::Sequential(SequentialEntry { inputs, first_state, first_token, input, output, token }) => {
                let first = [first_state, first_token].map(count_parameters).iter().sum::<usize>();
                let next = [input, output, token].map(count_parameters).iter().sum::<usize>();
                count_parameters(inputs) + first + (count - 1) * next
            }
            Self::Parallel(entry) => count_parameters(entry),
            Self::Masked(_) | Self::Prefix(_) | Self::Token(_) => 0,
            Self::Transfer(entry) => count_parameters(entry),
            Self::Joined(entry) => entry.products(count),
            // Those of the rows, and of one more token of the text.
            Self::Trigram(entry) => (count + 1) * count_parameters(entry),
        }
    }

    /// Replaces what begins as a copy of the backbone's parameters.
    /// With `layer`, the layers begin as the backbone's from that one on.
    ///
    /// # Errors
    /// When the backbone has another shape.
    pub fn warm_start(&mut self, model: &Model, layer: Option<usize>) -> Result<()> {
        match self {
            Self::Masked(entry) => entry.mask = mask_of(entry.mask.clone(), entry.mask_token, model),
            Self::Joined(entry) => entry.warm_start(model, layer)?,
            Self::Sequential(_) | Self::Parallel(_) | Self::Transfer(_) => {}
            Self::Prefix(_) | Self::Trigram(_) | Self::Token(_) => {}
        }
        Ok(())
    }

    /// Returns the factors of learning rates other than 1, by the beginnings of the parameters' paths.
    pub fn rate_factors(&self) -> Option<(&'static str, f64)> {
        match self {
            Self::Masked(MaskedEntry { mask_token: Some(_), .. }) => Some(("entry.mask", 0.0)),
            Self::Joined(entry) => entry.rate_factors(),
            _ => None,
        }
    }
}

impl SequentialEntry {
    pub fn new(inputs: FeatureSum, d: usize, init: &mut Init) -> Self {
        let mut square = || init.zero_linear(d, d);
        Self {
            inputs,
            first_state: square(),
            first_token: square(),
            input: square(),
            output: square(),
            token: square(),
        }
    }

    fn first(&self, states: &FeatureTensors, pinned: Tensor<2>) -> Tensor<2> {
        let u = self.inputs.read(states);
        u.clone() + self.first_state.forward(scaled(u)) + self.first_token.forward(scaled(pinned))
    }

    fn next(&self, r: Tensor<2>, o: Tensor<2>, tokens: Tensor<2>) -> Tensor<2> {
        let read = self.input.forward(scaled(r.clone())) + self.output.forward(scaled(o));
        r + read + self.token.forward(scaled(tokens))
    }
}

impl ParallelEntry {
    pub fn new(inputs: FeatureSum, count: usize, d: usize, init: &mut Init) -> Self {
        Self {
            inputs,
            state: (0..count).map(|_| init.zero_linear(d, d)).collect(),
            token: (0..count).map(|_| init.zero_linear(d, d).with_bias(init)).collect(),
        }
    }

    fn rows(&self, states: &FeatureTensors, pinned: Tensor<2>) -> Tensor<2> {
        let (u, pinned) = (self.inputs.read(states), scaled(pinned));
        let normed = scaled(u.clone());
        let row = |(state, token): (&Linear, &Linear)| {
            u.clone() + state.forward(normed.clone()) + token.forward(pinned.clone())
        };
        blocks(self.state.iter().zip(&self.token).map(row).collect())
    }
}

impl MaskedEntry {
    pub fn new(config: &DflashConfig, d: usize, init: &mut Init) -> Self {
        let &DflashConfig { mask_token, anchor_predicts, causal, .. } = config;
        Self { mask: init.matrix(1, d, 0.0), mask_token, anchor_predicts, causal }
    }

    fn rows(&self, pinned: Tensor<2>, rows: usize) -> Tensor<2> {
        let mask = self.mask.val().expand(pinned.dims());
        blocks([pinned].into_iter().chain(vec![mask; rows - 1]).collect())
    }
}

/// Makes a mask the embedding of its token, or the mean of all embeddings where it learns.
pub(super) fn mask_of(mask: Param<Tensor<2>>, token: Option<u32>, model: &Model) -> Param<Tensor<2>> {
    let tokens = token.map_or_else(|| (0..model.config().vocab_size as u32).collect(), |token| vec![token]);
    let mean = model.embed(&tokens).mean_dim(0);
    mask.map(|old| if old.is_autodiff() { mean.autodiff().require_grad() } else { mean })
}

impl TransferEntry {
    /// Makes the matrices of rows that are made of these states.
    pub fn new(features: Vec<Feature>, d: usize, init: &mut Init) -> Self {
        let identity = |_| {
            let mut matrix = init.zero_linear(d, d);
            matrix.weight = init.given((0..d * d).map(|at| f32::from(u8::from(at % (d + 1) == 0))).collect(), [d, d]);
            matrix
        };
        Self { state: features.iter().map(identity).collect(), features }
    }

    fn rows(&self, states: &FeatureTensors) -> Tensor<2> {
        let of_slots = self.state.iter().zip(&self.features);
        blocks(of_slots.map(|(state, &feature)| state.forward(states.get(feature))).collect())
    }
}

/// Returns blocks of rows, block by block, given the rows of each place in a block, `[n, d]` each.
pub(super) fn blocks(rows: Vec<Tensor<2>>) -> Tensor<2> {
    let ([n, d], count) = (rows[0].dims(), rows.len());
    Tensor::stack::<3>(rows, 1).reshape([n * count, d])
}
