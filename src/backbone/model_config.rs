//! The shape of a decoder: everything that its forward depends on, whatever checkpoint it came from.

use serde::Serialize;

use super::LanguageModelConfig;
use crate::kernels::Activation;

/// A decoder-only transformer. Dimensions are named as in Hugging Face configurations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelConfig {
    /// The size of the vocabulary, V.
    pub vocab_size: usize,
    /// The width of the residual stream, d.
    pub hidden_size: usize,
    /// The width of the MLP.
    pub intermediate_size: usize,
    /// The number of decoder layers.
    pub num_hidden_layers: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The number of key/value heads, which divides that of the query heads.
    pub num_key_value_heads: usize,
    /// The width of one head.
    pub head_dim: usize,
    /// The longest text in tokens.
    pub max_position_embeddings: usize,
    /// The kind of all norms.
    pub norm: NormKind,
    /// The number added to the mean square or variance in every norm.
    pub norm_epsilon: f64,
    /// How the model encodes positions.
    pub positions: Positions,
    /// The nonlinearity of the MLP.
    pub activation: Activation,
    /// Whether the MLP is `down(activation(gate x) * up x)`; otherwise it is `down(activation(up x))`.
    pub gated: bool,
    /// Which products have a bias.
    pub biases: Biases,
    /// Whether queries and keys are normalised head by head.
    pub query_key_norm: bool,
    /// Whether attention and MLP read the same residual stream; otherwise the MLP reads it after attention has added to
    /// it.
    pub parallel_residual: bool,
    /// For each layer, how many tokens a token attends to, itself included; empty if every layer attends to all.
    pub windows: Vec<Option<usize>>,
    /// Whether the unembedding is the embedding.
    pub tie_word_embeddings: bool,
}

/// What the norms do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum NormKind {
    /// Root-mean-square normalisation (Zhang and Sennrich 2019): a weight, no bias.
    RootMeanSquare,
    /// Layer normalisation (Ba et al. 2016): a weight and a bias.
    Layer,
}

/// How tokens know their place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Positions {
    /// A learned vector for each position, added to the embedding.
    Learned,
    /// Rotations of queries and keys (Su et al. 2021).
    Rotary(Rotary),
}

/// Rotary positions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rotary {
    /// The base of the frequencies.
    pub theta: f64,
    /// How many numbers of a head are rotated, from the first on; even.
    pub width: usize,
    /// How frequencies are stretched for longer texts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by a factor.
    Linear(f64),
    /// As in Llama 3.1: low frequencies are divided by `factor`, high ones kept, and those between are interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above the original context divided by this are low frequencies.
        low_frequency: f64,
        /// Wavelengths below the original context divided by this are high frequencies.
        high_frequency: f64,
        /// The original context in tokens.
        original_context: f64,
    },
    /// Each divided by a factor of its own.
    Factors(Vec<f32>),
}

/// Which products have a bias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Biases {
    /// Queries, keys and values.
    pub query_key_value: bool,
    /// The output of attention.
    pub attention_output: bool,
    /// Every product of the MLP.
    pub mlp: bool,
}

impl ModelConfig {
    /// Returns the shape of a Llama to be trained from scratch.
    pub fn from_scratch(size: &LanguageModelConfig, vocab_size: usize) -> Self {
        let head_dim = size.hidden / size.heads;
        Self {
            vocab_size,
            hidden_size: size.hidden,
            intermediate_size: size.intermediate,
            num_hidden_layers: size.layers,
            num_attention_heads: size.heads,
            num_key_value_heads: size.kv_heads,
            head_dim,
            max_position_embeddings: size.context,
            norm: NormKind::RootMeanSquare,
            norm_epsilon: 1e-5,
            positions: Positions::Rotary(Rotary { theta: 10_000.0, width: head_dim, scaling: RopeScaling::None }),
            activation: Activation::Silu,
            gated: true,
            biases: Biases::default(),
            query_key_norm: false,
            parallel_residual: false,
            windows: Vec::new(),
            tie_word_embeddings: true,
        }
    }

    /// Returns how many tokens a token attends to in `layer`, itself included; none if it attends to all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.windows.get(layer).copied().flatten()
    }

    /// Returns the frequency of every rotary angle; empty for learned positions.
    pub fn frequencies(&self) -> Vec<f32> {
        let Positions::Rotary(rotary) = &self.positions else { return Vec::new() };
        // Float32 throughout, as in the reference implementation.
        let plain = |i: usize| 1.0 / (rotary.theta as f32).powf(2.0 * i as f32 / rotary.width as f32);
        (0..rotary.width / 2).map(|i| rotary.scaling.stretch(i, plain(i))).collect()
    }
}

impl RopeScaling {
    /// Returns the stretched frequency of angle `i`.
    fn stretch(&self, i: usize, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
            Self::Linear(factor) => frequency / *factor as f32,
            Self::Factors(factors) => frequency / factors[i],
            Self::Llama3 { factor, low_frequency, high_frequency, original_context } => {
                let turns = original_context * f64::from(frequency) / std::f64::consts::TAU;
                let kept = ((turns - low_frequency) / (high_frequency - low_frequency)).clamp(0.0, 1.0);
                (f64::from(frequency) * (kept + (1.0 - kept) / factor)) as f32
            }
        }
    }
}
