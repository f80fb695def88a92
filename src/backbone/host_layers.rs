//! Decoder layers on the CPU, without training: packed weights, plain slices, float32 throughout.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::columns::CacheSlot;
use super::convolution::HostConvolutions;
use super::departures::{Departures, StaggeredRows};
use super::model_config::{ModelConfig, NormKind};
use crate::error::Result;
use crate::kernels::{LayerCache, NormWeights, PackedMatrix, Rotations, VisibleSpan, activate, attend, gate};
use crate::nn::{ReadParameter, Values, from_host};
use crate::storage_type::StorageType;

/// Consecutive layers of a decoder.
pub(super) struct HostLayers {
    pub config: ModelConfig,
    /// The number of the first layer in the decoder.
    first: usize,
    /// How rows enter that do not all enter the first layer.
    staggered: Option<StaggeredRows>,
    pub layers: Vec<HostLayer>,
}

impl fmt::Debug for HostLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostLayers {{ first: {}, layers: {} }}", self.first, self.layers.len())
    }
}

pub(super) struct HostLayer {
    /// None where rows bring along what attention reads.
    pub attention_norm: Option<NormWeights>,
    /// Queries, keys and values in one product.
    pub query_key_value: PackedMatrix,
    /// By head, where heads are normalised.
    pub query_norm: Option<NormWeights>,
    pub key_norm: Option<NormWeights>,
    pub attention_output: PackedMatrix,
    /// Of layers that attend to the backbone's keys and values as well.
    pub cross: Option<HostCross>,
    pub mlp_norm: NormWeights,
    /// Gate and up in one product, where there is a gate.
    pub up: PackedMatrix,
    pub down: PackedMatrix,
    /// Of layers that draft, around attention and MLP.
    attention_convolutions: Option<HostConvolutions>,
    mlp_convolutions: Option<HostConvolutions>,
}

/// Attention to keys and values that the backbone made: the queries, and the output.
pub(super) struct HostCross {
    pub query: PackedMatrix,
    pub output: PackedMatrix,
}

/// What a layer's forward computes on its way, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The residual stream before the layer, `[tokens, d]`.
    Entered,
    /// Queries, keys and values as they leave their product.
    Projected,
    /// The values that attention has mixed, `[tokens, query heads, width]`.
    Mixed,
    /// The stream before attention to the backbone's keys and values, `[tokens, d]`, in layers that have it.
    Crossing,
    /// Its queries as they leave their product.
    Asked,
    /// The values that it has mixed, `[tokens, query heads, width]`.
    Crossed,
    /// The stream after attention, `[tokens, d]`.
    Attended,
    /// Gate and up, or up alone, as they leave their product.
    Expanded,
    /// The stream after the layer, `[tokens, d]`.
    Left,
}

