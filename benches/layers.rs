//! Training of decoder layers on this machine's CPU: forward and backward of rows that attend to a frozen context and to
//! the rows before them, beside PyTorch in the same run.
//!
//! ```sh
//! RAYON_NUM_THREADS=2 cargo bench --bench layers
//! ```
//!
//! With `DRAFTSMITH_PYTHON` (a Python with torch) `peers/torch_layers.py` takes turns with it, on as many
//! threads. The shape is that of the top three layers of SmolLM2-135M; 8 documents of 250 tokens have 16 blocks of 8 rows each.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use draftsmith::backbone::{CacheSlot, Columns, LanguageModelConfig, ModelConfig, Span, Tape, TrainedLayers};
use draftsmith::error::Result;
use draftsmith::kernels::{ColumnGradients, LayerCache};
use rayon::prelude::*;
use serde_json::Value;

const DOCUMENTS: usize = 8;
const BLOCKS: usize = 16;
const LEVELS: usize = 8;
const CONTEXT: usize = 250;
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    let size = LanguageModelConfig { hidden: 576, layers: 3, heads: 9, kv_heads: 3, intermediate: 1536, context: 8192 };
    let config = ModelConfig::from_scratch(&size, 49_152);
    let (d, kv) = (config.hidden_size, config.num_key_value_heads * config.head_dim);
    let mut weights: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut draw = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
        let scale = if shape.len() == 1 { 1.0 } else { (*shape.last().expect("a shape") as f32).powf(-0.5) };
        let values: Vec<f32> = numbers(shape.iter().product(), name.len()).iter().map(|x| x * scale).collect();
        weights.insert(name.to_owned(), values.clone());
        Ok(values)
    };
    TrainedLayers::new(&config, 0, &mut draw)?;
    let mut caches: Vec<Vec<LayerCache>> = Vec::new();
    for _ in 0..DOCUMENTS {
        let mut layers: Vec<LayerCache> = Vec::new();
        for layer in 0..size.layers {
            let mut cache = LayerCache::new(size.kv_heads, config.head_dim, CONTEXT + BLOCKS * LEVELS);
            let context = numbers(2 * CONTEXT * kv, layer);
            for (column, numbers) in context.chunks(2 * kv).enumerate() {
                cache.write(column, &numbers[..kv], &numbers[kv..]);
            }
            layers.push(cache);
        }
        caches.push(layers);
    }
    let levels = levels();
    let rows = DOCUMENTS * BLOCKS;
    let (x, dy) = (numbers(LEVELS * rows * d, 3), numbers(LEVELS * rows * d, 5));
    let mut tape = Tape::default();
    let mut step = || -> Result<[f64; 5]> {
        let started = Instant::now();
        let layers = TrainedLayers::new(&config, 0, &mut |name, _| Ok(weights[name].clone()))?;
        let packed = Instant::now();
        for (placed, x) in levels.iter().zip(x.chunks(rows * d)) {
            layers.forward(&mut x.to_vec(), placed, &mut caches, &mut tape);
        }
        let forward = Instant::now();
        let columns = CONTEXT..CONTEXT + BLOCKS * LEVELS;
        let of_text = |caches: &Vec<LayerCache>| {
            caches.iter().map(|cache| ColumnGradients::new(cache, columns.clone())).collect()
        };
        let mut gradients: Vec<Vec<ColumnGradients>> = caches.par_iter().map(of_text).collect();
        let exchanged = Instant::now();
        for dy in dy.chunks(rows * d).rev() {
            layers.backward(&mut dy.to_vec(), &caches, &mut gradients, &mut tape);
        }
        let backward = Instant::now();
        std::hint::black_box(layers.gradients(&mut tape));
        let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64();
        Ok([
            seconds(started, packed),
            seconds(packed, forward),
            seconds(forward, exchanged),
            seconds(exchanged, backward),
            seconds(backward, Instant::now()),
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
    for (place, (part, products)) in [
        ("packing", 0.0),
        ("forward", flop),
        ("keys and values exchanged", 0.0),
        ("backward", flop),
        ("gradients of matrices", flop),
    ]
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

/// The places of the rows: each block begins behind a column of its document's context.
fn levels() -> Vec<Vec<Vec<CacheSlot>>> {
    let document = |document: usize| {
        let mut columns = Columns::default();
        columns.place(&Span::chain(&[0; CONTEXT]));
        let behind = |row: usize| match row.checked_sub(BLOCKS) {
            Some(before) => CONTEXT + before,
            None => (document * BLOCKS + row) * 7919 % (CONTEXT - 1),
        };
        let after: Vec<Option<usize>> = (0..BLOCKS * LEVELS).map(|row| Some(behind(row))).collect();
        columns.place(&Span { tokens: &[0; BLOCKS * LEVELS], after: Some(&after) })
    };
    let documents: Vec<Vec<CacheSlot>> = (0..DOCUMENTS).map(document).collect();
    let level =
        |level: usize| documents.iter().map(|slots| slots[level * BLOCKS..(level + 1) * BLOCKS].to_vec()).collect();
    (0..LEVELS).map(level).collect()
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
