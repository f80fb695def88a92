//! Rows that join the embedding of a token and the state of the one before it: EAGLE, EAGLE-3, P-EAGLE, and the modules of
//! multi-token prediction.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, blocks, mask_of};
use super::{AttentionHeads, own_style, union};
use crate::backbone::{DecoderLayers, Departures, Feature, FeatureTensors, Model, ModelConfig, NormKind, Positions};
use crate::error::{Result, bail};
use crate::heads::{HeadKind, HeadShape, HeadUnembedding};
use crate::nn::{Embedding, Init, Linear, Norm, Values, count_parameters, load_parameters};

/// `kind = "eagle1"`: EAGLE (Li et al. 2024, arXiv 2401.15077; SafeAILab/EAGLE). A row joins the embedding of a token x_t and the
/// backbone's state f before it: `r = P [e(x_t); f_{t-1}]` runs through one decoder layer without a norm before its attention,
/// over the rows of the whole text. What leaves the layer predicts the next token as it is, through the backbone's unembedding,
/// and stands for f in the row behind.
///
/// The authors train it with `heads.feature_loss` = 10 and `heads.soft_targets` = 1, which is their 0.1 for the cross-entropy beside 1
/// for the states, with `heads.feature_noise` = 0.2, and a block of 2. The layer has the sizes of the backbone's, and Llama's style.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Eagle1Config {
    /// Whether P has a bias, as in the authors' code. Engines that serve such heads read none.
    pub bias: bool,
}

/// `kind = "eagle3"`: EAGLE-3 (Li et al. 2025, arXiv 2503.01840; SafeAILab/EAGLE). A row joins the embedding of a token x_t and
/// `g_{t-1} = P [f_1; f_2; ..]`, where f are states of the backbone before the token. One decoder layer, whose queries, keys and
/// values are made of `[norm e(x_t); norm g_{t-1}]` and whose residual stream begins as g, runs over the rows of the whole text. What
/// leaves the layer predicts the next token, normalised, and stands for g in the row behind.
///
/// The authors train an unembedding with the heads. Their training has
/// `heads.soft_targets` = 1, `heads.loss_weights` = { decay = 0.8 } and a block of 8. The layer has the sizes of the backbone's, and
/// Llama's style.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Eagle3Config {
    /// The backbone's states that g is made of. Empty: `layer-2`, the one in the middle, and the third from the top, as the authors
    /// have it.
    #[schemars(extend("uniqueItems" = true))]
    pub input: Vec<Feature>,
    /// Whether the residual stream begins as g normalised.
    pub norm_before_residual: bool,
    /// The matrix that turns states into logits, one for all slots.
    pub unembedding: HeadUnembedding,
    /// Whether all rows of a block are run at once (P-EAGLE): those behind the first join a vector that stands for the token and one
    /// that stands for the states, and see the rows before them.
    pub parallel: bool,
    /// The id of the token whose embedding stands for the tokens that are not known yet, where rows are run at once. Without it, the
    /// vector is learnt.
    pub mask_token: Option<u32>,
    /// Whether the layer begins as a copy of the backbone's uppermost one, which reads the last of the states and no token. It then
    /// has the backbone's style. Otherwise it begins at random, as the authors' does.
    pub warm_start: bool,
    /// The learning rate of the layer and of the norm behind it, as a share of `heads.training.learning_rate`.
    #[schemars(range(min = 0.0))]
    pub layers_learning_rate: f64,
}

/// `kind = "mtp"`: the module for multi-token prediction of DeepSeek-V3 (arXiv 2412.19437, section 2.2), used again for every
/// token of a block. A row `r = P [norm e(x_t); norm h_{t-1}]` joins the embedding of a token and the backbone's last state before it.
/// It runs through one decoder layer over the rows of the whole text. What leaves the layer predicts the next token,
/// normalised, and stands for h in the row behind. The layer has the sizes of the backbone's, and Llama's style.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MtpConfig {}

impl Default for Eagle3Config {
    fn default() -> Self {
        Self {
            input: Vec::new(),
            norm_before_residual: false,
            unembedding: HeadUnembedding::Frozen,
            parallel: false,
            mask_token: None,
            warm_start: false,
            layers_learning_rate: 1.0,
        }
    }
}

