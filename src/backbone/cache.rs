//! Keys and values of the tokens already seen.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::columns::{CacheSlot, Columns, Span};
use super::model_config::ModelConfig;
use crate::kernels::LayerCache;
use crate::nn::indices;

/// Keys and values of some texts side by side, each of its own length. Grows as needed; nothing is copied when tokens are
/// appended.
pub struct KvCache {
    pub(super) texts: Vec<Columns>,
    pub(super) storage: Storage,
}

/// Where the numbers lie.
pub(super) enum Storage {
    /// By text and layer.
    Host(Vec<Vec<LayerCache>>),
    /// In tensors of a device.
    Device(DeviceCache),
}

impl KvCache {
    pub(super) fn on_host(config: &ModelConfig, texts: usize, tokens: usize) -> Self {
        let layer = || LayerCache::new(config.num_key_value_heads, config.head_dim, tokens);
        let text = || (0..config.num_hidden_layers).map(|_| layer()).collect();
        Self { texts: vec![Columns::default(); texts], storage: Storage::Host((0..texts).map(|_| text()).collect()) }
    }

    pub(super) fn on_device(config: &ModelConfig, texts: usize, tokens: usize) -> Self {
        let device = DeviceCache {
            layers: (0..config.num_hidden_layers).map(|_| None).collect(),
            used: 0,
            capacity: tokens.max(1),
            places: vec![Vec::new(); texts],
        };
        Self { texts: vec![Columns::default(); texts], storage: Storage::Device(device) }
    }

    /// Columns that text `text` uses.
    pub fn len(&self, text: usize) -> usize {
        self.texts[text].len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Takes the tokens of one span a text.
    pub(super) fn place(&mut self, spans: &[Span]) -> Vec<Vec<CacheSlot>> {
        assert_eq!(spans.len(), self.texts.len(), "one span for each text of the cache");
        let placed = self.texts.iter_mut().zip(spans).map(|(columns, span)| columns.place(span)).collect();
        if let Storage::Host(layers) = &mut self.storage {
            for (layers, columns) in layers.iter_mut().zip(&self.texts) {
                if layers.first().is_some_and(|layer| layer.capacity() < columns.len()) {
                    layers.iter_mut().for_each(|layer| layer.grow(2 * columns.len()));
                }
            }
        }
        placed
    }

    /// Forgets every column of a text from `len` on.
    pub fn truncate(&mut self, text: usize, len: usize) {
        self.texts[text].truncate(len);
        if let Storage::Device(device) = &mut self.storage {
            device.places[text].truncate(len);
            device.forget_tail();
        }
    }

    /// Forgets a text for good; the last one takes its number.
    pub fn swap_remove(&mut self, text: usize) {
        self.texts.swap_remove(text);
        match &mut self.storage {
            Storage::Host(layers) => drop(layers.swap_remove(text)),
            Storage::Device(device) => device.swap_remove(text),
        }
    }

    /// Keeps the first `base` columns of a text and then those at `base + offset` for the ascending `offsets`, which must
    /// follow one another: the accepted nodes of a verified draft tree.
    pub fn keep(&mut self, text: usize, base: usize, offsets: &[usize]) {
        self.texts[text].straighten(base + offsets.len());
        match &mut self.storage {
            Storage::Host(layers) => {
                let moved = || offsets.iter().enumerate().filter(|(to, from)| to != *from);
                for layer in &mut layers[text] {
                    moved().for_each(|(to, from)| layer.move_column(base + from, base + to));
                }
            }
            Storage::Device(device) => {
                let places = &mut device.places[text];
                let kept: Vec<usize> = offsets.iter().map(|offset| places[base + offset]).collect();
                places.truncate(base);
                places.extend(kept);
                device.forget_tail();
            }
        }
    }
}

/// Tensors of keys and values. All texts write their new tokens into the same columns; which of them hold which token of a
/// text is kept beside them, so that rolling back and keeping a path of a tree move no numbers.
pub(super) struct DeviceCache {
    /// `[texts, heads, capacity, width]`, made when the first token comes.
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    /// Columns written.
    used: usize,
    capacity: usize,
    /// By text and token.
    places: Vec<Vec<usize>>,
}

impl DeviceCache {
    /// Takes `new` more columns, of which the first `counts[text]` hold tokens of each text.
    pub fn take(&mut self, new: usize, counts: impl Iterator<Item = usize>, device: &Device) {
        if self.used + new > self.capacity {
            self.compact(new, device);
        }
        for (places, count) in self.places.iter_mut().zip(counts) {
            places.extend(self.used..self.used + count);
        }
        self.used += new;
    }

