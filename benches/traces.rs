//! The speed of making greedy traces, states included, beside what engines take to generate the same texts alone.
//!
//! ```sh
//! DRAFTSMITH_SMOLLM2=FOLDER DRAFTSMITH_DATA=PROMPTS.jsonl cargo bench --bench traces
//! ```
//!
//! It continues the first `DRAFTSMITH_DOCUMENTS` (64) prompts by up to 96 tokens, `DRAFTSMITH_BATCH` (64) texts side by side, and
//! keeps the columns `DRAFTSMITH_FEATURES` (`last`); all of it `DRAFTSMITH_ROUNDS` (3) times. With `DRAFTSMITH_PEERS`, the folder of `vllm_generate.py` and
//! `hf_generate_batch.py`, and `DRAFTSMITH_PYTHON`, whose packages these import, the peers take turns with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Feature, Precision, Span};
use draftsmith::error::Result;
use draftsmith::storage_type::StorageType;
use draftsmith::text::{DataConfig, Document, read_corpus};
use draftsmith::traces::{ColumnPlan, ColumnPlans, Trace, TracePlan, free_space, make};
use serde_json::Value;

/// The largest number of tokens after each prompt.
const MAX_NEW: usize = 96;

fn main() -> Result<()> {
    let (Some(folder), Some(data)) = (variable("DRAFTSMITH_SMOLLM2"), variable("DRAFTSMITH_DATA")) else {
        println!("skipped: DRAFTSMITH_SMOLLM2, the folder of SmolLM2-135M-Instruct, or DRAFTSMITH_DATA is absent");
        return Ok(());
    };
    let precision = Precision { weights: Some(StorageType::Float32), compute: StorageType::Float32 };
    let start = Instant::now();
    let backbone = Backbone::load(&folder, precision, &Device::flex())?;
    println!("loaded in {:.2} s", start.elapsed().as_secs_f64());
    let config = DataConfig { path: data.display().to_string(), ..DataConfig::default() };
    let mut documents = read_corpus(&data, &config)?;
    documents.truncate(number("DRAFTSMITH_DOCUMENTS", 64));
    let features = variable("DRAFTSMITH_FEATURES").map_or("last".into(), |names| names.display().to_string());
    let features: Vec<Feature> = features.split(',').map(str::parse).collect::<Result<_>>()?;
    let batch = number("DRAFTSMITH_BATCH", 64);
    for round in 1..=number("DRAFTSMITH_ROUNDS", 3) {
        let made = trace(&backbone, &documents, &features, batch)?;
        let ours = made.new as f64 / made.seconds;
        let [reading, decoding] = made.forwards;
        println!(
            "round {round}: {} prompt tokens and {} new ones in {:.1} s, {ours:.1} new tokens/s; forwards alone would take {reading:.1} s and {decoding:.1} s, {:.2} of it",
            made.prompts,
            made.new,
            made.seconds,
            (reading + decoding) / made.seconds
        );
        for script in ["vllm_generate.py", "hf_generate_batch.py"] {
            let Some(theirs) = peer(script, &folder, &data, documents.len(), batch) else { continue };
            println!("round {round}: {script}: {theirs:.1} new tokens/s, ours over theirs {:.2}", ours / theirs);
        }
    }
    Ok(())
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

fn number(name: &str, default: usize) -> usize {
    variable(name).and_then(|text| text.to_str()?.parse().ok()).unwrap_or(default)
}

/// Tokens of the prompts and behind them, and seconds: of making them, and of the forwards that this takes at least.
struct Made {
    prompts: usize,
    new: usize,
    seconds: f64,
    /// Of reading the prompts, and of decoding.
    forwards: [f64; 2],
}

fn trace(backbone: &Backbone, documents: &[Document], features: &[Feature], batch: usize) -> Result<Made> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let read = |number: usize| Ok(documents[number].clone());
    let plan = TracePlan { batch, ..TracePlan::greedy("trace", documents.len(), &read, MAX_NEW) };
    let places: Vec<PathBuf> = features.iter().map(|feature| folder.path().join(feature.to_string())).collect();
    let mut columns = Vec::new();
    for (&feature, folder) in features.iter().zip(&places) {
        columns.push(ColumnPlan { feature, dtype: StorageType::Float16, folder, key: String::new() });
    }
    let (place, start) = (folder.path().join("trace"), Instant::now());
    let columns = ColumnPlans { plans: &columns, ..ColumnPlans::NONE };
    make(backbone, &plan, &place, columns, &free_space, |_| Ok(()))?;
    let seconds = start.elapsed().as_secs_f64();
    let trace = Trace::open(&place, &backbone.identity())?;
    let sum = |of: fn(&draftsmith::traces::TraceDocument) -> usize| trace.documents().iter().map(of).sum::<usize>();
    let (prompts, new) = (sum(|document| document.prompt), sum(|document| document.continuation));
    let texts: Vec<&[u32]> = trace.documents().iter().map(|document| trace.tokens(document)).collect();
    let rows = batch.min(texts.len());
    let forwards = [prompts as f64 * of_reading(backbone, &texts), new as f64 * of_decoding(backbone, &texts, rows)];
    Ok(Made { prompts, new, seconds, forwards })
}

