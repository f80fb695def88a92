//! Decoder layers apart from the backbone, for heads that attend to the text.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::Tensor;

use super::cache::{KvCache, Storage};
use super::columns::{BlockRows, CacheSlot};
use super::departures::Departures;
use super::host_layers::{HostLayers, Reader, as_rows};
use super::model::Model;
use super::model_config::ModelConfig;
use super::tensor_layers::{Layer, TensorLayers};
use super::trained_layers::{Tape, TrainedLayers};
use crate::error::{Error, Result};
use crate::kernels::{ColumnGradients, LayerCache, on_pool};
use crate::nn::{Init, Values, collect_parameters, from_host, load_parameters, to_host};
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
    #[module(skip)]
    departures: Departures,
    /// The layers once they are packed.
    #[module(skip)]
    packed: Option<Arc<HostLayers>>,
    /// The memory of a training on the CPU, which is used again step after step.
    #[module(skip)]
    tape: Arc<Mutex<Tape>>,
}

/// Where new rows stand, for each text of a cache.
#[derive(Debug, Clone, Copy)]
pub enum NewRows<'a> {
    /// One row behind each of these columns. It sees what that column sees, and itself.
    After(&'a [Vec<usize>]),
    /// A block of rows behind each of these columns of the text. They stand at consecutive positions and see the text up to
    /// that column, and one another.
    Blocks(&'a [Vec<usize>], BlockRows),
}

impl NewRows<'_> {
    fn place(self, cache: &mut KvCache) -> Vec<Vec<CacheSlot>> {
        cache.place_with(|text, columns| match self {
            Self::After(after) => columns.place_after(&after[text]),
            Self::Blocks(after, rows) => columns.place_blocks(&after[text], rows),
        })
    }
}

impl DecoderLayers {
    /// Makes layers as the layers `range` of a backbone with this shape, with parameters from `init`.
    pub fn new(config: &ModelConfig, range: Range<usize>, departures: Departures, init: &mut Init) -> Self {
        assert!(departures.reads.is_none() || range.len() == 1, "rows bring along what a single layer reads");
        assert!(departures.crosses.is_none() || range.len() == 1, "a single layer attends to a layer of the backbone");
        let residual = (2.0 * (config.num_hidden_layers * config.hidden_size) as f32).powf(-0.5);
        let first = range.start;
        let layers = range.map(|_| Layer::new(config, residual, departures, init)).collect();
        Self { layers, first, config: config.clone(), departures, packed: None, tape: Arc::default() }
    }