    /// Columns in use.
    pub fn columns(&self) -> usize {
        self.used
    }

    /// The columns of a text's tokens.
    pub fn places(&self, text: usize) -> &[usize] {
        &self.places[text]
    }

    /// Writes the newest columns of one layer and gives all that are in use.
    pub fn append(&mut self, layer: usize, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [texts, heads, new, width] = keys.dims();
        // Moved through, never shared: only so does writing happen in place.
        let (all_keys, all_values) = self.layers[layer].take().unwrap_or_else(|| {
            let options = (&keys.device(), keys.dtype());
            let shape = [texts, heads, self.capacity, width];
            (Tensor::zeros(shape, options), Tensor::zeros(shape, options))
        });
        let at = |columns: Range<usize>| [0..texts, 0..heads, columns, 0..width];
        let place = at(self.used - new..self.used);
        let all_keys = all_keys.slice_assign(place.clone(), keys);
        let all_values = all_values.slice_assign(place, values);
        let views = (all_keys.clone().slice(at(0..self.used)), all_values.clone().slice(at(0..self.used)));
        self.layers[layer] = Some((all_keys, all_values));
        views
    }

    /// Copies the rows of all texts but one.
    fn swap_remove(&mut self, text: usize) {
        let mut kept: Vec<usize> = (0..self.places.len()).collect();
        kept.swap_remove(text);
        self.places.swap_remove(text);
        for layer in &mut self.layers {
            let Some((keys, values)) = layer.take().filter(|_| !kept.is_empty()) else { continue };
            let index = indices(kept.iter().copied(), &keys.device());
            *layer = Some((keys.select(0, index.clone()), values.select(0, index)));
        }
        self.forget_tail();
    }

    /// Columns behind the last one that any text uses can be written again.
    fn forget_tail(&mut self) {
        self.used = self.places.iter().flatten().max().map_or(0, |last| last + 1);
    }

    /// Moves the tokens of every text to the front, into tensors with room for `new` more columns.
    fn compact(&mut self, new: usize, device: &Device) {
        let longest = self.places.iter().map(Vec::len).max().unwrap_or(0);
        let columns = longest.max(1);
        self.capacity = (2 * (longest + new)).max(self.capacity);
        // Behind a shorter text's end lies whatever is in its first column; nothing sees it.
        let padded = self.places.iter().flat_map(|places| {
            (0..columns).map(|i| places.get(i).or(places.first()).copied().unwrap_or(0)).collect::<Vec<_>>()
        });
        let index = indices(padded, device).reshape([self.places.len(), 1, columns, 1]);
        for layer in &mut self.layers {
            let Some((keys, values)) = layer.take() else { continue };
            let grow = |tensor: Tensor<4>| {
                let [texts, heads, _, width] = tensor.dims();
                let index = index.clone().expand([texts, heads, columns, width]);
                let larger = Tensor::zeros([texts, heads, self.capacity, width], (device, tensor.dtype()));
                larger.slice_assign([0..texts, 0..heads, 0..columns, 0..width], tensor.gather(2, index))
            };
            *layer = Some((grow(keys), grow(values)));
        }
        self.places.iter_mut().for_each(|places| *places = (0..places.len()).collect());
        self.used = longest;
    }
}