/// Rows made of the embedding e of a token and of the state g of the token before it. In the rows behind a drafted token, what left
/// the layer stands for g. Row j stands behind the text's first p - 1 + j - 1 tokens, sees the rows of the text and of its own
/// path, and predicts slot j + 1.
#[derive(Module, Debug)]
pub(super) struct JoinedEntry {
    /// Turns the features, side by side, into g. Without it there is one feature, which is g.
    fuse: Option<Linear>,
    token_norm: Option<Norm>,
    state_norm: Option<Norm>,
    /// P, which makes a row of `[e; g]`. Without it, attention reads `[e; g]` and the residual stream begins as g.
    join: Option<Linear>,
    mask: Option<Mask>,
    #[module(skip)]
    features: Vec<Feature>,
    /// What else follows from the kind.
    #[module(skip)]
    style: JoinStyle,
}

/// What rows that are run before their tokens are known join in place of these and of the states: `[1, d]`, and the features side by
/// side.
#[derive(Module, Debug)]
struct Mask {
    token: Param<Tensor<2>>,
    states: Param<Tensor<2>>,
    #[module(skip)]
    token_id: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct JoinStyle {
    /// Whether attention reads a joined row as it is, without a norm.
    reads_rows: bool,
    /// Whether the residual stream begins as g normalised, where rows are not joined.
    normed_stream: bool,
    epsilon: f64,
}

impl JoinedEntry {
    /// Returns the states that rows are made from. Tokens of the text are read by their embedding.
    pub fn features(&self) -> Vec<Feature> {
        self.features.iter().copied().chain([Feature::Layer(0)]).collect()
    }

    pub fn is_parallel(&self) -> bool {
        self.mask.is_some()
    }

    pub fn linears(&mut self) -> Vec<&mut Linear> {
        self.fuse.iter_mut().chain(&mut self.join).collect()
    }

    /// Returns the multiplications needed to make the rows of a block of `count` heads, and that of one more token of the text.
    pub fn products(&self, count: usize) -> usize {
        let fused = if self.is_parallel() { 3 } else { 2 };
        fused * self.fuse.as_ref().map_or(0, count_parameters)
            + (count + 1) * self.join.as_ref().map_or(0, count_parameters)
    }

    /// Returns g.
    fn state(&self, states: &FeatureTensors) -> Tensor<2> {
        self.fused(Tensor::cat(self.features.iter().map(|&feature| states.get(feature)).collect(), 1))
    }

    fn fused(&self, states: Tensor<2>) -> Tensor<2> {
        self.fuse.as_ref().map_or(states.clone(), |fuse| fuse.forward(states))
    }

    /// Returns e and g as they are joined, `[n, 2 d]`.
    fn both(&self, token: Tensor<2>, state: Tensor<2>) -> Tensor<2> {
        let normed = |norm: &Option<Norm>, x: Tensor<2>| match norm {
            Some(norm) => norm.forward(x, self.style.epsilon),
            None => x,
        };
        Tensor::cat(vec![normed(&self.token_norm, token), normed(&self.state_norm, state)], 1)
    }

    /// Returns what enters the layer of tokens with these embeddings behind these states, both `[n, d]`.
    pub fn row(&self, token: Tensor<2>, state: Tensor<2>) -> Tensor<2> {
        let [_, d] = state.dims();
        let both = self.both(token, state.clone());
        match &self.join {
            Some(join) => {
                let row = join.forward(both);
                if self.style.reads_rows { Tensor::cat(vec![row.clone(), row], 1) } else { row }
            }
            None => {
                let stream = if self.style.normed_stream { both.clone().narrow(1, d, d) } else { state };
                Tensor::cat(vec![both, stream], 1)
            }
        }
    }

    /// Returns the rows behind the pinned tokens, followed by those that are run at once with them.
    pub fn first(&self, states: &FeatureTensors, pinned: Tensor<2>, count: usize) -> Tensor<2> {
        let [n, _] = pinned.dims();
        let first = self.row(pinned, self.state(states));
        let Some(Mask { token, states, .. }) = &self.mask else { return first };
        let masked = self.row(token.val(), self.fused(states.val()));
        let masked = masked.clone().expand([n, masked.dims()[1]]);
        blocks([first].into_iter().chain(vec![masked; count - 1]).collect())
    }

