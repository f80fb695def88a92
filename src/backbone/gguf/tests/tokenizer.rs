//! Tests of tokenizers against Hugging Face's `tokenizers`.

use serde_json::Value;

use super::super::tokenizer;
use super::message;
use super::writer::Writer;

const BYTE_LEVEL: &str = include_str!("../fixtures/byte_level.json");
const SENTENCE_PIECES: &str = include_str!("../fixtures/sentence_pieces.json");

fn list<T: serde::de::DeserializeOwned>(fixture: &Value, key: &str) -> Vec<T> {
    serde_json::from_value(fixture[key].clone()).unwrap()
}

/// Compares ids and decoded texts with those of a case of a fixture.
fn assert_same(tokenizer: &tokenizers::Tokenizer, fixture: &Value, case: &str) {
    let expected = &fixture["cases"][case];
    let (ids, decoded) = (list::<Vec<u32>>(expected, "ids"), list::<String>(expected, "decoded"));
    for ((text, ids), decoded) in list::<String>(fixture, "texts").iter().zip(ids).zip(decoded) {
        assert_eq!(tokenizer.encode_fast(text.as_str(), true).unwrap().get_ids(), ids, "{case}: {text:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), decoded, "{case}: {text:?}");
    }
}

fn vocabulary(fixture: &Value) -> Writer {
    Writer::default()
        .texts("tokenizer.ggml.tokens", &list::<String>(fixture, "tokens"))
        .integers("tokenizer.ggml.token_type", &list::<i32>(fixture, "types"))
}

#[test]
fn byte_level_tokenizers_are_those_of_hugging_face() {
    let fixture: Value = serde_json::from_str(BYTE_LEVEL).unwrap();
    let writer = vocabulary(&fixture)
        .text("tokenizer.ggml.model", "gpt2")
        .texts("tokenizer.ggml.merges", &list::<String>(&fixture, "merges"));
    for (pre, bos) in [("smollm", false), ("gpt-2", false), ("llama-bpe", true), ("qwen2", false)] {
        let file = writer.clone().text("tokenizer.ggml.pre", pre).open().unwrap();
        assert_same(&tokenizer::tokenizer(&file).unwrap(), &fixture, pre);
        assert_eq!(tokenizer::adds_bos(&file), bos);
    }
    let unknown = message(tokenizer::tokenizer(&writer.text("tokenizer.ggml.pre", "new").open().unwrap()));
    assert!(unknown.contains("`new`") && unknown.contains("tokenizer.json"), "{unknown}");
}

#[test]
fn sentence_piece_tokenizers_are_those_of_hugging_face() {
    let fixture: Value = serde_json::from_str(SENTENCE_PIECES).unwrap();
    let writer = vocabulary(&fixture)
        .text("tokenizer.ggml.model", "llama")
        .text("tokenizer.chat_template", "{{ messages }}")
        .numbers("tokenizer.ggml.scores", &list::<f32>(&fixture, "scores"));
    let file = writer.open().unwrap();
    assert_same(&tokenizer::tokenizer(&file).unwrap(), &fixture, "prefix");
    assert_eq!((tokenizer::chat_template(&file), tokenizer::adds_bos(&file)), (Some("{{ messages }}"), true));
    let bare = writer.flag("tokenizer.ggml.add_space_prefix", false).flag("tokenizer.ggml.add_bos_token", false);
    let file = bare.open().unwrap();
    assert_same(&tokenizer::tokenizer(&file).unwrap(), &fixture, "bare");
    assert!(!tokenizer::adds_bos(&file));
}

#[test]
fn broken_tokenizers_are_refused() {
    let refused = |writer: Writer| message(tokenizer::tokenizer(&writer.open().unwrap()));
    let tokens = |tokens: &[&str]| {
        let tokens: Vec<String> = tokens.iter().map(|&token| token.to_owned()).collect();
        Writer::default()
            .text("tokenizer.ggml.model", "gpt2")
            .text("tokenizer.ggml.pre", "gpt-2")
            .integers("tokenizer.ggml.token_type", &[3, 1])
            .texts("tokenizer.ggml.tokens", &tokens)
    };
    let none = || tokens(&["a", "b"]).texts("tokenizer.ggml.merges", &[]);
    assert!(tokenizer::tokenizer(&none().open().unwrap()).is_ok());
    assert!(refused(tokens(&["a", "b"])).contains("merges"));
    assert!(refused(tokens(&["a", "b"]).texts("tokenizer.ggml.merges", &["a c".into()])).contains("broken"));
    assert!(refused(tokens(&["a", "b"]).texts("tokenizer.ggml.merges", &["ab".into()])).contains("not a pair"));
    assert!(refused(tokens(&["a", "a"]).texts("tokenizer.ggml.merges", &[])).contains("twice"));
    assert!(refused(tokens(&["a"]).texts("tokenizer.ggml.merges", &[])).contains("token_type"));
    assert!(refused(tokens(&[&"a".repeat(999), "b"]).texts("tokenizer.ggml.merges", &[])).contains("999 bytes"));
    assert!(refused(Writer::default().text("tokenizer.ggml.model", "bert")).contains("`bert`"));
}
