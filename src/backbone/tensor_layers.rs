//! Decoder layers in tensor operations: what trains, and what runs on accelerators. Parameters are called as in a Llama
//! checkpoint. The CPU's layers without training are in `host_layers.rs`.

use burn::module::Module;
use burn::tensor::activation::{gelu, gelu_approximate, silu, softmax};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};

use super::cache::DeviceCache;
use super::columns::CacheSlot;
use super::convolution::TensorConvolutions;
use super::departures::{Departures, StaggeredRows};
use super::model_config::{ModelConfig, NormKind};
use crate::kernels::{Activation, Rotations, VisibleSpan};
use crate::nn::{Init, Linear, Norm, from_host, indices, on_host};

#[derive(Module, Debug)]
pub(super) struct Layer {
    /// None where rows bring along what attention reads.
    input_layernorm: Option<Norm>,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: Mlp,
    attention_conv: Option<TensorConvolutions>,
    mlp_conv: Option<TensorConvolutions>,
    cross_attn: Option<CrossAttention>,
}

/// Attention to the backbone's keys and values of the text.
#[derive(Module, Debug)]
struct CrossAttention {
    q_proj: Linear,
    o_proj: Linear,
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

/// Consecutive layers of a decoder.
pub(super) struct TensorLayers<'a> {
    pub layers: &'a [Layer],
    /// The number of the first layer in the decoder.
    pub first: usize,
    pub config: &'a ModelConfig,
    /// How rows enter that do not all enter the first layer.
    pub staggered: Option<StaggeredRows>,
}

/// What every layer of one forward shares.
struct Shared<'a> {
    of: &'a TensorLayers<'a>,
    texts: usize,
    /// Tokens of a text, padding included.
    new: usize,
    rotation: Option<Rotation>,
    /// For layers without and with a window: `[texts or 1, 1, new, columns]`, 0 or a very negative number; none where
    /// everything is visible.
    masks: [Option<Tensor<4>>; 2],
    /// The same for the text alone, if a layer attends to the backbone's keys and values of it.
    text_mask: Option<Tensor<4>>,
}

/// Cosine and sine, `[texts or 1, 1, new, angles]`.
type Rotation = (Tensor<4>, Tensor<4>);

/// Far below any score, and within float16.
const UNSEEN: f32 = -3e4;

/// The rows of several texts as one tensor: texts of different lengths are padded to the longest.
pub(super) struct Padding {
    texts: usize,
    /// Rows of a text, padding included.
    new: usize,
    /// For each padded row, the row that stands there; and for each row, where it stands. None where all texts have
    /// equally many.
    places: Option<[Tensor<1, Int>; 2]>,
}

impl Padding {
    pub fn new(counts: &[usize], device: &Device) -> Self {
        let (texts, new) = (counts.len(), counts.iter().copied().max().unwrap_or(0));
        let places = counts.iter().any(|&count| count != new).then(|| {
            let firsts = counts.iter().scan(0, |first, count| {
                *first += count;
                Some(*first - count)
            });
            // Nothing reads what stands behind a text's end.
            let padded = firsts
                .zip(counts)
                .flat_map(|(first, &count)| (0..new).map(move |i| if i < count { first + i } else { 0 }));
            let rows = counts.iter().enumerate().flat_map(|(text, &count)| (0..count).map(move |i| text * new + i));
            [indices(padded, device), indices(rows, device)]
        });
        Self { texts, new, places }
    }

    /// From `[rows, n]` to `[texts x new, n]`.
    pub fn pad(&self, rows: Tensor<2>) -> Tensor<2> {
        self.places.as_ref().map_or(rows.clone(), |[padded, _]| rows.select(0, padded.clone()))
    }

    /// From `[rows, heads x width]` to `[texts, heads, new, width]`.
    pub fn split(&self, rows: Tensor<2>, width: usize) -> Tensor<4> {
        let heads = rows.dims()[1] / width;
        self.pad(rows).reshape([self.texts, self.new, heads, width]).swap_dims(1, 2)
    }

    /// From `[texts x new, n]` to `[rows, n]`.
    pub fn unpad(&self, padded: Tensor<2>) -> Tensor<2> {
        self.places.as_ref().map_or(padded.clone(), |[_, rows]| padded.select(0, rows.clone()))
    }
}