/// Returns the seconds of a token whose text is read, without logits.
fn of_reading(backbone: &Backbone, texts: &[&[u32]]) -> f64 {
    let spans: Vec<Span> = texts.iter().take(8).map(|text| Span::chain(text)).collect();
    let tokens: usize = spans.iter().map(|span| span.tokens.len()).sum();
    median(|| drop(backbone.model.hidden(&spans, None))) / tokens as f64
}

/// Returns the seconds of a token that is decoded with `rows` texts side by side, each behind as many tokens as texts have in
/// the middle of their continuation, and of which only the largest logit is asked for.
fn of_decoding(backbone: &Backbone, texts: &[&[u32]], rows: usize) -> f64 {
    let model = &backbone.model;
    let length = texts.iter().map(|text| text.len()).sum::<usize>() / texts.len() - MAX_NEW / 2;
    let contexts: Vec<Vec<u32>> =
        texts.iter().take(rows).map(|text| text.iter().cycle().take(length).copied().collect()).collect();
    let mut cache = model.cache(rows, length + 1);
    model.hidden(&contexts.iter().map(|context| Span::chain(context)).collect::<Vec<_>>(), Some(&mut cache));
    let (next, projection) = (vec![[1u32]; rows], model.projection());
    let spans: Vec<Span> = next.iter().map(|token| Span::chain(token)).collect();
    let seconds = median(|| {
        (0..rows).for_each(|row| cache.truncate(row, length));
        projection.largest(model.hidden(&spans, Some(&mut cache)), 1, false);
    });
    seconds / rows as f64
}

/// Returns the median of seven times, in seconds, after two of warming up.
fn median(mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    let mut times: Vec<f64> = (0..9).map(time).skip(2).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Runs the script of a peer, if there are any, and returns its new tokens per second; of one that computes states as well, with
/// these.
fn peer(script: &str, model: &Path, data: &Path, documents: usize, batch: usize) -> Option<f64> {
    let (python, scripts) = (variable("DRAFTSMITH_PYTHON")?, variable("DRAFTSMITH_PEERS")?);
    let rows = if script.starts_with("vllm") { "--sequences" } else { "--batch" };
    let mut command = Command::new(python);
    command.arg(scripts.join(script)).args([model, data]).args(["--max-new", &MAX_NEW.to_string()]);
    command.args(["--documents", &documents.to_string(), rows, &batch.to_string()]);
    let output = command.output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(line) = said.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok()) else {
        println!("{script} failed: {}", String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default());
        return None;
    };
    line["trace_new_tokens_per_s"].as_f64().or_else(|| line["new_tokens_per_s"].as_f64())
}
