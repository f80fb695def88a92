//! The token/embedding speculator, as TGI and vLLM read it.

use serde_json::json;

use super::checkpoint::{Checkpoint, Name, another_kind};
use super::{Format, Target};
use crate::backbone::Backbone;
use crate::error::{Result, bail};
use crate::heads::{HeadArchitecture, PlainHeads, SpeculatorConfig, SpeculatorWeights};

/// The format of IBM's speculators.
pub(super) struct MlpSpeculator;

/// Returns the parameters of `count` heads by their names here and there. Tied weights are there once.
fn names(config: &SpeculatorConfig, count: usize) -> Vec<Name> {
    let (carried, others) = if config.tie_weights { (count.min(2), 1) } else { (count, count) };
    let mut names = Vec::new();
    for head in 0..others {
        for (ours, theirs) in [
            ("token.{}.weight", "emb.{}.weight"),
            ("norm.{}.weight", "ln.{}.weight"),
            ("norm.{}.shift", "ln.{}.bias"),
            ("output.{}.weight", "head.{}.weight"),
        ] {
            let number = head.to_string();
            names.push((ours.replace("{}", &number), format!("speculator.{}", theirs.replace("{}", &number))));
        }
    }
    names.extend((0..carried).map(|head| (format!("carry.{head}.weight"), format!("speculator.proj.{head}.weight"))));
    names
}

impl Format for MlpSpeculator {
    fn name(&self) -> &'static str {
        "mlp-speculator"
    }

    fn about(&self) -> &'static str {
        "the token/embedding speculator, for TGI and for vLLM before 0.33"
    }

    fn write(&self, heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
        let config = match &heads.architecture {
            HeadArchitecture::Speculator(config) if config.weights == SpeculatorWeights::Own => config,
            HeadArchitecture::Speculator(_) => bail!(
                "it holds speculators with embeddings and unembeddings of their own, and these use the backbone's. Train them with `heads.architecture.weights` = \"own\"."
            ),
            other => return Err(another_kind("speculator", other)),
        };
        let shape = backbone.model.config();
        let written = json!({
            "architectures": ["MLPSpeculatorPreTrainedModel"], "model_type": "mlp_speculator",
            "emb_dim": shape.hidden_size, "inner_dim": config.inner, "n_predict": heads.count,
            "vocab_size": shape.vocab_size, "tie_weights": config.tie_weights, "scale_input": config.scale_input,
            "top_k_tokens_per_head": vec![1; heads.count], "n_candidates": 1,
        });
        let mut checkpoint = Checkpoint::new(written, "model.safetensors");
        checkpoint.add(heads.parameters.clone(), &names(config, heads.count))?;
        Ok(checkpoint)
    }

    fn recognises(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.get("model_type").is_some_and(|kind| kind == "mlp_speculator")
    }

    fn read(&self, mut checkpoint: Checkpoint, target: &Target) -> Result<PlainHeads> {
        let (count, d) = (checkpoint.number("n_predict")?, checkpoint.number("emb_dim")?);
        if d != target.shape.hidden_size {
            bail!("config.json: `emb_dim` is {d}, but the backbone's states are {} wide.", target.shape.hidden_size);
        }
        let inner = match checkpoint.number("inner_dim")? {
            0 => d,
            inner => inner,
        };
        let config = SpeculatorConfig {
            inner,
            weights: SpeculatorWeights::Own,
            tie_weights: checkpoint.flag("tie_weights", false),
            scale_input: checkpoint.flag("scale_input", false),
        };
        let names = names(&config, count);
        let parameters = checkpoint.take(&names)?;
        if config.tie_weights {
            // Some writers give every head its copy.
            let copy = |name: &String| {
                ["emb", "ln", "head", "proj"].iter().any(|part| name.starts_with(&format!("speculator.{part}.")))
            };
            checkpoint.tensors.retain(|name, _| !copy(name));
        }
        checkpoint.is_empty()?;
        Ok(PlainHeads {
            architecture: HeadArchitecture::Speculator(config),
            bias: None,
            count,
            vocabulary: None,
            parameters,
        })
    }

    fn serving(&self, folder: &str, _: &str, count: usize) -> String {
        format!("text-generation-launcher --model-id {folder} --speculate {count}")
    }
}