impl TensorLayers<'_> {
    /// Takes `x` `[rows, d]`, the residual stream of the placed tokens, text after text, through the layers. `after` hears
    /// of each of them, and what makes the stream after it.
    ///
    /// `read` `[rows, n]` is what attention reads where rows bring it along. With a cache, which has a place for the tokens already,
    /// earlier columns are attended to and the new ones written.
    pub fn forward(
        &self,
        (x, read): (Tensor<2>, Option<Tensor<2>>),
        placed: &[Vec<CacheSlot>],
        mut cache: Option<&mut DeviceCache>,
        mut after: impl FnMut(usize, &dyn Fn() -> Tensor<2>),
    ) -> Tensor<2> {
        let (device, dtype) = (x.device(), x.dtype());
        let counts: Vec<usize> = placed.iter().map(Vec::len).collect();
        let padding = Padding::new(&counts, &device);
        let Padding { texts, new, .. } = padding;
        let columns = cache.as_ref().map_or(new, |cache| cache.columns());
        let masks = self.masks(placed, new, cache.as_deref());
        let crosses = self.layers.iter().any(|layer| layer.cross_attn.is_some());
        let text_mask = if crosses { Mask::new(placed, new, cache.as_deref(), CacheSlot::visible_text) } else { None };
        let shared = Shared {
            of: self,
            texts,
            new,
            rotation: self.rotation(placed, new, dtype, &device),
            masks: masks.map(|mask| mask.map(|mask| mask.into_tensor(columns, dtype, &device))),
            text_mask: text_mask.map(|mask| mask.into_tensor(columns, dtype, &device)),
        };
        let read = read.map(|read| padding.pad(read));
        let mut x = padding.pad(x);
        for (index, layer) in self.layers.iter().enumerate() {
            let left = layer.forward((x.clone(), &read), index, &shared, cache.as_deref_mut());
            x = match self.staggered {
                None => left,
                Some(staggered) => {
                    let waits = (0..texts * new).map(|row| staggered.waits(row % new, index));
                    let waits = Tensor::<2, Bool>::from_data(
                        TensorData::new(waits.collect::<Vec<bool>>(), [texts * new, 1]),
                        &device,
                    );
                    left.mask_where(waits.expand(x.dims()), x)
                }
            };
            after(index, &|| padding.unpad(x.clone()));
        }
        padding.unpad(x)
    }

    /// Returns the keys and the values, each `[n, heads x width]`, that layer `index` makes of its normalised inputs
    /// `[n, d]` at `positions`.
    pub fn keys_and_values(&self, index: usize, normed: Tensor<2>, positions: &[usize]) -> [Tensor<2>; 2] {
        let (attention, config) = (&self.layers[index].self_attn, self.config);
        let (n, device, dtype) = (positions.len(), normed.device(), normed.dtype());
        let rotation = rotation(positions, 1, config, dtype, &device);
        let keys = split(attention.k_proj.forward(normed.clone()), [1, n], &attention.k_norm, config);
        let width = config.num_key_value_heads * config.head_dim;
        let keys = rotate(keys, &rotation).swap_dims(1, 2).reshape([n, width]);
        [keys, attention.v_proj.forward(normed)]
    }

    /// Returns what the attention of layer `index`, which has a norm, reads of its inputs `[n, d]`.
    pub fn normed(&self, index: usize, x: Tensor<2>) -> Tensor<2> {
        let norm = self.layers[index].input_layernorm.as_ref().expect("a layer with a norm");
        norm.forward(x, self.config.norm_epsilon)
    }

    fn rotation(&self, placed: &[Vec<CacheSlot>], new: usize, dtype: DType, device: &Device) -> Option<Rotation> {
        let position = |text: &Vec<CacheSlot>, i: usize| text.get(i).map_or(0, |token| token.position);
        let positions: Vec<usize> = placed.iter().flat_map(|text| (0..new).map(move |i| position(text, i))).collect();
        rotation(&positions, placed.len(), self.config, dtype, device)
    }

    fn masks(&self, placed: &[Vec<CacheSlot>], new: usize, cache: Option<&DeviceCache>) -> [Option<Mask>; 2] {
        let windows: Vec<Option<usize>> =
            (0..self.layers.len()).map(|index| self.config.window(self.first + index)).collect();
        let window = windows.iter().copied().flatten().next();
        let mask = |window| Mask::new(placed, new, cache, |token| token.visible(window));
        [if windows.contains(&None) { mask(None) } else { None }, window.and_then(|_| mask(window))]
    }
}

/// Returns the rotation at `positions` `[texts, new]`; none for learned positions, and where there is no token.
fn rotation(
    positions: &[usize],
    texts: usize,
    config: &ModelConfig,
    dtype: DType,
    device: &Device,
) -> Option<Rotation> {
    let frequencies = config.frequencies();
    let new = positions.len().checked_div(texts).filter(|&new| new > 0 && !frequencies.is_empty())?;
    let same = positions.chunks(new).all(|text| text == &positions[..new]);
    let positions = if same { &positions[..new] } else { positions };
    let rotations = Rotations::new(positions, &frequencies);
    let shape = [positions.len() / new, 1, new, frequencies.len()];
    let tensor = |values| from_host(values, shape, device).cast(dtype);
    Some((tensor(rotations.cos), tensor(rotations.sin)))
}

