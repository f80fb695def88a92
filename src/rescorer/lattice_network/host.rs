//! What fitted lattice networks keep in this process's memory, and how they compute with it.

use super::unit_rows;
use crate::backbone::Model;
use crate::kernels::PackedMatrix;
use crate::nn::{Linear, to_host};
use crate::storage_type::StorageType;

/// A layer's output for every token of the vocabulary.
pub struct TokenTable {
    width: usize,
    /// `[V, width]`
    values: Vec<f32>,
}

/// Tokens embedded at once.
const AT_ONCE: usize = 4096;

impl TokenTable {
    /// Of several layers on the embeddings of `model`, each scaled to a root mean square of 1.
    pub fn of<const N: usize>(layers: [&Linear; N], model: &Model) -> [Self; N] {
        let tokens: Vec<u32> = (0..model.config().vocab_size as u32).collect();
        let mut tables = layers.map(|layer| Self { width: layer.weight.val().dims()[0], values: Vec::new() });
        for part in tokens.chunks(AT_ONCE) {
            let embedded = unit_rows(model.embed(part));
            for (table, layer) in tables.iter_mut().zip(layers) {
                table.values.extend(to_host(layer.forward(embedded.clone())));
            }
        }
        tables
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        4 * self.values.len()
    }

    /// Of one token, `[width]`.
    pub fn row(&self, id: u32) -> &[f32] {
        &self.values[id as usize * self.width..][..self.width]
    }

    /// Of some tokens, `[ids, width]`.
    pub fn rows(&self, ids: &[u32]) -> Vec<f32> {
        ids.iter().flat_map(|&id| self.row(id)).copied().collect()
    }
}

/// A layer, packed.
pub fn packed(layer: &Linear) -> PackedMatrix {
    let bias = layer.bias.as_ref().map_or_else(Vec::new, |bias| to_host(bias.val()));
    let inputs = layer.weight.val().dims()[1];
    PackedMatrix::new(&to_host(layer.weight.val()), inputs, bias, StorageType::Float32)
}

/// What a packed layer makes of some rows.
pub fn multiplied(layer: &PackedMatrix, rows: &[f32]) -> Vec<f32> {
    let mut outputs = Vec::new();
    layer.multiply(rows, &mut outputs);
    outputs
}

/// A vector scaled to a root mean square of 1.
pub fn unit_row(row: &[f32]) -> Vec<f32> {
    let mean_square = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
    let scale = (mean_square + 1e-12).sqrt().recip();
    row.iter().map(|x| x * scale).collect()
}

/// Adds a slot's head scores, less its first, times its weight to `scores`.
pub fn add_heads(scores: &[f32], head: &[f32], weight: f32) -> impl Iterator<Item = f32> {
    scores.iter().zip(head).map(move |(x, u)| x + weight * (u - head[0]))
}

/// Log-softmax of a slot's scores.
pub fn log_probabilities(scores: impl Iterator<Item = f32>) -> Vec<f64> {
    let mut scores: Vec<f64> = scores.map(f64::from).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|x| (x - most).exp()).sum();
    let normaliser = most + sum.ln();
    scores.iter_mut().for_each(|x| *x -= normaliser);
    scores
}
