//! `train-heads`: heads 2 to H on the train traces, chosen on dev.

use std::path::{Path, PathBuf};

use super::workspace::{Stage, load_backbone};
use super::{CorpusTrace, Traces, Workspace};
use crate::backbone::Backbone;
use crate::config::{Config, HeadsConfig};
use crate::device::{self, DeviceChoice};
use crate::error::Result;
use crate::files;
use crate::heads::{FitHeads, FrozenHeads, load_heads};
use crate::report::write_training;
use crate::training::TrainingContext;

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
        let trained = options.architecture.kind().fit(&FitHeads {
            backbone,
            elsewhere: &elsewhere(config)?,
            options: &options,
            from: (!config.heads.init_from.is_empty()).then_some(from),
            train: &traces.train.iter().map(CorpusTrace::text).collect::<Vec<_>>(),
            dev: &traces.dev.iter().map(CorpusTrace::text).collect::<Vec<_>>(),
            seed: config.seed,
            place: TrainingContext { folder, key: &key, title, keep_checkpoints: config.heads.keep_checkpoints },
        });
        // What an interrupted training learnt so far can be looked at as well.
        if folder.join("metrics.jsonl").exists() {
            write_training(folder, TITLE)?;
        }
        trained
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
