//! EAGLE-1 and EAGLE-3, as vLLM and SGLang read them.

use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, Name, Stored, another_kind, layers, mask_embedding, named_layers, unembedding};
use super::shape::layers_config;
use super::{Format, Target};
use crate::backbone::Backbone;
use crate::error::{Result, bail};
use crate::heads::{Eagle1Config, Eagle3Config, HeadArchitecture, HeadUnembedding, PlainHeads};

/// EAGLE-3 by the names of its authors' code.
pub(super) struct Eagle3;

/// EAGLE-1.
pub(super) struct Eagle1;

/// Returns the parameters of a decoder layer, by their names here and there: queries and keys may have norms.
pub(super) fn layer_names(ours: &str, theirs: &str, query_key_norm: bool) -> Vec<Name> {
    let attention = ["q_proj", "k_proj", "v_proj", "o_proj"].map(|part| format!("self_attn.{part}"));
    let norms = ["q_norm", "k_norm"].map(|part| format!("self_attn.{part}"));
    let mlp = ["gate_proj", "up_proj", "down_proj"].map(|part| format!("mlp.{part}"));
    let parts = attention.into_iter().chain(mlp).chain(["post_attention_layernorm".to_owned()]);
    let parts = parts.chain(norms.into_iter().filter(|_| query_key_norm));
    parts.map(|part| (format!("{ours}.{part}.weight"), format!("{theirs}.{part}.weight"))).collect()
}

/// Returns pairs of names as they are written in the source.
pub(super) fn named(pairs: &[(&str, &str)]) -> impl Iterator<Item = Name> {
    pairs.iter().map(|&(ours, theirs)| (ours.to_owned(), theirs.to_owned()))
}

/// Returns the names of the parameters of EAGLE-3, whose layer is called `layer` there.
fn eagle3_names(layer: &str, parallel: bool) -> Vec<Name> {
    let mut names = layer_names("decoder.layers.0", layer, false);
    names.extend(named(&[("entry.fuse.weight", "fc.weight"), ("norm.weight", "norm.weight")]));
    names.push(("entry.token_norm.weight".into(), format!("{layer}.input_layernorm.weight")));
    names.push(("entry.state_norm.weight".into(), format!("{layer}.hidden_norm.weight")));
    names.extend(named(&[("entry.mask.states", "mask_hidden")]).filter(|_| parallel));
    names
}

/// Returns the section of heads that are EAGLE-3's.
pub(super) fn eagle3(heads: &PlainHeads) -> Result<&Eagle3Config> {
    match &heads.architecture {
        HeadArchitecture::Eagle3(_) if heads.bias.is_some() => bail!("EAGLE-3 has no bias, and these heads have one."),
        HeadArchitecture::Eagle3(config) => Ok(config),
        other => Err(another_kind("eagle3", other)),
    }
}

/// Adds the tensors of EAGLE-3.
pub(super) fn add_eagle3(
    checkpoint: &mut Checkpoint,
    layer: &str,
    heads: &PlainHeads,
    backbone: &Backbone,
) -> Result<()> {
    let config = eagle3(heads)?;
    let mut parameters = heads.parameters.clone();
    // The embedding of the mask is that of its token.
    parameters.remove("entry.mask.token");
    let own = parameters.remove("unembedding.weight");
    if let Some((shape, _)) = parameters.get_mut("entry.mask.states") {
        *shape = vec![1, 1, shape[1]];
    }
    checkpoint.add(parameters, &eagle3_names(layer, config.parallel))?;
    let (vocabulary, d) = (backbone.model.config().vocab_size, backbone.model.config().hidden_size);
    let ids = heads.vocabulary.as_deref();
    let table = own.map_or_else(|| unembedding(backbone, ids), |(_, numbers)| numbers);
    checkpoint.tensors.insert("lm_head.weight".into(), Stored::Floats((vec![table.len() / d, d], table)));
    if let Some(ids) = ids {
        checkpoint.add_vocabulary(ids, vocabulary);
    }
    Ok(())
}

