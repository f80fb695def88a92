//! Keys and values of the tokens already seen.

use burn::tensor::{Device, Tensor};

use super::ModelConfig;
use crate::nn::indices;

/// Per layer `[rows, kv heads, capacity, head width]` of keys and of values, of which the first [`KvCache::len`] columns
/// hold tokens. Appending writes in place: the tensors are moved through `slice_assign`, never shared.
pub struct KvCache {
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for `rows` texts of at most `capacity` tokens each.
    pub fn new(config: &ModelConfig, rows: usize, capacity: usize, device: &Device) -> Self {
        let shape = [rows, config.num_key_value_heads, capacity, config.head_dim];
        let empty = || Some((Tensor::zeros(shape, device), Tensor::zeros(shape, device)));
        Self { layers: (0..config.num_hidden_layers).map(|_| empty()).collect(), len: 0, capacity }
    }

    /// Columns in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Columns that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Writes `new` columns of one layer behind the columns in use and gives all of them, the new ones included.
    /// [`KvCache::advance`] makes them count once every layer has written.
    pub(super) fn append(&mut self, layer: usize, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [rows, heads, new, width] = keys.dims();
        let (all_keys, all_values) = self.layers[layer].take().expect("a layer is put back after each use");
        let place = [0..rows, 0..heads, self.len..self.len + new, 0..width];
        let all_keys = all_keys.slice_assign(place.clone(), keys);
        let all_values = all_values.slice_assign(place, values);
        let used = [0..rows, 0..heads, 0..self.len + new, 0..width];
        let views = (all_keys.clone().slice(used.clone()), all_values.clone().slice(used));
        self.layers[layer] = Some((all_keys, all_values));
        views
    }

    /// Counts `new` more columns as used.
    pub(super) fn advance(&mut self, new: usize) {
        self.len += new;
    }

    /// Forgets every column from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Keeps the first `base` columns and then those at `base + offset` for the ascending `offsets`: the accepted nodes
    /// of a verified draft tree.
    pub fn keep(&mut self, base: usize, offsets: &[usize]) {
        let contiguous = offsets.iter().enumerate().all(|(i, &offset)| i == offset);
        if !contiguous {
            for layer in &mut self.layers {
                let (keys, values) = layer.take().expect("a layer is put back after each use");
                *layer = Some((gather(keys, base, offsets), gather(values, base, offsets)));
            }
        }
        self.len = base + offsets.len();
    }
}

fn gather(tensor: Tensor<4>, base: usize, offsets: &[usize]) -> Tensor<4> {
    let [rows, heads, _, width] = tensor.dims();
    let kept = tensor.clone().select(2, indices(offsets.iter().map(|o| base + o), &tensor.device()));
    tensor.slice_assign([0..rows, 0..heads, base..base + offsets.len(), 0..width], kept)
}
