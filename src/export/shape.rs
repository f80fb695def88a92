//! The shape of a backbone, and what the configuration of a checkpoint says of it.

use serde_json::{Map, Value, json};

use super::checkpoint::Checkpoint;
use crate::backbone::{Backbone, LanguageModelConfig, ModelConfig, Positions, RopeScaling, Rotary};
use crate::error::Result;

/// Returns the `config.json` of decoder layers above a backbone, in the style `model_type`.
pub(super) fn layers_config(backbone: &ModelConfig, model_type: &str, layers: usize) -> Map<String, Value> {
    let rotary = match &backbone.positions {
        Positions::Rotary(rotary) => rotary.clone(),
        Positions::Learned => Rotary { theta: 10_000.0, width: backbone.head_dim, scaling: RopeScaling::None },
    };
    let scaling = match rotary.scaling {
        RopeScaling::None | RopeScaling::Factors(_) => json!(null),
        RopeScaling::Linear(factor) => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_frequency,
            "high_freq_factor": high_frequency, "original_max_position_embeddings": original_context,
        }),
    };
    let config = json!({
        "model_type": model_type, "vocab_size": backbone.vocab_size, "hidden_size": backbone.hidden_size,
        "intermediate_size": backbone.intermediate_size, "num_hidden_layers": layers,
        "num_attention_heads": backbone.num_attention_heads, "num_key_value_heads": backbone.num_key_value_heads,
        "head_dim": backbone.head_dim, "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
        "max_position_embeddings": backbone.max_position_embeddings, "rms_norm_eps": backbone.norm_epsilon,
        "rope_theta": rotary.theta, "rope_scaling": scaling, "tie_word_embeddings": false,
    });
    let Value::Object(config) = config else { unreachable!("an object was written") };
    config
}

/// Returns the shape of the backbone that a checkpoint was made for, as far as its configuration tells.
///
/// # Errors
/// Returns an error if a size is missing.
pub(super) fn shape_of(checkpoint: &Checkpoint) -> Result<ModelConfig> {
    let layers = checkpoint.get("transformer_layer_config").and_then(Value::as_object);
    let of_layers = layers.map(|layers| Checkpoint::new(json!(layers), checkpoint.file));
    let config = of_layers.as_ref().unwrap_or(checkpoint);
    let or = |key: &str, default: usize| config.number(key).unwrap_or(default);
    let hidden = config.number("hidden_size").or_else(|missing| config.number("emb_dim").map_err(|_| missing))?;
    let heads = or("num_attention_heads", 1);
    let size = LanguageModelConfig {
        hidden,
        // Features are named by numbers of layers, and any will do.
        layers: usize::from(u16::MAX),
        heads,
        kv_heads: or("num_key_value_heads", heads),
        intermediate: or("intermediate_size", hidden),
        context: or("max_position_embeddings", 2048),
    };
    let mut shape = ModelConfig::from_scratch(&size, config.number("vocab_size")?);
    shape.head_dim = or("head_dim", shape.head_dim);
    Ok(shape)
}

/// Returns the architectures of a backbone's `config.json`, if it has one.
pub(super) fn architectures(backbone: &Backbone) -> Value {
    let config: Result<Map<String, Value>> = crate::files::read_json(&backbone.path.join("config.json"));
    config.ok().and_then(|config| config.get("architectures").cloned()).unwrap_or_else(|| json!(["LlamaForCausalLM"]))
}
