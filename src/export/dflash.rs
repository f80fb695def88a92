//! DFlash, as its authors write it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, Name, another_kind, layers, mask_embedding, named_layers};
use super::eagle::{layer_names, named};
use super::shape::layers_config;
use super::{Format, Target};
use crate::backbone::{Backbone, ModelConfig};
use crate::error::{Error, Result, bail};
use crate::heads::{DflashConfig, HeadArchitecture, PlainHeads};
use crate::nn::Values;

/// DFlash by its authors' names.
pub(super) struct Dflash;

/// Returns the names of DFlash's parameters. Here they may lie below a bias, with the names' beginning `below`.
pub(super) fn dflash_names(config: &DflashConfig, below: &str) -> Vec<Name> {
    let mut names: Vec<Name> = named(&[
        ("context.projection.weight", "fc.weight"),
        ("context.norm.weight", "hidden_norm.weight"),
        ("norm.weight", "norm.weight"),
    ])
    .collect();
    for layer in 0..config.layers {
        let [ours, theirs] = [format!("decoder.layers.{layer}"), format!("layers.{layer}")];
        names.extend(layer_names(&ours, &theirs, true));
        names.push((format!("{ours}.input_layernorm.weight"), format!("{theirs}.input_layernorm.weight")));
        for part in ["attention_conv", "mlp_conv"].into_iter().filter(|_| config.convolution.is_some()) {
            for name in ["base_kernel", "kernel_projection.weight"] {
                names.push((format!("{ours}.{part}.{name}"), format!("{theirs}.{part}.{name}")));
            }
        }
    }
    names.into_iter().map(|(ours, theirs)| (format!("{below}{ours}"), theirs)).collect()
}

/// Returns the section of heads that are DFlash's, and what stands for drafted tokens.
///
/// # Errors
/// Returns an error if they depart from it.
pub(super) fn dflash(heads: &PlainHeads) -> Result<(&DflashConfig, u32)> {
    let HeadArchitecture::Dflash(config) = &heads.architecture else {
        return Err(another_kind("dflash", &heads.architecture));
    };
    if config.scale_features || config.warm_start {
        bail!(
            "`heads.architecture.scale_features` and `warm_start` are departures that no engine reads. Train the heads without them."
        );
    }
    if config.causal && config.sliding_window.is_none() {
        bail!(
            "engines run layers that see the whole text in both directions inside a block. Train the heads without `causal`."
        );
    }
    let Some(mask) = config.mask_token else {
        bail!(
            "engines take the embedding of a token for what is to be drafted, and these heads have learnt a vector. Train them with `heads.architecture.mask_token` = an id that no text uses."
        );
    };
    Ok((config, mask))
}

/// Returns the `config.json` of DFlash's layers.
pub(super) fn dflash_layers(config: &DflashConfig, backbone: &ModelConfig) -> Map<String, Value> {
    let mut written = layers_config(backbone, "qwen3", config.layers);
    if let Some(window) = config.sliding_window {
        written.insert("use_sliding_window".into(), json!(true));
        written.insert("sliding_window".into(), json!(window));
        written.insert("max_window_layers".into(), json!(0));
        written.insert("layer_types".into(), json!(vec!["sliding_attention"; config.layers]));
    }
    written
}

/// Reads what the layers' configuration says.
pub(super) fn read_layers(checkpoint: &Checkpoint) -> Result<(usize, Option<usize>)> {
    let layers = checkpoint.number("num_hidden_layers")?;
    let types = checkpoint.get("layer_types").and_then(Value::as_array).cloned().unwrap_or_default();
    let slide = types.iter().filter(|&kind| kind == "sliding_attention").count();
    if slide > 0 && slide < types.len() {
        bail!("config.json: `layer_types` mixes layers with a window and without; here all or none have one.");
    }
    let window = if slide > 0 { Some(checkpoint.number("sliding_window")?) } else { None };
    Ok((layers, window))
}

/// Returns the parameters of heads below the mask, whose embedding is that of its token.
pub(super) fn without_mask(heads: &PlainHeads, below: &str) -> BTreeMap<String, Values> {
    let mut parameters = heads.parameters.clone();
    parameters.remove(&format!("{below}entry.mask"));
    for (name, (shape, _)) in &mut parameters {
        if name.ends_with("_conv.base_kernel") {
            *shape = vec![2, shape[0] / 2, shape[1]];
        }
    }
    parameters
}

