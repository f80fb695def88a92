//! Models of the Llama family: a GGUF file's metadata as a Hugging Face `config.json`, its tensors as Hugging Face
//! parameters.

use serde_json::{Map, Value, json};

use super::file::GgufFile;
use crate::error::{Error, Result, bail};

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The names of whole-model parameters: Hugging Face's, and the file's.
const OUTER: [(&str, &str); 3] =
    [("model.embed_tokens.weight", EMBEDDING), ("model.norm.weight", "output_norm.weight"), ("lm_head.weight", OUTPUT)];

/// The names of a layer's parts, without `weight` or `bias`.
const INNER: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Returns the file's name of a Hugging Face parameter; none if a Llama has no such parameter.
///
/// The file may have one more tensor, `rope_freqs.weight`, which [`config_json`] reads.
pub fn gguf_name(hf_name: &str) -> Option<String> {
    if let Some((_, name)) = OUTER.iter().find(|(hf, _)| *hf == hf_name) {
        return Some((*name).to_owned());
    }
    let (layer, rest) = hf_name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (part, kind @ ("weight" | "bias")) = rest.rsplit_once('.')? else { return None };
    let (_, name) = INNER.iter().find(|(hf, _)| *hf == part)?;
    Some(format!("blk.{layer}.{name}.{kind}"))
}

/// Returns the `config.json` that the model has at Hugging Face, as far as the file tells.
///
/// If the file has a tensor of factors that divide the rotary frequencies (Llama 3.1 and later), they are put in
/// `rope_scaling` as the kind `factors`, which only this program knows: one factor for each two numbers of a head.
///
/// # Errors
/// When the architecture is not `llama`, a key is missing, or the model has a property that Hugging Face's Llama does
/// not have. The error names the key.
pub fn config_json(file: &GgufFile) -> Result<Map<String, Value>> {
    config(file).map_err(|e| e.within(file.path().display()))
}

/// Does the work of [`config_json`]; errors do not name the file yet.
fn config(file: &GgufFile) -> Result<Map<String, Value>> {
    refuse_what_is_no_llama(file)?;
    let hidden_size = count(file, "llama.embedding_length")?;
    let heads = count(file, "llama.attention.head_count")?;
    let key_value_heads = count_or(file, "llama.attention.head_count_kv", heads)?;
    let head_dim = count_or(file, "llama.attention.key_length", hidden_size / heads)?;
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        bail!("heads of {head_dim} numbers; rotary positions need an even number in each. {TAKE}.");
    }
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if count_or(file, key, head_dim)? != head_dim {
            bail!("metadata key `{key}` differs from the width of a head, {head_dim}, as it does in no Llama. {TAKE}.");
        }
    }
    let Some(&[vocab_size, _]) = file.tensors().get(EMBEDDING).map(|tensor| tensor.shape.as_slice()) else {
        bail!("the tensor `{EMBEDDING}` is missing or not a matrix. {TAKE}.");
    };
    let biased = |part: &str| file.tensors().contains_key(&format!("blk.0.{part}.bias"));
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": biased("attn_q"),
        "mlp_bias": biased("ffn_up"),
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": count(file, "llama.feed_forward_length")?,
        "num_hidden_layers": count(file, "llama.block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "max_position_embeddings": count(file, "llama.context_length")?,
        "rms_norm_eps": number(file, "llama.attention.layer_norm_rms_epsilon", None)?,
        "rope_theta": number(file, "llama.rope.freq_base", Some(10_000.0))?,
        "rope_scaling": rope_scaling(file)?,
        "tie_word_embeddings": !file.tensors().contains_key(OUTPUT),
        "bos_token_id": file.count("tokenizer.ggml.bos_token_id"),
        "eos_token_id": ends(file),
    });
    if file.has("llama.attention.key_length") {
        config["head_dim"] = head_dim.into();
    }
    if file.tensors().contains_key(ROPE_FACTORS) {
        let (_, factors) = file.read(ROPE_FACTORS)?;
        if factors.len() != head_dim / 2 || !factors.iter().all(|&f| f > 0.0 && f.is_finite()) {
            bail!("the tensor `{ROPE_FACTORS}` must have {} numbers above 0. {TAKE}.", head_dim / 2);
        }
        // If frequencies are also divided by one number, it is multiplied into the factors.
        let all = config["rope_scaling"]["factor"].as_f64().unwrap_or(1.0);
        let factors: Vec<f64> = factors.iter().map(|&factor| f64::from(factor) * all).collect();
        config["rope_scaling"] = json!({"rope_type": "factors", "factors": factors});
    }
    let Value::Object(config) = config else { unreachable!("it was written as a table") };
    Ok(config)
}

const TAKE: &str = "Take another file of the model, or the model's Hugging Face folder";

