//! The decoder's forward on the CPU, without training: packed weights, plain slices, float32 throughout.

use std::sync::Arc;

use rayon::prelude::*;

use super::columns::{CacheSlot, Span};
use super::feature::{Feature, depth};
use super::model_config::{ModelConfig, NormKind, Positions};
use crate::error::Result;
use crate::kernels::{LayerCache, NormWeights, PackedMatrix, Rotations, VisibleSpan, activate, attend, gate, on_pool};
use crate::nn::ReadParameter;
use crate::storage_type::StorageType;

/// A decoder with packed weights.
pub(super) struct HostDecoder {
    config: ModelConfig,
    embedding: Arc<PackedMatrix>,
    /// Learned positions, `[positions, d]`, where there are any.
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: NormWeights,
    /// None where it is the embedding.
    unembedding: Option<Arc<PackedMatrix>>,
}

struct Layer {
    attention_norm: NormWeights,
    /// Queries, keys and values in one product.
    query_key_value: PackedMatrix,
    /// By head, where heads are normalised.
    query_norm: Option<NormWeights>,
    key_norm: Option<NormWeights>,
    attention_output: PackedMatrix,
    mlp_norm: NormWeights,
    /// Gate and up in one product, where there is a gate.
    up: PackedMatrix,
    down: PackedMatrix,
}

/// Reads parameters and packs them.
struct Reader<'a> {
    read: &'a mut ReadParameter<'a>,
    config: &'a ModelConfig,
    storage: StorageType,
}

impl Reader<'_> {
    /// Matrices of the same inputs, one under the other, each with its number of outputs.
    fn stacked(&mut self, parts: &[(String, usize)], inputs: usize, biased: bool) -> Result<PackedMatrix> {
        let (mut values, mut bias) = (Vec::new(), Vec::new());
        for (name, outputs) in parts {
            values.extend((self.read)(&format!("{name}.weight"), &[*outputs, inputs])?);
            if biased {
                bias.extend((self.read)(&format!("{name}.bias"), &[*outputs])?);
            }
        }
        Ok(PackedMatrix::new(&values, inputs, bias, self.storage))
    }

    fn norm(&mut self, name: &str, width: usize, kind: NormKind) -> Result<NormWeights> {
        let weight = (self.read)(&format!("{name}.weight"), &[width])?;
        let bias = match kind {
            NormKind::Layer => (self.read)(&format!("{name}.bias"), &[width])?,
            NormKind::RootMeanSquare => Vec::new(),
        };
        Ok(NormWeights { weight, bias, epsilon: self.config.norm_epsilon as f32 })
    }

    fn head_norm(&mut self, name: &str) -> Result<Option<NormWeights>> {
        let width = self.config.head_dim;
        self.config.query_key_norm.then(|| self.norm(name, width, NormKind::RootMeanSquare)).transpose()
    }

    fn layer(&mut self, index: usize) -> Result<Layer> {
        let config = self.config;
        let (d, inner, biases) = (config.hidden_size, config.intermediate_size, config.biases);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let part = |part: &str, outputs: usize| (format!("model.layers.{index}.{part}"), outputs);
        let attention = [part("self_attn.q_proj", q), part("self_attn.k_proj", kv), part("self_attn.v_proj", kv)];
        let up = [part("mlp.gate_proj", inner), part("mlp.up_proj", inner)];
        let name = |name: &str| part(name, 0).0;
        Ok(Layer {
            attention_norm: self.norm(&name("input_layernorm"), d, config.norm)?,
            query_key_value: self.stacked(&attention, d, biases.query_key_value)?,
            query_norm: self.head_norm(&name("self_attn.q_norm"))?,
            key_norm: self.head_norm(&name("self_attn.k_norm"))?,
            attention_output: self.stacked(&[part("self_attn.o_proj", d)], q, biases.attention_output)?,
            mlp_norm: self.norm(&name("post_attention_layernorm"), d, config.norm)?,
            up: self.stacked(&up[usize::from(!config.gated)..], d, biases.mlp)?,
            down: self.stacked(&[part("mlp.down_proj", d)], inner, biases.mlp)?,
        })
    }
}