    /// Returns the number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Returns whether there are no layers.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Returns copies of the same layers of `model`. Convolutions, which it does not have, stay as they are. Where rows bring along
    /// more numbers than the model's attention reads, the last of them are read as its own.
    ///
    /// # Errors
    /// When the model has another shape.
    pub fn copied_from(self, model: &Model) -> Result<Self> {
        let mut values = collect_parameters(&self);
        for index in 0..self.len() {
            let mut parameters = model.layer_parameters(self.first + index);
            if let Some(reads) = self.departures.reads {
                parameters.retain(|name, _| !name.starts_with("input_layernorm."));
                for part in ["q_proj", "k_proj", "v_proj"] {
                    let matrix = parameters.get_mut(&format!("self_attn.{part}.weight"));
                    matrix.into_iter().for_each(|matrix| pad_inputs(matrix, reads));
                }
            }
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
        self.packed = Some(Arc::new(self.packed_as(weights)));
    }

    /// Returns the layers with matrices of the type `weights`, for the CPU.
    fn packed_as(&self, weights: StorageType) -> HostLayers {
        let mut values = collect_parameters(self);
        let mut read = |name: &str, _: &[usize]| {
            let found = values.remove(name).map(|(_, numbers)| numbers);
            found.ok_or_else(|| Error::new(format!("the layers have no parameter `{name}`")))
        };
        let departures = self.departures;
        let mut reader = Reader { read: &mut read, config: &self.config, storage: weights, departures };
        let range = self.first..self.first + self.len();
        let packed = reader.layers(range, |layer| format!("layers.{}", layer - self.first));
        packed.expect("layers have every parameter that their shape asks for")
    }

    /// Returns an empty cache for the keys and values of these layers, for `texts` texts and with room for `tokens` tokens
    /// each before it first grows.
    pub fn cache(&self, texts: usize, tokens: usize) -> KvCache {
        // Behind those of the layers are the keys and values of the backbone.
        let layers = self.len() + usize::from(self.departures.crosses.is_some());
        if self.packed.is_some() || self.trains_on_host() {
            KvCache::on_host(&self.config, layers, texts, tokens)
        } else {
            KvCache::on_device(&self.config, layers, texts, tokens)
        }
    }

    /// Returns the number of the backbone's layer whose keys and values rows attend to as well, if they do.
    pub fn crosses(&self) -> Option<usize> {
        self.departures.crosses
    }

    /// Returns whether the layers take part in automatic differentiation.
    pub fn learns(&self) -> bool {
        self.layers.iter().all(Layer::learns)
    }

    /// Returns whether the layers are trained with the CPU's own kernels ([`DecoderLayers::begin_step`]). Otherwise, and where they
    /// have convolutions, they are run and differentiated as tensors.
    pub fn trains_on_host(&self) -> bool {
        self.layers.iter().all(|layer| layer.is_on_host() && layer.learns() && !layer.convolves())
    }

    /// Begins a training step on the CPU. Rows will be run behind the texts of `cache`.
    pub fn begin_step<'a>(&'a self, cache: &'a mut KvCache) -> TrainedRows<'a> {
        let layers = TrainedLayers::new(self.packed_as(StorageType::Float32));
        let texts = (0..cache.texts()).map(|text| cache.len(text)).collect();
        let context = (0..cache.texts()).map(|text| cache.columns(text)).collect();
        let tape = std::mem::take(&mut *self.tape.lock().unwrap_or_else(PoisonError::into_inner));
        TrainedRows { of: self, layers, tape, cache, texts, context, columns: Vec::new() }
    }

    /// Appends tokens to the texts of `cache`: `counts` of each, with the keys and values that every layer makes of the
    /// same `states` `[columns, d]`, text after text. The states count as normalised already. Of layers that attend to the
    /// backbone's keys and values as well, `crossed` is the model that makes these, with its layer's inputs `[columns, d]`.
    pub fn remember(
        &self,
        states: &Tensor<2>,
        crossed: Option<(&Model, Tensor<2>)>,
        counts: &[usize],
        cache: &mut KvCache,
    ) {
        let placed = cache.append(counts);
        let positions: Vec<usize> = placed.iter().flatten().map(|token| token.position).collect();
        let on_host = self.packed.as_ref().map(|packed| (packed, to_host(states.clone())));
        for index in 0..self.len() {
            let [keys, values] = match &on_host {
                Some((packed, rows)) => {
                    let rows = on_pool(|| packed.keys_and_values(index, rows, &positions));
                    as_rows(rows, positions.len(), &states.device())
                }
                None => self.in_tensors().keys_and_values(index, states.clone(), &positions),
            };
            cache.write(index, &placed, keys, values);
        }
        if let Some((layer, (model, inputs))) = self.crosses().zip(crossed) {
            let made = model.keys_and_values(layer, &inputs, &positions);
            let [keys, values] = made.map(|rows| if self.learns() { rows.autodiff() } else { rows });
            cache.write(self.len(), &placed, keys, values);
        }
    }

    /// Returns the keys and the values `[columns, heads x width]` that every layer makes of `states` `[columns, d]`, those of
    /// texts of these lengths from their beginnings on, text after text, each token with one or with two columns. The states count as
    /// normalised already.
    pub fn keys_and_values(&self, states: &Tensor<2>, lengths: &[usize]) -> Vec<[Tensor<2>; 2]> {
        let columns = states.dims()[0] / lengths.iter().sum::<usize>().max(1);
        let of_text = |&length: &usize| (0..length).flat_map(|position| std::iter::repeat_n(position, columns));
        let positions: Vec<usize> = lengths.iter().flat_map(of_text).collect();
        let of_layer = |index| self.in_tensors().keys_and_values(index, states.clone(), &positions);
        (0..self.len()).map(of_layer).collect()
    }

    /// Runs rows `x` `[rows, d]`, text after text, through the layers and returns the residual stream behind the last of
    /// them, `[rows, d]`. Rows that bring along what attention reads have it before the stream. Their keys and values are appended
    /// to the cache.
    pub fn run(&self, x: Tensor<2>, rows: NewRows, cache: &mut KvCache) -> Tensor<2> {
        let placed = rows.place(cache);
        let (x, read) = self.apart(x);
        match (&self.packed, &mut cache.storage) {
            (Some(packed), Storage::Host(caches)) => {
                let (shape, device, mut x) = (x.dims(), x.device(), to_host(x));
                let read = read.map_or_else(Vec::new, to_host);
                on_pool(|| packed.forward((&mut x, &read), &placed, caches, packed.len(), |_, _, _| ()));
                from_host(x, shape, &device)
            }
            (None, Storage::Device(cache)) => self.in_tensors().forward((x, read), &placed, Some(cache), |_, _| ()),
            _ => panic!("a cache of other layers"),
        }
    }

    /// Returns how many numbers of a row enter the layers.
    pub fn row_width(&self) -> usize {
        self.departures.reads.unwrap_or(0) + self.config.hidden_size
    }

    /// Takes rows apart into the residual stream and what attention reads, if they bring it along.
    fn apart(&self, x: Tensor<2>) -> (Tensor<2>, Option<Tensor<2>>) {
        match self.departures.reads {
            None => (x, None),
            Some(reads) => (x.clone().narrow(1, reads, x.dims()[1] - reads), Some(x.narrow(1, 0, reads))),
        }
    }

    /// Returns what the attention of the first layer, which has a norm, reads of rows `[n, d]`.
    pub fn normed(&self, x: Tensor<2>) -> Tensor<2> {
        self.in_tensors().normed(0, x)
    }

    fn in_tensors(&self) -> TensorLayers<'_> {
        let staggered = self.departures.staggered;
        TensorLayers { layers: &self.layers, first: self.first, config: &self.config, staggered }
    }
}

