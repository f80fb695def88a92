//! Real checkpoints against the logits, hidden states and greedy texts of a reference implementation.

use std::path::{Path, PathBuf};

use crate::common::{read_json, shared, skipped};
use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Feature, Precision, Span, check, generate};
use draftsmith::nn::{parameters_from_safetensors, to_host};
use draftsmith::storage_type::StorageType;
use serde_json::Value;

/// Names the folder of SmolLM2-135M-Instruct.
const SMOLLM2: &str = "DRAFTSMITH_SMOLLM2";
/// Names a GGUF file of it.
const GGUF: &str = "DRAFTSMITH_GGUF";
const TOLERANCE: f32 = 2e-3;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// The largest deviation of a logit or hidden number from the vectors; everything else must be equal.
fn compare(model: &Path, vectors: &Path) -> f32 {
    let mut backbone = Backbone::load(model, Precision::AS_STORED, &Device::flex()).unwrap();
    // The reference writes on after end-of-text.
    let end_of_text = std::mem::take(&mut backbone.end_of_text);
    let mut largest = 0f32;
    let mut note = |found: f32, expected: f32| largest = largest.max((found - expected).abs());
    let (_, norm) =
        parameters_from_safetensors(&model.join("model.safetensors")).unwrap().remove("model.norm.weight").unwrap();
    let shape = backbone.model.config().clone();
    let stream = Feature::Layer(shape.num_hidden_layers);
    for case in read_json(vectors)["cases"].as_array().unwrap() {
        let tokens = backbone.tokenizer.encode(case["prompt"].as_str().unwrap()).unwrap();
        assert_eq!(tokens, ids(&case["token_ids"]), "{}", case["prompt"]);
        let states = backbone.model.features(&[Span::chain(&tokens)], None, &[stream, Feature::Last]);
        let [stream, hidden] = states.try_into().unwrap();
        let logits = backbone.model.logits(hidden.clone());
        let rows = logits.chunks(backbone.model.config().vocab_size);
        let top5 = case["top5_ids"].as_array().unwrap().iter().zip(case["top5_logits"].as_array().unwrap());
        assert_eq!(rows.len(), top5.len());
        for (row, (top5, expected)) in rows.zip(top5) {
            let expected = numbers(expected);
            for (&id, &logit) in ids(top5).iter().zip(&expected) {
                note(row[id as usize], logit);
            }
            // No other id comes near the five.
            let above = row.iter().filter(|&&logit| logit > expected[4] + TOLERANCE).count();
            assert!(above <= 5, "{above} logits above the fifth");
        }
        let (stream, hidden) = (to_host(stream), to_host(hidden));
        let last = &hidden[hidden.len() - shape.hidden_size..];
        // The residual stream behind the last layer, under the final norm, is the same state.
        let stream = &stream[stream.len() - shape.hidden_size..];
        let mean_square = stream.iter().map(|x| x * x).sum::<f32>() / stream.len() as f32;
        let scale = (mean_square + shape.norm_epsilon as f32).sqrt();
        let normed = stream.iter().zip(&norm).map(|(x, weight)| x / scale * weight);
        for ((&found, normed), wanted) in last.iter().zip(normed).zip(numbers(&case["last_hidden_final_norm_first8"])) {
            note(found, wanted);
            note(normed, wanted);
        }
        note(
            last.iter().map(|x| x * x).sum::<f32>().sqrt(),
            case["last_hidden_final_norm_l2"].as_f64().unwrap() as f32,
        );
        let greedy = ids(&case["greedy_continuation"]);
        let generated = generate(&backbone, &[&tokens], greedy.len()).unwrap().remove(0);
        assert_eq!(generated, greedy, "{}", case["prompt"]);
        assert_eq!(backbone.tokenizer.decode(&greedy).unwrap().trim(), case["greedy_text"].as_str().unwrap().trim());
    }
    backbone.end_of_text = end_of_text;
    for case in read_json(vectors)["cases"].as_array().unwrap() {
        let (tokens, mut greedy) = (ids(&case["token_ids"]), ids(&case["greedy_continuation"]));
        if let Some(end) = greedy.iter().position(|id| backbone.end_of_text.contains(id)) {
            greedy.truncate(end + 1);
            assert_eq!(generate(&backbone, &[&tokens], 200).unwrap()[0], greedy, "{}", case["prompt"]);
        }
    }
    println!("{}: largest deviation {largest:e}", vectors.display());
    largest
}

#[test]
fn stories260k() {
    let Some(shared) = shared() else { return };
    assert!(compare(&shared.join("models/stories260K"), &shared.join("vectors/stories260K.json")) < TOLERANCE);
}

#[test]
fn smollm2() {
    let Some(shared) = shared() else { return };
    let Some(model) = std::env::var_os(SMOLLM2).map(PathBuf::from) else {
        return skipped(&format!("{SMOLLM2}, the folder of SmolLM2-135M-Instruct, is absent"));
    };
    assert!(compare(&model, &shared.join("vectors/smollm2-135m-instruct.json")) < TOLERANCE);
}

/// The same weights in llama.cpp's format, with the tokenizer within the file.
#[test]
fn smollm2_as_gguf() {
    let Some(shared) = shared() else { return };
    let Some(file) = std::env::var_os(GGUF).map(PathBuf::from) else {
        return skipped(&format!("{GGUF}, SmolLM2-135M-Instruct as a GGUF file, is absent"));
    };
    let precision = Precision { weights: Some(StorageType::Float16), ..Precision::AS_STORED };
    let backbone = Backbone::load(&file, precision, &Device::flex()).unwrap();
    let vectors = shared.join("vectors/smollm2-135m-instruct.json");
    let found = check(&backbone.model, Some(&backbone.tokenizer), &vectors, TOLERANCE).unwrap();
    assert!(found.differences.is_empty() && found.numbers > 100, "{found:#?}");
    println!("{}: largest deviation {:e}", file.display(), found.largest_difference);
}

#[test]
fn texts_generated_side_by_side_are_those_generated_alone() {
    let Some(shared) = shared() else { return };
    let backbone = Backbone::load(&shared.join("models/stories260K"), Precision::AS_STORED, &Device::flex()).unwrap();
    let vectors = read_json(&shared.join("vectors/stories260K.json"));
    let cases = vectors["cases"].as_array().unwrap();
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["token_ids"])).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let together = generate(&backbone, &prompts, 200).unwrap();
    for (case, generated) in cases.iter().zip(together) {
        let expected = ids(&case["greedy_continuation"]);
        assert_eq!(generated[..expected.len().min(200)], expected[..expected.len().min(200)]);
    }
}
