//! A frozen decoder, on whatever it computes fastest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::cache::{KvCache, Storage};
use super::columns::{Columns, Span};
use super::feature::Feature;
use super::host::HostDecoder;
use super::host_layers::as_rows;
use super::model_config::ModelConfig;
use super::transformer::Transformer;
use crate::device;
use crate::error::{Error, Result, bail};
use crate::nn::{
    FrozenUnembedding, Init, Projection, Values, collect_parameters, count_parameters, from_host, on_host,
    read_parameters, to_host,
};
use crate::storage_type::StorageType;

/// A frozen decoder.
pub struct Model {
    engine: Engine,
    config: ModelConfig,
    device: Device,
    parameters: usize,
    /// What matrices are kept in, and what keys and values are.
    types: [StorageType; 2],
    /// The unembedding for what reads the whole vocabulary, once something does.
    vocabulary: OnceLock<FrozenUnembedding>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Model").field(&self.config).finish()
    }
}

enum Engine {
    /// Packed weights in this process's memory.
    Host(Box<HostDecoder>),
    /// Tensors of any device.
    Tensors(Box<Transformer>),
}

/// How a model keeps and computes its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// What matrices are rounded to; the CPU keeps them in it, an accelerator in `compute`. None for the checkpoint's type.
    pub weights: Option<StorageType>,
    /// Activations, keys and values; the CPU computes in float32.
    pub compute: StorageType,
}

impl Precision {
    /// Weights as the checkpoint has them, all else float32.
    pub const AS_STORED: Self = Self { weights: None, compute: StorageType::Float32 };
}

impl Model {
    /// A model whose parameters `read` gives by name: shape and numbers.
    ///
    /// # Errors
    /// Those of `read`; a parameter of another shape than the configuration's, or with numbers that are not finite; another
    /// `compute` than float32 on the CPU.
    pub fn load(
        config: &ModelConfig,
        precision: Precision,
        device: &Device,
        read: &mut dyn FnMut(&str) -> Result<Values>,
    ) -> Result<Self> {
        let weights = precision.weights.unwrap_or(StorageType::Float32);
        let mut parameters = 0;
        let mut checked = |name: &str, expected: &[usize]| -> Result<Vec<f32>> {
            let (shape, mut numbers) = read(name)?;
            if shape != expected {
                bail!("the tensor `{name}` has shape {shape:?}, but the configuration asks for {expected:?}.");
            }
            if shape.len() == 2 {
                weights.round(&mut numbers);
            }
            if numbers.par_iter().any(|x| !x.is_finite()) {
                let rounded = if weights == StorageType::Float16 { ", at least in float16" } else { "" };
                bail!("the tensor `{name}` holds numbers that are not finite{rounded}.");
            }
            parameters += numbers.len();
            Ok(numbers)
        };
        let types = [if on_host(device) { weights } else { precision.compute }, precision.compute];
        let engine = if on_host(device) {
            if precision.compute != StorageType::Float32 {
                bail!(
                    "the CPU computes in float32; set backbone.compute to \"float32\" (backbone.weights may differ)."
                );
            }
            Engine::Host(Box::new(HostDecoder::new(config, weights, &mut checked)?))
        } else {
            let empty = Transformer::new(config, &mut Init::empty(device));
            Engine::Tensors(Box::new(read_parameters(empty, precision.compute.into(), &mut checked)?))
        };
        let (config, device) = (config.clone(), device.clone());
        Ok(Self { engine, config, device, parameters, types, vocabulary: OnceLock::new() })
    }

    /// A trained model, frozen: on the CPU its weights are packed as `weights`.
    pub fn freeze(trained: &Transformer, weights: StorageType) -> Result<Self> {
        let mut values = collect_parameters(trained);
        let precision = Precision { weights: Some(weights), compute: StorageType::Float32 };
        let device = trained.device().without_autodiff();
        Self::load(trained.config(), precision, &device, &mut |name| {
            values.remove(name).ok_or_else(|| Error::new(format!("the model has no parameter `{name}`")))
        })
    }

    /// A trained model that computes in tensor operations on every device: the independent second way for tests.
    pub fn in_tensors(trained: Transformer) -> Self {
        Self {
            config: trained.config().clone(),
            device: trained.device(),
            parameters: count_parameters(&trained),
            types: [StorageType::Float32; 2],
            vocabulary: OnceLock::new(),
            engine: Engine::Tensors(Box::new(trained)),
        }
    }

    /// Its shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where hidden states are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of its parameters.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Bytes of one weight of a matrix.
    pub fn weight_bytes(&self) -> usize {
        self.types[0].bytes()
    }

