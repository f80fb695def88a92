//! Families of checkpoints, one file each: how their `config.json` is read, and where they keep each parameter.
//!
//! Inside this program, every parameter has the name that it has in a Llama checkpoint
//! (`model.layers.0.self_attn.q_proj.weight`).

mod gpt2;
mod gpt_neox;
mod keys;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use std::ops::Range;

use super::ModelConfig;
use crate::error::{Result, bail};

pub use keys::Keys;
pub use llama::config_json;

/// A family of checkpoints.
pub trait Architecture: Sync {
    /// Returns the `model_type` in its `config.json`.
    fn model_type(&self) -> &'static str;

    /// Reads the shape that a `config.json` describes.
    ///
    /// # Errors
    /// When a key is missing or malformed, or the model has a feature that would change its numbers and is not
    /// supported.
    fn config(&self, keys: &Keys) -> Result<ModelConfig>;

    /// Returns where a checkpoint keeps a parameter: as a Llama does, unless the family says otherwise.
    fn locate(&self, _config: &ModelConfig, parameter: &str) -> StoredParameter {
        StoredParameter::whole(parameter)
    }

    /// Returns whether a tensor of the checkpoint follows from the configuration, so that it need not be read.
    fn is_derived(&self, tensor: &str) -> bool {
        tensor.ends_with("rotary_emb.inv_freq")
    }
}

/// Every family that is supported.
const ALL: [&dyn Architecture; 6] =
    [&llama::Llama, &mistral::Mistral, &qwen2::Qwen2, &qwen3::Qwen3, &gpt2::Gpt2, &gpt_neox::GptNeox];

/// Returns the family of a `config.json`.
///
/// # Errors
/// When the family is not supported; the error names those that are.
pub fn architecture(keys: &Keys) -> Result<&'static dyn Architecture> {
    let name = keys.text("model_type")?.unwrap_or("missing");
    match ALL.into_iter().find(|a| a.model_type() == name) {
        Some(architecture) => Ok(architecture),
        None => {
            let known: Vec<&str> = ALL.iter().map(|a| a.model_type()).collect();
            bail!("the architecture (model_type) is `{name}`; this version supports {}.", known.join(", "))
        }
    }
}

/// Where a checkpoint keeps a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredParameter {
    /// The name of the tensor.
    pub tensor: String,
    /// Whether the matrix is stored `[inputs, outputs]`.
    pub transposed: bool,
    /// The rows of `[outputs, inputs]` that belong to the parameter, in order; empty for all.
    pub rows: Vec<Range<usize>>,
}

impl StoredParameter {
    /// Makes the location of a parameter that is a whole tensor.
    pub fn whole(tensor: impl Into<String>) -> Self {
        Self { tensor: tensor.into(), transposed: false, rows: Vec::new() }
    }
}

/// Splits a parameter's name into the layer, the part within it (`self_attn.q_proj`), and `weight` or `bias`.
fn in_layer(parameter: &str) -> Option<(usize, &str, &str)> {
    let (layer, rest) = parameter.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    Some((layer.parse().ok()?, part, kind))
}

/// Returns which of the products of attention a part is: 0 for queries, 1 for keys, 2 for values.
fn query_key_value(part: &str) -> Option<usize> {
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].iter().position(|p| *p == part)
}

/// Returns the other family's name of a part.
fn renamed<'a>(part: &'a str, names: &[(&str, &'a str)]) -> &'a str {
    names.iter().find(|(ours, _)| *ours == part).map_or(part, |(_, theirs)| theirs)
}
