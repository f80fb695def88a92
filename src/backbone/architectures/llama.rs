//! Llama 2 and 3 (Touvron et al. 2023, Grattafiori et al. 2024), SmolLM, and every other model of the type `llama`.

use serde_json::{Value, json};

use super::super::model_config::{Biases, ModelConfig, NormKind, Positions};
use super::{Architecture, Keys};
use crate::error::{Result, bail};
use crate::kernels::Activation;
use crate::storage_type::StorageType;

/// The family `llama`.
pub struct Llama;

impl Architecture for Llama {
    fn model_type(&self) -> &'static str {
        "llama"
    }

    fn config(&self, keys: &Keys) -> Result<ModelConfig> {
        let attention = keys.flag_or("attention_bias", false)?;
        let biases =
            Biases { query_key_value: attention, attention_output: attention, mlp: keys.flag_or("mlp_bias", false)? };
        Ok(ModelConfig { biases, ..llama_like(keys)? })
    }
}

/// Returns the configuration that all descendants of Llama share, without biases and windows.
pub fn llama_like(keys: &Keys) -> Result<ModelConfig> {
    let (hidden_size, num_attention_heads) = (keys.count("hidden_size")?, keys.count("num_attention_heads")?);
    let head_dim = keys.count_or("head_dim", hidden_size / num_attention_heads)?;
    let config = ModelConfig {
        vocab_size: keys.count("vocab_size")?,
        hidden_size,
        intermediate_size: keys.count("intermediate_size")?,
        num_hidden_layers: keys.layers("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: keys.count_or("num_key_value_heads", num_attention_heads)?,
        head_dim,
        max_position_embeddings: keys.count_or("max_position_embeddings", 2048)?,
        norm: NormKind::RootMeanSquare,
        norm_epsilon: keys.positive_or("rms_norm_eps", 1e-6)?,
        positions: keys.rotary(head_dim, "rope_theta", "partial_rotary_factor", 1.0)?,
        activation: keys.activation("hidden_act", Activation::Silu)?,
        gated: true,
        biases: Biases::default(),
        query_key_norm: false,
        parallel_residual: false,
        windows: Vec::new(),
        tie_word_embeddings: keys.flag_or("tie_word_embeddings", false)?,
    };
    if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
        bail!("`num_key_value_heads` must divide `num_attention_heads`.");
    }
    Ok(config)
}

/// Returns the `config.json` of a model that was trained from scratch (see [`ModelConfig::from_scratch`]), for other
/// programs.
pub fn config_json(config: &ModelConfig, end_of_text: u32, dtype: StorageType) -> Value {
    let Positions::Rotary(rotary) = &config.positions else { unreachable!("a Llama has rotary positions") };
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": false,
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads, "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim, "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_epsilon, "rope_theta": rotary.theta, "rope_scaling": null,
        "tie_word_embeddings": config.tie_word_embeddings, "bos_token_id": end_of_text, "eos_token_id": end_of_text,
        "torch_dtype": dtype,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::LanguageModelConfig;
    use crate::backbone::architectures::architecture;

    #[test]
    fn what_would_change_the_numbers_is_refused() {
        let good = ModelConfig::from_scratch(&LanguageModelConfig::default(), 300);
        let Value::Object(json) = config_json(&good, 0, StorageType::Float16) else { unreachable!() };
        let read = |json: &serde_json::Map<String, Value>| architecture(&Keys(json))?.config(&Keys(json));
        assert_eq!(read(&json).unwrap(), good);
        for (key, value) in [
            ("model_type", json!("mamba")),
            ("rope_scaling", json!({"rope_type": "yarn"})),
            ("attention_bias", json!("yes")),
            ("hidden_act", json!("relu")),
            ("hidden_size", json!("x")),
            ("hidden_size", json!(1u64 << 31)),
            ("num_hidden_layers", json!(1 << 20)),
            ("rope_theta", json!("x")),
            ("rope_theta", json!(-1.0)),
            ("rms_norm_eps", json!(0.0)),
        ] {
            let mut bad = json.clone();
            bad.insert(key.into(), value);
            let error = read(&bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let mut newer = json.clone();
        newer.remove("rope_theta");
        newer.insert("rope_parameters".into(), json!({"rope_theta": 5e5, "rope_type": "default"}));
        let Positions::Rotary(rotary) = read(&newer).unwrap().positions else { unreachable!() };
        assert_eq!(rotary.theta, 5e5);
        newer.insert("rope_parameters".into(), json!({"rope_theta": 5e5, "rope_type": "yarn"}));
        assert!(read(&newer).is_err());
    }
}
