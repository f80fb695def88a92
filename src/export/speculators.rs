//! The format of vllm-project/speculators: EAGLE-3, P-EAGLE, DFlash, DFlash2 and DSpark.

use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, Name, Stored, layers, named_layers, unembedding};
use super::dflash::{dflash, dflash_layers, dflash_names, read_layers, take_dflash, without_mask};
use super::eagle::{add_eagle3, eagle3, named, take_eagle3};
use super::shape::{architectures, layers_config};
use super::{Format, Target};
use crate::backbone::{Backbone, ConvolutionConfig};
use crate::error::{Error, Result, bail};
use crate::heads::{BiasConfig, BiasForm, DflashConfig, Eagle3Config, HeadArchitecture, PlainHeads};
use crate::nn::TokenVectors;

/// The format of vllm-project/speculators.
pub(super) struct Speculators;

/// The version of the package whose rules this follows.
const VERSION: &str = "0.9.0";

/// The rank and the width of a selector that chooses nothing.
const NO_SELECTOR: (usize, usize) = (1, 1);

/// Returns what every configuration of the format says.
fn common(kind: &str, architecture: &str, heads: &PlainHeads, backbone: &Backbone) -> Map<String, Value> {
    let vocabulary = backbone.model.config().vocab_size;
    let written = json!({
        "architectures": [architecture], "speculators_model_type": kind, "speculators_version": VERSION,
        "draft_vocab_size": heads.vocabulary.as_ref().map_or(vocabulary, Vec::len), "tie_word_embeddings": false,
        "speculators_config": {
            "algorithm": kind, "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": heads.count}],
            "verifier": {
                "name_or_path": backbone.path.display().to_string(), "architectures": architectures(backbone),
            },
        },
    });
    let Value::Object(written) = written else { unreachable!("an object was written") };
    written
}

/// Returns the names of what DSpark puts on DFlash.
fn spark_names(bias: &BiasConfig) -> Vec<Name> {
    let mut names: Vec<Name> =
        named(&[("token.weight", "markov_head.markov_w1.weight"), ("bias", "markov_head.markov_w2.weight")]).collect();
    let form = match bias.form {
        BiasForm::Gated => Some("gate_proj"),
        BiasForm::Recurrent => Some("joint_proj"),
        BiasForm::Plain | BiasForm::Refiner => None,
    };
    for part in ["weight", "bias"] {
        names.extend(form.map(|form| (format!("form.{part}"), format!("markov_head.{form}.{part}"))));
        names.extend(bias.confidence.then(|| (format!("confidence.{part}"), format!("confidence_head.proj.{part}"))));
    }
    names
}

/// Refuses biases that DSpark does not have.
fn check_bias(bias: &BiasConfig) -> Result<()> {
    if bias.form == BiasForm::Refiner {
        bail!("DSpark's bias is plain, gated or recurrent, and that of these heads a refiner.");
    }
    if bias.tokens != TokenVectors::Codebooks {
        bail!(
            "DSpark's tokens have vectors of their own, and those of these heads are maps of the backbone's embeddings. Train them with `heads.bias.tokens` = \"codebooks\"."
        );
    }
    if bias.confidence && bias.form != BiasForm::Plain {
        bail!(
            "DSpark's confidence reads the vector of the token before the slot; with `heads.bias.form` = {} that of these heads reads what the form makes of it. Train them without `confidence`, or with the plain form.",
            json!(bias.form)
        );
    }
    Ok(())
}

fn write_eagle3(heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
    let config = eagle3(heads)?;
    let (kind, architecture) =
        if config.parallel { ("peagle", "PEagleDraftModel") } else { ("eagle3", "Eagle3DraftModel") };
    let mut written = common(kind, architecture, heads, backbone);
    written.insert("transformer_layer_config".into(), json!(layers_config(backbone.model.config(), "llama", 1)));
    written.insert("norm_before_residual".into(), json!(config.norm_before_residual));
    written.insert("norm_before_fc".into(), json!(false));
    written.insert(
        "eagle_aux_hidden_state_layer_ids".into(),
        json!(named_layers(&config.input(backbone.model.config()))?),
    );
    if config.parallel {
        let Some(mask) = config.mask_token else {
            bail!(
                "engines take the embedding of a token for tokens that are not known yet, and these heads have learnt a vector. Train them with `heads.architecture.mask_token`."
            );
        };
        written.insert("mask_token_id".into(), json!(mask));
    }
    let mut checkpoint = Checkpoint::new(Value::Object(written), "model.safetensors");
    add_eagle3(&mut checkpoint, "layers.0", heads, backbone)?;
    Ok(checkpoint)
}

