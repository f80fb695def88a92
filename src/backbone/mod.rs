//! The frozen language model: a Hugging Face folder in, hidden states and logits out. Knows nothing of heads.
//!
//! [`Backbone::load`] reads `config.json`, `model.safetensors`, `tokenizer.json` and the end-of-text ids;
//! [`Llama::hidden`] is the forward to the last hidden states (after the final norm), with an optional [`KvCache`];
//! [`generate`] decodes greedily, many documents side by side.

mod cache;
mod folder;
mod generate;
mod llama;
mod model_config;

pub use cache::KvCache;
pub use folder::{Backbone, read_model, save_model};
pub use generate::{best_two, generate};
pub use llama::{Inputs, Llama, Visible};
pub use model_config::ModelConfig;
