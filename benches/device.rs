//! A device beside the CPU: forwards, the memory they take, and a training step of every kind of heads, above models of random
//! weights that have the shapes of real ones.
//!
//! ```sh
//! DRAFTSMITH_DEVICE=cuda cargo bench --features cuda --bench device
//! ```
//!
//! Without DRAFTSMITH_DEVICE it measures the CPU alone. DRAFTSMITH_ONLY=135M leaves the larger model out. `checkpoints/tales` lends its
//! tokenizer, so it runs in the repository's folder. What fails says so in its cell, and the rest goes on.

#[path = "heads/trace.rs"]
mod trace;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Feature, LanguageModelConfig, Model, ModelConfig, Precision, Span, Transformer};
use draftsmith::device::{DeviceChoice, open};
use draftsmith::error::{Error, Result};
use draftsmith::heads::{FitHeads, HeadArchitecture, HeadShape, HeadsConfig, TrainingText};
use draftsmith::nn::{Init, Values, collect_parameters, to_host};
use draftsmith::storage_type::StorageType;
use draftsmith::text::Tokenizer;
use draftsmith::traces::Trace;
use draftsmith::training::{OptimizationConfig, TrainingContext, seconds_per_step};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use serde_json::{Value, json};
use trace::trace;

/// Tokens in the cache before a forward.
const CONTEXT: usize = 128;
/// Tokens of a forward.
const SIZES: [usize; 4] = [1, 8, 32, 256];
/// Positions of a training step.
const POSITIONS: usize = 128;
/// Training steps before those that count, and all. In the first, a device compiles.
const STEPS: [usize; 2] = [2, 8];

/// A model's name, its shape, and the size of its vocabulary: SmolLM2-135M and Llama-3.2-1B.
const MODELS: [(&str, LanguageModelConfig, usize); 2] = [
    (
        "135M",
        LanguageModelConfig { hidden: 576, layers: 30, heads: 9, kv_heads: 3, intermediate: 1536, context: 2048 },
        49_152,
    ),
    (
        "1B",
        LanguageModelConfig { hidden: 2048, layers: 16, heads: 32, kv_heads: 8, intermediate: 8192, context: 2048 },
        128_256,
    ),
];

fn main() -> Result<()> {
    let choice: DeviceChoice = variable("DRAFTSMITH_DEVICE").as_deref().unwrap_or("cpu").parse()?;
    let cpu = open(DeviceChoice::Cpu)?.device;
    let mut devices = vec![(DeviceChoice::Cpu, cpu)];
    if choice != DeviceChoice::Cpu {
        let opened = open(choice)?;
        devices.push((opened.choice, opened.device));
    }
    let only = variable("DRAFTSMITH_ONLY");
    let models = || MODELS.iter().filter(|(name, ..)| only.as_ref().is_none_or(|only| only == name));
    println!("| model | device | type | {} tokens, ms | difference | MB |", SIZES.map(|n| n.to_string()).join(", "));
    println!("|---|---|---|---:|---:|---:|");
    for (name, size, vocabulary) in models() {
        forwards(name, &ModelConfig::from_scratch(size, *vocabulary), &devices);
    }
    let (name, size, vocabulary) = models().next().ok_or_else(|| Error::new("no such model".to_owned()))?;
    training(name, &ModelConfig::from_scratch(size, *vocabulary), &devices)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Random parameters by their names: matrices that keep the size of what they multiply, and norms that change nothing.
fn random(shape: &ModelConfig) -> BTreeMap<String, Values> {
    let mut parameters = collect_parameters(&Transformer::new(shape, &mut Init::empty(&Device::flex())));
    for (shape, numbers) in parameters.values_mut().filter(|(shape, _)| shape.len() == 2) {
        let most = (3.0 / shape[1] as f32).sqrt();
        numbers.par_chunks_mut(shape[1]).enumerate().for_each(|(row, numbers)| {
            let mut rng = ChaCha8Rng::seed_from_u64(row as u64);
            numbers.fill_with(|| rng.random_range(-most..most));
        });
    }
    parameters
}

/// A model of these parameters, whose matrices are of type `dtype`. So is all else on an accelerator.
fn load(
    shape: &ModelConfig,
    parameters: &BTreeMap<String, Values>,
    dtype: StorageType,
    (choice, device): &(DeviceChoice, Device),
) -> Result<Model> {
    let compute = if *choice == DeviceChoice::Cpu { StorageType::Float32 } else { dtype };
    Model::load(shape, Precision { weights: Some(dtype), compute }, device, &mut |name| Ok(parameters[name].clone()))
}

/// Tokens that are spread over the vocabulary.
fn text(shape: &ModelConfig, length: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * 7919 + 13) % shape.vocab_size) as u32).collect()
}

/// Prints a row for each device and type.
fn forwards(name: &str, shape: &ModelConfig, devices: &[(DeviceChoice, Device)]) {
    let (parameters, text) = (random(shape), text(shape, CONTEXT + SIZES[3]));
    let mut expected = Vec::new();
    for device in devices {
        // Bfloat16 first: a device keeps what memory it once had, so that the larger type would hide what the smaller takes.
        let mut types = [StorageType::Bfloat16, StorageType::Float32];
        if device.0 == DeviceChoice::Cpu {
            types.reverse();
        }
        for dtype in types {
            let row = attempt(|| {
                let model = load(shape, &parameters, dtype, device)?;
                let states = to_host(model.hidden(&[Span::chain(&text[..CONTEXT])], None));
                if expected.is_empty() {
                    expected.clone_from(&states);
                }
                let difference = states.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let times = SIZES.map(|size| format!("{:.2}", forward(&model, &text, size)));
                Ok(format!("{} | {difference:.1e} | {}", times.join(", "), device_memory(device.0)))
            });
            println!("| {name} | {} | {dtype:?} | {} |", device.0, row.unwrap_or_else(|error| error));
        }
    }
}

