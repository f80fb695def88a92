//! The decoder's forward on the CPU, without training: packed weights, plain slices, float32 throughout.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::columns::{CacheSlot, Span};
use super::departures::Departures;
use super::feature::{Feature, depth};
use super::host_layers::{HostLayers, Reader, Step};
use super::model_config::{ModelConfig, Positions};
use crate::error::Result;
use crate::kernels::{LayerCache, NormWeights, PackedMatrix, on_pool};
use crate::nn::{ReadParameter, Values};
use crate::storage_type::StorageType;

/// A decoder with packed weights.
pub(super) struct HostDecoder {
    config: ModelConfig,
    embedding: Arc<PackedMatrix>,
    /// Learned positions, `[positions, d]`, where there are any.
    positions: Vec<f32>,
    layers: HostLayers,
    norm: NormWeights,
    /// None where it is the embedding.
    unembedding: Option<Arc<PackedMatrix>>,
}

impl HostDecoder {
    /// Reads every parameter once and packs matrices as `storage`; norms and learned positions stay float32.
    pub fn new(config: &ModelConfig, storage: StorageType, read: &mut ReadParameter) -> Result<Self> {
        let mut reader = Reader { read, config, storage, departures: Departures::default() };
        let (d, vocabulary) = (config.hidden_size, config.vocab_size);
        Ok(Self {
            config: config.clone(),
            embedding: Arc::new(reader.stacked(&[("model.embed_tokens".into(), vocabulary)], d, false)?),
            positions: match config.positions {
                Positions::Learned => {
                    (reader.read)("model.embed_positions.weight", &[config.max_position_embeddings, d])?
                }
                Positions::Rotary(_) => Vec::new(),
            },
            layers: reader.layers(0..config.num_hidden_layers, |index| format!("model.layers.{index}"))?,
            norm: reader.norm("model.norm", d, config.norm)?,
            unembedding: (!config.tie_word_embeddings)
                .then(|| reader.stacked(&[("lm_head".into(), vocabulary)], d, false))
                .transpose()?
                .map(Arc::new),
        })
    }

    /// The unembedding `[V, d]`.
    pub fn unembedding(&self) -> &Arc<PackedMatrix> {
        self.unembedding.as_ref().unwrap_or(&self.embedding)
    }

    /// The embedding of a token.
    pub fn embedding(&self, token: u32) -> Vec<f32> {
        self.embedding.row(token as usize)
    }

    /// Returns the keys and the values, each `[n, heads x width]`, that layer `layer` makes of its inputs `[n, d]` at
    /// `positions`.
    pub fn keys_and_values(&self, layer: usize, x: &[f32], positions: &[usize]) -> [Vec<f32>; 2] {
        on_pool(|| self.layers.keys_and_values(layer, &self.layers.normed(layer, x), positions))
    }

    /// Returns the parameters of layer `layer` by their names in the layer.
    pub fn layer_parameters(&self, layer: usize) -> BTreeMap<String, Values> {
        self.layers.parameters(layer)
    }

    /// Returns the parameters of the norm behind the last layer.
    pub fn norm_parameters(&self) -> BTreeMap<String, Values> {
        self.norm.parameters()
    }

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        let unembedding = self.unembedding.as_ref().map_or(0, |matrix| matrix.bytes());
        self.embedding.bytes() + unembedding + self.layers.bytes()
    }

    /// Returns the states called `features`, each `[tokens, d]`, span after span. `caches` are those of the spans' texts, by
    /// layer, with room for the new columns; without them, each span is a text of its own.
    pub fn features(
        &self,
        spans: &[Span],
        placed: &[Vec<CacheSlot>],
        caches: Option<&mut [Vec<LayerCache>]>,
        features: &[Feature],
    ) -> Vec<Vec<f32>> {
        on_pool(|| self.forward(spans, placed, caches, features))
    }

    fn forward(
        &self,
        spans: &[Span],
        placed: &[Vec<CacheSlot>],
        caches: Option<&mut [Vec<LayerCache>]>,
        features: &[Feature],
    ) -> Vec<Vec<f32>> {
        let config = &self.config;
        let mut states = vec![Vec::new(); features.len()];
        let keep = |states: &mut [Vec<f32>], layer: usize, x: &[f32]| {
            let asked = features.iter().zip(states).filter(|(feature, _)| **feature == Feature::Layer(layer));
            asked.for_each(|(_, state)| state.extend_from_slice(x));
        };
        let positions: Vec<usize> = placed.iter().flatten().map(|token| token.position).collect();
        let tokens: Vec<u32> = spans.iter().flat_map(|span| span.tokens.iter().copied()).collect();
        let mut x: Vec<f32> = tokens.par_iter().flat_map_iter(|&token| self.embedding.row(token as usize)).collect();
        if !self.positions.is_empty() {
            for (x, &position) in x.chunks_mut(config.hidden_size).zip(&positions) {
                let learned = &self.positions[position * config.hidden_size..][..config.hidden_size];
                x.iter_mut().zip(learned).for_each(|(x, p)| *x += p);
            }
        }
        keep(&mut states, 0, &x);
        // A cache takes every layer's keys and values, whatever is asked for.
        let count = if caches.is_some() { self.layers.len() } else { depth(features, self.layers.len()) };
        // Without a cache, one layer's keys and values serve after the other's.
        let longest = |text: &Vec<CacheSlot>| text.last().map_or(0, |token| token.column + 1);
        let fresh = |text| vec![LayerCache::new(config.num_key_value_heads, config.head_dim, longest(text))];
        let mut own: Vec<Vec<LayerCache>> =
            if caches.is_none() { placed.iter().map(fresh).collect() } else { Vec::new() };
        let caches = caches.unwrap_or(&mut own);
        self.layers.forward((&mut x, &[]), placed, caches, count, |index, step, x| {
            if step == Step::Left {
                keep(&mut states, index + 1, x);
            }
        });
        let last = features.iter().zip(&mut states).filter(|(feature, _)| **feature == Feature::Last);
        last.for_each(|(_, state)| self.norm.forward(&x, state));
        states
    }
}
