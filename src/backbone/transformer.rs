//! The decoder in tensor operations: what trains, and what runs on accelerators. Parameters are called as in a Llama
//! checkpoint. The CPU's forward without training is in `host.rs`.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::cache::{KvCache, Storage};
use super::columns::{CacheSlot, Columns, Span};
use super::departures::Departures;
use super::feature::{Feature, depth};
use super::model_config::{ModelConfig, NormKind, Positions};
use super::tensor_layers::{Layer, TensorLayers};
use crate::nn::{Embedding, Init, Linear, Norm, Values, collect_parameters, indices};

/// A decoder with trainable parameters.
#[derive(Module, Debug)]
pub struct Transformer {
    model: Decoder,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: ModelConfig,
}

#[derive(Module, Debug)]
struct Decoder {
    embed_tokens: Embedding,
    embed_positions: Option<Embedding>,
    layers: Vec<Layer>,
    norm: Norm,
}

impl Transformer {
    /// A model with parameters from `init`. Residual outputs start smaller by the square root of twice the depth
    /// (Radford et al. 2019), so that depth does not blow up the first steps.
    pub fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let d = config.hidden_size;
        let deviation = (d as f32).powf(-0.5);
        let residual = deviation / (2.0 * config.num_hidden_layers as f32).sqrt();
        let layers =
            (0..config.num_hidden_layers).map(|_| Layer::new(config, residual, Departures::default(), init)).collect();
        let learned = config.positions == Positions::Learned;
        Self {
            model: Decoder {
                embed_tokens: Embedding { weight: init.matrix(config.vocab_size, d, deviation) },
                embed_positions: learned
                    .then(|| Embedding { weight: init.matrix(config.max_position_embeddings, d, deviation) }),
                layers,
                norm: init.norm(d, config.norm == NormKind::Layer),
            },
            lm_head: (!config.tie_word_embeddings).then(|| init.linear(config.vocab_size, d, deviation)),
            config: config.clone(),
        }
    }

    /// Its shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where its parameters are.
    pub fn device(&self) -> Device {
        self.model.norm.weight.val().device()
    }

    /// The embeddings `[n, d]` of tokens, without learned positions.
    pub fn embed(&self, tokens: &[u32]) -> Tensor<2> {
        let ids = crate::nn::indices(tokens.iter().map(|&token| token as usize), &self.device());
        self.model.embed_tokens.weight.val().select(0, ids)
    }

    /// The unembedding `[V, d]`.
    pub fn unembedding(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val(),
        }
    }

    /// Returns the last hidden states, after the final norm, of the tokens of every span: `[tokens, d]`, span after span.
    ///
    /// With a cache, earlier columns are attended to and the new ones appended.
    pub fn hidden(&self, spans: &[Span], cache: Option<&mut KvCache>) -> Tensor<2> {
        self.features(spans, cache, &[Feature::Last]).remove(0)
    }

    /// Returns the states called `features`, in the order of their names, as [`Model::features`](super::Model::features)
    /// does.
    pub fn features(&self, spans: &[Span], cache: Option<&mut KvCache>, features: &[Feature]) -> Vec<Tensor<2>> {
        let device = self.device();
        let (placed, cache) = match cache {
            Some(cache) => {
                let placed = cache.place(spans);
                let Storage::Device(storage) = &mut cache.storage else { panic!("a cache of another model") };
                (placed, Some(storage))
            }
            None => (spans.iter().map(|span| Columns::default().place(span)).collect(), None),
        };
        let tokens = spans.iter().flat_map(|span| span.tokens).map(|&token| token as usize);
        let mut x = self.model.embed_tokens.weight.val().select(0, indices(tokens, &device));
        if let Some(table) = &self.model.embed_positions {
            let positions = placed.iter().flatten().map(|token: &CacheSlot| token.position);
            x = x + table.weight.val().select(0, indices(positions, &device));
        }
        let all = self.model.layers.len();
        // A cache takes every layer's keys and values, whatever is asked for.
        let layers = if cache.is_some() { all } else { depth(features, all) };
        // Handles of tensors that the forward makes anyway.
        let mut streams: Vec<Option<Tensor<2>>> = vec![None; all + 1];
        let mut keep = |layer: usize, stream: &dyn Fn() -> Tensor<2>| {
            streams[layer] = features.contains(&Feature::Layer(layer)).then(stream);
        };
        keep(0, &|| x.clone());
        let x = self.layers(0..layers).forward((x, None), &placed, cache, |index, stream| keep(index + 1, stream));
        let state = |feature: &Feature| match *feature {
            Feature::Layer(layer) => streams[layer].clone().expect("it was asked for"),
            Feature::Last => self.model.norm.forward(x.clone(), self.config.norm_epsilon),
        };
        features.iter().map(state).collect()
    }

    /// The layers `range`.
    pub(super) fn layers(&self, range: Range<usize>) -> TensorLayers<'_> {
        TensorLayers { first: range.start, layers: &self.model.layers[range], config: &self.config, staggered: None }
    }

    /// The parameters of layer `layer` by their names in the layer.
    pub(super) fn layer_parameters(&self, layer: usize) -> BTreeMap<String, Values> {
        collect_parameters(&self.model.layers[layer])
    }

    /// The parameters of the norm behind the last layer.
    pub(super) fn norm_parameters(&self) -> BTreeMap<String, Values> {
        collect_parameters(&self.model.norm)
    }
}