/// Takes DFlash's parameters, with the embedding of the mask's token.
pub(super) fn take_dflash(
    checkpoint: &mut Checkpoint,
    config: &DflashConfig,
    below: &str,
    target: &Target,
) -> Result<BTreeMap<String, Values>> {
    let mut parameters = checkpoint.take(&dflash_names(config, below))?;
    for (name, (shape, _)) in &mut parameters {
        if name.ends_with("_conv.base_kernel") && shape.len() == 3 {
            *shape = vec![shape[0] * shape[1], shape[2]];
        }
    }
    let mask = mask_embedding(target, config.mask_token.unwrap_or_default())?;
    parameters.insert(format!("{below}entry.mask"), (vec![1, mask.len()], mask));
    Ok(parameters)
}

impl Format for Dflash {
    fn name(&self) -> &'static str {
        "dflash"
    }

    fn about(&self) -> &'static str {
        "DFlash by its authors' names, for vLLM and SGLang"
    }

    fn write(&self, heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
        let (config, mask) = dflash(heads)?;
        let shape = backbone.model.config();
        if heads.vocabulary.is_some() || config.convolution.is_some() || heads.bias.is_some() || config.anchor_predicts
        {
            bail!(
                "it holds DFlash alone, over the whole vocabulary, with a row for the pinned token that predicts nothing. For a draft vocabulary, DFlash2 and DSpark take \"speculators\"."
            );
        }
        let read = named_layers(&config.context(shape))?;
        if read.contains(&0) {
            bail!(
                "its layers are counted from 0 behind each layer, so `layer-0` has no number there. Take other states."
            );
        }
        let mut written = dflash_layers(config, shape);
        written.insert("architectures".into(), json!(["DFlashDraftModel"]));
        written.insert("block_size".into(), json!(heads.count + 1));
        written.insert("num_target_layers".into(), json!(shape.num_hidden_layers));
        let ids: Vec<usize> = read.iter().map(|layer| layer - 1).collect();
        written.insert(
            "dflash_config".into(),
            json!({"mask_token_id": mask, "target_layer_ids": ids, "causal": config.causal}),
        );
        let mut checkpoint = Checkpoint::new(Value::Object(written), "model.safetensors");
        checkpoint.add(without_mask(heads, ""), &dflash_names(config, ""))?;
        Ok(checkpoint)
    }

    fn recognises(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.get("dflash_config").is_some()
    }

    fn read(&self, mut checkpoint: Checkpoint, target: &Target) -> Result<PlainHeads> {
        let of_dflash = checkpoint.get("dflash_config").cloned().unwrap_or_default();
        let key = |key: &str| {
            let value = of_dflash.get(key).cloned();
            value.ok_or_else(|| Error::new(format!("config.json: `dflash_config.{key}` is missing.")))
        };
        let mask = key("mask_token_id")?.as_u64().map(|mask| mask as u32);
        let (number, sliding_window) = read_layers(&checkpoint)?;
        let config = DflashConfig {
            layers: number,
            context: layers(&key("target_layer_ids")?, "dflash_config.target_layer_ids", 1)?,
            mask_token: mask,
            sliding_window,
            causal: sliding_window.is_some() && of_dflash.get("causal").and_then(Value::as_bool).unwrap_or(false),
            ..DflashConfig::default()
        };
        let count = checkpoint.number("block_size")?.saturating_sub(1);
        checkpoint.drop_table("embed_tokens.weight", target, None)?;
        checkpoint.drop_table("lm_head.weight", target, None)?;
        let parameters = take_dflash(&mut checkpoint, &config, "", target)?;
        checkpoint.is_empty()?;
        Ok(PlainHeads {
            architecture: HeadArchitecture::Dflash(config),
            bias: None,
            count,
            vocabulary: None,
            parameters,
        })
    }

    fn serving(&self, folder: &str, backbone: &str, count: usize) -> String {
        format!(
            "vllm serve {backbone} --speculative-config '{{\"method\": \"dflash\", \"model\": \"{folder}\", \"num_speculative_tokens\": {count}}}'"
        )
    }
}
