//! Training of heads on this machine's CPU, beside PyTorch in the same run.
//!
//! ```sh
//! DRAFTSMITH_SMOLLM2=FOLDER DRAFTSMITH_DATA=samsum.val.jsonl cargo bench --bench heads
//! ```
//!
//! With `DRAFTSMITH_PYTHON` (a Python with torch and transformers) and `DRAFTSMITH_PEERS` (the folder of the peers' scripts)
//! `torch_heads.py` trains the same heads first, on the same tokens: 8 FFN heads of width 576, 1,024 positions a step, AdamW.
//! `DRAFTSMITH_STEPS` is the number of its steps, 40 if it is absent. Then heads that attend take turns with
//! `peers/torch_attention.py`, and what they take to draft is measured. `DRAFTSMITH_ONLY=attention` leaves the FFN heads out.

mod attention;
mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Feature, Precision};
use draftsmith::error::Result;
use draftsmith::heads::{
    FfnConfig, FfnHeads, HeadKind, HeadShape, HeadTraining, HeadsConfig, TrainingText, VocabularyConfig,
};
use draftsmith::nn::Init;
use draftsmith::storage_type::StorageType;
use draftsmith::training::{Batch, Evaluated, OptimizationConfig, Schedule, Task, TrainingContext, train};
use serde_json::{Map, Value, json};
use trace::trace;

const DOCUMENTS: usize = 64;
const LENGTH: usize = 256;
const BATCH: usize = 4;

fn main() -> Result<()> {
    let (Some(folder), Some(data)) = (variable("DRAFTSMITH_SMOLLM2"), variable("DRAFTSMITH_DATA")) else {
        println!("skipped: DRAFTSMITH_SMOLLM2 or DRAFTSMITH_DATA, a model's folder and JSON lines, is absent");
        return Ok(());
    };
    let precision = Precision { weights: Some(StorageType::Float32), compute: StorageType::Float32 };
    let backbone = Backbone::load(&folder, precision, &Device::flex())?;
    let scratch = tempfile::tempdir().expect("a folder for the traces");
    let windows = windows(&backbone, &data)?;
    if variable("DRAFTSMITH_ONLY").is_none_or(|only| only != Path::new("attention")) {
        ffn(&backbone, &windows, (&folder, &data), scratch.path())?;
    }
    attention::training(&backbone, &windows, scratch.path())?;
    attention::drafting(&backbone)
}

