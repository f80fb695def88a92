//! A small run in a temporary folder, from which follows what the stages of the whole one take.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::{Finding, WRITTEN, finding};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::evaluation::Known;
use crate::progress::{self, duration};
use crate::stages::{
    Corpus, Graph, Inputs, Reach, Runs, Shared, Traces, TrainedHeads, Workspace, candidates, evaluate, trace,
    train_heads, train_rescorers,
};
use crate::store::Store;
use crate::text::Split;
use crate::training::seconds_per_step;

/// How many documents of a split are in the small run: enough that what is done once for all of them counts little. And how many steps
/// anything is trained for; the first begins with what is done once.
const DOCUMENTS: usize = 8;
const STEPS: usize = 3;

/// Runs every stage on a few short texts, and says how long the stages of the whole run would take on this machine, and what memory
/// this process has held. Of heads that were trained elsewhere nothing is said.
///
/// # Errors
/// Returns an error if a stage fails.
pub(super) fn checks(workspace: &Workspace) -> Result<Vec<Finding>> {
    if workspace.given_heads.is_some() {
        return Ok(Vec::new());
    }
    progress::say("a small run in a temporary folder, to see what every stage takes:");
    let folder = tempfile::tempdir().map_err(|e| Error::io("create a folder in", std::env::temp_dir(), e))?;
    let rehearsal = Rehearsal::new(workspace, folder.path())?;
    let traces = trace(&rehearsal.small)?;
    let heads = train_heads(&rehearsal.small, &traces)?;
    let training = rehearsal.training(&heads)?;
    let (rescorers, evaluation) = rehearsal.scoring(&traces, &heads)?;
    let memory = progress::peak_memory().map(|bytes| {
        let words = format!("the small run has made this process hold {} at most", HumanBytes(bytes));
        finding("memory", true, words)
    });
    Ok([training, rescorers, evaluation].into_iter().chain(memory).collect())
}

/// The small run beside the whole one.
struct Rehearsal<'a> {
    whole: &'a Workspace,
    small: Workspace,
    /// The small run with a document that is decoded live, if there are any in the whole one.
    live: Option<Workspace>,
}

impl<'a> Rehearsal<'a> {
    fn new(whole: &'a Workspace, folder: &Path) -> Result<Self> {
        // A corpus to train on and one to evaluate on stand for all; often they are the same.
        let all = whole.corpora();
        let numbers: Vec<usize> =
            [Split::Train, Split::Test].iter().filter_map(|&split| all.iter().position(|c| c.has(split))).collect();
        let few = |(_, corpus): (usize, &Corpus)| corpus.first(DOCUMENTS);
        let corpora = all.iter().enumerate().filter(|(number, _)| numbers.contains(number)).map(few).collect();
        let inputs = Inputs { corpora: Arc::new(corpora), ..whole.inputs.clone() };
        let (runs, known) = (Runs { folder: folder.to_owned(), command: Vec::new() }, Known::default());
        let store = Store::open(runs.store())?;
        let run = |live_documents: usize| {
            let config = small(&whole.config, live_documents)?;
            let (place, inputs, store) = ((runs.clone(), runs.run("rehearsal")), inputs.clone(), store.clone());
            let columns = Shared::columns([&config].into_iter(), &inputs);
            let shared = Shared { inputs, columns, reach: Reach::of(&config), known: known.clone() };
            Workspace::cell(config, whole.device.clone(), place, store, shared)
        };
        let live = (whole.config.evaluation.live_documents > 0).then(|| run(1)).transpose()?;
        Ok(Self { whole, small: run(0)?, live })
    }

    /// What training the heads takes.
    fn training(&self, heads: &TrainedHeads) -> Result<Finding> {
        let steps = self.whole.config.heads.training.steps;
        let step =
            seconds_per_step(&heads.folder, 1).ok_or_else(|| Error::new("the steps that were tried are missing."))?;
        let words = format!(
            "a step of training the heads takes {step:.2} s, and {steps} steps {}",
            duration(step * steps as f64)
        );
        Ok(finding("training", true, words))
    }

