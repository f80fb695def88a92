//! The decoder in tensor operations: what trains, and what runs on accelerators. Parameters are called as in a Llama
//! checkpoint. The CPU's forward without training is in `host.rs`.

use burn::module::Module;
use burn::tensor::activation::{gelu, gelu_approximate, silu, softmax};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::cache::{DeviceCache, KvCache, Storage};
use super::columns::{CacheSlot, Columns, Span};
use super::feature::{Feature, depth};
use super::model_config::{ModelConfig, NormKind, Positions};
use crate::kernels::{Activation, Rotations, VisibleSpan};
use crate::nn::{Embedding, Init, Linear, Norm, from_host, indices};

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

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
}

#[derive(Module, Debug)]
struct Mlp {
    gate_proj: Option<Linear>,
    up_proj: Linear,
    down_proj: Linear,
}

/// What every layer of one forward shares.
struct Shared {
    texts: usize,
    /// Tokens of a text, padding included.
    new: usize,
    /// Cosine and sine, `[texts or 1, 1, new, angles]`; none for learned positions.
    rotation: Option<(Tensor<4>, Tensor<4>)>,
    /// For layers without and with a window: `[texts or 1, 1, new, columns]`, 0 or a very negative number; none where
    /// everything is visible.
    masks: [Option<Tensor<4>>; 2],
}

/// Far below any score, and within float16.
const UNSEEN: f32 = -3e4;

