//! `[pretrain]`: a language model from scratch. Only the stage of this name, which stands below this room, reads it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::LanguageModelConfig;
use crate::training::OptimizationConfig;

/// `[pretrain]`: a tokenizer and a language model fitted from scratch on the train split of `[data.*]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// The folder where the model is written, in the layout of Hugging Face.
    pub output: String,
    /// The number of token types of the byte-level BPE.
    #[schemars(range(min = 257))]
    pub vocab_size: usize,
    /// The size of the model.
    pub model: LanguageModelConfig,
    /// The number of documents per training step.
    #[schemars(range(min = 1, max = 65_536))]
    pub documents_per_step: usize,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            output: "checkpoints/new".into(),
            vocab_size: 2048,
            model: LanguageModelConfig::default(),
            documents_per_step: 16,
            training: OptimizationConfig::default(),
        }
    }
}
