//! `inspect`: what a folder is.

use std::path::Path;

use serde_json::{Value, json};

use super::args::{Common, Format};
use super::{print, print_json};
use crate::backbone::{Backbone, Precision};
use crate::device;
use crate::error::{Result, bail};
use crate::files;
use crate::report;

pub fn inspect(common: &Common, path: &Path) -> Result<()> {
    let value = if path.join("config.json").exists() {
        model(common, path)?
    } else if path.join("trace.json").exists() {
        trace(path)?
    } else if path.join("run.toml").exists() {
        return run(common, path);
    } else {
        bail!("{} is neither a model (config.json), a trace (trace.json) nor a run (run.toml).", path.display());
    };
    match (common.format, &value) {
        (Format::Table, Value::Object(fields)) => {
            print(&fields.iter().map(|(name, value)| format!("{name:<24} {}\n", plain(value))).collect::<String>())
        }
        _ => print_json(&value),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn model(common: &Common, path: &Path) -> Result<Value> {
    let device = device::open(common.device.as_deref().unwrap_or("cpu").parse()?)?;
    let backbone = Backbone::load(path, Precision::AS_STORED, &device.device)?;
    let config = backbone.model.config();
    Ok(json!({
        "kind": "model", "architecture": "llama", "parameters": backbone.model.parameters(),
        "layers": config.num_hidden_layers, "width": config.hidden_size, "vocab_size": config.vocab_size,
        "context": config.max_position_embeddings, "tied_unembedding": config.tie_word_embeddings,
        "end_of_text": backbone.end_of_text, "hash": backbone.hash, "tokenizer_hash": backbone.tokenizer.hash(),
    }))
}

fn trace(path: &Path) -> Result<Value> {
    let index: Value = files::read_json(&path.join("trace.json"))?;
    let documents = index["documents"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = |field: &str| documents.iter().filter_map(|d| d[field].as_u64()).sum::<u64>();
    Ok(json!({
        "kind": "trace", "documents": documents.len(), "prompt_tokens": sum("prompt"),
        "continuation_tokens": sum("continuation"), "width": index["width"], "dtype": index["dtype"],
        "backbone_hash": index["identity"]["backbone"], "tokenizer_hash": index["identity"]["tokenizer"],
    }))
}

fn run(common: &Common, path: &Path) -> Result<()> {
    let finished = path.join("report/report.json");
    if !finished.exists() {
        return print(&format!(
            "{}: a run without a report yet. Go on with `draftsmith run {}`.\n",
            path.display(),
            path.join("run.toml").display()
        ));
    }
    let result = report::read(&finished)?;
    match common.format {
        Format::Table => print(&report::table(&result)),
        Format::Json => print_json(&serde_json::to_value(&result).expect("a report is JSON")),
    }
}