impl Transformer {
    /// A model with parameters from `init`. Residual outputs start smaller by the square root of twice the depth
    /// (Radford et al. 2019), so that depth does not blow up the first steps.
    pub fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (d, kv) = (config.hidden_size, config.num_key_value_heads * config.head_dim);
        let q = config.num_attention_heads * config.head_dim;
        let deviation = (d as f32).powf(-0.5);
        let residual = deviation / (2.0 * config.num_hidden_layers as f32).sqrt();
        let biases = config.biases;
        let linear = |init: &mut Init, outputs, inputs, deviation, bias| {
            let linear = init.linear(outputs, inputs, deviation);
            if bias { linear.with_bias(init) } else { linear }
        };
        let norm = |init: &mut Init| init.norm(d, config.norm == NormKind::Layer);
        let layers = (0..config.num_hidden_layers)
            .map(|_| Layer {
                input_layernorm: norm(init),
                self_attn: Attention {
                    q_proj: linear(init, q, d, deviation, biases.query_key_value),
                    k_proj: linear(init, kv, d, deviation, biases.query_key_value),
                    v_proj: linear(init, kv, d, deviation, biases.query_key_value),
                    o_proj: linear(init, d, q, residual, biases.attention_output),
                    q_norm: config.query_key_norm.then(|| init.norm(config.head_dim, false)),
                    k_norm: config.query_key_norm.then(|| init.norm(config.head_dim, false)),
                },
                post_attention_layernorm: norm(init),
                mlp: Mlp {
                    gate_proj: config.gated.then(|| linear(init, config.intermediate_size, d, deviation, biases.mlp)),
                    up_proj: linear(init, config.intermediate_size, d, deviation, biases.mlp),
                    down_proj: linear(init, d, config.intermediate_size, residual, biases.mlp),
                },
            })
            .collect();
        let learned = config.positions == Positions::Learned;
        Self {
            model: Decoder {
                embed_tokens: Embedding { weight: init.matrix(config.vocab_size, d, deviation) },
                embed_positions: learned
                    .then(|| Embedding { weight: init.matrix(config.max_position_embeddings, d, deviation) }),
                layers,
                norm: norm(init),
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
        let new = spans.iter().map(|span| span.tokens.len()).max().unwrap_or(0);
        let (texts, device) = (spans.len(), self.device());
        let (placed, mut cache) = match cache {
            Some(cache) => {
                let placed = cache.place(spans);
                let Storage::Device(storage) = &mut cache.storage else { panic!("a cache of another model") };
                storage.take(new, spans.iter().map(|span| span.tokens.len()), &device);
                (placed, Some(storage))
            }
            None => (spans.iter().map(|span| Columns::default().place(span)).collect(), None),
        };
        let padded = |text: usize, f: &dyn Fn(usize) -> i64| {
            let count = spans[text].tokens.len();
            (0..new).map(|i| if i < count { f(i) } else { 0 }).collect::<Vec<_>>()
        };
        let ids = (0..texts).flat_map(|t| padded(t, &|i| i64::from(spans[t].tokens[i])));
        let positions = (0..texts).flat_map(|t| padded(t, &|i| placed[t][i].position as i64));
        let ids: Tensor<1, Int> = Tensor::from_data(TensorData::new(ids.collect::<Vec<_>>(), [texts * new]), &device);
        let positions: Vec<usize> = positions.map(|p| p as usize).collect();
        let mut x = self.model.embed_tokens.weight.val().select(0, ids);
        if let Some(table) = &self.model.embed_positions {
            x = x + table.weight.val().select(0, indices(positions.iter().copied(), &device));
        }
        let dtype = x.dtype();
        let shared = Shared {
            texts,
            new,
            rotation: self.rotation(&positions, texts, dtype, &device),
            masks: self
                .masks(spans, &placed, new, cache.as_deref())
                .map(|mask| mask.map(|m| m.into_tensor(dtype, &device))),
        };
        let all = self.model.layers.len();
        // A cache takes every layer's keys and values, whatever is asked for.
        let layers = if cache.is_some() { all } else { depth(features, all) };
        // Handles of tensors that the forward makes anyway.
        let mut streams: Vec<Option<Tensor<2>>> = vec![None; all + 1];
        let asked = |layer: usize, x: &Tensor<2>| features.contains(&Feature::Layer(layer)).then(|| x.clone());
        streams[0] = asked(0, &x);
        for (i, layer) in self.model.layers[..layers].iter().enumerate() {
            x = layer.forward(x, i, &shared, &self.config, cache.as_deref_mut());
            streams[i + 1] = asked(i + 1, &x);
        }
        let padding = spans.iter().any(|span| span.tokens.len() != new);
        let real = padding.then(|| {
            let of_text = |(text, span): (usize, &Span)| (0..span.tokens.len()).map(move |i| text * new + i);
            indices(spans.iter().enumerate().flat_map(of_text), &device)
        });
        let state = |feature: &Feature| {
            let state = match *feature {
                Feature::Layer(layer) => streams[layer].clone().expect("it was asked for"),
                Feature::Last => self.model.norm.forward(x.clone(), self.config.norm_epsilon),
            };
            match &real {
                Some(real) => state.select(0, real.clone()),
                None => state,
            }
        };
        features.iter().map(state).collect()
    }

    fn rotation(
        &self,
        positions: &[usize],
        texts: usize,
        dtype: DType,
        device: &Device,
    ) -> Option<(Tensor<4>, Tensor<4>)> {
        let frequencies = self.config.frequencies();
        let (Positions::Rotary(_), Some(new)) = (&self.config.positions, positions.len().checked_div(texts)) else {
            return None;
        };
        let same = positions.chunks(new).all(|text| text == &positions[..new]);
        let positions = if same { &positions[..new] } else { positions };
        let rotations = Rotations::new(positions, &frequencies);
        let shape = [positions.len() / new, 1, new, frequencies.len()];
        let tensor = |values| from_host(values, shape, device).cast(dtype);
        Some((tensor(rotations.cos), tensor(rotations.sin)))
    }

    fn masks(
        &self,
        spans: &[Span],
        placed: &[Vec<CacheSlot>],
        new: usize,
        cache: Option<&DeviceCache>,
    ) -> [Option<Mask>; 2] {
        let window = self.config.windows.iter().copied().flatten().next();
        let full = self.config.windows.len() < self.config.num_hidden_layers || self.config.windows.contains(&None);
        let mask = |window| Mask::new(spans, placed, new, cache, window);
        [if full { mask(None) } else { None }, window.and_then(|_| mask(window))]
    }
}

/// What each new token may attend to.
struct Mask {
    texts: usize,
    new: usize,
    /// `[texts, new, columns]`
    visible: Vec<bool>,
}

impl Mask {
    /// None where everything is visible.
    fn new(
        spans: &[Span],
        placed: &[Vec<CacheSlot>],
        new: usize,
        cache: Option<&DeviceCache>,
        window: Option<usize>,
    ) -> Option<Self> {
        // Without a cache, chains of any lengths see alike: padding lies behind every token.
        let alike = cache.is_none() && spans.iter().all(|span| span.after.is_none());
        let longest = (0..spans.len()).max_by_key(|&t| spans[t].tokens.len())?;
        let texts: Vec<usize> = if alike { vec![longest] } else { (0..spans.len()).collect() };
        let columns = cache.map_or(new, DeviceCache::columns);
        let mut visible = vec![false; texts.len() * new * columns];
        for (row, &text) in texts.iter().enumerate() {
            for (i, token) in placed[text].iter().enumerate() {
                let flags = &mut visible[(row * new + i) * columns..][..columns];
                let VisibleSpan { first, prefix, others } = token.visible(window);
                let seen = (first..prefix).chain(others);
                match cache {
                    Some(cache) => seen.for_each(|column| flags[cache.places(text)[column]] = true),
                    None => seen.for_each(|column| flags[column] = true),
                }
            }
        }
        (!visible.iter().all(|v| *v)).then_some(Self { texts: texts.len(), new, visible })
    }

