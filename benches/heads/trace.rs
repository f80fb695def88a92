//! Traces of given tokens.

use std::fs;
use std::path::{Path, PathBuf};

use draftsmith::backbone::{Backbone, Feature};
use draftsmith::error::Result;
use draftsmith::storage_type::StorageType;
use draftsmith::traces::{ColumnPlan, ColumnPlans, Trace, free_space, make_columns};
use serde_json::json;

/// Documents that one forward reads.
const BATCH: usize = 4;

/// A trace of windows, each a document whose prompt is its first token, with columns of these features.
pub fn trace(backbone: &Backbone, folder: &Path, windows: &[Vec<u32>], features: &[Feature]) -> Result<Trace> {
    let identity = backbone.identity();
    let (mut tokens, mut documents) = (Vec::new(), Vec::new());
    for (number, window) in windows.iter().enumerate() {
        let name = format!("{number}");
        documents.push(json!({"id": name, "group": name, "first": tokens.len() / 4, "prompt": 1, "continuation": window.len() - 1, "limit": window.len() - 1}));
        tokens.extend(window.iter().flat_map(|token| token.to_le_bytes()));
    }
    let tokens_hash = blake3::hash(&tokens).to_hex().to_string();
    let index = json!({"schema_version": 1, "identity": identity, "text": "corpus", "tokens_hash": tokens_hash, "documents": documents});
    fs::create_dir_all(folder).expect("a folder");
    for (name, bytes) in [("tokens.bin", tokens), ("trace.json", index.to_string().into_bytes())] {
        fs::write(folder.join(name), bytes).expect("a file of the trace");
    }
    let trace = Trace::open(folder, &identity)?;
    let columns: Vec<PathBuf> = features.iter().map(|feature| folder.join(feature.to_string())).collect();
    let mut plans = Vec::new();
    for (&feature, folder) in features.iter().zip(&columns) {
        plans.push(ColumnPlan { feature, dtype: StorageType::Float32, folder, key: String::new() });
    }
    let plans = ColumnPlans { plans: &plans, ..ColumnPlans::NONE };
    make_columns(backbone, &trace, plans, ("states", BATCH), None, &free_space)?;
    columns.iter().try_fold(trace, |trace, column| trace.with_column(column))
}