/// Trains FFN heads.
fn ffn(backbone: &Backbone, windows: &[Vec<u32>], (folder, data): (&Path, &Path), scratch: &Path) -> Result<()> {
    let steps = std::env::var("DRAFTSMITH_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(40);
    let peer = peer(folder, data, steps);
    let figure = |name: &str| peer[name].as_f64().unwrap_or(f64::NAN);
    println!("PyTorch: {peer}");
    let started = Instant::now();
    let batches = windows.len() / BATCH;
    let dev = BATCH * (batches / 8).max(1);
    let (train_windows, dev_windows) = windows[..batches * BATCH].split_at(batches * BATCH - dev);
    let train_trace = trace(backbone, &scratch.join("train"), train_windows, &[Feature::Last])?;
    let dev_trace = trace(backbone, &scratch.join("dev"), dev_windows, &[Feature::Last])?;
    let forced = (batches * BATCH * LENGTH) as f64 / started.elapsed().as_secs_f64();
    println!("ours: {forced:.0} tokens/s to the hidden states");
    let goal = figure("dev_loss_last");
    // What is changed is in the name; all else is as the peer has it. Half as many steps again, as our steps draw their positions
    // from all texts and may reach the peer's loss a little later.
    let same = OptimizationConfig {
        steps: steps + steps / 2,
        learning_rate: 1e-3,
        warmup_steps: 0,
        final_rate: 1.0,
        weight_decay: 0.01,
        clip_norm: 1e9,
        betas: [0.9, 0.999],
        dev_every: 2,
        checkpoint_every: 2 * steps,
        ..OptimizationConfig::default()
    };
    let schedule = OptimizationConfig { steps, learning_rate: 3e-3, warmup_steps: 4, final_rate: 0.1, ..same.clone() };
    let part = |size| Some(VocabularyConfig { size, drafting: false });
    for (name, training, vocabulary) in [
        ("full vocabulary, the peer's schedule", same, None),
        ("full vocabulary, warm-up and cosine from 3e-3", schedule.clone(), None),
        ("8,192 tokens, warm-up and cosine from 3e-3", schedule, part(8192)),
    ] {
        let options = HeadsConfig {
            block_size: 9,
            positions_per_step: BATCH * LENGTH,
            vocabulary,
            training,
            ..HeadsConfig::default()
        };
        let loaded = reset_peak();
        let text = |trace| [TrainingText { corpus: "samsum", trace }];
        let (model, mut init) = (&backbone.model, Init::seeded(1, &Device::flex().autodiff()));
        let kind = FfnConfig { hidden: 576, ..FfnConfig::default() };
        let heads = kind.network(HeadShape::new(options.block_size - 1, model), &mut init);
        let inner = HeadTraining::new(&text(&train_trace), &text(&dev_trace), model, &heads, &options, 1)?;
        let task = Timed { inner, started: Instant::now(), apart: Mutex::default(), curve: Mutex::default() };
        let first = task.inner.evaluate(&burn::module::Module::valid(&heads))?.metrics["loss"].as_f64();
        let run = scratch.join(name);
        let task = Timed { started: Instant::now(), ..task };
        train(
            heads,
            &task,
            &[],
            &options.training,
            &TrainingContext { folder: &run, key: name, title: "train-heads", keep_checkpoints: false },
        )?;
        let curve = task.curve.lock().expect("one thread");
        let &(seconds, last) = curve.last().expect("the last step is evaluated");
        let speed = (options.training.steps * BATCH * LENGTH) as f64 / seconds;
        println!(
            "{name}: {speed:.1} tokens/s ({:.2} times PyTorch cached, {:.2} online), dev loss {:.4} to {last:.4} in {seconds:.1} s, memory grew by {:.0} MB ({:.2} of PyTorch's)",
            speed / figure("cached_tokens_per_s"),
            speed / figure("online_tokens_per_s"),
            first.unwrap_or(f64::NAN),
            peak_since(loaded),
            peak_since(loaded) / figure("memory_growth_mb"),
        );
        if let Some((reached, _)) = curve.iter().find(|(_, loss)| *loss <= goal) {
            println!(
                "    PyTorch's last dev loss, {goal}, after {reached:.1} s: {:.2} of its online loop's time, {:.2} of its cached loop's",
                reached / figure("online_seconds_estimated"),
                reached / figure("cached_seconds")
            );
        }
    }
    Ok(())
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

fn peer(folder: &Path, data: &Path, steps: usize) -> Value {
    let (Some(python), Some(scripts)) = (variable("DRAFTSMITH_PYTHON"), variable("DRAFTSMITH_PEERS")) else {
        return json!({});
    };
    let mut command = Command::new(python);
    command.arg(scripts.join("torch_heads.py")).args([folder, data]).args(["--steps", &steps.to_string()]);
    let text = command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(json!({}))
}

/// The peer's texts: all documents one after the other, cut.
fn windows(backbone: &Backbone, data: &Path) -> Result<Vec<Vec<u32>>> {
    let mut ids = Vec::new();
    for line in fs::read_to_string(data).expect("the data").lines() {
        let record: Map<String, Value> = serde_json::from_str(line).expect("JSON lines");
        let text = |field: &str| record[field].as_str().expect("a text").to_owned();
        ids.extend(backbone.tokenizer.encode(&format!("{}\n{}", text("prompt"), text("completion")))?);
        if ids.len() > DOCUMENTS * LENGTH {
            break;
        }
    }
    Ok(ids.chunks_exact(LENGTH).map(<[u32]>::to_vec).collect())
}

/// A training whose evaluations do not count: seconds of training alone and dev loss at each of them.
struct Timed<'a> {
    inner: HeadTraining<'a>,
    started: Instant,
    apart: Mutex<Duration>,
    curve: Mutex<Vec<(f64, f64)>>,
}

impl Task<FfnHeads> for Timed<'_> {
    fn batch(&self, model: &FfnHeads, number: usize) -> Result<Batch> {
        self.inner.batch(model, number)
    }

    fn evaluate(&self, model: &FfnHeads) -> Result<Evaluated> {
        let before = Instant::now();
        let seconds = (before - self.started - *self.apart.lock().expect("one thread")).as_secs_f64();
        let evaluated = self.inner.evaluate(model)?;
        self.curve.lock().expect("one thread").push((seconds, evaluated.metrics["loss"].as_f64().unwrap_or(f64::NAN)));
        *self.apart.lock().expect("one thread") += before.elapsed();
        Ok(evaluated)
    }

    fn describe(&self, number: usize) -> Value {
        Task::<FfnHeads>::describe(&self.inner, number)
    }

    fn schedule(&self, options: &OptimizationConfig) -> Schedule {
        Task::<FfnHeads>::schedule(&self.inner, options)
    }
}

fn status() -> BTreeMap<String, f64> {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0))
    };
    text.lines().filter_map(line).collect()
}

/// Forgets the process's peak so far; gives what is resident now, in MB.
fn reset_peak() -> f64 {
    fs::write("/proc/self/clear_refs", "5").expect("Linux lets a process reset its peak");
    status()["VmRSS"]
}

fn peak_since(loaded: f64) -> f64 {
    status()["VmHWM"] - loaded
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
