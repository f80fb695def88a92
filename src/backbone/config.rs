//! `[backbone]`, and the size of a model that is trained from scratch.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::error::{Result, bail};
use crate::storage_type::StorageType;
use crate::text::ChatTemplate;

/// `[backbone]`; `backbone = "..."` is short for its `path`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneConfig {
    /// A Hugging Face folder (`config.json`, `model.safetensors`, `tokenizer.json`) or a `.gguf` file, relative to the working
    /// directory, or a model of the hub, `org/name` or `org/name@revision`.
    pub path: String,
    /// The type to which the model's matrices are rounded, and in which the CPU keeps them; the checkpoint's own type where it
    /// is not given.
    pub weights: Option<StorageType>,
    /// The type of activations, keys and values and, on accelerators, of the weights. The CPU computes in float32.
    pub compute: StorageType,
    /// How prompts are put to the model. Empty: as they are. "model": in the model's own chat template. Anything else: in the
    /// template at this path. The prompt is the user's message, and the tokenizer then adds no tokens of its own.
    pub chat_template: String,
    /// Values that the chat template is given by name besides the messages, such as `enable_thinking = false`. They must be the
    /// same where the model is served.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub chat_arguments: Table,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self {
            path: "checkpoints/tales".into(),
            weights: None,
            compute: StorageType::Float32,
            chat_template: String::new(),
            chat_arguments: Table::new(),
        }
    }
}

impl BackboneConfig {
    /// Checks what the types cannot express.
    ///
    /// # Errors
    /// Returns an error if the chat template is given a value that is not its user's to give, or that nothing reads. The
    /// message names the key.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.chat_template.is_empty() && !self.chat_arguments.is_empty() {
            bail!(
                "`backbone.chat_arguments` are for a chat template, and there is none. Set `backbone.chat_template` to \"model\", or leave them out."
            );
        }
        if let Some(name) = self.chat_arguments.keys().find(|name| ChatTemplate::OWN.contains(&name.as_str())) {
            bail!(
                "`backbone.chat_arguments` has `{name}`, which this program gives to the template itself. Leave it out."
            );
        }
        Ok(())
    }
}

/// The size of a Llama-architecture language model trained from scratch, whose unembedding is tied to its embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageModelConfig {
    /// The width of the hidden states.
    #[schemars(range(min = 2))]
    pub hidden: usize,
    /// The number of decoder layers.
    #[schemars(range(min = 1, max = 1024))]
    pub layers: usize,
    /// The number of attention heads; divides `hidden` into even widths.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// The number of key/value heads; divides `heads`.
    #[schemars(range(min = 1))]
    pub kv_heads: usize,
    /// The width of the gated MLP.
    #[schemars(range(min = 1))]
    pub intermediate: usize,
    /// The length of the longest text, in tokens.
    #[schemars(range(min = 2))]
    pub context: usize,
}

impl Default for LanguageModelConfig {
    fn default() -> Self {
        Self { hidden: 256, layers: 4, heads: 4, kv_heads: 2, intermediate: 704, context: 512 }
    }
}

impl LanguageModelConfig {
    pub(crate) fn validate(&self, key: &str) -> Result<()> {
        if !self.hidden.is_multiple_of(self.heads)
            || !self.heads.is_multiple_of(self.kv_heads)
            || !(self.hidden / self.heads).is_multiple_of(2)
        {
            bail!(
                "`{key}`: heads ({}) must divide hidden ({}) into even widths, and kv_heads ({}) must divide heads.",
                self.heads,
                self.hidden,
                self.kv_heads
            );
        }
        Ok(())
    }
}