impl HostDecoder {
    /// Reads every parameter once and packs matrices as `storage`; norms and learned positions stay float32.
    pub fn new(config: &ModelConfig, storage: StorageType, read: &mut ReadParameter) -> Result<Self> {
        let mut reader = Reader { read, config, storage };
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
            layers: (0..config.num_hidden_layers).map(|index| reader.layer(index)).collect::<Result<_>>()?,
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

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        let layer = |l: &Layer| l.query_key_value.bytes() + l.attention_output.bytes() + l.up.bytes() + l.down.bytes();
        let unembedding = self.unembedding.as_ref().map_or(0, |matrix| matrix.bytes());
        self.embedding.bytes() + unembedding + self.layers.iter().map(layer).sum::<usize>()
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
        mut caches: Option<&mut [Vec<LayerCache>]>,
        features: &[Feature],
    ) -> Vec<Vec<f32>> {
        let config = &self.config;
        let mut states = vec![Vec::new(); features.len()];
        let keep = |states: &mut [Vec<f32>], layer: usize, x: &Vec<f32>| {
            let asked = features.iter().zip(states).filter(|(feature, _)| **feature == Feature::Layer(layer));
            asked.for_each(|(_, state)| x.clone_into(state));
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
        let rotations = Rotations::new(&positions, &config.frequencies());
        let window = config.windows.iter().copied().flatten().next();
        let seen = [None, window].map(|window| {
            placed
                .iter()
                .map(|text| text.iter().map(|token| token.visible(window)).collect())
                .collect::<Vec<Vec<VisibleSpan>>>()
        });
        // Without a cache one layer's keys and values serve after the other's.
        let longest = |text: &Vec<CacheSlot>| text.last().map_or(0, |token| token.column + 1);
        let fresh = |text| vec![LayerCache::new(config.num_key_value_heads, config.head_dim, longest(text))];
        let mut own: Vec<Vec<LayerCache>> =
            if caches.is_none() { placed.iter().map(fresh).collect() } else { Vec::new() };
        keep(&mut states, 0, &x);
        // A cache takes every layer's keys and values, whatever is asked for.
        let layers = if caches.is_some() { self.layers.len() } else { depth(features, self.layers.len()) };
        // Written over by layer after layer: fresh memory costs more than the writing.
        let (mut normed, mut products, mut mixed, mut inner) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, layer) in self.layers[..layers].iter().enumerate() {
            let at = if caches.is_some() { index } else { 0 };
            let caches = caches.as_deref_mut().unwrap_or(&mut own);
            let seen = &seen[usize::from(config.window(index).is_some())];
            layer.attention_norm.forward(&x, &mut normed);
            layer.query_key_value.multiply(&normed, &mut products);
            let texts = placed.iter().zip(seen).zip(caches.iter_mut().map(|cache| &mut cache[at]));
            self.attention(layer, &products, texts, &rotations, &mut mixed);
            if config.parallel_residual {
                layer.mlp_norm.forward(&x, &mut normed);
            }
            layer.attention_output.multiply_onto(&mixed, &mut x);
            if !config.parallel_residual {
                layer.mlp_norm.forward(&x, &mut normed);
            }
            layer.up.multiply(&normed, &mut products);
            if config.gated {
                gate(config.activation, &products, config.intermediate_size, &mut inner);
            } else {
                activate(config.activation, &products, config.intermediate_size, &mut inner);
            }
            layer.down.multiply_onto(&inner, &mut x);
            keep(&mut states, index + 1, &x);
        }
        let last = features.iter().zip(&mut states).filter(|(feature, _)| **feature == Feature::Last);
        last.for_each(|(_, state)| self.norm.forward(&x, state));
        states
    }

    /// From `[tokens, query heads + 2 x key heads, width]` to `[tokens, query heads, width]`; text by text.
    fn attention<'a>(
        &self,
        layer: &Layer,
        products: &[f32],
        texts: impl Iterator<Item = ((&'a Vec<CacheSlot>, &'a Vec<VisibleSpan>), &'a mut LayerCache)>,
        rotations: &Rotations,
        mixed: &mut Vec<f32>,
    ) {
        let config = &self.config;
        let width = config.head_dim;
        let (q, kv) = (config.num_attention_heads * width, config.num_key_value_heads * width);
        let scale = (width as f32).powf(-0.5);
        mixed.resize(products.len() / (q + 2 * kv) * q, 0.0);
        let mut parts = Vec::new();
        let (mut rest, mut rows, mut first) = (&mut mixed[..], products, 0);
        for ((placed, seen), cache) in texts {
            let count = placed.len();
            let (out, after) = rest.split_at_mut(count * q);
            let (mine, others) = rows.split_at(count * (q + 2 * kv));
            parts.push((placed, seen, cache, out, mine, first));
            (rest, rows, first) = (after, others, first + count);
        }
        parts.into_par_iter().for_each(|(placed, seen, cache, out, products, first)| {
            if placed.is_empty() {
                return;
            }
            let (mut queries, mut turned) = (Vec::with_capacity(out.len()), Vec::new());
            for (i, (token, row)) in placed.iter().zip(products.chunks(q + 2 * kv)).enumerate() {
                let turn = |numbers: &[f32], norm: &Option<NormWeights>, turned: &mut Vec<f32>| {
                    match norm {
                        Some(norm) => norm.forward(numbers, turned),
                        None => numbers.clone_into(turned),
                    }
                    turned.chunks_mut(width).for_each(|head| rotations.turn(first + i, head));
                };
                turn(&row[..q], &layer.query_norm, &mut turned);
                queries.extend(turned.iter().map(|x| x * scale));
                turn(&row[q..q + kv], &layer.key_norm, &mut turned);
                cache.write(token.column, &turned, &row[q + kv..]);
            }
            attend(&queries, seen, cache, out);
        });
    }
}
