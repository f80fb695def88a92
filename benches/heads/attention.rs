//! Heads that attend: their training beside PyTorch's, step by step in turns, and what a level and a block take to draft.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Span};
use draftsmith::decoding::{Decoding, TimedBatch, Verification, block_seconds};
use draftsmith::drafting::{Bpd, StopRule};
use draftsmith::error::Result;
use draftsmith::heads::{
    AttentionConfig, AttentionHeads, DraftHeads, FrozenHeads, HeadKind, HeadShape, HeadTraining, HeadsConfig,
    LossWeights, RowOrder, TrainingText, VocabularyConfig,
};
use draftsmith::nn::Init;
use draftsmith::storage_type::StorageType;
use draftsmith::training::{Batch, Evaluated, OptimizationConfig, Task, TrainingContext, train};
use serde_json::Value;

use crate::trace::trace;
use crate::{median, peak_since, reset_peak, variable};

/// Steps that are taken before those that count, and those.
const STEPS: [usize; 2] = [3, 12];
const POSITIONS: usize = 128;

/// Trains three layers on `windows` with a draft vocabulary and with the whole one.
pub fn training(backbone: &Backbone, windows: &[Vec<u32>], scratch: &Path) -> Result<()> {
    let model = &backbone.model;
    let kind = AttentionConfig { layers: 3, ..AttentionConfig::default() };
    let features = kind.features(model.config())?;
    let (dev, rest) = windows.split_at(4);
    let traces = [trace(backbone, &scratch.join("attended"), rest, &features)?];
    let dev = trace(backbone, &scratch.join("attended-dev"), dev, &features)?;
    for vocabulary in [8192, model.config().vocab_size] {
        let part = VocabularyConfig { size: vocabulary, drafting: true };
        let steps = STEPS[0] + STEPS[1];
        let options = HeadsConfig {
            positions_per_step: POSITIONS,
            positions_per_document: 16,
            prompt_positions: true,
            loss_weights: LossWeights::Exp(4.0),
            vocabulary: (vocabulary < model.config().vocab_size).then_some(part),
            training: OptimizationConfig {
                steps,
                dev_every: steps,
                checkpoint_every: steps,
                average: 0.98,
                ..OptimizationConfig::default()
            },
            ..HeadsConfig::default()
        };
        let mut heads = kind.network(HeadShape::new(8, model), &mut Init::seeded(1, &Device::flex().autodiff()));
        heads.warm_start(model)?;
        let text = |trace| [TrainingText { corpus: "samsum", trace }];
        let inner = HeadTraining::new(&text(&traces[0]), &text(&dev), model, &heads, &options, 1)?;
        let loaded = reset_peak();
        let turns = Turns { peer: Peer::start(vocabulary), began: None, steps: Vec::new() };
        let task = InTurns { inner, turns: Mutex::new(turns) };
        let name = format!("attended-{vocabulary}");
        let context =
            TrainingContext { folder: &scratch.join(&name), key: &name, title: "train-heads", keep_checkpoints: false };
        train(heads, &task, &[], &options.training, &context)?;
        let grown = peak_since(loaded);
        let Turns { steps, .. } = task.turns.into_inner().expect("one thread");
        let seconds = median(steps.iter().map(|step| step.0));
        println!(
            "three layers, {vocabulary} tokens: {:.1} positions/s, memory grew by {grown:.0} MB",
            POSITIONS as f64 / seconds
        );
        let theirs: Vec<(f64, &Value)> =
            steps.iter().filter_map(|(ours, theirs)| Some((*ours, theirs.as_ref()?))).collect();
        if let Some((_, last)) = theirs.last() {
            let figure = |value: &Value, name: &str| value[name].as_f64().unwrap_or(f64::NAN);
            println!(
                "    PyTorch: {:.1} positions/s, {:.2} times its speed (median of ratios); its memory grew by {:.0} MB",
                POSITIONS as f64 / median(theirs.iter().map(|(_, theirs)| figure(theirs, "seconds"))),
                median(theirs.iter().map(|(ours, theirs)| figure(theirs, "seconds") / ours)),
                figure(last, "memory_growth_mb"),
            );
        }
    }
    Ok(())
}

