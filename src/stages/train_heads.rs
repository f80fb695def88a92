//! `train-heads`: heads 2 to H on the train traces, chosen on dev.

use std::path::{Path, PathBuf};

use burn::module::Module;

use super::workspace::{Stage, load_backbone};
use super::{CorpusTrace, Traces, Workspace};
use crate::backbone::Backbone;
use crate::config::{Config, HeadsConfig};
use crate::device::{self, DeviceChoice};
use crate::error::Result;
use crate::files;
use crate::heads::{FrozenHeads, HeadTraining, Heads, TrainingText, load_heads, load_heads_to_train, save_heads};
use crate::nn::{Init, count_parameters};
use crate::progress;
use crate::report::write_training;
use crate::training::{Replica, TrainingContext, train};

/// What the page of their training is called.
const TITLE: &str = "Training of the heads";

/// Trained heads and the hash of what made them.
pub struct TrainedHeads {
    /// On the run's device, without autodiff.
    pub heads: FrozenHeads,
    /// For the stages that depend on them.
    pub key: String,
    /// Where they were trained.
    pub folder: PathBuf,
}

/// Trains the heads unless that is done, and loads them.
pub fn train_heads(workspace: &Workspace, traces: &Traces) -> Result<TrainedHeads> {
    let (config, backbone) = (&workspace.config, &workspace.backbone);
    let from = Path::new(&config.heads.init_from);
    let (options, title) = (options(&config.heads), "train-heads");
    let key = key(config, &traces.fit_key)?;
    let folder = workspace.stage(&Stage { name: "heads", key: &key, title }, |folder| {
        let trained = workspace.device.device.clone().autodiff();
        let (count, architecture, model) = (options.block_size - 1, &options.architecture, &backbone.model);
        let size = [model.config().vocab_size, model.config().hidden_size];
        let heads = if config.heads.init_from.is_empty() {
            let heads = Heads::new(architecture, count, size, &mut Init::seeded(config.seed, &trained));
            heads.copy_unembedding(|| model.unembedding())
        } else {
            load_heads_to_train(from, backbone, (architecture, count), &trained)?
        };
        let (train_texts, dev_texts) = (texts(&traces.train), texts(&traces.dev));
        let task = |model| HeadTraining::new(&train_texts, &dev_texts, model, &options, config.seed);
        let elsewhere = elsewhere(config)?;
        let mut replicas = Vec::new();
        for Backbone { model, .. } in &elsewhere {
            replicas.push(Replica { device: model.device().clone(), task: task(model)? });
        }
        let task = task(model)?;
        progress::say(format!("{title}: {count} heads, {} parameters, {}", count_parameters(&heads), task.words()));
        let place = TrainingContext { folder, key: &key, title, keep_checkpoints: config.heads.keep_checkpoints };
        let trained = train(heads, &task, &replicas, &options.training, &place);
        // What an interrupted training learnt so far can be looked at as well.
        if folder.join("metrics.jsonl").exists() {
            write_training(folder, TITLE)?;
        }
        let heads = trained?;
        save_heads(folder, &heads.valid(), architecture, task.draft_vocabulary(), backbone)
    })?;
    Ok(TrainedHeads { heads: load_heads(&folder, backbone)?, key, folder })
}

/// The backbone once more on every further device that heads train on.
fn elsewhere(config: &Config) -> Result<Vec<Backbone>> {
    let load = |&choice: &DeviceChoice| Ok(load_backbone(config, &device::open(choice)?.device)?.0);
    config.device_choices()?[1..].iter().map(load).collect()
}

/// The path of what is started from says nothing, its bytes do; and what is kept besides changes nothing.
fn options(heads: &HeadsConfig) -> HeadsConfig {
    HeadsConfig { init_from: String::new(), keep_checkpoints: false, ..heads.clone() }
}

/// Hash of what makes the heads, on traces whose fit key is `traces`.
pub(super) fn key(config: &Config, traces: &str) -> Result<String> {
    let from = Path::new(&config.heads.init_from);
    let given = (!config.heads.init_from.is_empty()).then(|| files::hash_file(&from.join("heads.safetensors")));
    let options = options(&config.heads);
    let soft =
        options.stages().iter().any(|stage| stage.soft_targets > Some(0.0)).then_some(config.traces.probabilities);
    Ok(files::hash_json(&(&options, given.transpose()?, soft, config.seed, traces, config.traces.dtype)))
}

fn texts(traces: &[CorpusTrace]) -> Vec<TrainingText<'_>> {
    traces.iter().map(|CorpusTrace { corpus, trace, .. }| TrainingText { corpus, trace }).collect()
}