/// Puts zeros before the inputs of a matrix, so that it has `inputs`.
fn pad_inputs((shape, values): &mut Values, inputs: usize) {
    let (rows, width) = (shape[0], shape[1]);
    let padded = |row: &[f32]| std::iter::repeat_n(0.0, inputs - width).chain(row.to_vec());
    *values = values.chunks(width).flat_map(padded).collect();
    *shape = vec![rows, inputs];
}

/// The rows of a training step on the CPU. They are run level by level, and gone back through in reverse.
pub struct TrainedRows<'a> {
    of: &'a DecoderLayers,
    layers: TrainedLayers,
    tape: Tape,
    cache: &'a mut KvCache,
    /// The tokens of each text before the rows, and their columns in the cache.
    texts: Vec<usize>,
    context: Vec<usize>,
    /// By text and layer, once the way back has begun: the gradients of keys and values.
    columns: Vec<Vec<ColumnGradients>>,
}

/// What a training step gives.
pub struct LayerGradients {
    /// The gradient of every parameter of the layers by its path, in the order of its numbers.
    pub parameters: BTreeMap<String, Vec<f32>>,
    /// By layer: the gradients of the keys and values `[columns, heads x width]` of the texts before the rows, text after text.
    /// Empty unless they were asked for.
    pub context: Vec<[Vec<f32>; 2]>,
}

impl TrainedRows<'_> {
    /// Returns the number of texts.
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// Returns the numbers of tokens of the texts before the rows.
    pub fn lengths(&self) -> &[usize] {
        &self.texts
    }

    /// Returns the number of columns of a text, rows included.
    pub fn len(&self, text: usize) -> usize {
        self.cache.len(text)
    }

    /// Runs a level of rows as [`DecoderLayers::run`] does. `x` takes no part in automatic differentiation.
    pub fn run(&mut self, x: Tensor<2>, rows: NewRows) -> Tensor<2> {
        let placed = rows.place(self.cache);
        let (x, read) = self.of.apart(x);
        let (shape, device, mut x) = (x.dims(), x.device(), to_host(x));
        let read = read.map_or_else(Vec::new, to_host);
        self.layers.forward((&mut x, &read), &placed, self.cache.on_host_mut(), &mut self.tape);
        from_host(x, shape, &device)
    }

    /// Goes back through the last level that was not gone back through: from the gradient of what it returned to that of its
    /// rows `x`. With `trains_context`, the gradients of the texts' keys and values are kept as well.
    pub fn back(&mut self, gradient: Tensor<2>, trains_context: bool) -> Tensor<2> {
        if self.columns.is_empty() {
            let lengths: Vec<usize> = (0..self.texts.len()).map(|text| self.cache.columns(text)).collect();
            let of_text = |(text, layers): (usize, &mut Vec<LayerCache>)| {
                let first = |layer: usize| match trains_context {
                    // The backbone's keys and values are frozen.
                    _ if layer >= self.of.len() => lengths[text],
                    true => 0,
                    false => self.context[text],
                };
                let layers = layers.iter().enumerate();
                layers.map(|(index, layer)| ColumnGradients::new(layer, first(index)..lengths[text])).collect()
            };
            self.columns = self.cache.on_host_mut().iter_mut().enumerate().map(of_text).collect();
        }
        let (shape, device, mut dx) = (gradient.dims(), gradient.device(), to_host(gradient));
        let of_read = self.layers.backward(&mut dx, self.cache.on_host_mut(), &mut self.columns, &mut self.tape);
        let dx = from_host(dx, shape, &device);
        match self.of.departures.reads {
            None => dx,
            Some(reads) => Tensor::cat(vec![from_host(of_read, [shape[0], reads], &device), dx], 1),
        }
    }

    /// Returns the gradients of all levels. With `trains_context`, those of the texts' keys and values as well.
    pub fn finish(mut self, trains_context: bool) -> LayerGradients {
        let named = self.layers.gradients(&mut self.tape);
        let parameters = named.into_iter().map(|(name, gradient)| (format!("layers.{name}"), gradient)).collect();
        let mut context = Vec::new();
        if trains_context {
            context.resize_with(self.of.len(), <[Vec<f32>; 2]>::default);
            for (layers, &columns) in self.columns.iter().zip(&self.context) {
                for ([keys, values], layer) in context.iter_mut().zip(layers) {
                    for [of_keys, of_values] in (0..columns).map(|column| layer.column(column)) {
                        keys.extend(of_keys);
                        values.extend(of_values);
                    }
                }
            }
        }
        *self.of.tape.lock().unwrap_or_else(PoisonError::into_inner) = self.tape;
        LayerGradients { parameters, context }
    }
}