/// Takes EAGLE-3 out of a checkpoint, given its section of the configuration without what the tensors say.
pub(super) fn take_eagle3(
    mut checkpoint: Checkpoint,
    layer: &str,
    config: Eagle3Config,
    count: usize,
    target: &Target,
) -> Result<PlainHeads> {
    checkpoint.without(&["norm_before_fc", "fc_norm", "norm_output", "attention_bias"])?;
    let mut ids = checkpoint.take_vocabulary(target.shape.vocab_size)?;
    checkpoint.drop_table("embed_tokens.weight", target, None)?;
    let mut config = config;
    let mut own = None;
    if checkpoint.tensors.contains_key("lm_head.weight") {
        own = checkpoint.take_same("lm_head.weight", target, ids.as_deref())?;
    }
    // Engines may number draft tokens in any order; here they ascend.
    if let Some(ids) = &mut ids {
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|&row| ids[row]);
        if let Some((shape, table)) = &mut own {
            let row = |&row: &usize| table[row * shape[1]..][..shape[1]].to_vec();
            *table = order.iter().flat_map(row).collect();
        }
        ids.sort_unstable();
    }
    let mut parameters = checkpoint.take(&eagle3_names(layer, config.parallel))?;
    checkpoint.is_empty()?;
    if let Some(own) = own {
        config.unembedding = HeadUnembedding::Own;
        parameters.insert("unembedding.weight".into(), own);
    }
    if let Some((shape, numbers)) = parameters.get_mut("entry.mask.states") {
        *shape = vec![1, numbers.len()];
        let mask = mask_embedding(target, config.mask_token.unwrap_or_default())?;
        parameters.insert("entry.mask.token".into(), (vec![1, mask.len()], mask));
    }
    let architecture = HeadArchitecture::Eagle3(config);
    Ok(PlainHeads { architecture, bias: None, count, vocabulary: ids, parameters })
}

impl Format for Eagle3 {
    fn name(&self) -> &'static str {
        "eagle3"
    }

    fn about(&self) -> &'static str {
        "EAGLE-3 by its authors' names, for vLLM and SGLang"
    }

    fn write(&self, heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
        let config = eagle3(heads)?;
        if config.parallel {
            bail!("it holds rows that are run one after the other. For P-EAGLE take \"speculators\".");
        }
        let shape = backbone.model.config();
        let mut written = layers_config(shape, "llama", 1);
        written.insert("architectures".into(), json!(["LlamaForCausalLMEagle3"]));
        written.insert("draft_vocab_size".into(), json!(heads.vocabulary.as_ref().map_or(shape.vocab_size, Vec::len)));
        written.insert("norm_before_residual".into(), json!(config.norm_before_residual));
        let read = named_layers(&config.input(shape))?;
        written.insert(
            "eagle_config".into(),
            json!({"eagle_aux_hidden_state_layer_ids": read, "use_aux_hidden_state": true}),
        );
        written.insert("num_draft_tokens".into(), json!(heads.count));
        let mut checkpoint = Checkpoint::new(Value::Object(written), "model.safetensors");
        add_eagle3(&mut checkpoint, "midlayer", heads, backbone)?;
        Ok(checkpoint)
    }

    fn recognises(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.is_called("Eagle3") || checkpoint.is_called("EAGLE3")
    }

    fn read(&self, checkpoint: Checkpoint, target: &Target) -> Result<PlainHeads> {
        let of_eagle = checkpoint.get("eagle_config").and_then(|config| config.get("eagle_aux_hidden_state_layer_ids"));
        let ids = of_eagle.or_else(|| checkpoint.get("eagle_aux_hidden_state_layer_ids"));
        let input = ids.map_or(Ok(Vec::new()), |ids| layers(ids, "eagle_aux_hidden_state_layer_ids", 0))?;
        let norm_before_residual = checkpoint.flag("norm_before_residual", false);
        let config = Eagle3Config { input, norm_before_residual, ..Eagle3Config::default() };
        let layer =
            if checkpoint.tensors.keys().any(|name| name.starts_with("layers.0.")) { "layers.0" } else { "midlayer" };
        // The authors' configurations do not say how far they draft; their code goes five levels deep.
        let count = checkpoint.number("num_draft_tokens").unwrap_or(5);
        take_eagle3(checkpoint, layer, config, count, target)
    }

    fn serving(&self, folder: &str, backbone: &str, count: usize) -> String {
        format!(
            "vllm serve {backbone} --speculative-config '{{\"method\": \"eagle3\", \"model\": \"{folder}\", \"num_speculative_tokens\": {count}}}'"
        )
    }
}