fn write_dflash(heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
    let (config, mask) = dflash(heads)?;
    let (shape, count) = (backbone.model.config(), heads.count);
    let (vocabulary, d) = (shape.vocab_size, shape.hidden_size);
    let (kind, architecture) = match (&heads.bias, config.convolution) {
        (Some(_), Some(_)) => bail!("DSpark has no convolutions, and these heads have both them and a bias."),
        (Some(_), None) => ("dspark", "DSparkDraftModel"),
        (None, Some(_)) => ("dflash2", "DFlash2DraftModel"),
        (None, None) => ("dflash", "DFlashDraftModel"),
    };
    let mut written = common(kind, architecture, heads, backbone);
    written.insert("transformer_layer_config".into(), json!(dflash_layers(config, shape)));
    written.insert("block_size".into(), json!(count + usize::from(!config.anchor_predicts)));
    written.insert("aux_hidden_state_layer_ids".into(), json!(named_layers(&config.context(shape))?));
    written.insert("mask_token_id".into(), json!(mask));
    written.insert("sample_from_anchor".into(), json!(config.anchor_predicts));
    written.insert("sliding_window_non_causal".into(), json!(!config.causal));
    let below = if heads.bias.is_some() { "heads." } else { "" };
    let mut names = dflash_names(config, below);
    if let Some(bias) = &heads.bias {
        check_bias(bias)?;
        names.extend(spark_names(bias));
        let form = match bias.form {
            BiasForm::Plain => "vanilla",
            BiasForm::Gated => "gated",
            BiasForm::Recurrent | BiasForm::Refiner => "rnn",
        };
        written.insert("markov_rank".into(), json!(bias.rank));
        written.insert("markov_head_type".into(), json!(form));
        written.insert("enable_confidence_head".into(), json!(bias.confidence));
        written.insert("confidence_head_with_markov".into(), json!(bias.confidence));
    }
    if let Some(ConvolutionConfig { kernel, group }) = config.convolution {
        if heads.vocabulary.is_some() {
            bail!(
                "DFlash2 drafts from the whole vocabulary, and these heads from a part. Train them without `heads.vocabulary`."
            );
        }
        written.insert("conv_kernel_size".into(), json!(kernel));
        written.insert("conv_group_size".into(), json!(group));
        written.insert("selector_rank".into(), json!(NO_SELECTOR.0));
        written.insert("selector_top_k".into(), json!(NO_SELECTOR.1));
    }
    let mut checkpoint = Checkpoint::new(Value::Object(written), "model.safetensors");
    checkpoint.add(without_mask(heads, below), &names)?;
    if config.convolution.is_some() {
        // Its selector is a rescorer here, of another form: without scores, first choices are taken.
        let rank = NO_SELECTOR.0;
        for (name, shape) in [
            ("predecessor_codebook", vec![vocabulary, rank]),
            ("successor_codebook", vec![vocabulary, rank]),
            ("hidden_projection.weight", vec![rank, d]),
        ] {
            let zeros = vec![0.0; shape.iter().product()];
            checkpoint.tensors.insert(format!("candidate_selector.{name}"), Stored::Floats((shape, zeros)));
        }
    }
    if let Some(ids) = &heads.vocabulary {
        let table = unembedding(backbone, Some(ids));
        checkpoint.tensors.insert("lm_head.weight".into(), Stored::Floats((vec![ids.len(), d], table)));
        checkpoint.add_vocabulary(ids, vocabulary);
    }
    Ok(checkpoint)
}

