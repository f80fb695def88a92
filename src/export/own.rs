//! The format of this program, which holds every kind of heads: their parameters by the names that they have here, and their sections
//! of the configuration. `docs/formats.md` describes it.

use serde_json::json;

use super::checkpoint::{Checkpoint, Stored};
use super::{Format, Target};
use crate::backbone::Backbone;
use crate::error::{Error, Result, bail};
use crate::heads::{BiasConfig, HeadArchitecture, PlainHeads};

/// The format of this program.
pub(super) struct Own;

impl Format for Own {
    fn name(&self) -> &'static str {
        "hf"
    }

    fn about(&self) -> &'static str {
        "every kind of heads, as safetensors and config.json, described in docs/formats.md"
    }

    fn write(&self, heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
        let shape = backbone.model.config();
        let written = json!({
            "model_type": "draftsmith", "architecture": heads.architecture, "bias": heads.bias, "heads": heads.count,
            "hidden_size": shape.hidden_size, "vocab_size": shape.vocab_size,
            "num_attention_heads": shape.num_attention_heads, "num_key_value_heads": shape.num_key_value_heads,
            "head_dim": shape.head_dim, "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_hidden_layers, "max_position_embeddings": shape.max_position_embeddings,
        });
        let mut checkpoint = Checkpoint::new(written, "model.safetensors");
        for (name, values) in &heads.parameters {
            checkpoint.tensors.insert(name.clone(), Stored::Floats(values.clone()));
        }
        if let Some(ids) = &heads.vocabulary {
            checkpoint.add_vocabulary(ids, shape.vocab_size);
        }
        Ok(checkpoint)
    }

    fn recognises(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.get("model_type").is_some_and(|kind| kind == "draftsmith")
    }

    fn read(&self, mut checkpoint: Checkpoint, target: &Target) -> Result<PlainHeads> {
        let section = |key: &str| checkpoint.config.get(key).cloned().unwrap_or_default();
        let wrong = |key: &str, e: serde_json::Error| Error::new(format!("config.json: `{key}`: {e}."));
        let architecture: HeadArchitecture =
            serde_json::from_value(section("architecture")).map_err(|e| wrong("architecture", e))?;
        let bias: Option<BiasConfig> = serde_json::from_value(section("bias")).map_err(|e| wrong("bias", e))?;
        let (count, d) = (checkpoint.number("heads")?, checkpoint.number("hidden_size")?);
        if d != target.shape.hidden_size {
            bail!(
                "config.json: `hidden_size` is {d}, but the backbone's states are {} wide.",
                target.shape.hidden_size
            );
        }
        let vocabulary = checkpoint.take_vocabulary(target.shape.vocab_size)?;
        let names: Vec<(String, String)> = checkpoint.tensors.keys().map(|name| (name.clone(), name.clone())).collect();
        let parameters = checkpoint.take(&names)?;
        Ok(PlainHeads { architecture, bias, count, vocabulary, parameters })
    }

    fn serving(&self, folder: &str, backbone: &str, _: usize) -> String {
        format!("draftsmith evaluate CONFIG --heads {folder} --set backbone.path={backbone}")
    }
}
