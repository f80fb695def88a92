//! Medusa, as vLLM (up to 0.32) and TGI read it.

use std::collections::BTreeMap;

use serde_json::json;

use super::checkpoint::{Checkpoint, Name, Stored, unembedding};
use super::{Format, Target};
use crate::backbone::Backbone;
use crate::error::{Result, bail};
use crate::heads::{HeadArchitecture, HeadUnembedding, MedusaConfig, PlainHeads};
use crate::nn::Values;

/// Medusa by the names of vLLM.
pub(super) struct Medusa;

/// Medusa by the names of its authors and of TGI.
pub(super) struct MedusaTgi;

fn medusa(heads: &PlainHeads) -> Result<&MedusaConfig> {
    match &heads.architecture {
        HeadArchitecture::Medusa(_) if heads.bias.is_some() => {
            bail!("Medusa has no bias, and these heads have one. For parallel heads with a bias take \"speculators\".")
        }
        // vLLM has a map of draft tokens for this, which its own loader (0.32) refuses.
        HeadArchitecture::Medusa(_) if heads.vocabulary.is_some() => bail!(
            "its readers draft from the whole vocabulary, and these heads from a part. Train them without `heads.vocabulary`, or with `drafting` = false."
        ),
        HeadArchitecture::Medusa(config) => Ok(config),
        other => bail!(
            "it holds heads of kind \"medusa\", and these are of kind \"{}\". A block of Medusa is one matrix and a bias; a head of kind \"ffn\" has two matrices.",
            other.kind().name()
        ),
    }
}

/// Returns the blocks' parameters by their names here and there.
fn block_names(count: usize, blocks: usize, theirs: impl Fn(usize, usize, &str) -> String) -> Vec<Name> {
    let mut names = Vec::new();
    for (head, block) in (0..count).flat_map(|head| (0..blocks).map(move |block| (head, block))) {
        for part in ["weight", "bias"] {
            names.push((format!("heads.{head}.blocks.{block}.{part}"), theirs(head, block, part)));
        }
    }
    names
}

fn vllm_name(head: usize, block: usize, part: &str) -> String {
    format!("blocks.{head}.layers.{block}.{part}")
}

fn tgi_name(head: usize, block: usize, part: &str) -> String {
    format!("{head}.{block}.linear.{part}")
}

/// Returns the own unembeddings of the heads, taken out of their parameters, if they have some.
fn take_own(parameters: &mut BTreeMap<String, Values>, count: usize) -> Vec<Values> {
    (0..count).filter_map(|head| parameters.remove(&format!("heads.{head}.unembedding.weight"))).collect()
}

/// Takes blocks, which may have no biases there.
fn take_blocks(checkpoint: &mut Checkpoint, names: &[Name]) -> Result<BTreeMap<String, Values>> {
    let mut parameters = BTreeMap::new();
    for (ours, theirs) in names {
        if theirs.ends_with(".bias") && !checkpoint.tensors.contains_key(theirs) {
            let weight: &Values = &parameters[&ours.replace(".bias", ".weight")];
            let width = weight.0[0];
            parameters.insert(ours.clone(), (vec![width], vec![0.0; width]));
        } else {
            parameters.insert(ours.clone(), checkpoint.take_floats(theirs)?);
        }
    }
    Ok(parameters)
}

/// Takes the unembedding of every head. Returns what the heads end in.
fn take_unembeddings(
    checkpoint: &mut Checkpoint,
    count: usize,
    theirs: impl Fn(usize) -> String,
    target: &Target,
    parameters: &mut BTreeMap<String, Values>,
) -> Result<HeadUnembedding> {
    let mut own = Vec::new();
    for head in 0..count {
        own.push(checkpoint.take_same(&theirs(head), target, None)?);
    }
    if own.iter().all(Option::is_none) {
        return Ok(HeadUnembedding::Frozen);
    }
    for (head, table) in own.into_iter().enumerate() {
        let copy = || {
            let backbone = target.backbone.expect("tables were compared with its own");
            (vec![target.shape.vocab_size, target.shape.hidden_size], unembedding(backbone, None))
        };
        parameters.insert(format!("heads.{head}.unembedding.weight"), table.unwrap_or_else(copy));
    }
    Ok(HeadUnembedding::Own)
}