    /// Bytes of one number of the keys and values.
    pub fn state_bytes(&self) -> usize {
        self.types[1].bytes()
    }

    /// Whether its weights lie packed in this process's memory. A token then has the same bits alone, in a block and in a text.
    pub fn is_packed(&self) -> bool {
        matches!(self.engine, Engine::Host(_))
    }

    /// Bytes that its matrices take, where they are in this process's memory.
    pub fn host_bytes(&self) -> Option<usize> {
        match &self.engine {
            Engine::Host(decoder) => Some(decoder.bytes()),
            Engine::Tensors(_) => None,
        }
    }

    /// An empty cache for `texts` texts, with room for `tokens` tokens each before it first grows.
    pub fn cache(&self, texts: usize, tokens: usize) -> KvCache {
        match &self.engine {
            Engine::Host(_) => KvCache::on_host(&self.config, self.config.num_hidden_layers, texts, tokens),
            Engine::Tensors(_) => KvCache::on_device(&self.config, self.config.num_hidden_layers, texts, tokens),
        }
    }

    /// Checks that the keys and values of `texts` texts of `tokens` tokens each have room in this machine's memory, if they are
    /// kept there. `cure` says what else to do.
    ///
    /// # Errors
    /// Returns an error with both numbers if there is too little.
    pub fn require_memory(&self, texts: usize, tokens: usize, cure: &str) -> Result<()> {
        let ModelConfig { num_key_value_heads, head_dim, num_hidden_layers, .. } = self.config;
        let numbers = [2, num_hidden_layers, num_key_value_heads, head_dim, texts, tokens];
        let needed = numbers.iter().fold(size_of::<f32>() as u64, |bytes, &n| bytes.saturating_mul(n as u64));
        match self.engine {
            Engine::Host(_) => {
                let what = format!("the keys and values of {texts} text(s) of up to {tokens} tokens");
                device::require_memory(needed, &what, cure)
            }
            Engine::Tensors(_) => Ok(()),
        }
    }

    /// Returns the last hidden states, after the final norm, of the tokens of every span: [`Model::features`] for
    /// [`Feature::Last`] alone.
    ///
    /// # Panics
    /// As [`Model::features`].
    pub fn hidden(&self, spans: &[Span], cache: Option<&mut KvCache>) -> Tensor<2> {
        self.features(spans, cache, &[Feature::Last]).remove(0)
    }

    /// Returns the states called `features` of the tokens of every span, in the order of their names: each `[tokens, d]`,
    /// span after span, all from one forward.
    ///
    /// With a cache, there is one span for each of its texts (some may be empty), earlier columns are attended to, and the
    /// new tokens are appended. Without one, each span is a text of its own, and layers above the deepest state asked for
    /// are not computed.
    ///
    /// # Panics
    /// When the model has no such layer, or a position of a model with learned positions lies beyond its context.
    pub fn features(&self, spans: &[Span], cache: Option<&mut KvCache>, features: &[Feature]) -> Vec<Tensor<2>> {
        let layers = self.config.num_hidden_layers;
        assert!(features.iter().all(|feature| feature.validate(layers).is_ok()), "features of another model");
        match &self.engine {
            Engine::Tensors(transformer) => transformer.features(spans, cache, features),
            Engine::Host(decoder) => {
                let states = match cache {
                    Some(cache) => {
                        let placed = cache.place(spans);
                        let Storage::Host(layers) = &mut cache.storage else { panic!("a cache of another model") };
                        decoder.features(spans, &placed, Some(layers), features)
                    }
                    None => {
                        let placed: Vec<_> = spans.iter().map(|span| Columns::default().place(span)).collect();
                        decoder.features(spans, &placed, None, features)
                    }
                };
                let width = self.config.hidden_size;
                let tensor = |values: Vec<f32>| {
                    let rows = values.len() / width;
                    from_host(values, [rows, width], &self.device)
                };
                states.into_iter().map(tensor).collect()
            }
        }
    }

    /// Appends tokens to the texts of a cache of other layers ([`DecoderLayers::cache`](super::DecoderLayers::cache)):
    /// `counts` of each, with the keys and values that this model's layers make of them. `states` `[tokens, d]` are the
    /// inputs ([`Feature::Layer`]) of the layers from number `first` on, one for each layer of the cache, text after text.
    pub fn remember(&self, first: usize, states: &[Tensor<2>], counts: &[usize], cache: &mut KvCache) {
        let placed = cache.append(counts);
        let positions: Vec<usize> = placed.iter().flatten().map(|token| token.position).collect();
        for (index, states) in states.iter().enumerate() {
            let [keys, values] = self.keys_and_values(first + index, states, &positions);
            cache.write(index, &placed, keys, values);
        }
    }