/// Reads DFlash, DFlash2 or DSpark, whose layers are described by `layers_config`.
fn read_dflash(mut checkpoint: Checkpoint, of_layers: &Checkpoint, kind: &str, target: &Target) -> Result<PlainHeads> {
    let (number, sliding_window) = read_layers(of_layers)?;
    let anchor_predicts = checkpoint.flag("sample_from_anchor", false);
    let ids = checkpoint.get("aux_hidden_state_layer_ids").cloned().unwrap_or_default();
    let convolution = if kind == "dflash2" {
        let [kernel, group] = [checkpoint.number("conv_kernel_size")?, checkpoint.number("conv_group_size")?];
        Some(ConvolutionConfig { kernel, group })
    } else {
        None
    };
    let config = DflashConfig {
        layers: number,
        context: layers(&ids, "aux_hidden_state_layer_ids", 0)?,
        mask_token: Some(checkpoint.number("mask_token_id")? as u32),
        anchor_predicts,
        causal: sliding_window.is_some() && !checkpoint.flag("sliding_window_non_causal", false),
        sliding_window,
        convolution,
        ..DflashConfig::default()
    };
    let bias = (kind == "dspark" && checkpoint.number("markov_rank")? > 0).then(|| -> Result<BiasConfig> {
        let form = match checkpoint.get("markov_head_type").and_then(Value::as_str).unwrap_or("vanilla") {
            "vanilla" => BiasForm::Plain,
            "gated" => BiasForm::Gated,
            "rnn" => BiasForm::Recurrent,
            other => bail!("config.json: `markov_head_type` is \"{other}\"; known are vanilla, gated and rnn."),
        };
        let confidence = checkpoint.flag("enable_confidence_head", false);
        if confidence && !(checkpoint.flag("confidence_head_with_markov", false) && form == BiasForm::Plain) {
            bail!(
                "config.json: its confidence head reads what no confidence here does. Remove it from the checkpoint."
            );
        }
        Ok(BiasConfig { form, rank: checkpoint.number("markov_rank")?, tokens: TokenVectors::Codebooks, confidence })
    });
    let bias = bias.transpose()?;
    let count = checkpoint.number("block_size")?.saturating_sub(usize::from(!anchor_predicts));
    let vocabulary = checkpoint.take_vocabulary(target.shape.vocab_size)?;
    if !vocabulary.as_ref().is_none_or(|ids| ids.is_sorted()) {
        bail!("{}: `d2t` must name ascending tokens.", checkpoint.file);
    }
    checkpoint.drop_table("embed_tokens.weight", target, None)?;
    checkpoint.drop_table("lm_head.weight", target, vocabulary.as_deref())?;
    if checkpoint.tensors.keys().any(|name| name.starts_with("candidate_selector.")) {
        let taken: Vec<String> =
            checkpoint.tensors.keys().filter(|name| name.starts_with("candidate_selector.")).cloned().collect();
        for name in taken {
            let (_, numbers) = checkpoint.take_floats(&name)?;
            if name.ends_with("_codebook") && numbers.iter().any(|&x| x != 0.0) {
                crate::progress::say(format!(
                    "{name}: DFlash2's selector is a rescorer here and is left out; train one of kind \"transition\" on the run."
                ));
            }
        }
    }
    let below = if bias.is_some() { "heads." } else { "" };
    let mut parameters = take_dflash(&mut checkpoint, &config, below, target)?;
    if let Some(bias) = &bias {
        parameters.extend(checkpoint.take(&spark_names(bias))?);
    }
    checkpoint.is_empty()?;
    Ok(PlainHeads { architecture: HeadArchitecture::Dflash(config), bias, count, vocabulary, parameters })
}

impl Format for Speculators {
    fn name(&self) -> &'static str {
        "speculators"
    }

    fn about(&self) -> &'static str {
        "EAGLE-3, P-EAGLE, DFlash, DFlash2 and DSpark in the format of vllm-project/speculators"
    }

    fn write(&self, heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint> {
        match heads.architecture {
            HeadArchitecture::Eagle3(_) => write_eagle3(heads, backbone),
            HeadArchitecture::Dflash(_) => write_dflash(heads, backbone),
            _ => bail!(
                "it holds heads of the kinds \"eagle3\" and \"dflash\", and these are of kind \"{}\": their network is another.",
                heads.architecture.kind().name()
            ),
        }
    }

    fn recognises(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.get("speculators_model_type").is_some()
    }

    fn read(&self, checkpoint: Checkpoint, target: &Target) -> Result<PlainHeads> {
        let kind = checkpoint.get("speculators_model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let of_layers = checkpoint.get("transformer_layer_config").cloned();
        let of_layers = of_layers.filter(Value::is_object);
        let of_layers = of_layers.ok_or_else(|| Error::new("config.json: `transformer_layer_config` is missing."))?;
        let of_layers = Checkpoint::new(of_layers, checkpoint.file);
        match kind.as_str() {
            "eagle3" | "peagle" => {
                if of_layers.number("num_hidden_layers")? != 1 {
                    bail!("config.json: it has several decoder layers, and here there is one.");
                }
                let ids = checkpoint.get("eagle_aux_hidden_state_layer_ids").cloned();
                let parallel = kind == "peagle";
                let config = Eagle3Config {
                    input: ids.map_or(Ok(Vec::new()), |ids| layers(&ids, "eagle_aux_hidden_state_layer_ids", 0))?,
                    norm_before_residual: checkpoint.flag("norm_before_residual", !parallel),
                    parallel,
                    mask_token: if parallel { Some(checkpoint.number("mask_token_id")? as u32) } else { None },
                    ..Eagle3Config::default()
                };
                let count = checkpoint
                    .get("speculators_config")
                    .and_then(|config| config["proposal_methods"][0]["speculative_tokens"].as_u64())
                    .ok_or_else(|| Error::new("config.json: `speculative_tokens` is missing."))?;
                take_eagle3(checkpoint, "layers.0", config, count as usize, target)
            }
            "dflash" | "dflash2" | "dspark" => read_dflash(checkpoint, &of_layers, &kind, target),
            other => bail!(
                "config.json: `speculators_model_type` is \"{other}\"; known are eagle3, peagle, dflash, dflash2 and dspark."
            ),
        }
    }

    fn serving(&self, folder: &str, _: &str, _: usize) -> String {
        format!("vllm serve {folder}")
    }
}