/// What each new token may attend to.
struct Mask {
    texts: usize,
    new: usize,
    /// `[texts, new, columns]`
    visible: Vec<bool>,
}

impl Mask {
    /// None where everything is visible. `sees` gives what a token may attend to.
    fn new(
        placed: &[Vec<CacheSlot>],
        new: usize,
        cache: Option<&DeviceCache>,
        sees: impl Fn(&CacheSlot) -> VisibleSpan,
    ) -> Option<Self> {
        // Without a cache, chains of any lengths see alike: padding lies behind every token.
        let alike = cache.is_none() && placed.iter().flatten().all(CacheSlot::is_on_trunk);
        let longest = (0..placed.len()).max_by_key(|&t| placed[t].len())?;
        let texts: Vec<usize> = if alike { vec![longest] } else { (0..placed.len()).collect() };
        let columns = cache.map_or(new, DeviceCache::columns);
        let mut visible = vec![false; texts.len() * new * columns];
        for (row, &text) in texts.iter().enumerate() {
            for (i, token) in placed[text].iter().enumerate() {
                let flags = &mut visible[(row * new + i) * columns..][..columns];
                let VisibleSpan { first, prefix, others } = sees(token);
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
    fn into_tensor(self, columns: usize, dtype: DType, device: &Device) -> Tensor<4> {
        let values = self.visible.iter().map(|&seen| if seen { 0.0 } else { UNSEEN }).collect();
        from_host(values, [self.texts, 1, self.new, columns], device).cast(dtype)
    }
}

impl Layer {
    /// Makes a layer with parameters from `init`. `residual` is the deviation of the matrices that write to the residual
    /// stream.
    pub fn new(config: &ModelConfig, residual: f32, departures: Departures, init: &mut Init) -> Self {
        let Departures { convolution, reads, crosses, .. } = departures;
        let (d, kv) = (config.hidden_size, config.num_key_value_heads * config.head_dim);
        let q = config.num_attention_heads * config.head_dim;
        let read = reads.unwrap_or(d);
        let deviation = (d as f32).powf(-0.5);
        let of_read = (read as f32).powf(-0.5);
        let biases = config.biases;
        let linear = |init: &mut Init, outputs, inputs, deviation, bias| {
            let linear = init.linear(outputs, inputs, deviation);
            if bias { linear.with_bias(init) } else { linear }
        };
        let norm = |init: &mut Init| init.norm(d, config.norm == NormKind::Layer);
        Self {
            input_layernorm: reads.is_none().then(|| norm(init)),
            self_attn: Attention {
                q_proj: linear(init, q, read, of_read, biases.query_key_value),
                k_proj: linear(init, kv, read, of_read, biases.query_key_value),
                v_proj: linear(init, kv, read, of_read, biases.query_key_value),
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
            attention_conv: convolution.map(|shape| TensorConvolutions::new(shape, d, init)),
            mlp_conv: convolution.map(|shape| TensorConvolutions::new(shape, d, init)),
            cross_attn: crosses.map(|_| CrossAttention {
                q_proj: linear(init, q, d, deviation, false),
                o_proj: linear(init, d, q, residual, false),
            }),
        }
    }

    /// Returns whether the parameters are float32 in this process's memory.
    pub fn is_on_host(&self) -> bool {
        let weight = self.post_attention_layernorm.weight.val();
        on_host(&weight.device()) && weight.dtype() == DType::F32
    }

    /// Returns whether there are convolutions.
    pub fn convolves(&self) -> bool {
        self.attention_conv.is_some()
    }

    /// Returns whether the parameters take part in automatic differentiation.
    pub fn learns(&self) -> bool {
        self.post_attention_layernorm.weight.val().is_autodiff()
    }

    fn forward(
        &self,
        (x, read): (Tensor<2>, &Option<Tensor<2>>),
        index: usize,
        shared: &Shared,
        mut cache: Option<&mut DeviceCache>,
    ) -> Tensor<2> {
        let config = shared.of.config;
        let epsilon = config.norm_epsilon;
        let normed = match &self.input_layernorm {
            Some(norm) => norm.forward(x.clone(), epsilon),
            None => read.clone().expect("rows that bring along what attention reads"),
        };
        let attend = |x| self.self_attn.forward(x, index, shared, cache.as_deref_mut());
        let attended = convolved(&self.attention_conv, normed, attend);
        let attended = match (&self.cross_attn, cache) {
            (None, _) => attended,
            (Some(cross), Some(cache)) => attended.clone() + cross.forward(x.clone() + attended, shared, cache),
            (Some(_), None) => panic!("rows without the text that they attend to"),
        };
        let before = if config.parallel_residual { x.clone() } else { x.clone() + attended.clone() };
        let normed = self.post_attention_layernorm.forward(before, epsilon);
        let changed = convolved(&self.mlp_conv, normed, |x| self.mlp.forward(x, config.activation));
        x + attended + changed
    }
}

/// Applies `inner` to `x`, between convolutions if there are some.
fn convolved(
    convolutions: &Option<TensorConvolutions>,
    x: Tensor<2>,
    inner: impl FnOnce(Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    match convolutions {
        None => inner(x),
        Some(convolutions) => {
            let (x, said) = convolutions.before(x);
            convolutions.behind(inner(x), &said)
        }
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
    fn forward(&self, x: Tensor<2>, index: usize, shared: &Shared, cache: Option<&mut DeviceCache>) -> Tensor<2> {
        let config = shared.of.config;
        let shape = [shared.texts, shared.new];
        let queries = rotate(split(self.q_proj.forward(x.clone()), shape, &self.q_norm, config), &shared.rotation);
        let keys = rotate(split(self.k_proj.forward(x.clone()), shape, &self.k_norm, config), &shared.rotation);
        let values = split(self.v_proj.forward(x), shape, &None, config);
        let (keys, values) = match cache {
            Some(cache) => cache.append(index, keys, values),
            None => (keys, values),
        };
        let mask = &shared.masks[usize::from(config.window(shared.of.first + index).is_some())];
        self.o_proj.forward(mixed(queries, keys, values, mask))
    }
}

impl CrossAttention {
    /// Returns what rows `x` `[texts x new, d]` make of the backbone's keys and values.
    fn forward(&self, x: Tensor<2>, shared: &Shared, cache: &DeviceCache) -> Tensor<2> {
        let shape = [shared.texts, shared.new];
        let queries = rotate(split(self.q_proj.forward(x), shape, &None, shared.of.config), &shared.rotation);
        let (keys, values) = cache.view(shared.of.layers.len());
        self.o_proj.forward(mixed(queries, keys, values, &shared.text_mask))
    }
}

/// Returns the values `[texts x new, heads x width]` that queries `[texts, heads, new, width]` mix, of keys and values `[texts,
/// key heads, columns, width]`.
fn mixed(queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, mask: &Option<Tensor<4>>) -> Tensor<2> {
    let ([texts, heads, new, width], [_, kv_heads, columns, _]) = (queries.dims(), keys.dims());
    // The query heads of a group share their keys: fold them into rows instead of copying the keys.
    let grouped = queries.reshape([texts, kv_heads, heads / kv_heads * new, width]);
    let scores = grouped.matmul(keys.swap_dims(2, 3)).mul_scalar((width as f64).powf(-0.5));
    let mut scores = scores.reshape([texts, heads, new, columns]);
    if let Some(mask) = mask {
        scores = scores + mask.clone();
    }
    let weights = softmax(scores, 3).reshape([texts, kv_heads, heads / kv_heads * new, columns]);
    let mixed = weights.matmul(values).reshape([texts, heads, new, width]);
    mixed.swap_dims(1, 2).reshape([texts * new, heads * width])
}

/// Takes `y` `[texts x new, heads x width]` apart into `[texts, heads, new, width]`; each head is normalised where there
/// is a norm.
fn split(y: Tensor<2>, [texts, new]: [usize; 2], norm: &Option<Norm>, config: &ModelConfig) -> Tensor<4> {
    let width = config.head_dim;
    let heads = y.dims()[1] / width;
    let y = y.reshape([texts * new * heads, width]);
    let y = norm.as_ref().map_or(y.clone(), |norm| norm.forward(y, config.norm_epsilon));
    y.reshape([texts, new, heads, width]).swap_dims(1, 2)
}

/// Rotary positions, halves apart: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`; numbers behind the turned ones stay.
fn rotate(x: Tensor<4>, rotation: &Option<Rotation>) -> Tensor<4> {
    let Some((cos, sin)) = rotation.clone() else { return x };
    let (half, width) = (cos.dims()[3], x.dims()[3]);
    let (a, b) = (x.clone().narrow(3, 0, half), x.clone().narrow(3, half, half));
    let mut parts = vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin];
    if width > 2 * half {
        parts.push(x.narrow(3, 2 * half, width - 2 * half));
    }
    Tensor::cat(parts, 3)
}
