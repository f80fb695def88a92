//! The Llama decoder: RMS norms, rotary positions, grouped-query attention, gated MLP.

use burn::module::Module;
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{KvCache, ModelConfig};
use crate::nn::{Init, Linear, Matrix, RmsNorm, from_host};

/// New tokens of one forward.
pub struct Inputs<'a> {
    /// `rows x n` token ids, row by row.
    pub tokens: &'a [u32],
    /// Texts side by side.
    pub rows: usize,
    /// `rows x n` positions in each text: the angle of the rotary embedding. In a draft tree, depths.
    pub positions: &'a [u32],
    /// What each new token may attend to.
    pub visible: Visible<'a>,
}

/// What a new token may attend to, in columns of the cache followed by the new tokens.
pub enum Visible<'a> {
    /// Every column up to its own.
    Causal,
    /// Every column up to its own, but not the first `padding[row]`.
    LeftPadded(&'a [usize]),
    /// `[n, columns]`, the same for every row: the columns for which the flag is set.
    Given(&'a [bool]),
}

/// A Llama with parameters named as in Hugging Face checkpoints.
#[derive(Module, Debug)]
pub struct Llama {
    model: Decoder,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: ModelConfig,
}

#[derive(Module, Debug)]
struct Decoder {
    embed_tokens: Matrix,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
}

#[derive(Module, Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

/// What every layer of one forward shares.
struct Shared {
    rows: usize,
    new: usize,
    /// `[rows or 1, 1, n, head width / 2]`
    cos: Tensor<4>,
    sin: Tensor<4>,
    /// `[rows or 1, 1, n, columns]`, 0 or a very negative number; none where everything is visible.
    mask: Option<Tensor<4>>,
}

impl Llama {
    /// A model with parameters from `init`. Residual outputs start smaller by the square root of twice the depth
    /// (Radford et al. 2019), so that depth does not blow up the first steps.
    pub fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (d, kv) = (config.hidden_size, config.num_key_value_heads * config.head_dim);
        let q = config.num_attention_heads * config.head_dim;
        let deviation = (d as f32).powf(-0.5);
        let residual = deviation / (2.0 * config.num_hidden_layers as f32).sqrt();
        let layers = (0..config.num_hidden_layers)
            .map(|_| Layer {
                input_layernorm: RmsNorm { weight: init.vector(d, 1.0) },
                self_attn: Attention {
                    q_proj: init.linear(q, d, deviation),
                    k_proj: init.linear(kv, d, deviation),
                    v_proj: init.linear(kv, d, deviation),
                    o_proj: init.linear(d, q, residual),
                },
                post_attention_layernorm: RmsNorm { weight: init.vector(d, 1.0) },
                mlp: Mlp {
                    gate_proj: init.linear(config.intermediate_size, d, deviation),
                    up_proj: init.linear(config.intermediate_size, d, deviation),
                    down_proj: init.linear(d, config.intermediate_size, residual),
                },
            })
            .collect();
        Self {
            model: Decoder {
                embed_tokens: Matrix { weight: init.matrix(config.vocab_size, d, deviation) },
                layers,
                norm: RmsNorm { weight: init.vector(d, 1.0) },
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

    /// The unembedding `[V, d]`.
    pub fn unembedding(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val(),
        }
    }

    /// `[n, d]` hidden states to `[n, V]` logits.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        hidden.matmul(self.unembedding().transpose())
    }

    /// Last hidden states, after the final norm, of the new tokens: `[rows x n, d]`, row by row.
    ///
    /// With a cache, earlier columns are attended to and the new ones appended.
    pub fn hidden(&self, inputs: &Inputs, mut cache: Option<&mut KvCache>) -> Tensor<2> {
        let device = self.device();
        let new = inputs.tokens.len() / inputs.rows;
        let past = cache.as_ref().map_or(0, |cache| cache.len());
        let shared = self.shared(inputs, new, past, &device);
        let ids: Vec<i64> = inputs.tokens.iter().map(|&t| i64::from(t)).collect();
        let ids: Tensor<1, Int> = Tensor::from_data(TensorData::new(ids, [inputs.tokens.len()]), &device);
        let mut x = self.model.embed_tokens.weight.val().select(0, ids);
        for (i, layer) in self.model.layers.iter().enumerate() {
            x = layer.forward(x, &shared, &self.config, cache.as_deref_mut().map(|cache| (i, cache)));
        }
        if let Some(cache) = cache {
            cache.advance(new);
        }
        self.model.norm.forward(x, self.config.rms_norm_eps)
    }

    fn shared(&self, inputs: &Inputs, new: usize, past: usize, device: &Device) -> Shared {
        let half = self.config.head_dim / 2;
        // Float32 throughout, as the reference implementation computes the angles.
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / (self.config.rope_theta as f32).powf(i as f32 / half as f32)).collect();
        let same = inputs.positions.chunks(new).all(|row| row == &inputs.positions[..new]);
        let positions = if same { &inputs.positions[..new] } else { inputs.positions };
        let angles = positions.iter().flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f));
        let shape = [positions.len() / new, 1, new, half];
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos(), a.sin())).unzip();
        Shared {
            rows: inputs.rows,
            new,
            cos: from_host(cos, shape, device),
            sin: from_host(sin, shape, device),
            mask: mask(&inputs.visible, new, past, device),
        }
    }
}

