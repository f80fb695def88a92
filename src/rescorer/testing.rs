//! Helpers that the tests of rescorers and of drafting share.

use burn::tensor::Device;

use crate::backbone::{LanguageModelConfig, Model, ModelConfig, Transformer};
use crate::lattice::Lattice;
use crate::nn::Init;
use crate::storage_type::StorageType;

/// The number of tokens in the vocabulary of [`model`].
pub(crate) const VOCABULARY: usize = 40;
/// The width of the hidden states of [`model`].
pub(crate) const WIDTH: usize = 16;

/// Returns a model of one layer whose weights are drawn with `seed`.
pub(crate) fn model(seed: u64) -> Model {
    let size = LanguageModelConfig { hidden: WIDTH, layers: 1, heads: 2, kv_heads: 1, intermediate: 24, context: 64 };
    let config = ModelConfig::from_scratch(&size, VOCABULARY);
    let trained = Transformer::new(&config, &mut Init::seeded(seed, &Device::flex()));
    Model::freeze(&trained, StorageType::Float32).unwrap()
}

/// Returns a lattice of four slots of three candidates each after a pinned one.
pub(crate) fn lattice(shift: u32) -> Lattice {
    let ids: Vec<u32> = (0..12).map(|at| (at * 7 + shift) % VOCABULARY as u32).collect();
    let scores: Vec<f32> = (0..12).map(|at| 2.0 - 0.7 * (at % 3) as f32 - 0.1 * (at / 3) as f32).collect();
    Lattice::pinned(shift % VOCABULARY as u32, 3, &ids, &scores).unwrap()
}

/// Returns a hidden state, `[WIDTH]`.
pub(crate) fn hidden(shift: usize) -> Vec<f32> {
    (0..WIDTH).map(|at| ((at * 3 + shift) as f32).sin()).collect()
}