/// The median of milliseconds that a forward of `size` tokens takes with the two largest logits of each, as decoding has it.
fn forward(model: &Model, text: &[u32], size: usize) -> f64 {
    let mut cache = model.cache(1, CONTEXT + size);
    model.hidden(&[Span::chain(&text[..CONTEXT])], Some(&mut cache));
    let mut once = || {
        let began = Instant::now();
        let hidden = model.hidden(&[Span::chain(&text[CONTEXT..CONTEXT + size])], Some(&mut cache));
        std::hint::black_box(model.projection().largest(hidden, 2, false));
        cache.truncate(0, CONTEXT);
        1e3 * began.elapsed().as_secs_f64()
    };
    let began = Instant::now();
    once();
    once();
    let mut times = Vec::new();
    while times.len() < 3 || times.len() < 15 && began.elapsed() < Duration::from_secs(3) {
        times.push(once());
    }
    median(times)
}

/// Megabytes that are taken on the GPU, by whatever runs there; the driver's program says so.
fn device_memory(choice: DeviceChoice) -> String {
    let (DeviceChoice::Cuda(number) | DeviceChoice::Wgpu(number)) = choice else { return "–".into() };
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id", &number.to_string()]);
    let said = command.output().ok().filter(|output| output.status.success());
    said.map_or("–".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Prints a row for each kind of heads.
fn training(name: &str, shape: &ModelConfig, devices: &[(DeviceChoice, Device)]) -> Result<()> {
    let parameters = random(shape);
    let backbones: Vec<Backbone> = devices
        .iter()
        .map(|device| {
            Ok(Backbone {
                model: load(shape, &parameters, StorageType::Float32, device)?,
                tokenizer: Tokenizer::load(Path::new("checkpoints/tales"))?,
                end_of_text: Vec::new(),
                hash: name.to_owned(),
                path: name.into(),
            })
        })
        .collect::<Result<_>>()?;
    drop(parameters);
    let mut features: Vec<Feature> = Vec::new();
    for kind in kinds() {
        features.extend(kind.kind().features(shape)?);
    }
    features.sort();
    features.dedup();
    let scratch = tempfile::tempdir().expect("a folder for the traces");
    // The states are those of the device, so that the CPU need not make them where there is another.
    let source = backbones.last().expect("the CPU at least");
    let windows: Vec<Vec<u32>> = text(shape, 2560).chunks(128).map(<[u32]>::to_vec).collect();
    let traces = [("train", &windows[4..]), ("dev", &windows[..4])]
        .map(|(split, windows)| trace(source, &scratch.path().join(split), windows, &features));
    let [train, dev] = traces;
    let (train, dev) = (train?, dev?);
    let columns: Vec<String> = devices.iter().map(|(choice, _)| format!("{choice}, ms")).collect();
    println!("\n| heads above {name}, a step of {POSITIONS} positions | parameters | {} |", columns.join(" | "));
    println!("|---|---:|{}", "---:|".repeat(devices.len()));
    for kind in kinds() {
        let any = kind.kind();
        let parameters = any.parameters(HeadShape::above(shape, 8, None), &devices[0].1) as f64 / 1e6;
        let mut row = format!("| {} | {parameters:.1} M |", any.name());
        for (backbone, (choice, _)) in backbones.iter().zip(devices) {
            let folder = scratch.path().join(format!("{}-{choice}", any.name()));
            let time = attempt(|| step(&kind, backbone, [&train, &dev], &folder));
            row += &time.map_or_else(|error| format!(" {error} |"), |time| format!(" {time:.0} |"));
        }
        println!("{row}");
    }
    Ok(())
}

/// Every kind of heads with its defaults.
fn kinds() -> Vec<HeadArchitecture> {
    let schema = schemars::schema_for!(HeadArchitecture).to_value();
    let kinds = schema["oneOf"].as_array().expect("a tagged enum").iter();
    let name = |kind: &Value| json!({"kind": kind["properties"]["kind"]["const"]});
    kinds.map(|kind| serde_json::from_value(name(kind)).expect("every key has a default")).collect()
}

/// The median of milliseconds that a step takes with everything in it: states read, loss, gradients and optimizer.
fn step(kind: &HeadArchitecture, backbone: &Backbone, [train, dev]: [&Trace; 2], folder: &Path) -> Result<f64> {
    let [warm, steps] = STEPS;
    let options = HeadsConfig {
        architecture: kind.clone(),
        positions_per_step: POSITIONS,
        positions_per_document: 16,
        training: OptimizationConfig { steps, dev_every: steps, checkpoint_every: steps, ..Default::default() },
        ..HeadsConfig::default()
    };
    let text = |trace| [TrainingText { corpus: "random", trace }];
    kind.kind().fit(&FitHeads {
        backbone,
        elsewhere: &[],
        options: &options,
        from: None,
        train: &text(train),
        dev: &text(dev),
        seed: 1,
        place: TrainingContext { folder, key: "step", title: "train-heads", keep_checkpoints: false },
    })?;
    let seconds = seconds_per_step(folder, warm as u64).ok_or_else(|| Error::new("the steps' times are missing."))?;
    Ok(1e3 * seconds)
}

/// What fails, be it by a panic in a device's kernels, costs its own row alone.
fn attempt<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(|error| format!("failed: {error}")),
        Err(_) => Err("failed: see the panic above".into()),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
