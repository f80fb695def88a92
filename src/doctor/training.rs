//! What training the heads will take, from a few of its steps.

use std::fs;
use std::path::Path;

use indicatif::{HumanBytes, HumanDuration};
use serde_json::Value;

use super::{Finding, TEXTS, WRITTEN, finding};
use crate::error::{Error, Result};
use crate::heads::{FitHeads, HeadsConfig, TrainingText};
use crate::progress;
use crate::stages::Workspace;
use crate::text::Document;
use crate::traces::{self, ColumnPlans, Sampling, Supply, Trace, TracePlan, TraceText, free_space};
use crate::training::{OptimizationConfig, TrainingContext};

/// How many steps are tried. The first begins with what is done once.
const TRIED: usize = 3;

/// Trains the heads for a few steps on texts that the backbone writes, and says how long all steps would take, and what memory this
/// process has held. Heads that were trained elsewhere have nothing to be said of.
///
/// # Errors
/// Returns an error if the backbone cannot continue the documents, or if the heads cannot be trained as configured.
pub(super) fn check(workspace: &Workspace, documents: &[&Document]) -> Result<Option<Finding>> {
    if workspace.given_heads.is_some() {
        return Ok(None);
    }
    let (config, backbone) = (&workspace.config, workspace.backbone());
    let folder = tempfile::tempdir().map_err(|e| Error::io("create a folder in", std::env::temp_dir(), e))?;
    let trace = trace(workspace, documents, folder.path())?;
    let text = [TrainingText { corpus: &workspace.corpora()[0].name, trace: &trace }];
    let tried = OptimizationConfig { steps: TRIED, warmup_steps: 0, dev_every: TRIED, ..config.heads.training.clone() };
    // These few texts stand for all of them.
    let one_phase =
        HeadsConfig { training: tried, phase: Vec::new(), text: Default::default(), ..config.heads.clone() };
    let place = folder.path().join("heads");
    one_phase.architecture.kind().fit(&FitHeads {
        backbone,
        elsewhere: &[],
        options: &one_phase,
        from: None,
        train: &text,
        dev: &text,
        seed: config.seed,
        place: TrainingContext { folder: &place, key: "", title: "training, a few steps", keep_checkpoints: false },
    })?;
    let all = config.heads.training.steps;
    let step = seconds_of_a_step(&place)?;
    let memory = progress::peak_memory().map(|bytes| format!("; this process has held {} at most", HumanBytes(bytes)));
    let words = format!(
        "a step of training the heads takes {step:.2} s, and {all} steps {}{}",
        HumanDuration(std::time::Duration::from_secs_f64(step * all as f64)),
        memory.unwrap_or_default()
    );
    Ok(Some(finding("training", true, words)))
}

/// Makes a trace of the first documents, whose states are computed when they are read.
fn trace(workspace: &Workspace, documents: &[&Document], folder: &Path) -> Result<Trace> {
    let (backbone, options) = (&workspace.inputs.backbone, &workspace.config.traces);
    let plan = TracePlan {
        title: "a few texts",
        key: "",
        documents: documents.len().min(TEXTS),
        read: &|index| Ok(documents[index].clone()),
        shard: None,
        text: TraceText::Greedy,
        supply: Supply::Backbone,
        sampling: Sampling { temperature: options.temperature, top_p: options.top_p, seed: workspace.config.seed },
        max_new: WRITTEN,
        batch: TEXTS,
    };
    let place = folder.join("trace");
    traces::make(backbone, &plan, &place, ColumnPlans::NONE, &free_space, |_| Ok(()))?;
    let trace = Trace::open(&place, &backbone.identity())?;
    let trace = trace.recomputing(backbone.clone(), &workspace.features, options.dtype);
    if options.probabilities == 0 {
        return Ok(trace);
    }
    let likely = folder.join("likely");
    traces::make_likely(&trace, &backbone.model, &likely, options.probabilities, "likeliest tokens")?;
    trace.with_likely(&likely, options.probabilities)
}

/// Returns the seconds of the last step in the log of a training.
fn seconds_of_a_step(folder: &Path) -> Result<f64> {
    let path = folder.join("timings.jsonl");
    let log = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let seconds: Vec<f64> =
        log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["seconds"].as_f64()).collect();
    match seconds[..] {
        [.., before, last] => Ok(last - before),
        _ => Err(Error::new(format!("{}: the steps that were tried are missing.", path.display()))),
    }
}
