//! `kind = "dflash"`: the parallel drafter of DFlash, made of the parts of heads that attend.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, MaskedEntry};
use super::{AttentionHeads, FeatureContext, own_style, union};
use crate::backbone::{Convolution, ConvolutionConfig, Departures, Feature, ModelConfig};
use crate::error::{Result, bail};
use crate::heads::{HeadKind, HeadShape};
use crate::nn::Init;

/// `kind = "dflash"`: decoder layers that draft a block in one pass (DFlash; z-lab/dflash). Every layer makes keys and values of
/// `c_s = norm(P [f_1; f_2; ..])` for every position s of the text before the block, where f are states of the backbone. The
/// block itself enters as the embedding of the pinned token, followed by the same vector for every other slot. Its rows see the
/// text and one another.
///
/// Layers have the sizes of the backbone's, and the style of Qwen3: root-mean-square norms, also of every head's queries and
/// keys, rotary positions, and a gated MLP without biases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DflashConfig {
    /// The number of decoder layers.
    #[schemars(range(min = 1, max = 1024))]
    pub layers: usize,
    /// The backbone's states that the layers attend to. Empty: `layer-N` at five depths, spread evenly from the second layer to
    /// the last but one.
    #[schemars(extend("uniqueItems" = true))]
    pub context: Vec<Feature>,
    /// The id of the token whose embedding stands for what is to be drafted, as engines that serve such heads expect. It should
    /// not occur in any text. Without it, the vector is learnt.
    pub mask_token: Option<u32>,
    /// Whether the row of the pinned token predicts slot 2. A block then has a row less.
    pub anchor_predicts: bool,
    /// Whether rows see only those before them in their block.
    pub causal: bool,
    /// How many positions a row sees, its own included; all of them where it is not given.
    #[schemars(range(min = 1))]
    pub sliding_window: Option<usize>,
    /// Convolutions over the rows of a block, around every layer's attention and MLP (DFlash2), such as `{ kernel = 4, group = 64 }`.
    pub convolution: Option<ConvolutionConfig>,
    /// Whether each of the states of `context` is scaled to a mean square of 1 before they are projected. A departure from DFlash,
    /// which no engine reads.
    pub scale_features: bool,
    /// Whether the layers begin as copies of the backbone's uppermost ones, in their style. Otherwise they begin at random. A
    /// departure from DFlash, which no engine reads.
    pub warm_start: bool,
    /// The learning rate of the layers and of the norm behind them, as a share of `heads.training.learning_rate`.
    #[schemars(range(min = 0.0))]
    pub layers_learning_rate: f64,
}

impl Default for DflashConfig {
    fn default() -> Self {
        Self {
            layers: 2,
            context: Vec::new(),
            mask_token: None,
            anchor_predicts: false,
            causal: false,
            sliding_window: None,
            convolution: None,
            scale_features: false,
            warm_start: false,
            layers_learning_rate: 1.0,
        }
    }
}

/// How many states the layers attend to where the configuration does not say.
const DEPTHS: usize = 5;

impl DflashConfig {
    /// Returns the states that the layers attend to, by depth.
    pub(crate) fn context(&self, backbone: &ModelConfig) -> Vec<Feature> {
        let most = backbone.num_hidden_layers;
        let (first, last) = (2.min(most), most.saturating_sub(2).max(2.min(most)));
        let spread = |i: usize| Feature::Layer(first + ((last - first) * i + (DEPTHS - 1) / 2) / (DEPTHS - 1));
        let context = if self.context.is_empty() { (0..DEPTHS).map(spread).collect() } else { self.context.clone() };
        union(context, Vec::new())
    }

    /// Returns the shape of a decoder that these layers are the uppermost ones of, and the number of the first.
    fn shape(&self, backbone: &ModelConfig) -> (ModelConfig, usize) {
        let first = backbone.num_hidden_layers.saturating_sub(self.layers);
        let style = if self.warm_start { backbone.clone() } else { own_style(backbone, true) };
        let windows = vec![self.sliding_window; first + self.layers];
        (ModelConfig { windows, ..style }, first)
    }
}

impl HeadKind for DflashConfig {
    const NAME: &'static str = "dflash";
    type Network = AttentionHeads;

    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>> {
        let (layers, most, vocabulary) = (self.layers, backbone.num_hidden_layers, backbone.vocab_size);
        if self.warm_start && layers > most {
            bail!(
                "`heads.architecture.layers` is {layers}, but with `warm_start` the layers are copies of the backbone's, and it has {most}. Take fewer."
            );
        }
        if let Some(ConvolutionConfig { group, .. }) = self.convolution
            && !backbone.hidden_size.is_multiple_of(group)
        {
            bail!(
                "`heads.architecture.convolution.group` is {group}, which does not divide the backbone's width of {}. Take a divisor.",
                backbone.hidden_size
            );
        }
        if let Some(token) = self.mask_token.filter(|&token| token as usize >= vocabulary) {
            bail!(
                "`heads.architecture.mask_token` is {token}, but the backbone has {vocabulary} tokens, numbered from 0. Take an id that its texts do not use."
            );
        }
        Ok(self.context(backbone))
    }

    fn reserved_token(&self) -> Option<u32> {
        self.mask_token
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let d = shape.width();
        let (config, first) = self.shape(shape.backbone);
        let rows = shape.count + usize::from(!self.anchor_predicts);
        let convolution = self.convolution.map(|config| Convolution { config, rows });
        let departures = Departures { convolution, ..Departures::default() };
        let entry = Entry::Masked(MaskedEntry::new(self, d, init));
        let context = FeatureContext::new(&self.context(shape.backbone), self.scale_features, d, init);
        AttentionHeads {
            context: Some(context),
            warm_start: self.warm_start,
            layers_learning_rate: self.layers_learning_rate,
            ..AttentionHeads::new(entry, shape.count, &config, first..first + self.layers, departures, init)
        }
    }
}
