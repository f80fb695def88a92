//! Decoder layers apart from the backbone, for heads that attend to the text.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;

use super::cache::{KvCache, Storage};
use super::columns::CacheSlot;
use super::host_layers::{HostLayers, Reader};
use super::model::Model;
use super::model_config::ModelConfig;
use super::tensor_layers::{Layer, TensorLayers};
use crate::error::{Error, Result};
use crate::kernels::on_pool;
use crate::nn::{Init, collect_parameters, from_host, load_parameters, to_host};
use crate::storage_type::StorageType;

/// Consecutive decoder layers in the style of a backbone, with parameters of their own. They run rows, which are made by
/// their user, behind texts, whose keys and values lie in a [`KvCache`].
#[derive(Module, Debug)]
pub struct DecoderLayers {
    layers: Vec<Layer>,
    /// The number of the first layer in the backbone.
    #[module(skip)]
    first: usize,
    #[module(skip)]
    config: ModelConfig,
    /// The layers once they are packed.
    #[module(skip)]
    packed: Option<Arc<HostLayers>>,
}

/// Where new rows stand, for each text of a cache.
#[derive(Debug, Clone, Copy)]
pub enum NewRows<'a> {
    /// One row behind each of these columns. It sees what that column sees, and itself.
    After(&'a [Vec<usize>]),
    /// A block of this many rows behind each of these columns of the text. Its rows stand at consecutive positions and see
    /// the text up to that column, and one another.
    Blocks(&'a [Vec<usize>], usize),
}

impl DecoderLayers {
    /// Makes layers as the layers `range` of a backbone with this shape, with parameters from `init`.
    pub fn new(config: &ModelConfig, range: Range<usize>, init: &mut Init) -> Self {
        let residual = (2.0 * (config.num_hidden_layers * config.hidden_size) as f32).powf(-0.5);
        let first = range.start;
        let layers = range.map(|_| Layer::new(config, residual, init)).collect();
        Self { layers, first, config: config.clone(), packed: None }
    }

    /// Returns the number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Returns whether there are no layers.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Returns copies of the same layers of `model`.
    ///
    /// # Errors
    /// When the model has another shape.
    pub fn copied_from(self, model: &Model) -> Result<Self> {
        let mut values = BTreeMap::new();
        for index in 0..self.len() {
            let parameters = model.layer_parameters(self.first + index);
            values.extend(parameters.into_iter().map(|(name, value)| (format!("layers.{index}.{name}"), value)));
        }
        load_parameters(self, values)
    }

    /// Fixes the layers' numbers. On the CPU, matrices are kept in the type `weights`, and a row's result does not depend on
    /// the rows beside it.
    pub fn pack(&mut self, weights: StorageType) {
        if !self.layers.iter().all(Layer::is_on_host) {
            return;
        }
        let mut values = collect_parameters(self);
        let mut read = |name: &str, _: &[usize]| {
            let found = values.remove(name).map(|(_, numbers)| numbers);
            found.ok_or_else(|| Error::new(format!("the layers have no parameter `{name}`")))
        };
        let mut reader = Reader { read: &mut read, config: &self.config, storage: weights };
        let range = self.first..self.first + self.len();
        let packed = reader.layers(range, |layer| format!("layers.{}", layer - self.first));
        let packed = packed.expect("layers have every parameter that their shape asks for");
        self.packed = Some(Arc::new(packed));
    }

    /// Returns an empty cache for the keys and values of these layers, for `texts` texts and with room for `tokens` tokens
    /// each before it first grows.
    pub fn cache(&self, texts: usize, tokens: usize) -> KvCache {
        match &self.packed {
            Some(_) => KvCache::on_host(&self.config, self.len(), texts, tokens),
            None => KvCache::on_device(&self.config, self.len(), texts, tokens),
        }
    }

    /// Appends tokens to the texts of `cache`: `counts` of each, with the keys and values that every layer makes of the
    /// same `states` `[tokens, d]`, text after text. The states count as normalised already.
    pub fn remember(&self, states: &Tensor<2>, counts: &[usize], cache: &mut KvCache) {
        let placed = cache.append(counts);
        let positions: Vec<usize> = placed.iter().flatten().map(|token| token.position).collect();
        for index in 0..self.len() {
            let [keys, values] = match &self.packed {
                Some(packed) => {
                    on_pool(|| packed.keys_and_values(index, &to_host(states.clone()), &positions)).map(|rows| {
                        from_host(
                            rows.clone(),
                            [positions.len(), rows.len() / positions.len().max(1)],
                            &states.device(),
                        )
                    })
                }
                None => self.in_tensors().keys_and_values(index, states.clone(), &positions),
            };
            cache.write(index, &placed, keys, values);
        }
    }

    /// Runs rows `x` `[rows, d]`, text after text, through the layers and returns the residual stream behind the last of
    /// them. Their keys and values are appended to the cache.
    pub fn run(&self, x: Tensor<2>, rows: NewRows, cache: &mut KvCache) -> Tensor<2> {
        let placed: Vec<Vec<CacheSlot>> = cache.place_with(|text, columns| match rows {
            NewRows::After(after) => columns.place_after(&after[text]),
            NewRows::Blocks(after, rows) => columns.place_blocks(&after[text], rows),
        });
        match (&self.packed, &mut cache.storage) {
            (Some(packed), Storage::Host(caches)) => {
                let (shape, device, mut x) = (x.dims(), x.device(), to_host(x));
                on_pool(|| packed.forward(&mut x, &placed, caches, packed.len(), |_, _, _| ()));
                from_host(x, shape, &device)
            }
            (None, Storage::Device(cache)) => self.in_tensors().forward(x, &placed, Some(cache), |_, _| ()),
            _ => panic!("a cache of other layers"),
        }
    }

    fn in_tensors(&self) -> TensorLayers<'_> {
        TensorLayers { layers: &self.layers, first: self.first, config: &self.config }
    }
}
