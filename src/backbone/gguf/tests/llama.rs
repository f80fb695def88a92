//! Tests of configurations and parameters.

use serde_json::{Value, json};

use super::super::llama;
use super::message;
use super::writer::Writer;

#[test]
fn a_llama_has_its_configuration_and_parameters() {
    // The numbers of the rows of 3 heads of 4 rows each, in the file's order of pairs.
    let rows: Vec<f32> = (0..12).flat_map(|row| [row as f32; 12]).collect();
    let writer = Writer::llama()
        .count("tokenizer.ggml.bos_token_id", 1)
        .count("tokenizer.ggml.eos_token_id", 2)
        .floats("blk.1.attn_q.weight", &[12, 12], &rows)
        .floats("blk.1.attn_v.weight", &[12, 12], &rows);
    let file = writer.open().unwrap();
    let config = llama::config_json(&file).unwrap();
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": false,
        "mlp_bias": false, "vocab_size": 5, "hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    assert_eq!(Value::Object(config.clone()), expected);
    let firsts = |name: &str| -> Vec<f32> {
        let (shape, numbers) = llama::read_parameter(&file, &config, name).unwrap();
        assert_eq!(shape, [12, 12]);
        numbers.into_iter().step_by(12).collect()
    };
    assert_eq!(firsts("model.layers.1.self_attn.q_proj.weight"), [0., 2., 1., 3., 4., 6., 5., 7., 8., 10., 9., 11.]);
    assert_eq!(firsts("model.layers.1.self_attn.v_proj.weight"), (0..12).map(|row| row as f32).collect::<Vec<_>>());
    assert!(message(llama::read_parameter(&file, &config, "model.norm.weight")).contains("`output_norm.weight`"));
    assert!(message(llama::read_parameter(&file, &config, "model.norm.scale")).contains("no parameter"));

    let varied = writer
        .count("llama.attention.key_length", 4)
        .count("tokenizer.ggml.eot_token_id", 4)
        .text("llama.rope.scaling.type", "linear")
        .key("llama.rope.scaling.factor", 6, &2f32.to_le_bytes())
        .floats("rope_freqs.weight", &[2], &[1.0, 8.0])
        .floats("output.weight", &[5, 12], &[0.0; 60]);
    let config = llama::config_json(&varied.open().unwrap()).unwrap();
    assert_eq!(config["rope_scaling"], json!({"rope_type": "factors", "factors": [2.0, 16.0]}));
    assert_eq!(config["head_dim"], json!(4));
    assert_eq!((&config["eos_token_id"], &config["tie_word_embeddings"]), (&json!([2, 4]), &json!(false)));
}

#[test]
fn what_is_no_llama_is_refused_by_the_key_that_says_so() {
    let refused = |writer: Writer| message(llama::config_json(&writer.open().unwrap()));
    assert!(refused(Writer::default().text("general.architecture", "gemma")).contains("`gemma`"));
    assert!(refused(Writer::default()).contains("`general.architecture`"));
    for (key, part) in [
        ("split.count", "one of 2 parts"),
        ("llama.expert_count", "`llama.expert_count`"),
        ("llama.logit_scale", "`llama.logit_scale`"),
        ("llama.rope.dimension_count", "`llama.rope.dimension_count`"),
        ("llama.attention.key_length", "`llama.attention.key_length`"),
    ] {
        let value = u32::from(key != "llama.attention.key_length") * 2;
        assert!(refused(Writer::llama().count(key, value)).contains(part), "{key}");
    }
    assert!(refused(Writer::llama().text("llama.rope.scaling.type", "yarn")).contains("`yarn`"));
    assert!(refused(Writer::llama().floats("rope_freqs.weight", &[1], &[1.0])).contains("`rope_freqs.weight`"));
}

#[test]
fn names_follow_llama_cpp() {
    for (hf, gguf) in [
        ("model.embed_tokens.weight", Some("token_embd.weight")),
        ("lm_head.weight", Some("output.weight")),
        ("model.layers.10.mlp.down_proj.weight", Some("blk.10.ffn_down.weight")),
        ("model.layers.0.self_attn.q_proj.bias", Some("blk.0.attn_q.bias")),
        ("model.layers.0.post_attention_layernorm.weight", Some("blk.0.ffn_norm.weight")),
        ("model.layers.x.mlp.down_proj.weight", None),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
        ("transformer.wte.weight", None),
    ] {
        assert_eq!(llama::gguf_name(hf).as_deref(), gguf);
    }
}
