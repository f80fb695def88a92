//! The parts of a fitted lattice network in host memory, and the computations on them.

use burn::tensor::Tensor;

use super::unit_tokens;
use crate::backbone::Model;
use crate::kernels::PackedMatrix;
use crate::nn::{Linear, TokenMap, Tokens, to_host};
use crate::storage_type::StorageType;

/// What a map from tokens to vectors gives for every token of the vocabulary.
pub struct TokenTable {
    width: usize,
    /// The vectors, `[V, width]`.
    values: Vec<f32>,
}

/// A map from tokens to vectors `[n, width]`.
pub trait MapsTokens {
    /// Maps tokens, whose embeddings are scaled to a root mean square of 1.
    fn map(&self, tokens: &Tokens) -> Tensor<2>;
}

impl MapsTokens for Linear {
    fn map(&self, tokens: &Tokens) -> Tensor<2> {
        self.forward(tokens.embeddings.clone())
    }
}

impl MapsTokens for TokenMap {
    fn map(&self, tokens: &Tokens) -> Tensor<2> {
        self.forward(tokens)
    }
}

/// The number of tokens that are embedded at once.
const AT_ONCE: usize = 4096;

impl TokenTable {
    /// Computes the tables of `maps` above `model`.
    pub fn of<const N: usize>(maps: [&dyn MapsTokens; N], model: &Model) -> [Self; N] {
        let ids: Vec<u32> = (0..model.config().vocab_size as u32).collect();
        let mut tables = maps.map(|_| Self { width: 0, values: Vec::new() });
        for ids in ids.chunks(AT_ONCE) {
            let tokens = unit_tokens(ids, model);
            for (table, map) in tables.iter_mut().zip(maps) {
                let vectors = map.map(&tokens);
                table.width = vectors.dims()[1];
                table.values.extend(to_host(vectors));
            }
        }
        tables
    }

    /// Returns the bytes that the table takes in memory.
    pub fn bytes(&self) -> usize {
        4 * self.values.len()
    }

    /// Returns the vector of one token, `[width]`.
    pub fn row(&self, id: u32) -> &[f32] {
        &self.values[id as usize * self.width..][..self.width]
    }

    /// Returns the vectors of several tokens, `[ids, width]`.
    pub fn rows(&self, ids: &[u32]) -> Vec<f32> {
        ids.iter().flat_map(|&id| self.row(id)).copied().collect()
    }
}

/// Packs a layer for products on the CPU.
pub fn packed(layer: &Linear) -> PackedMatrix {
    let bias = layer.bias.as_ref().map_or_else(Vec::new, |bias| to_host(bias.val()));
    let inputs = layer.weight.val().dims()[1];
    PackedMatrix::new(&to_host(layer.weight.val()), inputs, bias, StorageType::Float32)
}

/// Multiplies `rows` by a packed layer, and returns the outputs.
pub fn multiplied(layer: &PackedMatrix, rows: &[f32]) -> Vec<f32> {
    let mut outputs = Vec::new();
    layer.multiply(rows, &mut outputs);
    outputs
}

/// Returns a vector scaled to a root mean square of 1.
pub fn unit_row(row: &[f32]) -> Vec<f32> {
    let mean_square = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
    let scale = (mean_square + 1e-12).sqrt().recip();
    row.iter().map(|x| x * scale).collect()
}

/// Adds a slot's head scores to `scores`. The first of them is subtracted from each, and the differences are multiplied
/// by `weight`.
pub fn add_heads(scores: &[f32], head: &[f32], weight: f32) -> impl Iterator<Item = f32> {
    scores.iter().zip(head).map(move |(x, u)| x + weight * (u - head[0]))
}

/// Returns the log-softmax of a slot's scores.
pub fn log_probabilities(scores: impl Iterator<Item = f32>) -> Vec<f64> {
    let mut scores: Vec<f64> = scores.map(f64::from).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|x| (x - most).exp()).sum();
    let normaliser = most + sum.ln();
    scores.iter_mut().for_each(|x| *x -= normaliser);
    scores
}