/// What drafting takes behind 200 tokens, in forwards of one token.
pub fn drafting(backbone: &Backbone) -> Result<()> {
    const CONTEXT: usize = 200;
    let model = &backbone.model;
    let mut cache = model.cache(1, CONTEXT + 1);
    model.hidden(&[Span::chain(&[0; CONTEXT])], Some(&mut cache));
    let one = (0..30).map(|_| {
        let started = Instant::now();
        std::hint::black_box(model.logits(model.hidden(&[Span::chain(&[0])], Some(&mut cache))));
        cache.truncate(0, CONTEXT);
        started.elapsed().as_secs_f64()
    });
    let one = one.fold(f64::INFINITY, f64::min);
    println!("a forward of one token behind {CONTEXT}: {:.2} ms", 1e3 * one);
    for (rows, layers) in [(RowOrder::Sequential, 1), (RowOrder::Sequential, 3), (RowOrder::Parallel, 2)] {
        for weights in [StorageType::Float32, StorageType::Float16] {
            let kind = AttentionConfig { rows, layers, ..AttentionConfig::default() };
            let mut heads = kind.network(HeadShape::new(8, model), &mut Init::seeded(1, &Device::flex()));
            heads.warm_start(model)?;
            let heads = FrozenHeads::new(heads, model, Some((0..8192).collect())).with_weights(weights);
            let options = Decoding {
                top_k: 1,
                dtype: StorageType::Float32,
                stop: StopRule::Never,
                verification: Verification::GREEDY,
            };
            let frontier = (rows == RowOrder::Sequential).then_some(8);
            let batch = TimedBatch { prompts: &[(&[0; CONTEXT], 0)], documents: 1, nodes: 1, frontier };
            let found = block_seconds(backbone, &heads, &Bpd, options, batch)?;
            let (what, seconds) = match rows {
                RowOrder::Sequential => ("a level of eight rows", found.level[7]),
                RowOrder::Parallel => ("a block of eight parallel rows", found.drafting[0]),
            };
            println!("{what}, {layers} layers, {weights:?}: {:.2} ms, {:.3} of it", 1e3 * seconds, seconds / one);
        }
    }
    Ok(())
}

/// A training that takes turns with PyTorch.
struct InTurns<'a> {
    inner: HeadTraining<'a>,
    turns: Mutex<Turns>,
}

struct Turns {
    peer: Option<Peer>,
    /// When the present step began.
    began: Option<Instant>,
    /// The seconds of each step that counts, and PyTorch's answer after it.
    steps: Vec<(f64, Option<Value>)>,
}

impl Turns {
    /// Ends a step, if one has begun, and lets PyTorch take one.
    fn next(&mut self, number: usize) {
        let seconds = self.began.map(|began| began.elapsed().as_secs_f64());
        let answer = self.peer.as_mut().map(Peer::step);
        if let Some(seconds) = seconds.filter(|_| number > STEPS[0]) {
            self.steps.push((seconds, answer));
        }
        self.began = Some(Instant::now());
    }
}

impl Task<AttentionHeads> for InTurns<'_> {
    fn batch(&self, model: &AttentionHeads, number: usize) -> Result<Batch> {
        self.turns.lock().expect("one thread").next(number);
        self.inner.batch(model, number)
    }

    fn evaluate(&self, model: &AttentionHeads) -> Result<Evaluated> {
        self.inner.evaluate(model)
    }

    fn describe(&self, number: usize) -> Value {
        Task::<AttentionHeads>::describe(&self.inner, number)
    }
}

/// PyTorch, which ends when its input does.
struct Peer {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(vocabulary: usize) -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/torch_attention.py");
        let (threads, vocabulary) = (rayon::current_num_threads().to_string(), vocabulary.to_string());
        let mut command = Command::new(variable("DRAFTSMITH_PYTHON")?);
        command.arg(script).args(["--threads", &threads, "--vocabulary", &vocabulary]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("PyTorch starts");
        let input = child.stdin.take().expect("a pipe");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Some(Self { child, input, lines })
    }

    fn step(&mut self) -> Value {
        writeln!(self.input, "step").expect("PyTorch listens");
        let line = self.lines.next().expect("PyTorch answers").expect("text");
        serde_json::from_str(&line).expect("a JSON line")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