    /// Returns what the attention of `decoder` reads of the tokens of texts of which these are the states.
    pub fn context(
        &self,
        states: &FeatureTensors,
        mut before: impl FnMut(&Tensor<2>) -> Tensor<2>,
        decoder: &DecoderLayers,
    ) -> Tensor<2> {
        let both = self.both(states.get(Feature::Layer(0)), before(&self.state(states)));
        match &self.join {
            None => both,
            Some(join) if self.style.reads_rows => join.forward(both),
            Some(join) => decoder.normed(join.forward(both)),
        }
    }

    /// Replaces what begins as a copy of the backbone's parameters; with `layer`, also what belongs to that layer.
    ///
    /// # Errors
    /// When the backbone has another shape.
    pub fn warm_start(&mut self, model: &Model, layer: Option<usize>) -> Result<()> {
        if let Some(mask) = &mut self.mask {
            mask.token = mask_of(mask.token.clone(), mask.token_id, model);
        }
        let Some(layer) = layer else { return Ok(()) };
        let of_norm =
            |(name, values): (String, Values)| Some((name.strip_prefix("input_layernorm.")?.to_owned(), values));
        let values: BTreeMap<String, Values> = model.layer_parameters(layer).into_iter().filter_map(of_norm).collect();
        let norm = self.state_norm.take().map(|norm| load_parameters(norm, values)).transpose()?;
        self.state_norm = norm;
        Ok(())
    }

    pub fn rate_factors(&self) -> Option<(&'static str, f64)> {
        let frozen = self.mask.as_ref().is_some_and(|mask| mask.token_id.is_some());
        frozen.then_some(("entry.mask.token", 0.0))
    }
}

/// Returns the states of a row and the embeddings, by depth. Refuses backbones whose embeddings cannot be read as `layer-0`.
pub(super) fn embeddings_and(states: Vec<Feature>, backbone: &ModelConfig) -> Result<Vec<Feature>> {
    if matches!(backbone.positions, Positions::Learned) {
        bail!(
            "`heads.architecture.kind`: these heads read the embeddings of the text's tokens as `layer-0`, to which this backbone has added its learned positions. Take \"attention\" or \"dflash\"."
        );
    }
    Ok(union(states, vec![Feature::Layer(0)]))
}

/// The parts of heads whose rows are joined.
struct Joined {
    entry: JoinedEntry,
    reads: Option<usize>,
    config: ModelConfig,
    normed: bool,
    unembedding: Option<Embedding>,
    warm_start: bool,
    layers_learning_rate: f64,
}

impl Joined {
    fn heads(self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let Self { entry, reads, config, normed, unembedding, warm_start, layers_learning_rate } = self;
        let first = shape.backbone.num_hidden_layers - 1;
        let departures = Departures { reads, ..Departures::default() };
        let heads = AttentionHeads::new(Entry::Joined(entry), shape.count, &config, first..first + 1, departures, init);
        let norm = heads.norm.filter(|_| normed);
        AttentionHeads { norm, unembedding, warm_start, layers_learning_rate, ..heads }
    }
}

/// Returns a map of `width` numbers to d, with a deviation of `width^-0.5`.
fn projection(d: usize, width: usize, init: &mut Init) -> Linear {
    init.linear(d, width, (width as f32).powf(-0.5))
}

impl HeadKind for Eagle1Config {
    const NAME: &'static str = "eagle1";
    type Network = AttentionHeads;

    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>> {
        embeddings_and(vec![Feature::Last], backbone)
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let (d, config) = (shape.width(), own_style(shape.backbone, false));
        let join = projection(d, 2 * d, init);
        let entry = JoinedEntry {
            fuse: None,
            token_norm: None,
            state_norm: None,
            join: Some(if self.bias { join.with_bias(init) } else { join }),
            mask: None,
            features: vec![Feature::Last],
            style: JoinStyle { reads_rows: true, normed_stream: false, epsilon: config.norm_epsilon },
        };
        let parts = Joined {
            entry,
            reads: Some(d),
            config,
            normed: false,
            unembedding: None,
            warm_start: false,
            layers_learning_rate: 1.0,
        };
        parts.heads(shape, init)
    }
}

impl Eagle3Config {
    /// Returns the states that g is made of, by depth.
    pub(crate) fn input(&self, backbone: &ModelConfig) -> Vec<Feature> {
        let layers = backbone.num_hidden_layers;
        let depths = [2, layers / 2, layers.saturating_sub(3)].map(|depth| Feature::Layer(depth.clamp(1, layers)));
        union(if self.input.is_empty() { depths.to_vec() } else { self.input.clone() }, Vec::new())
    }
}

impl HeadKind for Eagle3Config {
    const NAME: &'static str = "eagle3";
    type Network = AttentionHeads;