    /// What fitting the rescorers takes, and what the evaluation takes.
    fn scoring(&self, traces: &Traces, heads: &TrainedHeads) -> Result<(Finding, Finding)> {
        let small = &self.small;
        let mut propose = 0.0;
        for trace in [&traces.train, &traces.dev, &traces.test].into_iter().flatten() {
            let planned = &small.graph.traces[trace.number];
            if planned.candidates.is_some() {
                propose += self.times_larger(traces, planned.split) * seconds(|| candidates(small, heads, trace))?.1;
            }
        }
        let mut parts = vec![format!("the heads' candidates {}", duration(propose))];
        let mut fitted = BTreeMap::new();
        for (name, artefact) in &small.graph.rescorers {
            let (made, took) = seconds(|| train_rescorers(small, traces, Some(heads), Some(name)))?;
            fitted.extend(made);
            let rescorer = serde_json::to_value(&self.whole.config.rescorer[name]).expect("a configuration is JSON");
            let trained =
                seconds_per_step(&small.folder.join(&artefact.name), 1).zip(rescorer["training"]["steps"].as_f64());
            let whole = trained.map_or(took * self.times_larger(traces, Split::Train), |(step, steps)| step * steps);
            parts.push(format!("{name} {}", duration(whole)));
        }
        let rescorers = finding("rescorers", true, format!("about: {}", parts.join(", ")));

        let (_, replay) = seconds(|| evaluate(small, traces, heads, &fitted))?;
        let replay = replay * self.times_larger(traces, Split::Dev).max(self.times_larger(traces, Split::Test));
        let mut words = format!(
            "at most {} to tune and replay, for heads that are never right, as these are after so few steps; half of it at two tokens a call",
            duration(replay)
        );
        if let Some(live) = &self.live {
            // All else is known by now.
            let (_, one) = seconds(|| evaluate(live, traces, heads, &fitted))?;
            let sets = graph_sets(&self.whole.graph) as f64 / graph_sets(&live.graph) as f64;
            let all = self.whole.config.evaluation.live_documents;
            let longer = self.whole.config.traces.max_new as f64 / small.config.traces.max_new as f64;
            words += &format!(
                "; and {} to decode {all} documents of every set live",
                duration(one * longer * sets * all as f64)
            );
        }
        Ok((rescorers, finding("evaluation", true, words)))
    }

    /// How many times as much text of a split the whole run has, at most.
    fn times_larger(&self, traces: &Traces, split: Split) -> f64 {
        let documents = self.whole.graph.traces.iter().filter(|trace| trace.split == split);
        let whole: usize = documents.map(|trace| trace.documents * self.whole.config.traces.max_new).sum();
        let small = match split {
            Split::Train => &traces.train,
            Split::Dev => &traces.dev,
            Split::Test => &traces.test,
        };
        let small: usize =
            small.iter().flat_map(|trace| trace.trace.documents()).map(|document| document.continuation).sum();
        whole as f64 / small.max(1) as f64
    }
}

/// Returns the number of sets that a run evaluates on.
fn graph_sets(graph: &Graph) -> usize {
    graph.traces.iter().filter(|trace| trace.split == Split::Test).count()
}

/// Returns the configuration of the small run: short texts, and a few steps for everything that is trained.
fn small(config: &Config, live_documents: usize) -> Result<Config> {
    let mut small = config.clone();
    small.heads.phase.clear();
    small.heads.text.clear();
    small.traces.from.clear();
    small.traces.max_new = small.traces.max_new.min(WRITTEN);
    small.evaluation.live_documents = live_documents;
    small.evaluation.all_checkpoints = false;
    let mut value = serde_json::to_value(small).expect("a configuration is JSON");
    shorten(&mut value);
    serde_json::from_value(value).map_err(|e| Error::new(format!("the small run's configuration: {e}")))
}

/// Cuts every `training` in a configuration to a few steps.
fn shorten(section: &mut Value) {
    let Value::Object(keys) = section else { return };
    for (key, value) in keys {
        if key == "training" {
            for (key, few) in [("steps", json!(STEPS)), ("dev_every", json!(STEPS)), ("warmup_steps", json!(0))] {
                value[key] = few;
            }
        }
        shorten(value);
    }
}

/// Does a piece of work. Returns its result and the seconds that it took.
fn seconds<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let begun = Instant::now();
    Ok((work()?, begun.elapsed().as_secs_f64()))
}