    /// Additive, `[texts, 1, new, columns]`.
    fn into_tensor(self, dtype: DType, device: &Device) -> Tensor<4> {
        let columns = self.visible.len() / self.texts / self.new;
        let values = self.visible.iter().map(|&seen| if seen { 0.0 } else { UNSEEN }).collect();
        from_host(values, [self.texts, 1, self.new, columns], device).cast(dtype)
    }
}

impl Layer {
    fn forward(
        &self,
        x: Tensor<2>,
        index: usize,
        shared: &Shared,
        config: &ModelConfig,
        cache: Option<&mut DeviceCache>,
    ) -> Tensor<2> {
        let epsilon = config.norm_epsilon;
        let attended =
            self.self_attn.forward(self.input_layernorm.forward(x.clone(), epsilon), index, shared, config, cache);
        let before = if config.parallel_residual { x.clone() } else { x.clone() + attended.clone() };
        let changed = self.mlp.forward(self.post_attention_layernorm.forward(before, epsilon), config.activation);
        x + attended + changed
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<2>, activation: Activation) -> Tensor<2> {
        let activate = |x| match activation {
            Activation::Silu => silu(x),
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => gelu_approximate(x),
        };
        let inner = match &self.gate_proj {
            Some(gate) => activate(gate.forward(x.clone())) * self.up_proj.forward(x),
            None => activate(self.up_proj.forward(x)),
        };
        self.down_proj.forward(inner)
    }
}

impl Attention {
    fn forward(
        &self,
        x: Tensor<2>,
        index: usize,
        shared: &Shared,
        config: &ModelConfig,
        cache: Option<&mut DeviceCache>,
    ) -> Tensor<2> {
        let (texts, new, width) = (shared.texts, shared.new, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let split = |y: Tensor<2>, heads: usize, norm: &Option<Norm>| {
            let y = match norm {
                Some(norm) => norm.forward(y.reshape([texts * new * heads, width]), config.norm_epsilon),
                None => y.reshape([texts * new * heads, width]),
            };
            y.reshape([texts, new, heads, width]).swap_dims(1, 2)
        };
        let queries = rotate(split(self.q_proj.forward(x.clone()), heads, &self.q_norm), &shared.rotation);
        let keys = rotate(split(self.k_proj.forward(x.clone()), kv_heads, &self.k_norm), &shared.rotation);
        let values = split(self.v_proj.forward(x), kv_heads, &None);
        let (keys, values) = match cache {
            Some(cache) => cache.append(index, keys, values),
            None => (keys, values),
        };
        let columns = keys.dims()[2];
        // The query heads of a group share their keys: fold them into rows instead of copying the keys.
        let grouped = queries.reshape([texts, kv_heads, heads / kv_heads * new, width]);
        let scores = grouped.matmul(keys.swap_dims(2, 3)).mul_scalar((width as f64).powf(-0.5));
        let mut scores = scores.reshape([texts, heads, new, columns]);
        if let Some(mask) = &shared.masks[usize::from(config.window(index).is_some())] {
            scores = scores + mask.clone();
        }
        let weights = softmax(scores, 3).reshape([texts, kv_heads, heads / kv_heads * new, columns]);
        let mixed = weights.matmul(values).reshape([texts, heads, new, width]);
        self.o_proj.forward(mixed.swap_dims(1, 2).reshape([texts * new, heads * width]))
    }
}

/// Rotary positions, halves apart: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`; numbers behind the turned ones stay.
fn rotate(x: Tensor<4>, rotation: &Option<(Tensor<4>, Tensor<4>)>) -> Tensor<4> {
    let Some((cos, sin)) = rotation.clone() else { return x };
    let (half, width) = (cos.dims()[3], x.dims()[3]);
    let (a, b) = (x.clone().narrow(3, 0, half), x.clone().narrow(3, half, half));
    let mut parts = vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin];
    if width > 2 * half {
        parts.push(x.narrow(3, 2 * half, width - 2 * half));
    }
    Tensor::cat(parts, 3)
}
