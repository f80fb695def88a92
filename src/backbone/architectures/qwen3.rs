//! Qwen 3, dense (Yang et al. 2025): a Llama that normalises queries and keys head by head.

use super::super::model_config::{Biases, ModelConfig};
use super::llama::llama_like;
use super::qwen2::windows;
use super::{Architecture, Keys};
use crate::error::Result;

/// The family `qwen3`.
pub struct Qwen3;

impl Architecture for Qwen3 {
    fn model_type(&self) -> &'static str {
        "qwen3"
    }

    fn config(&self, keys: &Keys) -> Result<ModelConfig> {
        let config = llama_like(keys)?;
        let attention = keys.flag_or("attention_bias", false)?;
        Ok(ModelConfig {
            biases: Biases { query_key_value: attention, attention_output: attention, mlp: false },
            query_key_norm: true,
            windows: windows(keys, config.num_hidden_layers)?,
            head_dim: keys.count_or("head_dim", 128)?,
            positions: keys.rotary(keys.count_or("head_dim", 128)?, "rope_theta", "partial_rotary_factor", 1.0)?,
            ..config
        })
    }
}