/// The additive mask; none where every new token sees every column.
fn mask(visible: &Visible, new: usize, past: usize, device: &Device) -> Option<Tensor<4>> {
    let columns = past + new;
    let additive = |seen: bool| if seen { 0.0f32 } else { -1e30 };
    let rows = match visible {
        Visible::Causal if new == 1 => return None,
        Visible::Causal | Visible::Given(_) => 1,
        Visible::LeftPadded(padding) => padding.len(),
    };
    let mut values = Vec::with_capacity(rows * new * columns);
    for row in 0..rows {
        for i in 0..new {
            values.extend((0..columns).map(|column| {
                additive(match visible {
                    Visible::Causal => column <= past + i,
                    // A padding token sees itself: a softmax over nothing is not a number.
                    Visible::LeftPadded(padding) => {
                        column <= past + i && (column >= padding[row] || column == past + i)
                    }
                    Visible::Given(flags) => flags[i * columns + column],
                })
            }));
        }
    }
    Some(from_host(values, [rows, 1, new, columns], device))
}

/// A layer's place in the cache, where there is one.
type LayerCache<'a> = Option<(usize, &'a mut KvCache)>;

impl Layer {
    fn forward(&self, x: Tensor<2>, shared: &Shared, config: &ModelConfig, cache: LayerCache) -> Tensor<2> {
        let normed = self.input_layernorm.forward(x.clone(), config.rms_norm_eps);
        let x = x + self.self_attn.forward(normed, shared, config, cache);
        let normed = self.post_attention_layernorm.forward(x.clone(), config.rms_norm_eps);
        let gated = silu(self.mlp.gate_proj.forward(normed.clone())) * self.mlp.up_proj.forward(normed);
        x + self.mlp.down_proj.forward(gated)
    }
}

impl Attention {
    fn forward(&self, x: Tensor<2>, shared: &Shared, config: &ModelConfig, cache: LayerCache) -> Tensor<2> {
        let (rows, new, width) = (shared.rows, shared.new, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let split = |y: Tensor<2>, heads: usize| y.reshape([rows, new, heads, width]).swap_dims(1, 2);
        let queries = rotate(split(self.q_proj.forward(x.clone()), heads), shared);
        let keys = rotate(split(self.k_proj.forward(x.clone()), kv_heads), shared);
        let values = split(self.v_proj.forward(x), kv_heads);
        let (keys, values) = match cache {
            Some((layer, cache)) => cache.append(layer, keys, values),
            None => (keys, values),
        };
        let columns = keys.dims()[2];
        // The query heads of a group share their keys: fold them into rows instead of copying the keys.
        let grouped = queries.reshape([rows, kv_heads, heads / kv_heads * new, width]);
        let scores = grouped.matmul(keys.swap_dims(2, 3)).mul_scalar((width as f64).powf(-0.5));
        let mut scores = scores.reshape([rows, heads, new, columns]);
        if let Some(mask) = &shared.mask {
            scores = scores + mask.clone();
        }
        let weights = softmax(scores, 3).reshape([rows, kv_heads, heads / kv_heads * new, columns]);
        let mixed = weights.matmul(values).reshape([rows, heads, new, width]);
        self.o_proj.forward(mixed.swap_dims(1, 2).reshape([rows * new, heads * width]))
    }
}

/// Rotary positions, halves apart: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`.
fn rotate(x: Tensor<4>, shared: &Shared) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let (cos, sin) = (shared.cos.clone(), shared.sin.clone());
    Tensor::cat(vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin], 3)
}