impl Format for Medusa {
    fn name(&self) -> &'static str {
        "medusa"
    }

    fn about(&self) -> &'static str {
        "Medusa, for vLLM up to 0.32"
    }

    fn write(&self, heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
        let config = medusa(heads)?;
        let (shape, count) = (backbone.model.config(), heads.count);
        let (vocabulary, d) = (shape.vocab_size, shape.hidden_size);
        let mut parameters = heads.parameters.clone();
        let own = take_own(&mut parameters, count);
        let written = json!({
            "architectures": ["MedusaModel"], "model_type": "medusa", "hidden_size": d, "vocab_size": vocabulary,
            "num_heads": count, "num_hidden_layers": config.blocks, "medusa_fc_bias": true, "max_paths": 64, "topk": 10,
            "truncated_vocab_size": vocabulary,
            "original_lm_head": own.is_empty(),
        });
        let mut checkpoint = Checkpoint::new(written, "model.safetensors");
        checkpoint.add(parameters, &block_names(count, config.blocks, vllm_name))?;
        if own.is_empty() {
            let table = Stored::Floats((vec![vocabulary, d], unembedding(backbone, None)));
            checkpoint.tensors.insert("lm_head.weight".into(), table);
        }
        for (head, table) in own.into_iter().enumerate() {
            checkpoint.tensors.insert(format!("lm_heads.{head}.weight"), Stored::Floats(table));
        }
        Ok(checkpoint)
    }

    fn recognises(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.get("model_type").is_some_and(|kind| kind == "medusa") && checkpoint.get("num_heads").is_some()
    }

    fn read(&self, mut checkpoint: Checkpoint, target: &Target) -> Result<PlainHeads> {
        let [count, blocks] = [checkpoint.number("num_heads")?, checkpoint.number("num_hidden_layers")?];
        let mut parameters = take_blocks(&mut checkpoint, &block_names(count, blocks, vllm_name))?;
        let unembedding = if checkpoint.tensors.contains_key("lm_head.weight") {
            if checkpoint.take_same("lm_head.weight", target, None)?.is_some() {
                bail!(
                    "{}: `lm_head.weight`, which all heads share, is not the backbone's own. Give the backbone that they were trained above.",
                    checkpoint.file
                );
            }
            HeadUnembedding::Frozen
        } else {
            take_unembeddings(
                &mut checkpoint,
                count,
                |head| format!("lm_heads.{head}.weight"),
                target,
                &mut parameters,
            )?
        };
        checkpoint.is_empty()?;
        let architecture = HeadArchitecture::Medusa(MedusaConfig { blocks, unembedding });
        Ok(PlainHeads { architecture, bias: None, count, vocabulary: None, parameters })
    }

    fn serving(&self, folder: &str, backbone: &str, count: usize) -> String {
        format!(
            "vllm serve {backbone} --speculative-config '{{\"method\": \"medusa\", \"model\": \"{folder}\", \"num_speculative_tokens\": {count}}}'"
        )
    }
}

impl Format for MedusaTgi {
    fn name(&self) -> &'static str {
        "medusa-tgi"
    }

    fn about(&self) -> &'static str {
        "Medusa by its authors' names, for TGI"
    }

    fn write(&self, heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
        let config = medusa(heads)?;
        let (shape, count, blocks) = (backbone.model.config(), heads.count, config.blocks);
        let mut parameters = heads.parameters.clone();
        let own = take_own(&mut parameters, count);
        let written = json!({
            "medusa_num_heads": count, "medusa_num_layers": blocks, "hidden_size": shape.hidden_size,
            "vocab_size": shape.vocab_size, "base_model_name_or_path": backbone.path.display().to_string(),
        });
        let mut checkpoint = Checkpoint::new(written, "medusa_lm_head.safetensors");
        checkpoint.add(parameters, &block_names(count, blocks, tgi_name))?;
        let shared = if own.is_empty() { unembedding(backbone, None) } else { Vec::new() };
        for head in 0..count {
            let copy = || (vec![shape.vocab_size, shape.hidden_size], shared.clone());
            let table = own.get(head).cloned().unwrap_or_else(copy);
            checkpoint.tensors.insert(format!("{head}.{blocks}.weight"), Stored::Floats(table));
        }
        Ok(checkpoint)
    }

    fn recognises(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.get("medusa_num_heads").is_some()
    }

    fn read(&self, mut checkpoint: Checkpoint, target: &Target) -> Result<PlainHeads> {
        let [count, blocks] = [checkpoint.number("medusa_num_heads")?, checkpoint.number("medusa_num_layers")?];
        let mut parameters = take_blocks(&mut checkpoint, &block_names(count, blocks, tgi_name))?;
        let theirs = |head| format!("{head}.{blocks}.weight");
        let unembedding = take_unembeddings(&mut checkpoint, count, theirs, target, &mut parameters)?;
        checkpoint.is_empty()?;
        let architecture = HeadArchitecture::Medusa(MedusaConfig { blocks, unembedding });
        Ok(PlainHeads { architecture, bias: None, count, vocabulary: None, parameters })
    }

    fn serving(&self, folder: &str, _: &str, count: usize) -> String {
        format!("text-generation-launcher --model-id {folder} --speculate {count}")
    }
}
