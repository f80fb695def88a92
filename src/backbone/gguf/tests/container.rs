//! Tests of the container and its number formats against Python's `gguf`, and of damaged files.

use super::super::quants::Kind;
use super::super::{GgufFile, llama, tokenizer};
use super::writer::Writer;
use super::{message, open};

/// Lines with a kind, its blocks and their numbers, the latter two as hexadecimal bytes.
const DEQUANTISED: &str = include_str!("../fixtures/dequantised.txt");

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes().as_chunks().0.iter().map(|&[a, b]| digit(a) << 4 | digit(b)).collect()
}

fn digit(character: u8) -> u8 {
    (character as char).to_digit(16).unwrap() as u8
}

fn id_of(name: &str) -> u32 {
    (0..50).find(|&id| Kind::from_id(id).is_ok_and(|kind| kind.to_string() == name)).unwrap()
}

#[test]
fn every_kind_gives_the_numbers_of_llama_cpp_bit_for_bit() {
    let mut writer = Writer::default();
    let mut expected = Vec::new();
    for line in DEQUANTISED.lines() {
        let [name, blocks, numbers] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let numbers = hex(numbers);
        let (rows, columns) = (1, numbers.len() as u64 / 4);
        writer = writer.tensor(name, id_of(name), &[rows, columns], &hex(blocks));
        expected.push((name, numbers));
    }
    assert_eq!(expected.len(), 11);
    let file = writer.open().unwrap();
    for (name, numbers) in expected {
        let (shape, read) = file.read(name).unwrap();
        assert_eq!(shape, [1, numbers.len() / 4]);
        assert_eq!(read.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), numbers, "{name}");
        assert_eq!(file.tensors()[name].kind.to_string(), name);
    }
}

#[test]
fn a_tensor_without_numbers_is_read_even_where_the_file_ends_before_its_place() {
    let mut bytes = Writer::default().tensor("t", 0, &[0, 4], &[]).bytes();
    bytes.truncate(bytes.len() - 1);
    assert_eq!(open(&bytes).unwrap().read("t").unwrap(), (vec![0, 4], vec![]));
}

#[test]
fn metadata_comes_back_by_type() {
    let file = Writer::llama()
        .flag("yes", true)
        .key("least", 11, &i64::MIN.to_le_bytes())
        .key("most", 10, &u64::MAX.to_le_bytes())
        .texts("texts", &["a".into(), "é".into()])
        .integers("integers", &[1, -2])
        .numbers("numbers", &[0.5])
        .open()
        .unwrap();
    assert_eq!(file.text("general.architecture"), Some("llama"));
    assert_eq!((file.flag("yes"), file.flag("least")), (Some(true), None));
    assert_eq!((file.count("least"), file.number("least")), (None, Some(i64::MIN as f64)));
    assert_eq!((file.number("most"), file.text("most")), (Some(u64::MAX as f64), None));
    assert_eq!(file.number("llama.attention.layer_norm_rms_epsilon"), Some(1e-5));
    assert_eq!(file.texts("texts"), Some(vec!["a", "é"]));
    assert_eq!((file.integers("integers"), file.numbers("integers")), (Some(vec![1, -2]), Some(vec![1.0, -2.0])));
    assert_eq!(
        (file.numbers("numbers"), file.integers("numbers"), file.texts("absent")),
        (Some(vec![0.5]), None, None)
    );
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    for (bytes, part) in [
        (b"".to_vec(), "GGUF"),
        (b"PK\x03\x04".to_vec(), "not a GGUF file"),
        (b"GGUF\0\0\0\x03".to_vec(), "big-endian"),
        (b"GGUF\x01\0\0\0".to_vec(), "version 1"),
        (Writer::default().key("k", 99, &[]).bytes(), "`k`: values of type 99"),
        (Writer::default().key("k", 9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).bytes(), "array of arrays"),
        (Writer::default().key("k", 9, &[&[10, 0, 0, 0][..], &[255; 8]].concat()).bytes(), "`k`: an array needs"),
        (Writer::default().key("k", 9, &[&[8, 0, 0, 0][..], &[255; 8]].concat()).bytes(), "`k`: "),
        (Writer::default().key("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 255]).bytes(), "not UTF-8"),
        (Writer::default().flag("k", true).flag("k", true).bytes(), "`k` is there twice"),
        (Writer::default().count("general.alignment", 33).bytes(), "`general.alignment`"),
        (Writer::default().tensor("t", 10, &[256], &[]).bytes(), "`t`: numbers of type 10 (Q2_K)"),
        (Writer::default().tensor("t", 77, &[256], &[]).bytes(), "type 77"),
        (Writer::default().tensor("t", 2, &[2, 33], &[]).bytes(), "rows of 33 numbers, but Q4_0"),
        (Writer::default().tensor("t", 0, &[u64::MAX, 2], &[]).bytes(), "too large"),
        (Writer::default().tensor("t", 0, &[1 << 20, 1 << 20], &[]).bytes(), "which has 0 bytes"),
        (Writer::default().tensor("t", 0, &[1; 5], &[]).bytes(), "5 dimensions"),
        (Writer::default().tensor("a", 0, &[16], &[0; 4]).tensor("t", 0, &[1], &[0; 4]).bytes(), "`t`: the offset"),
    ] {
        let message = message(open(&bytes));
        assert!(message.contains(part) && message.ends_with('.'), "{part}: {message}");
    }
}

/// Uses a file in every way; it only matters that this ends.
fn use_all(file: &GgufFile) {
    _ = tokenizer::tokenizer(file).map(|tokenizer| tokenizer.encode_fast("a b 12", true).is_ok());
    if let Ok(config) = llama::config_json(file) {
        for name in ["lm_head.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"] {
            _ = llama::read_parameter(file, &config, name);
        }
    }
    for name in file.tensors().keys() {
        _ = file.read(name).unwrap();
    }
}

#[test]
fn damage_ends_in_an_error_or_in_other_numbers_but_never_in_a_panic() {
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"].map(String::from).into();
    let part = Writer::llama()
        .texts("tokenizer.ggml.tokens", &tokens)
        .integers("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 1, 1])
        .numbers("tokenizer.ggml.scores", &[0., 0., 0., -3., -4., -5., -1., -2.])
        .tensor("blk.0.ffn_up.weight", 14, &[1, 256], &[7; 210])
        .floats("blk.0.attn_q.weight", &[12, 12], &[1.0; 144])
        .floats("rope_freqs.weight", &[2], &[1.0, 2.0]);
    let pieces = part.clone().text("tokenizer.ggml.model", "llama");
    let bytes = part
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "llama-bpe")
        .texts("tokenizer.ggml.merges", &["▁ a".into(), "a b".into()]);
    // A xorshift generator, so that the damage is the same each time.
    let mut state = 1u64;
    let mut below = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    for whole in [pieces.bytes(), bytes.bytes()] {
        use_all(&open(&whole).unwrap());
        let structure = whole.len() - 1500;
        for round in 0..3000 {
            let mut damaged = whole.clone();
            if round % 5 == 0 {
                damaged.truncate(below(whole.len()));
            }
            for _ in 0..=below(3) {
                let at = below(damaged.len().clamp(1, structure));
                let value = [0, 1, 0x7f, 0x80, 0xff, below(256) as u8][below(6)];
                let width = [1, 1, 1, 4, 8][below(5)];
                damaged.iter_mut().skip(at).take(width).for_each(|byte| *byte = value);
            }
            if let Ok(file) = open(&damaged) {
                use_all(&file);
            }
        }
    }
}
