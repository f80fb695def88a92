//! Training of decoder layers on this machine's CPU: forward and backward of rows that attend to a frozen context and to
//! the rows before them, beside PyTorch in the same run.
//!
//! ```sh
//! RAYON_NUM_THREADS=2 cargo bench --bench layers
//! ```
//!
//! With `DRAFTSMITH_PYTHON` (a Python with torch) `peers/torch_layers.py` takes turns with it, on as many
//! threads. The shape is that of the top three layers of SmolLM2-135M; 8 documents of 250 tokens have 16 blocks of 8 rows each.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use draftsmith::backbone::{DecoderLayers, LanguageModelConfig, ModelConfig, NewRows};
use draftsmith::error::Result;
use draftsmith::nn::{Init, from_host};
use serde_json::Value;

const DOCUMENTS: usize = 8;
const BLOCKS: usize = 16;
const LEVELS: usize = 8;
const CONTEXT: usize = 250;
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    let size = LanguageModelConfig { hidden: 576, layers: 3, heads: 9, kv_heads: 3, intermediate: 1536, context: 8192 };
    let (config, device) = (ModelConfig::from_scratch(&size, 49_152), Device::flex());
    let (d, rows) = (config.hidden_size, DOCUMENTS * BLOCKS);
    let layers = DecoderLayers::new(&config, 0..3, &mut Init::seeded(1, &device.clone().autodiff()));
    let tensor = |rows: usize, seed: usize| -> Tensor<2> { from_host(numbers(rows * d, seed), [rows, d], &device) };
    let mut cache = layers.cache(DOCUMENTS, CONTEXT + BLOCKS * LEVELS);
    layers.remember(&tensor(DOCUMENTS * CONTEXT, 1), &[CONTEXT; DOCUMENTS], &mut cache);
    let levels: Vec<(Tensor<2>, Tensor<2>)> =
        (0..LEVELS).map(|level| (tensor(rows, 3 + level), tensor(rows, 50 + level))).collect();
    let after: Vec<Vec<Vec<usize>>> = (0..LEVELS).map(columns_before).collect();
    let mut step = || -> Result<[f64; 4]> {
        let started = Instant::now();
        let mut trained = layers.begin_step(&mut cache);
        let packed = Instant::now();
        for ((x, _), after) in levels.iter().zip(&after) {
            trained.run(x.clone(), NewRows::After(after));
        }
        let forward = Instant::now();
        for (_, dy) in levels.iter().rev() {
            trained.back(dy.clone(), false);
        }
        let backward = Instant::now();
        std::hint::black_box(trained.finish(false));
        let finished = Instant::now();
        (0..DOCUMENTS).for_each(|document| cache.truncate(document, CONTEXT));
        let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64();
        Ok([
            seconds(started, packed),
            seconds(packed, forward),
            seconds(forward, backward),
            seconds(backward, finished),
        ])
    };
    step()?;
    let mut peer = peer();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(step()?);
        theirs.extend(peer.as_mut().map(|ask| ask()));
    }
    // Products of a row with all matrices of the layers.
    let matrices = 3.0 * (576.0 * (576.0 + 384.0) + 576.0 * 576.0 + 3.0 * 576.0 * 1536.0);
    let flop = 2.0 * matrices * (LEVELS * rows) as f64;
    for (place, (part, products)) in
        [("packing", 0.0), ("forward", flop), ("backward", flop), ("gradients of matrices", flop)]
            .into_iter()
            .enumerate()
    {
        let time = median(ours.iter().map(|times| times[place]));
        println!("{part}: {:.1} ms, {:.1} GFLOP/s in matrices", time * 1e3, products / time / 1e9);
    }
    let all: Vec<f64> = ours.iter().map(|times| times.iter().sum()).collect();
    println!("a step: {:.1} ms", median(all.iter().copied()) * 1e3);
    if !theirs.is_empty() {
        let figure = |name: &'static str| theirs.iter().map(move |times| times[name].as_f64().unwrap_or(f64::NAN));
        println!(
            "PyTorch: forward {:.1} ms, a step {:.1} ms, {:.2} times ours (median of ratios)",
            median(figure("forward")) * 1e3,
            median(figure("all")) * 1e3,
            median(figure("all").zip(&all).map(|(theirs, ours)| theirs / ours)),
        );
    }
    Ok(())
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// By document, the columns that the rows of a level follow: each block begins behind a column of its document's text.
fn columns_before(level: usize) -> Vec<Vec<usize>> {
    let column = |document: usize, block: usize| match level {
        0 => (document * BLOCKS + block) * 7919 % (CONTEXT - 1),
        _ => CONTEXT + (level - 1) * BLOCKS + block,
    };
    (0..DOCUMENTS).map(|document| (0..BLOCKS).map(|block| column(document, block)).collect()).collect()
}

/// Starts PyTorch, which ends with this program; the function asks it for a step.
#[expect(clippy::zombie_processes, reason = "it ends when its input does, after this program")]
fn peer() -> Option<impl FnMut() -> Value> {
    let python = std::env::var_os("DRAFTSMITH_PYTHON")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/torch_layers.py");
    let threads = rayon::current_num_threads().to_string();
    let mut command = Command::new(python);
    let mut child = command
        .arg(script)
        .args(["--threads", &threads])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("PyTorch starts");
    let (mut input, output) = (child.stdin.take()?, child.stdout.take()?);
    let mut lines = BufReader::new(output).lines();
    let mut ask = move || {
        writeln!(input, "step").expect("PyTorch listens");
        let line = lines.next().expect("PyTorch answers").expect("text");
        serde_json::from_str(&line).expect("a JSON line")
    };
    for _ in 0..3 {
        ask();
    }
    Some(ask)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