    /// Returns the keys and the values, each `[tokens, heads x width]`, that layer `layer` makes of its inputs `states` `[tokens, d]`
    /// at `positions`, in their type.
    pub(super) fn keys_and_values(&self, layer: usize, states: &Tensor<2>, positions: &[usize]) -> [Tensor<2>; 2] {
        let dtype = states.dtype();
        let made = match &self.engine {
            Engine::Host(decoder) => {
                let rows = decoder.keys_and_values(layer, &to_host(states.clone()), positions);
                as_rows(rows, positions.len(), &self.device)
            }
            Engine::Tensors(transformer) => {
                let layers = transformer.layers(layer..layer + 1);
                let states = states.clone().cast(burn::tensor::DType::from(self.types[1]));
                layers.keys_and_values(0, layers.normed(0, states), positions)
            }
        };
        made.map(|rows| rows.cast(dtype))
    }

    /// Returns the parameters of layer `layer` by their names in the layer, such as `mlp.down_proj.weight`.
    pub(crate) fn layer_parameters(&self, layer: usize) -> BTreeMap<String, Values> {
        match &self.engine {
            Engine::Host(decoder) => decoder.layer_parameters(layer),
            Engine::Tensors(transformer) => transformer.layer_parameters(layer),
        }
    }

    /// Returns the parameters of the norm behind the last layer, `weight` and perhaps `bias`.
    pub fn norm_parameters(&self) -> BTreeMap<String, Values> {
        match &self.engine {
            Engine::Host(decoder) => decoder.norm_parameters(),
            Engine::Tensors(transformer) => transformer.norm_parameters(),
        }
    }

    /// The unembedding, where hidden states are turned into logits fastest; it is shared, not copied.
    pub fn projection(&self) -> Projection {
        match &self.engine {
            Engine::Host(decoder) => Projection::Packed(decoder.unembedding().clone()),
            Engine::Tensors(transformer) => Projection::Tensor(Box::new(transformer.unembedding())),
        }
    }

    /// Returns the unembedding for heads that attend to the whole vocabulary. The first call prepares it, which on the CPU takes as
    /// much memory again as the unembedding.
    pub fn vocabulary(&self) -> &FrozenUnembedding {
        self.vocabulary.get_or_init(|| FrozenUnembedding::new(self.projection()))
    }

    /// `[n, d]` hidden states to `[n, V]` logits, in this process's memory.
    pub fn logits(&self, hidden: Tensor<2>) -> Vec<f32> {
        self.projection().logits(hidden)
    }

    /// The embeddings `[n, d]` of tokens, without learned positions.
    pub fn embed(&self, tokens: &[u32]) -> Tensor<2> {
        match &self.engine {
            Engine::Tensors(transformer) => transformer.embed(tokens),
            Engine::Host(decoder) => {
                let values = tokens.par_iter().flat_map_iter(|&token| decoder.embedding(token)).collect();
                from_host(values, [tokens.len(), self.config.hidden_size], &self.device)
            }
        }
    }

    /// The unembedding `[V, d]`, for what computes with it on the device; on the CPU it is unpacked anew for every call.
    pub fn unembedding(&self) -> Tensor<2> {
        match &self.engine {
            Engine::Tensors(transformer) => transformer.unembedding(),
            Engine::Host(decoder) => {
                let packed = decoder.unembedding();
                from_host(packed.unpack(), [packed.outputs(), packed.inputs()], &self.device)
            }
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::backbone::LanguageModelConfig;
    use crate::nn::Init;

    #[test]
    fn texts_longer_than_memory_are_refused() {
        let size = LanguageModelConfig { hidden: 8, layers: 2, heads: 2, kv_heads: 1, intermediate: 8, context: 64 };
        let transformer = Transformer::new(&ModelConfig::from_scratch(&size, 5), &mut Init::seeded(1, &Device::flex()));
        let model = Model::freeze(&transformer, StorageType::Float32).unwrap();
        model.require_memory(3, 64, "").unwrap();
        // 2 x 2 layers x 4 numbers of 4 bytes a token.
        let error = model.require_memory(16, 1 << 40, "Do less.").unwrap_err().to_string();
        let start = "the keys and values of 16 text(s) of up to 1099511627776 tokens take 1048576.0 GiB, and ";
        assert!(error.starts_with(start) && error.ends_with(" GiB of memory are free. Do less."), "{error}");
        assert!(model.require_memory(usize::MAX, usize::MAX, "").is_err());
    }
}
