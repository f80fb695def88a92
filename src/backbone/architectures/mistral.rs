//! Mistral (Jiang et al. 2023): a Llama whose layers may have an attention window.

use super::super::model_config::ModelConfig;
use super::llama::llama_like;
use super::{Architecture, Keys};
use crate::error::Result;

/// The family `mistral`.
pub struct Mistral;

impl Architecture for Mistral {
    fn model_type(&self) -> &'static str {
        "mistral"
    }

    fn config(&self, keys: &Keys) -> Result<ModelConfig> {
        let config = llama_like(keys)?;
        Ok(ModelConfig { windows: keys.windows(config.num_hidden_layers, |_| true)?, ..config })
    }
}
