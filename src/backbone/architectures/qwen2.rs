//! Qwen 2 and 2.5 (Yang et al. 2024): a Llama with biases on queries, keys and values, whose later layers may have an
//! attention window.

use super::super::model_config::{Biases, ModelConfig};
use super::llama::llama_like;
use super::{Architecture, Keys};
use crate::error::Result;

/// The family `qwen2`.
pub struct Qwen2;

impl Architecture for Qwen2 {
    fn model_type(&self) -> &'static str {
        "qwen2"
    }

    fn config(&self, keys: &Keys) -> Result<ModelConfig> {
        let config = llama_like(keys)?;
        let biases = Biases { query_key_value: true, ..Biases::default() };
        Ok(ModelConfig { biases, windows: windows(keys, config.num_hidden_layers)?, ..config })
    }
}

/// Returns the attention windows: of the layers from `max_window_layers` on, if `use_sliding_window` is set.
pub fn windows(keys: &Keys, layers: usize) -> Result<Vec<Option<usize>>> {
    if !keys.flag_or("use_sliding_window", false)? {
        return Ok(Vec::new());
    }
    let first = keys.number_or("max_window_layers", 28.0)?;
    keys.windows(layers, |layer| layer as f64 >= first)
}