    fn validate(&self) -> Result<()> {
        if self.mask_token.is_some() && !self.parallel {
            bail!(
                "`heads.architecture.mask_token` is for rows that are run at once. Set `heads.architecture.parallel`, or leave it out."
            );
        }
        Ok(())
    }

    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>> {
        if let Some(token) = self.mask_token.filter(|&token| token as usize >= backbone.vocab_size) {
            bail!(
                "`heads.architecture.mask_token` is {token}, but the backbone has {} tokens, numbered from 0. Take an id that its texts do not use.",
                backbone.vocab_size
            );
        }
        embeddings_and(self.input(backbone), backbone)
    }

    fn reserved_token(&self) -> Option<u32> {
        self.mask_token
    }

    fn owns_unembedding(&self) -> bool {
        self.unembedding == HeadUnembedding::Own
    }

    fn is_sequential(&self) -> bool {
        !self.parallel
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let (d, backbone, features) = (shape.width(), shape.backbone, self.input(shape.backbone));
        let config = if self.warm_start { backbone.clone() } else { own_style(backbone, false) };
        let width = features.len() * d;
        let mask = |init: &mut Init| Mask {
            token: init.matrix(1, d, 0.0),
            states: init.matrix(1, width, 1.0),
            token_id: self.mask_token,
        };
        let mut fuse = projection(d, width, init);
        if self.warm_start {
            // The last of the states as it is.
            let one = |at: usize| f32::from(u8::from(at % width == width - d + at / width));
            fuse.weight = init.given((0..d * width).map(one).collect(), [d, width]);
        }
        let layer_norm = config.norm == NormKind::Layer;
        let entry = JoinedEntry {
            fuse: Some(fuse),
            token_norm: Some(init.norm(d, false)),
            state_norm: Some(init.norm(d, layer_norm)),
            join: None,
            mask: self.parallel.then(|| mask(init)),
            features,
            style: JoinStyle {
                reads_rows: false,
                normed_stream: self.norm_before_residual,
                epsilon: config.norm_epsilon,
            },
        };
        let &Self { warm_start, layers_learning_rate, .. } = self;
        let unembedding = self.unembedding.table(shape.drafted, d, init);
        let reads = Some(2 * d);
        Joined { entry, reads, config, normed: true, unembedding, warm_start, layers_learning_rate }.heads(shape, init)
    }
}

impl HeadKind for MtpConfig {
    const NAME: &'static str = "mtp";
    type Network = AttentionHeads;

    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>> {
        embeddings_and(vec![Feature::Last], backbone)
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let (d, config) = (shape.width(), own_style(shape.backbone, false));
        let entry = JoinedEntry {
            fuse: None,
            token_norm: Some(init.norm(d, false)),
            state_norm: Some(init.norm(d, false)),
            join: Some(projection(d, 2 * d, init)),
            mask: None,
            features: vec![Feature::Last],
            style: JoinStyle { reads_rows: false, normed_stream: false, epsilon: config.norm_epsilon },
        };
        let parts = Joined {
            entry,
            reads: None,
            config,
            normed: true,
            unembedding: None,
            warm_start: false,
            layers_learning_rate: 1.0,
        };
        parts.heads(shape, init)
    }
}
