//! Decoder layers on the CPU, without training: packed weights, plain slices, float32 throughout.

use std::ops::Range;

use rayon::prelude::*;

use super::columns::CacheSlot;
use super::model_config::{ModelConfig, NormKind};
use crate::error::Result;
use crate::kernels::{LayerCache, NormWeights, PackedMatrix, Rotations, VisibleSpan, activate, attend, gate};
use crate::nn::ReadParameter;
use crate::storage_type::StorageType;

/// Consecutive layers of a decoder.
pub(super) struct HostLayers {
    config: ModelConfig,
    /// The number of the first layer in the decoder.
    first: usize,
    layers: Vec<HostLayer>,
}

struct HostLayer {
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
pub(super) struct Reader<'a> {
    pub read: &'a mut ReadParameter<'a>,
    pub config: &'a ModelConfig,
    pub storage: StorageType,
}

impl Reader<'_> {
    /// Matrices of the same inputs, one under the other, each with its number of outputs.
    pub fn stacked(&mut self, parts: &[(String, usize)], inputs: usize, biased: bool) -> Result<PackedMatrix> {
        let (mut values, mut bias) = (Vec::new(), Vec::new());
        for (name, outputs) in parts {
            values.extend((self.read)(&format!("{name}.weight"), &[*outputs, inputs])?);
            if biased {
                bias.extend((self.read)(&format!("{name}.bias"), &[*outputs])?);
            }
        }
        Ok(PackedMatrix::new(&values, inputs, bias, self.storage))
    }

    pub fn norm(&mut self, name: &str, width: usize, kind: NormKind) -> Result<NormWeights> {
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

    fn layer(&mut self, index: usize) -> Result<HostLayer> {
        let config = self.config;
        let (d, inner, biases) = (config.hidden_size, config.intermediate_size, config.biases);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let part = |part: &str, outputs: usize| (format!("model.layers.{index}.{part}"), outputs);
        let attention = [part("self_attn.q_proj", q), part("self_attn.k_proj", kv), part("self_attn.v_proj", kv)];
        let up = [part("mlp.gate_proj", inner), part("mlp.up_proj", inner)];
        let name = |name: &str| part(name, 0).0;
        Ok(HostLayer {
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

    /// Reads the layers `range` of the decoder.
    pub fn layers(&mut self, range: Range<usize>) -> Result<HostLayers> {
        let (config, first) = (self.config.clone(), range.start);
        Ok(HostLayers { config, first, layers: range.map(|index| self.layer(index)).collect::<Result<_>>()? })
    }
}

impl HostLayers {
    /// Returns the number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Returns the bytes of all matrices.
    pub fn bytes(&self) -> usize {
        let layer =
            |l: &HostLayer| l.query_key_value.bytes() + l.attention_output.bytes() + l.up.bytes() + l.down.bytes();
        self.layers.iter().map(layer).sum()
    }

    /// Takes `x` `[tokens, d]`, the residual stream of new tokens of some texts, text after text, through the first `count`
    /// layers. `after` hears the stream after each of them.
    ///
    /// `caches` are those of the texts, by layer, with room for the new columns. Keys and values of the new tokens are
    /// written to them. A text with a single cache lends it to one layer after the other.
    pub fn forward(
        &self,
        x: &mut [f32],
        texts: &[Vec<CacheSlot>],
        caches: &mut [Vec<LayerCache>],
        count: usize,
        mut after: impl FnMut(usize, &[f32]),
    ) {
        let config = &self.config;
        let rotations = self.rotations(texts.iter().flatten());
        let window = config.windows.iter().copied().flatten().next();
        let seen = [None, window].map(|window| {
            texts
                .iter()
                .map(|text| text.iter().map(|token| token.visible(window)).collect())
                .collect::<Vec<Vec<VisibleSpan>>>()
        });
        // Written over by layer after layer: fresh memory costs more than the writing.
        let (mut normed, mut products, mut mixed, mut inner) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, layer) in self.layers[..count].iter().enumerate() {
            let seen = &seen[usize::from(config.window(self.first + index).is_some())];
            layer.attention_norm.forward(x, &mut normed);
            layer.query_key_value.multiply(&normed, &mut products);
            let caches = caches.iter_mut().map(|cache| {
                let at = index.min(cache.len() - 1);
                &mut cache[at]
            });
            self.attention(layer, &products, texts.iter().zip(seen).zip(caches), &rotations, &mut mixed);
            if config.parallel_residual {
                layer.mlp_norm.forward(x, &mut normed);
            }
            layer.attention_output.multiply_onto(&mixed, x);
            if !config.parallel_residual {
                layer.mlp_norm.forward(x, &mut normed);
            }
            layer.up.multiply(&normed, &mut products);
            if config.gated {
                gate(config.activation, &products, config.intermediate_size, &mut inner);
            } else {
                activate(config.activation, &products, config.intermediate_size, &mut inner);
            }
            layer.down.multiply_onto(&inner, x);
            after(index, x);
        }
    }

    fn rotations<'a>(&self, tokens: impl Iterator<Item = &'a CacheSlot>) -> Rotations {
        let positions: Vec<usize> = tokens.map(|token| token.position).collect();
        Rotations::new(&positions, &self.config.frequencies())
    }

    /// Returns the numbers of a token's queries, and those of its keys, which are as many as those of its values.
    fn widths(&self) -> (usize, usize) {
        let ModelConfig { num_attention_heads, num_key_value_heads, head_dim, .. } = self.config;
        (num_attention_heads * head_dim, num_key_value_heads * head_dim)
    }

    /// From `[tokens, query heads + 2 x key heads, width]` to `[tokens, query heads, width]`; text by text.
    fn attention<'a>(
        &self,
        layer: &HostLayer,
        products: &[f32],
        texts: impl Iterator<Item = ((&'a Vec<CacheSlot>, &'a Vec<VisibleSpan>), &'a mut LayerCache)>,
        rotations: &Rotations,
        mixed: &mut Vec<f32>,
    ) {
        let config = &self.config;
        let width = config.head_dim;
        let (q, kv) = self.widths();
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
