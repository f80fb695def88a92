//! The backbone's speed on this machine's CPU, beside what others reach in the same run.
//!
//! ```sh
//! DRAFTSMITH_SMOLLM2=FOLDER cargo bench --bench backbone
//! ```
//!
//! With `DRAFTSMITH_PYTHON` (a Python with torch, transformers and llama-cpp-python), `DRAFTSMITH_PEERS` (the folder of the
//! peers' scripts), `DRAFTSMITH_GGUF` and `DRAFTSMITH_DATA` (JSON lines with prompts) the peers run in turn with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use burn::tensor::Device;
use draftsmith::backbone::{Checkpoint, Model, Precision, Span};
use draftsmith::error::Result;
use draftsmith::storage_type::StorageType;
use rayon::prelude::*;
use serde_json::{Value, json};

/// Committed tokens before a decoding step.
const CONTEXT: usize = 128;

/// Rounds in which this program and a peer take turns.
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    let Some(folder) = variable("DRAFTSMITH_SMOLLM2") else {
        println!("skipped: DRAFTSMITH_SMOLLM2, the folder of SmolLM2-135M-Instruct, is absent");
        return Ok(());
    };
    let load = |weights| {
        let precision = Precision { weights: Some(weights), compute: StorageType::Float32 };
        Checkpoint::open(&folder)?.load(precision, &Device::flex())
    };
    let mut models = Vec::new();
    for weights in [StorageType::Float32, StorageType::Float16, StorageType::Bfloat16] {
        let model = load(weights)?;
        let (forced, steps) = (teacher_forced(&model), steps(&model));
        println!("{weights:?}: teacher-forced {forced:.0} tokens/s; {}", steps.words());
        models.push(model);
    }
    peers(&folder, &models);
    Ok(())
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// Tokens a second to the last hidden states, as the peer does it: four texts of 256 tokens.
fn teacher_forced(model: &Model) -> f64 {
    let text = text(model);
    let batch: Vec<Span> = text.chunks(256).map(Span::chain).collect();
    let time = median(5, || {
        model.hidden(&batch, None);
    });
    1024.0 / time * 1e3
}

fn text(model: &Model) -> Vec<u32> {
    let vocabulary = model.config().vocab_size as u32;
    (0..1024u32).map(|i| (i * 7919 + 13) % vocabulary).collect()
}

/// Medians, in milliseconds, of a forward and its logits over 1 and 10 tokens and over a tree of 32 nodes; and of what
/// memory allows for one token (weights read once), measured between the forwards.
struct Steps {
    one: f64,
    ten: f64,
    tree: f64,
    bound: f64,
}

impl Steps {
    fn words(&self) -> String {
        format!(
            "one token {:.1} ms ({:.1} tokens/s, {:.0} % of the memory's bound {:.1} ms), 10 tokens {:.1} ms ({:.2} x), tree of 32 {:.1} ms ({:.2} x)",
            self.one,
            1e3 / self.one,
            100.0 * self.bound / self.one,
            self.bound,
            self.ten,
            self.ten / self.one,
            self.tree,
            self.tree / self.one
        )
    }
}

fn steps(model: &Model) -> Steps {
    let text = text(model);
    let mut cache = model.cache(1, 512);
    model.hidden(&[Span::chain(&text[..CONTEXT])], Some(&mut cache));
    // Four branches of eight nodes behind the text.
    let after: Vec<Option<usize>> =
        (0..32).map(|i| Some(if i % 8 == 0 { CONTEXT - 1 } else { CONTEXT + i - 1 })).collect();
    let mut step = |tokens: usize, after: Option<&[Option<usize>]>| {
        median(15, || {
            cache.truncate(0, CONTEXT);
            let span = Span { tokens: &text[CONTEXT..CONTEXT + tokens], after };
            let hidden = model.hidden(&[span], Some(&mut cache));
            model.logits(hidden);
        })
    };
    let before = memory(model);
    let (one, ten, tree) = (step(1, None), step(10, None), step(32, Some(&after)));
    Steps { one, ten, tree, bound: (before + memory(model)) / 2.0 }
}

/// Milliseconds, after two rounds of warming up.
fn median(rounds: usize, mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds + 2)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        })
        .skip(2)
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

/// Milliseconds in which all threads together read as many bytes as the model's matrices have.
fn memory(model: &Model) -> f64 {
    let numbers = vec![1u64; model.host_bytes().unwrap_or(0) / 8];
    median(7, || {
        let sum: u64 = numbers.par_chunks(1 << 18).map(|c| c.iter().fold(0u64, |sum, x| sum.wrapping_add(*x))).sum();
        assert_eq!(sum, numbers.len() as u64);
    })
}

/// Runs the peers' scripts and prints this program's figures over theirs.
fn peers(folder: &Path, models: &[Model]) {
    let (Some(python), Some(scripts), Some(data)) =
        (variable("DRAFTSMITH_PYTHON"), variable("DRAFTSMITH_PEERS"), variable("DRAFTSMITH_DATA"))
    else {
        return println!("peers skipped: DRAFTSMITH_PYTHON, DRAFTSMITH_PEERS or DRAFTSMITH_DATA is absent");
    };
    let run = |script: &str, arguments: &[&std::ffi::OsStr]| -> Value {
        let output = Command::new(&python).arg(scripts.join(script)).args(arguments).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(json!({}))
    };
    let figure = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let (folder, data) = (folder.as_os_str(), data.as_os_str());
    let torch =
        figure(&run("torch_heads.py", &[folder, data, "--steps".as_ref(), "2".as_ref()])["backbone_tokens_per_s"]);
    let own = teacher_forced(&models[0]);
    println!("teacher-forced: PyTorch {torch:.0} tokens/s, ours {own:.0}: {:.2} times", own / torch);
    let (before, theirs) = (steps(&models[0]), figure(&run("hf_decode.py", &[folder, data])["decode_tokens_per_s"]));
    println!(
        "decoding: transformers {theirs:.1} tokens/s, ours {:.1}: {:.2} times",
        1e3 / before.one,
        1e3 / before.one / theirs
    );
    let Some(gguf) = variable("DRAFTSMITH_GGUF") else { return };
    for (kind, model) in [("f32", &models[0]), ("f16", &models[1])] {
        for _ in 0..ROUNDS {
            let theirs = run("llama_cpp_decode.py", &[gguf.as_os_str(), data, "--type".as_ref(), kind.as_ref()]);
            let times: Vec<f64> = (0..3).map(|i| figure(&theirs["ms_1_10_32"][i])).collect();
            let own = steps(model);
            println!(
                "llama.cpp {kind}: decodes {:.1} tokens/s, 1/10/32 tokens in {:.1}/{:.1}/{:.1} ms; ours {}; its times over ours {:.2}, {:.2}, {:.2}",
                figure(&theirs["decode_tokens_per_s"]),
                times[0],
                times[1],
                times[2],
                own.words(),
                times[0] / own.one,
                times[1] / own.ten,
                times[2] / own.tree
            );
        }
    }
}
