//! GPT-NeoX (Black et al. 2022) and Pythia: rotary positions on a part of each head, attention and MLP in parallel, and
//! the queries, keys and values of a head stored together.

use super::super::model_config::{Biases, ModelConfig, NormKind};
use super::{Architecture, Keys, StoredParameter, in_layer, query_key_value, renamed};
use crate::error::{Result, bail};
use crate::kernels::Activation;

/// The family `gpt_neox`.
pub struct GptNeox;

/// The names of a layer's parts: this program's, and the checkpoint's.
const PARTS: [(&str, &str); 3] = [
    ("self_attn.o_proj", "attention.dense"),
    ("mlp.up_proj", "mlp.dense_h_to_4h"),
    ("mlp.down_proj", "mlp.dense_4h_to_h"),
];

impl Architecture for GptNeox {
    fn model_type(&self) -> &'static str {
        "gpt_neox"
    }

    fn config(&self, keys: &Keys) -> Result<ModelConfig> {
        let (hidden_size, heads) = (keys.count("hidden_size")?, keys.count("num_attention_heads")?);
        if !hidden_size.is_multiple_of(heads) {
            bail!("`num_attention_heads` must divide `hidden_size`.");
        }
        let attention = keys.flag_or("attention_bias", true)?;
        Ok(ModelConfig {
            vocab_size: keys.count("vocab_size")?,
            hidden_size,
            intermediate_size: keys.count("intermediate_size")?,
            num_hidden_layers: keys.layers("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim: hidden_size / heads,
            max_position_embeddings: keys.count_or("max_position_embeddings", 2048)?,
            norm: NormKind::Layer,
            norm_epsilon: keys.positive_or("layer_norm_eps", 1e-5)?,
            positions: keys.rotary(hidden_size / heads, "rotary_emb_base", "rotary_pct", 0.25)?,
            activation: keys.activation("hidden_act", Activation::Gelu)?,
            gated: false,
            biases: Biases { query_key_value: attention, attention_output: attention, mlp: true },
            query_key_norm: false,
            parallel_residual: keys.flag_or("use_parallel_residual", true)?,
            windows: Vec::new(),
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", false)?,
        })
    }

    fn locate(&self, config: &ModelConfig, parameter: &str) -> StoredParameter {
        let Some((layer, part, kind)) = in_layer(parameter) else {
            return StoredParameter::whole(match parameter {
                "model.embed_tokens.weight" => "gpt_neox.embed_in.weight",
                "model.norm.weight" => "gpt_neox.final_layer_norm.weight",
                "model.norm.bias" => "gpt_neox.final_layer_norm.bias",
                "lm_head.weight" => "embed_out.weight",
                other => other,
            });
        };
        let third = query_key_value(part);
        let part = if third.is_some() { "attention.query_key_value" } else { renamed(part, &PARTS) };
        let width = config.head_dim;
        let of_head = |head: usize, third: usize| (3 * head + third) * width..(3 * head + third + 1) * width;
        StoredParameter {
            tensor: format!("gpt_neox.layers.{layer}.{part}.{kind}"),
            transposed: false,
            rows: (0..config.num_attention_heads).flat_map(|head| third.map(|third| of_head(head, third))).collect(),
        }
    }

    fn is_derived(&self, tensor: &str) -> bool {
        // Causal masks, and the rotary frequencies.
        [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"].iter().any(|end| tensor.ends_with(end))
    }
}
