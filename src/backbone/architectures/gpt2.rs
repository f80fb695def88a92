//! GPT-2 (Radford et al. 2019): learned positions, layer norms, biases everywhere, matrices stored `[inputs, outputs]`.

use serde_json::json;

use super::super::model_config::{Biases, ModelConfig, NormKind, Positions};
use super::{Architecture, Keys, StoredParameter, in_layer, query_key_value, renamed};
use crate::error::{Result, bail};
use crate::kernels::Activation;

/// The family `gpt2`.
pub struct Gpt2;

/// The names of a layer's parts: this program's, and the checkpoint's.
const PARTS: [(&str, &str); 5] = [
    ("input_layernorm", "ln_1"),
    ("post_attention_layernorm", "ln_2"),
    ("self_attn.o_proj", "attn.c_proj"),
    ("mlp.up_proj", "mlp.c_fc"),
    ("mlp.down_proj", "mlp.c_proj"),
];

impl Architecture for Gpt2 {
    fn model_type(&self) -> &'static str {
        "gpt2"
    }

    fn config(&self, keys: &Keys) -> Result<ModelConfig> {
        for key in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"] {
            keys.only(key, &json!(false))?;
        }
        keys.only("scale_attn_weights", &json!(true))?;
        let (hidden_size, heads) = (keys.count("n_embd")?, keys.count("n_head")?);
        if !hidden_size.is_multiple_of(heads) {
            bail!("`n_head` must divide `n_embd`.");
        }
        Ok(ModelConfig {
            vocab_size: keys.count("vocab_size")?,
            hidden_size,
            intermediate_size: keys.count_or("n_inner", 4 * hidden_size)?,
            num_hidden_layers: keys.layers("n_layer")?,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim: hidden_size / heads,
            max_position_embeddings: keys.count_or("n_positions", 1024)?,
            norm: NormKind::Layer,
            norm_epsilon: keys.positive_or("layer_norm_epsilon", 1e-5)?,
            positions: Positions::Learned,
            activation: keys.activation("activation_function", Activation::GeluTanh)?,
            gated: false,
            biases: Biases { query_key_value: true, attention_output: true, mlp: true },
            query_key_norm: false,
            parallel_residual: false,
            windows: Vec::new(),
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
        })
    }

    fn locate(&self, config: &ModelConfig, parameter: &str) -> StoredParameter {
        let Some((layer, part, kind)) = in_layer(parameter) else {
            return StoredParameter::whole(match parameter {
                "model.embed_tokens.weight" => "transformer.wte.weight",
                "model.embed_positions.weight" => "transformer.wpe.weight",
                "model.norm.weight" => "transformer.ln_f.weight",
                "model.norm.bias" => "transformer.ln_f.bias",
                other => other,
            });
        };
        let d = config.hidden_size;
        let third = query_key_value(part);
        let part = if third.is_some() { "attn.c_attn" } else { renamed(part, &PARTS) };
        StoredParameter {
            tensor: format!("transformer.h.{layer}.{part}.{kind}"),
            transposed: kind == "weight" && !part.starts_with("ln"),
            rows: third.into_iter().map(|i| i * d..(i + 1) * d).collect(),
        }
    }

    fn is_derived(&self, tensor: &str) -> bool {
        // Causal masks.
        tensor.ends_with(".attn.bias") || tensor.ends_with(".attn.masked_bias")
    }
}