fn eagle1_names() -> Vec<Name> {
    let mut names = layer_names("decoder.layers.0", "layers.0", false);
    names.extend(named(&[("entry.join.weight", "fc.weight")]));
    names
}

impl Format for Eagle1 {
    fn name(&self) -> &'static str {
        "eagle1"
    }

    fn about(&self) -> &'static str {
        "EAGLE, for vLLM and SGLang"
    }

    fn write(&self, heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
        let HeadArchitecture::Eagle1(config) = &heads.architecture else {
            return Err(another_kind("eagle1", &heads.architecture));
        };
        if heads.vocabulary.is_some() {
            bail!(
                "its readers draft from the whole vocabulary, and these heads from a part. Train them without `heads.vocabulary`, or with `drafting` = false."
            );
        }
        let mut parameters = heads.parameters.clone();
        if config.bias {
            let (_, bias) = parameters.remove("entry.join.bias").unwrap_or_default();
            if bias.iter().any(|&x| x != 0.0) {
                bail!(
                    "its readers have no bias of the first projection, and that of these heads is not zero. Train them with `heads.architecture.bias` = false."
                );
            }
        }
        let mut written = layers_config(backbone.model.config(), "llama", 1);
        written.insert("architectures".into(), json!(["EagleLlamaForCausalLM"]));
        written.insert("num_draft_tokens".into(), json!(heads.count));
        let mut checkpoint = Checkpoint::new(Value::Object(written), "model.safetensors");
        checkpoint.add(parameters, &eagle1_names())?;
        Ok(checkpoint)
    }

    fn recognises(&self, checkpoint: &Checkpoint) -> bool {
        // The authors' own call it a Llama, with an `fc` of two widths.
        let joins = matches!(checkpoint.tensors.get("fc.weight"),
            Some(Stored::Floats((shape, _))) if shape.len() == 2 && shape[1] == 2 * shape[0]);
        checkpoint.is_called("EagleLlama") || (checkpoint.is_called("Llama") && joins)
    }

    fn read(&self, mut checkpoint: Checkpoint, target: &Target) -> Result<PlainHeads> {
        checkpoint.drop_table("embed_tokens.weight", target, None)?;
        checkpoint.drop_table("lm_head.weight", target, None)?;
        let count = checkpoint.number("num_draft_tokens").unwrap_or(5);
        let bias = checkpoint.tensors.contains_key("fc.bias");
        let mut names = eagle1_names();
        names.extend(named(&[("entry.join.bias", "fc.bias")]).filter(|_| bias));
        let parameters = checkpoint.take(&names)?;
        checkpoint.is_empty()?;
        let architecture = HeadArchitecture::Eagle1(Eagle1Config { bias });
        Ok(PlainHeads { architecture, bias: None, count, vocabulary: None, parameters })
    }

    fn serving(&self, folder: &str, backbone: &str, count: usize) -> String {
        format!(
            "vllm serve {backbone} --speculative-config '{{\"method\": \"eagle\", \"model\": \"{folder}\", \"num_speculative_tokens\": {count}}}'"
        )
    }
}
