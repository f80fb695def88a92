//! `train-heads`: heads 2 to H on the train traces, chosen on dev.

use std::path::{Path, PathBuf};

use super::inputs::load_backbone;
use super::{CorpusTrace, Traces, Workspace};
use crate::backbone::Backbone;
use crate::config::Config;
use crate::device::{self, DeviceChoice};
use crate::error::Result;
use crate::heads::{FitHeads, FrozenHeads, copy_heads, load_heads};
use crate::report::write_training;
use crate::training::TrainingContext;

/// What the page of their training is called.
const TITLE: &str = "Training of the heads";

/// Trained heads.
pub struct TrainedHeads {
    /// On the run's device, without autodiff.
    pub heads: FrozenHeads,
    /// Where they lie, with the checkpoints of their training.
    pub folder: PathBuf,
}

/// Trains the heads, or copies those that were given, unless that is done, and loads them.
///
/// # Errors
/// Heads of another backbone or tokenizer; a training that fails; an interrupt.
pub fn train_heads(workspace: &Workspace, traces: &Traces) -> Result<TrainedHeads> {
    let (config, backbone, artefact) = (&workspace.config, workspace.backbone(), &workspace.graph.heads);
    let folder = workspace.make(artefact, |folder| {
        if let Some(from) = &workspace.given_heads {
            return copy_heads(from, folder);
        }
        let options = &config.heads;
        let (key, title, keep_checkpoints) = (artefact.key.hash(), artefact.title.as_str(), options.keep_checkpoints);
        let trained = options.architecture.kind().fit(&FitHeads {
            backbone,
            elsewhere: &elsewhere(config)?,
            options,
            from: (!options.init_from.is_empty()).then_some((Path::new(&options.init_from), options.binding())),
            train: &traces.train.iter().map(CorpusTrace::text).collect::<Vec<_>>(),
            dev: &traces.dev.iter().map(CorpusTrace::text).collect::<Vec<_>>(),
            seed: config.seed,
            place: TrainingContext { folder, key, title, keep_checkpoints },
        });
        // What an interrupted training learnt so far can be looked at as well.
        if folder.join("metrics.jsonl").exists() {
            write_training(folder, TITLE)?;
        }
        trained
    })?;
    Ok(TrainedHeads { heads: load_heads(&folder, backbone, config.heads.binding())?, folder })
}

/// The backbone once more on every further device that heads train on.
fn elsewhere(config: &Config) -> Result<Vec<Backbone>> {
    let load = |&choice: &DeviceChoice| Ok(load_backbone(config, &device::open(choice)?.device)?.0);
    config.device_choices()?[1..].iter().map(load).collect()
}
