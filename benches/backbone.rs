//! The backbone's speed on this machine's CPU, beside what others reach in the same run.
//!
//! ```sh
//! DRAFTSMITH_SMOLLM2=FOLDER cargo bench --bench backbone
//! ```
//!
//! With `DRAFTSMITH_PYTHON` (a Python with torch, transformers and llama-cpp-python), `DRAFTSMITH_PEERS` (the folder of the
//! peers' scripts), `DRAFTSMITH_GGUF` and `DRAFTSMITH_DATA` (JSON lines with prompts) the peers run in turn with it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use burn::tensor::Device;
use draftsmith::backbone::{Checkpoint, Model, Precision, Span};
use draftsmith::config::StorageType;
use draftsmith::error::Result;
use rayon::prelude::*;
use serde_json::{Value, json};

/// Committed tokens before a decoding step.
const CONTEXT: usize = 128;

fn main() -> Result<()> {
    let Some(folder) = variable("DRAFTSMITH_SMOLLM2") else {
        println!("skipped: DRAFTSMITH_SMOLLM2, the folder of SmolLM2-135M-Instruct, is absent");
        return Ok(());
    };
    let mut bandwidth = bandwidth();
    println!("memory: {:.1} GB/s read by all threads", bandwidth / 1e9);
    let mut ours = Vec::new();
    for weights in [StorageType::Float32, StorageType::Float16, StorageType::Bfloat16] {
        let precision = Precision { weights: Some(weights), compute: StorageType::Float32 };
        let model = Checkpoint::open(&folder)?.load(precision, &Device::flex())?;
        let found = measure(&model);
        bandwidth = bandwidth.max(self::bandwidth());
        let bytes = model.host_bytes().unwrap_or(0) as f64;
        let bound = bytes / bandwidth * 1e3;
        println!(
            "{weights:?}: teacher-forced {:.0} tokens/s; one token {:.1} ms ({:.1} tokens/s, {:.0} % of the memory's bound {bound:.1} ms), 10 tokens {:.1} ms ({:.2} x), tree of 32 {:.1} ms ({:.2} x)",
            found.forced,
            found.one,
            1e3 / found.one,
            100.0 * bound / found.one,
            found.ten,
            found.ten / found.one,
            found.tree,
            found.tree / found.one
        );
        ours.push((weights, found));
    }
    if let Some(python) = variable("DRAFTSMITH_PYTHON") {
        peers(&python, &folder, &ours);
    }
    Ok(())
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// Milliseconds of a forward and its logits, the median of several; tokens a second of the teacher-forced forward.
struct Figures {
    forced: f64,
    one: f64,
    ten: f64,
    tree: f64,
}

fn measure(model: &Model) -> Figures {
    let vocabulary = model.config().vocab_size as u32;
    let text: Vec<u32> = (0..1024u32).map(|i| (i * 7919 + 13) % vocabulary).collect();
    // As the peer does it: four texts of 256 tokens to the last hidden states.
    let batch: Vec<Span> = text.chunks(256).map(Span::chain).collect();
    let forced = median(5, || {
        model.hidden(&batch, None);
    });
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
    let (one, ten, tree) = (step(1, None), step(10, None), step(32, Some(&after)));
    Figures { forced: 1024.0 / forced * 1e3, one, ten, tree }
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

/// Bytes a second that all threads together read from memory: the best of several rounds.
fn bandwidth() -> f64 {
    let numbers = vec![1u64; 1 << 26];
    let round = || {
        let start = Instant::now();
        let sum: u64 =
            numbers.par_chunks(1 << 20).map(|chunk| chunk.iter().fold(0u64, |s, x| s.wrapping_add(*x))).sum();
        assert_eq!(sum, 1 << 26);
        (numbers.len() * 8) as f64 / start.elapsed().as_secs_f64()
    };
    (0..8).map(|_| round()).fold(0.0, f64::max)
}

/// Runs the peers' scripts and prints this program's figures over theirs.
fn peers(python: &PathBuf, folder: &PathBuf, ours: &[(StorageType, Figures)]) {
    let (Some(scripts), Some(data)) = (variable("DRAFTSMITH_PEERS"), variable("DRAFTSMITH_DATA")) else {
        println!("peers skipped: DRAFTSMITH_PEERS or DRAFTSMITH_DATA is absent");
        return;
    };
    let run = |script: &str, arguments: &[&std::ffi::OsStr]| -> Value {
        let output = Command::new(python).arg(scripts.join(script)).args(arguments).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(json!({}))
    };
    let figure = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let (folder, data) = (folder.as_os_str(), data.as_os_str());
    let float32 = &ours[0].1;
    let torch = run("torch_heads.py", &[folder, data, "--steps".as_ref(), "2".as_ref()]);
    let theirs = figure(&torch["backbone_tokens_per_s"]);
    println!("PyTorch teacher-forced {theirs:.0} tokens/s; ours over theirs {:.2}", float32.forced / theirs);
    let decode = figure(&run("hf_decode.py", &[folder, data])["decode_tokens_per_s"]);
    println!("transformers decodes {decode:.1} tokens/s; ours over theirs {:.2}", 1e3 / float32.one / decode);
    let Some(gguf) = variable("DRAFTSMITH_GGUF") else { return };
    for (kind, (_, own)) in [("f32", &ours[0]), ("f16", &ours[1])] {
        let theirs = run("llama_cpp_decode.py", &[gguf.as_os_str(), data, "--type".as_ref(), kind.as_ref()]);
        let times: Vec<f64> = (0..3).map(|i| figure(&theirs["ms_1_10_32"][i])).collect();
        println!(
            "llama.cpp {kind}: decodes {:.1} tokens/s, 1/10/32 tokens in {:.1}/{:.1}/{:.1} ms; its time over ours {:.2}, {:.2}, {:.2}",
            figure(&theirs["decode_tokens_per_s"]),
            times[0],
            times[1],
            times[2],
            times[0] / own.one,
            times[1] / own.ten,
            times[2] / own.tree
        );
    }
}
