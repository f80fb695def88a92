//! `config.json` of a Hugging Face folder, as far as a Llama needs it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{LanguageModelConfig, StorageType};
use crate::error::{Error, Result, bail};
use crate::files;

/// The shape of a Llama-architecture model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// V
    pub vocab_size: usize,
    /// d
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// The unembedding is the embedding.
    pub tie_word_embeddings: bool,
}

impl ModelConfig {
    /// A model to be trained from scratch.
    pub fn from_scratch(size: &LanguageModelConfig, vocab_size: usize) -> Self {
        Self {
            vocab_size,
            hidden_size: size.hidden,
            intermediate_size: size.intermediate,
            num_hidden_layers: size.layers,
            num_attention_heads: size.heads,
            num_key_value_heads: size.kv_heads,
            head_dim: size.hidden / size.heads,
            max_position_embeddings: size.context,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
        }
    }

    /// Reads `config.json` of `folder`.
    ///
    /// # Errors
    /// Another architecture, or a feature that would change the numbers and is not supported: the error names the key.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        if !path.exists() {
            bail!(
                "{} is no model folder: it has no config.json. Give a Hugging Face folder with config.json, model.safetensors and tokenizer.json.",
                folder.display()
            );
        }
        let json: Map<String, Value> = files::read_json(&path)?;
        Self::from_json(&json).map_err(|e| e.within(path.display()))
    }

    fn from_json(json: &Map<String, Value>) -> Result<Self> {
        let kind = json.get("model_type").and_then(Value::as_str).unwrap_or("missing");
        if kind != "llama" {
            bail!("the architecture (model_type) is `{kind}`; this version supports `llama`.");
        }
        supported(json, "rope_scaling", &Value::Null)?;
        supported(json, "attention_bias", &json!(false))?;
        supported(json, "mlp_bias", &json!(false))?;
        supported(json, "hidden_act", &json!("silu"))?;
        // Newer exporters keep the rotary base in a table of its own.
        let rope = json.get("rope_parameters").and_then(Value::as_object);
        if let Some(rope) = rope {
            supported(rope, "rope_type", &json!("default"))?;
        }
        let (hidden_size, num_attention_heads) = (count(json, "hidden_size")?, count(json, "num_attention_heads")?);
        let optional =
            |key: &str, otherwise: usize| if present(json, key).is_some() { count(json, key) } else { Ok(otherwise) };
        let config = Self {
            vocab_size: count(json, "vocab_size")?,
            hidden_size,
            intermediate_size: count(json, "intermediate_size")?,
            num_hidden_layers: count(json, "num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: optional("num_key_value_heads", num_attention_heads)?,
            head_dim: optional("head_dim", hidden_size / num_attention_heads)?,
            max_position_embeddings: optional("max_position_embeddings", 2048)?,
            rms_norm_eps: number(json, "rms_norm_eps", 1e-6)?,
            rope_theta: number(rope.unwrap_or(json), "rope_theta", 10_000.0)?,
            tie_word_embeddings: json.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
        };
        if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) || !config.head_dim.is_multiple_of(2)
        {
            bail!("num_key_value_heads must divide num_attention_heads, and head_dim must be even.");
        }
        Ok(config)
    }

    /// The `config.json` that other programs read.
    pub fn to_json(&self, end_of_text: u32, dtype: StorageType) -> Value {
        let mut json = serde_json::to_value(self).expect("plain numbers");
        let fields = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": false,
            "rope_scaling": null, "bos_token_id": end_of_text, "eos_token_id": end_of_text, "torch_dtype": dtype,
        });
        if let (Value::Object(json), Value::Object(fields)) = (&mut json, fields) {
            json.extend(fields);
        }
        json
    }
}

/// The value of a key, null counting as absent.
fn present<'a>(json: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    json.get(key).filter(|value| !value.is_null())
}

fn number(json: &Map<String, Value>, key: &str, otherwise: f64) -> Result<f64> {
    match present(json, key) {
        None => Ok(otherwise),
        Some(value) => value.as_f64().ok_or_else(|| Error::new(format!("`{key}` is {value}; it must be a number."))),
    }
}

fn count(json: &Map<String, Value>, key: &str) -> Result<usize> {
    match json.get(key).and_then(Value::as_u64) {
        Some(n) if n > 0 => Ok(n as usize),
        _ => bail!("`{key}` must be a whole number above 0."),
    }
}

/// Absent, or the one value that this code computes.
fn supported(json: &Map<String, Value>, key: &str, only: &Value) -> Result<()> {
    match present(json, key) {
        Some(value) if value != only => {
            bail!("`{key}` is {value}; this version supports {only} only.")
        }
        _ => Ok(()),
    }
}

/// The end-of-text ids: those of `generation_config.json`, else of `config.json`.
pub(super) fn end_of_text(folder: &Path) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let json: Map<String, Value> = files::read_json(&path)?;
        let ids: Option<Vec<u32>> = match json.get("eos_token_id") {
            None | Some(Value::Null) => continue,
            Some(Value::Array(ids)) => ids.iter().map(|v| v.as_u64().map(|n| n as u32)).collect(),
            Some(one) => one.as_u64().map(|n| vec![n as u32]),
        };
        return ids
            .ok_or_else(|| Error::new(format!("{}: `eos_token_id` must be an id or a list of ids.", path.display())));
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_the_numbers_is_refused() {
        let size = LanguageModelConfig::default();
        let good = ModelConfig::from_scratch(&size, 300);
        let Value::Object(json) = good.to_json(0, StorageType::Float16) else { unreachable!() };
        assert_eq!(ModelConfig::from_json(&json).unwrap(), good);
        for (key, value) in [
            ("model_type", json!("mamba")),
            ("rope_scaling", json!({"rope_type": "llama3"})),
            ("attention_bias", json!(true)),
            ("hidden_act", json!("gelu")),
            ("hidden_size", json!("x")),
            ("rope_theta", json!("x")),
        ] {
            let mut bad = json.clone();
            bad.insert(key.into(), value);
            let error = ModelConfig::from_json(&bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let mut newer = json.clone();
        newer.remove("rope_theta");
        newer.insert("rope_parameters".into(), json!({"rope_theta": 5e5, "rope_type": "default"}));
        assert_eq!(ModelConfig::from_json(&newer).unwrap().rope_theta, 5e5);
        newer.insert("rope_parameters".into(), json!({"rope_theta": 5e5, "rope_type": "yarn"}));
        assert!(ModelConfig::from_json(&newer).is_err());
    }
}