/// A matrix of a layer: its parts, which lie one under the other, by name and outputs; its inputs; whether it has a bias.
pub(super) type MatrixParts = (Vec<(&'static str, usize)>, usize, bool);

/// Returns the matrices of a layer whose attention reads `read` numbers of every token: queries, keys and values; the output of
/// attention; gate and up; down.
pub(super) fn matrices(config: &ModelConfig, read: usize) -> [MatrixParts; 4] {
    let (d, inner, biases) = (config.hidden_size, config.intermediate_size, config.biases);
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    let attention = vec![("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
    let mut up = vec![("mlp.gate_proj", inner), ("mlp.up_proj", inner)];
    up.drain(..usize::from(!config.gated));
    [
        (attention, read, biases.query_key_value),
        (vec![("self_attn.o_proj", d)], q, biases.attention_output),
        (up, d, biases.mlp),
        (vec![("mlp.down_proj", d)], inner, biases.mlp),
    ]
}

/// Returns the matrices of a layer's attention to the backbone's keys and values: the queries, and the output.
pub(super) fn cross_matrices(config: &ModelConfig) -> [MatrixParts; 2] {
    let (d, q) = (config.hidden_size, config.num_attention_heads * config.head_dim);
    [(vec![("cross_attn.q_proj", q)], d, false), (vec![("cross_attn.o_proj", d)], q, false)]
}

/// Reads parameters and packs them.
pub(super) struct Reader<'a> {
    pub read: &'a mut ReadParameter<'a>,
    pub config: &'a ModelConfig,
    pub storage: StorageType,
    /// How the layers depart from a backbone's.
    pub departures: Departures,
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

    /// Reads the layer whose parameters' names begin with `prefix`.
    fn layer(&mut self, prefix: &str) -> Result<HostLayer> {
        let config = self.config;
        let d = config.hidden_size;
        let name = |name: &str| format!("{prefix}.{name}");
        let Departures { convolution, reads, crosses, .. } = self.departures;
        let [query_key_value, attention_output, up, down] = matrices(config, reads.unwrap_or(d));
        let mut matrix = |(parts, inputs, biased): MatrixParts| {
            let parts: Vec<_> = parts.iter().map(|(part, outputs)| (name(part), *outputs)).collect();
            self.stacked(&parts, inputs, biased)
        };
        let matrices = [matrix(query_key_value)?, matrix(attention_output)?, matrix(up)?, matrix(down)?];
        let [query_key_value, attention_output, up, down] = matrices;
        let mut cross = || -> Result<HostCross> {
            let [query, output] = cross_matrices(config);
            Ok(HostCross { query: matrix(query)?, output: matrix(output)? })
        };
        let cross = crosses.map(|_| cross()).transpose()?;
        let mut convolutions = |part| {
            let read = |shape| HostConvolutions::read(self, &name(part), shape);
            convolution.map(read).transpose()
        };
        Ok(HostLayer {
            attention_convolutions: convolutions("attention_conv")?,
            mlp_convolutions: convolutions("mlp_conv")?,
            query_key_value,
            attention_output,
            cross,
            up,
            down,
            attention_norm: match reads {
                None => Some(self.norm(&name("input_layernorm"), d, config.norm)?),
                Some(_) => None,
            },
            query_norm: self.head_norm(&name("self_attn.q_norm"))?,
            key_norm: self.head_norm(&name("self_attn.k_norm"))?,
            mlp_norm: self.norm(&name("post_attention_layernorm"), d, config.norm)?,
        })
    }

    /// Reads the layers `range` of the decoder; `prefix` gives how the names of a layer's parameters begin.
    pub fn layers(&mut self, range: Range<usize>, prefix: impl Fn(usize) -> String) -> Result<HostLayers> {
        let (config, first) = (self.config.clone(), range.start);
        let layers = range.map(|index| self.layer(&prefix(index))).collect::<Result<_>>()?;
        Ok(HostLayers { config, first, staggered: self.departures.staggered, layers })
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
    /// layers. `read` are the rows that attention reads where layers bring them along, and empty elsewhere. `hear` is given what
    /// each layer computes on its way.
    ///
    /// `caches` are those of the texts, by layer, with room for the new columns. Keys and values of the new tokens are
    /// written to them. A text with a single cache lends it to one layer after the other. Behind the caches of all layers is that
    /// of the backbone's keys and values, if they are attended to.
    pub fn forward(
        &self,
        (x, read): (&mut [f32], &[f32]),
        texts: &[Vec<CacheSlot>],
        caches: &mut [Vec<LayerCache>],
        count: usize,
        mut hear: impl FnMut(usize, Step, &[f32]),
    ) {
        let config = &self.config;
        let rotations = self.rotations(texts);
        let seen = self.visible(texts);
        // Written over by layer after layer: fresh memory costs more than the writing.
        let (mut normed, mut products, mut mixed, mut inner) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, layer) in self.layers[..count].iter().enumerate() {
            hear(index, Step::Entered, x);
            let waiting = self.waiting(index, x);
            match &layer.attention_norm {
                Some(norm) => norm.forward(x, &mut normed),
                None => read.clone_into(&mut normed),
            }
            let convolutions = layer.attention_convolutions.as_ref();
            let convolutions = convolutions.map(|convolutions| (convolutions, convolutions.before(&mut normed)));
            layer.query_key_value.multiply(&normed, &mut products);
            hear(index, Step::Projected, &products);
            let own = caches.iter_mut().map(|cache| {
                let at = index.min(cache.len() - 1);
                &mut cache[at]
            });
            let seen = &seen[self.windowed(index)];
            let rows = (&products[..], layer.query_key_value.outputs());
            let norms = [&layer.query_norm, &layer.key_norm];
            self.attention(norms, rows, texts.iter().zip(seen).zip(own), &rotations, &mut mixed);
            hear(index, Step::Mixed, &mixed);
            if config.parallel_residual {
                layer.mlp_norm.forward(x, &mut normed);
            }
            match convolutions {
                None => layer.attention_output.multiply_onto(&mixed, x),
                Some((convolutions, said)) => {
                    layer.attention_output.multiply(&mixed, &mut products);
                    convolutions.behind_onto(&products, &said, x);
                }
            }
            if let Some(cross) = &layer.cross {
                hear(index, Step::Crossing, x);
                cross.query.multiply(x, &mut products);
                hear(index, Step::Asked, &products);
                let seen = visible_text(texts);
                let of_backbone = caches.iter_mut().map(|cache| &mut cache[self.layers.len()]);
                let rows = (&products[..], cross.query.outputs());
                let texts = texts.iter().zip(&seen).zip(of_backbone);
                self.attention([&None, &None], rows, texts, &rotations, &mut mixed);
                hear(index, Step::Crossed, &mixed);
                cross.output.multiply_onto(&mixed, x);
            }
            hear(index, Step::Attended, x);
            if !config.parallel_residual {
                layer.mlp_norm.forward(x, &mut normed);
            }
            let convolutions = layer.mlp_convolutions.as_ref();
            let convolutions = convolutions.map(|convolutions| (convolutions, convolutions.before(&mut normed)));
            layer.up.multiply(&normed, &mut products);
            hear(index, Step::Expanded, &products);
            if config.gated {
                gate(config.activation, &products, config.intermediate_size, &mut inner);
            } else {
                activate(config.activation, &products, config.intermediate_size, &mut inner);
            }
            match convolutions {
                None => layer.down.multiply_onto(&inner, x),
                Some((convolutions, said)) => {
                    layer.down.multiply(&inner, &mut products);
                    convolutions.behind_onto(&products, &said, x);
                }
            }
            waiting.restore(x);
            hear(index, Step::Left, x);
        }
    }

    /// Remembers those of `x` `[rows, d]`, rows of whole blocks, which layer `index` leaves as they are.
    pub fn waiting(&self, index: usize, x: &[f32]) -> WaitingRows {
        let d = self.config.hidden_size;
        let waits = |row: &usize| self.staggered.is_some_and(|staggered| staggered.waits(*row, index));
        let rows = if self.staggered.is_some() { x.len() / d } else { 0 };
        WaitingRows((0..rows).filter(waits).map(|row| (row * d, x[row * d..][..d].to_vec())).collect())
    }

    /// Returns what the attention of layer `index`, which has a norm, reads of its inputs `[n, d]`.
    pub fn normed(&self, index: usize, x: &[f32]) -> Vec<f32> {
        let mut normed = Vec::new();
        self.layers[index].attention_norm.as_ref().expect("a layer with a norm").forward(x, &mut normed);
        normed
    }

    /// Returns the keys and the values, each `[n, heads x width]`, that layer `index` makes of its normalised inputs
    /// `[n, d]` at `positions`. They have the same bits as in a forward.
    pub fn keys_and_values(&self, index: usize, normed: &[f32], positions: &[usize]) -> [Vec<f32>; 2] {
        let (layer, (q, kv)) = (&self.layers[index], self.widths());
        // A product begins at whole panels, so it may take some of the queries along.
        let (first, mut products) = (q / 64 * 64, Vec::new());
        layer.query_key_value.multiply_part(first..q + 2 * kv, normed, &mut products);
        let rotations = Rotations::new(positions, &self.config.frequencies());
        let (mut keys, mut values, mut turned) = (Vec::new(), Vec::new(), Vec::new());
        for (token, row) in products.chunks(q + 2 * kv - first).enumerate() {
            let row = &row[q - first..];
            self.turn(&row[..kv], &layer.key_norm, (&rotations, token), &mut turned);
            keys.extend_from_slice(&turned);
            values.extend_from_slice(&row[kv..]);
        }
        [keys, values]
    }

    /// Returns the parameters of layer `index` by their names in the layer, such as `mlp.down_proj.weight`: the values that
    /// the products see.
    pub fn parameters(&self, index: usize) -> BTreeMap<String, Values> {
        let layer = &self.layers[index];
        let packed = [&layer.query_key_value, &layer.attention_output, &layer.up, &layer.down];
        let mut found = BTreeMap::new();
        for ((parts, inputs, biased), matrix) in
            matrices(&self.config, layer.query_key_value.inputs()).into_iter().zip(packed)
        {
            let mut first = 0;
            for (name, outputs) in parts {
                let rows = first..first + outputs;
                let weight = rows.clone().flat_map(|row| matrix.row(row)).collect();
                found.insert(format!("{name}.weight"), (vec![outputs, inputs], weight));
                if biased {
                    found.insert(format!("{name}.bias"), (vec![outputs], matrix.bias()[rows].to_vec()));
                }
                first += outputs;
            }
        }
        let norms = [
            ("input_layernorm", layer.attention_norm.as_ref()),
            ("post_attention_layernorm", Some(&layer.mlp_norm)),
            ("self_attn.q_norm", layer.query_norm.as_ref()),
            ("self_attn.k_norm", layer.key_norm.as_ref()),
        ];
        for (name, norm) in norms {
            let parameters = norm.into_iter().flat_map(NormWeights::parameters);
            found.extend(parameters.map(|(part, values)| (format!("{name}.{part}"), values)));
        }
        found
    }

    /// Returns the rotations of the tokens of all texts.
    pub fn rotations(&self, texts: &[Vec<CacheSlot>]) -> Rotations {
        let positions: Vec<usize> = texts.iter().flatten().map(|token| token.position).collect();
        Rotations::new(&positions, &self.config.frequencies())
    }

    /// Returns what the tokens of every text see, in layers without a window and in layers with one.
    pub fn visible(&self, texts: &[Vec<CacheSlot>]) -> [Vec<Vec<VisibleSpan>>; 2] {
        let window = self.config.windows.iter().copied().flatten().next();
        let of_text = |text: &Vec<CacheSlot>, window| text.iter().map(|token| token.visible(window)).collect();
        [None, window].map(|window| texts.iter().map(|text| of_text(text, window)).collect())
    }

    /// Returns which of the two of [`HostLayers::visible`] holds for layer `index` of these.
    pub fn windowed(&self, index: usize) -> usize {
        usize::from(self.config.window(self.first + index).is_some())
    }

    /// Fills `turned` with a token's queries or keys, normalised by head where there is a norm, and rotated.
    pub fn turn(
        &self,
        numbers: &[f32],
        norm: &Option<NormWeights>,
        (rotations, token): (&Rotations, usize),
        turned: &mut Vec<f32>,
    ) {
        match norm {
            Some(norm) => norm.forward(numbers, turned),
            None => numbers.clone_into(turned),
        }
        turned.chunks_mut(self.config.head_dim).for_each(|head| rotations.turn(token, head));
    }

    /// Returns what queries are multiplied by.
    pub fn query_scale(&self) -> f32 {
        (self.config.head_dim as f32).powf(-0.5)
    }

    /// Returns the numbers of a token's queries, and those of its keys, which are as many as those of its values.
    pub fn widths(&self) -> (usize, usize) {
        let ModelConfig { num_attention_heads, num_key_value_heads, head_dim, .. } = self.config;
        (num_attention_heads * head_dim, num_key_value_heads * head_dim)
    }

    /// From `[tokens, query heads + 2 x key heads, width]` to `[tokens, query heads, width]`; text by text. Where a row's numbers,
    /// which are given with the rows, are those of queries alone, no keys and values are written.
    fn attention<'a>(
        &self,
        [query_norm, key_norm]: [&Option<NormWeights>; 2],
        (products, numbers): (&[f32], usize),
        texts: impl Iterator<Item = ((&'a Vec<CacheSlot>, &'a Vec<VisibleSpan>), &'a mut LayerCache)>,
        rotations: &Rotations,
        mixed: &mut Vec<f32>,
    ) {
        let (q, kv) = self.widths();
        let scale = self.query_scale();
        mixed.resize(products.len() / numbers * q, 0.0);
        let mut parts = Vec::new();
        let (mut rest, mut rows, mut first) = (&mut mixed[..], products, 0);
        for ((placed, seen), cache) in texts {
            let count = placed.len();
            let (out, after) = rest.split_at_mut(count * q);
            let (mine, others) = rows.split_at(count * numbers);
            parts.push((placed, seen, cache, out, mine, first));
            (rest, rows, first) = (after, others, first + count);
        }
        parts.into_par_iter().for_each(|(placed, seen, cache, out, products, first)| {
            if placed.is_empty() {
                return;
            }
            let (mut queries, mut turned) = (Vec::with_capacity(out.len()), Vec::new());
            for (i, (token, row)) in placed.iter().zip(products.chunks(numbers)).enumerate() {
                let place = (rotations, first + i);
                self.turn(&row[..q], query_norm, place, &mut turned);
                queries.extend(turned.iter().map(|x| x * scale));
                if let Some((keys, values)) = row[q..].split_at_checked(kv) {
                    self.turn(keys, key_norm, place, &mut turned);
                    cache.write(token.column, &turned, values);
                }
            }
            attend(&queries, seen, cache, out);
        });
    }
}

/// Returns what rows beside the texts see of the texts.
pub(super) fn visible_text(texts: &[Vec<CacheSlot>]) -> Vec<Vec<VisibleSpan>> {
    texts.iter().map(|text| text.iter().map(CacheSlot::visible_text).collect()).collect()
}

/// Rows that a layer leaves as they are, each behind the place where it begins.
pub(super) struct WaitingRows(Vec<(usize, Vec<f32>)>);

impl WaitingRows {
    /// Makes them zero, so that nothing goes back through the layer.
    pub fn silence(&self, x: &mut [f32]) {
        self.0.iter().for_each(|(first, row)| x[*first..][..row.len()].fill(0.0));
    }

    /// Makes them what they were.
    pub fn restore(&self, x: &mut [f32]) {
        self.0.iter().for_each(|(first, row)| x[*first..][..row.len()].copy_from_slice(row));
    }
}

/// Makes tensors of keys and values, `count` rows each.
pub(super) fn as_rows(keys_and_values: [Vec<f32>; 2], count: usize, device: &Device) -> [Tensor<2>; 2] {
    keys_and_values.map(|numbers| {
        let width = numbers.len() / count.max(1);
        from_host(numbers, [count, width], device)
    })
}