/// Fails if the file is not a whole, plain Llama.
fn refuse_what_is_no_llama(file: &GgufFile) -> Result<()> {
    match file.text("general.architecture") {
        Some("llama") => {}
        Some(other) => {
            bail!("`general.architecture` is `{other}`; of GGUF files, those of `llama` are supported. {TAKE}.")
        }
        None => bail!("the metadata key `general.architecture` is missing. {TAKE}."),
    }
    if let Some(parts @ 2..) = file.count("split.count") {
        bail!("this is one of {parts} parts of a model. Put them together with `llama-gguf-split --merge`.");
    }
    if file.count("llama.expert_count").is_some_and(|experts| experts > 0) {
        bail!("the model has `llama.expert_count` experts, and is not a plain Llama. {TAKE}.");
    }
    // Other families that use the architecture's name multiply by these.
    for part in ["attention.scale", "logit_scale", "residual_scale", "embedding_scale"] {
        let key = format!("llama.{part}");
        if file.has(&key) {
            bail!("the model has a `{key}`, and is not a plain Llama. {TAKE}.");
        }
    }
    Ok(())
}

/// Returns the linear scaling, which can be written in two ways; the second is obsolete.
fn rope_scaling(file: &GgufFile) -> Result<Value> {
    let factor = match file.text("llama.rope.scaling.type") {
        None => number(file, "llama.rope.scale_linear", Some(1.0))?,
        Some("none") => 1.0,
        Some("linear") => number(file, "llama.rope.scaling.factor", None)?,
        Some(other) => bail!("`llama.rope.scaling.type` is `{other}`; `linear` and `none` are supported. {TAKE}."),
    };
    Ok(if factor == 1.0 { Value::Null } else { json!({ "rope_type": "linear", "factor": factor }) })
}

/// Returns the id of the token that ends a text, or a list if other tokens end a turn or a message.
fn ends(file: &GgufFile) -> Value {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        let id = file.count(&format!("tokenizer.ggml.{name}_token_id"));
        ids.extend(id.filter(|id| !ids.contains(id)));
    }
    match ids[..] {
        [] => Value::Null,
        [id] => id.into(),
        _ => ids.into(),
    }
}

/// Returns a whole number above 0.
fn count(file: &GgufFile, key: &str) -> Result<usize> {
    match file.count(key) {
        Some(n) if n > 0 => Ok(n),
        _ => bail!("the metadata key `{key}` must be a whole number above 0, the same for all layers. {TAKE}."),
    }
}

/// Returns a whole number above 0, or `otherwise` if the key is absent.
fn count_or(file: &GgufFile, key: &str, otherwise: usize) -> Result<usize> {
    if file.has(key) { count(file, key) } else { Ok(otherwise) }
}

/// Returns a number above 0, or `otherwise` if the key is absent.
fn number(file: &GgufFile, key: &str, otherwise: Option<f64>) -> Result<f64> {
    match (file.number(key), otherwise) {
        (Some(x), _) if x > 0.0 && x.is_finite() => Ok(x),
        (None, Some(x)) if !file.has(key) => Ok(x),
        _ => bail!("the metadata key `{key}` must be a number above 0. {TAKE}."),
    }
}

/// Reads the shape and the numbers of a Hugging Face parameter, from a file whose [`config_json`] is `config`.
///
/// # Errors
/// When a Llama has no such parameter, the file does not have it, or heads do not divide the rows.
pub fn read_parameter(file: &GgufFile, config: &Map<String, Value>, hf_name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let Some(name) = gguf_name(hf_name) else {
        bail!("{}: a Llama has no parameter `{hf_name}`, so a GGUF file has none either.", file.path().display());
    };
    let (shape, numbers) = file.read(&name)?;
    let heads = match hf_name {
        _ if hf_name.contains(".q_proj.") => "num_attention_heads",
        _ if hf_name.contains(".k_proj.") => "num_key_value_heads",
        _ => return Ok((shape, numbers)),
    };
    let numbers = config
        .get(heads)
        .and_then(Value::as_u64)
        .and_then(|heads| halves_apart(&shape, &numbers, usize::try_from(heads).ok()?))
        .ok_or_else(|| {
            Error::new(format!(
                "{}: the tensor `{name}` of shape {shape:?} does not consist of `{heads}` heads of an even width. {TAKE}.",
                file.path().display()
            ))
        })?;
    Ok((shape, numbers))
}

/// Undoes the file's order of a head's rows. Rotary positions rotate pairs of rows: a GGUF file has the two rows of a
/// pair side by side, while Hugging Face has the first rows of all pairs and then the second ones.
fn halves_apart(shape: &[usize], numbers: &[f32], heads: usize) -> Option<Vec<f32>> {
    // Without numbers, the other dimensions may be any.
    if heads == 0 || numbers.is_empty() {
        return None;
    }
    let (&rows, columns) = shape.split_first()?;
    let columns: usize = columns.iter().product();
    if !rows.is_multiple_of(2 * heads) {
        return None;
    }
    let pairs = rows / heads / 2;
    let mut apart = Vec::with_capacity(numbers.len());
    for head in numbers.chunks_exact(2 * pairs * columns) {
        for side in 0..2 {
            for pair in 0..pairs {
                apart.extend_from_slice(&head[(2 * pair + side) * columns..][..columns]);
            }
        }
    }
    Some(apart)
}
