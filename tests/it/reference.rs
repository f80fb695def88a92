//! Tiny random checkpoints of every family against the logits that the reference library computed (`tests/reference/`,
//! made by its `make.py`).

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use draftsmith::backbone::{Check, Checkpoint, Model, Precision, check};
use draftsmith::nn::{parameters_from_safetensors, parameters_to_safetensors};
use draftsmith::storage_type::StorageType;

use crate::common::copy_folder;

/// Exact and approximated gelu differ by more in every checkpoint that has one.
const TOLERANCE: f32 = 1e-4;

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.join("config.json").exists()).collect();
    folders.sort();
    folders
}

fn compare(folder: &Path, model: &Model) -> Check {
    let found = check(model, None, &folder.join("vectors.json"), TOLERANCE).unwrap();
    println!("{}: largest difference {:e}", folder.display(), found.largest_difference);
    found
}

#[test]
fn every_family_gives_the_reference_s_logits() {
    assert_eq!(folders().len(), 13);
    for folder in folders() {
        let model = Checkpoint::open(&folder).unwrap().load(Precision::AS_STORED, &Device::flex()).unwrap();
        let found = compare(&folder, &model);
        assert!(found.differences.is_empty(), "{}: {:#?}", folder.display(), found.differences);
        assert!(found.numbers > 1000);
    }
}

#[test]
fn half_precision_weights_are_near_and_show() {
    for weights in [StorageType::Float16, StorageType::Bfloat16] {
        let precision = Precision { weights: Some(weights), ..Precision::AS_STORED };
        let folder = &folders()[0];
        let model = Checkpoint::open(folder).unwrap().load(precision, &Device::flex()).unwrap();
        let found = compare(folder, &model);
        assert!(found.largest_difference > TOLERANCE && found.largest_difference < 0.3, "{found:?}");
    }
}

/// GPT-2 has queries, keys and values as the rows of one tensor, which is stored on its side.
#[test]
fn a_tensor_without_rows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/gpt2"), folder.path());
    let path = folder.path().join("model.safetensors");
    let whole = parameters_from_safetensors(&path).unwrap();
    for (name, shape) in [("weight", vec![0, 1 << 62]), ("bias", vec![]), ("bias", vec![0, 1 << 62])] {
        let name = format!("transformer.h.0.attn.c_attn.{name}");
        let mut values = whole.clone();
        let numbers = vec![0.0; shape.iter().product()];
        values.insert(name.clone(), (shape, numbers));
        parameters_to_safetensors(&path, &values, StorageType::Float32).unwrap();
        let loaded = Checkpoint::open(folder.path()).unwrap().load(Precision::AS_STORED, &Device::flex());
        let error = loaded.expect_err("it is refused").to_string();
        assert!(error.contains(&name) && error.contains("row"), "{error}");
    }
}
