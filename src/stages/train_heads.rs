//! The stage `train-heads`, which trains heads 2 to H on the traces of train and chooses among their checkpoints on
//! dev.

use std::path::{Path, PathBuf};

use super::inputs::load_backbone;
use super::{CorpusTrace, Traces, Workspace};
use crate::backbone::Backbone;
use crate::config::Config;
use crate::device::{self, DeviceChoice};
use crate::error::Result;
use crate::heads::{FitHeads, FrozenHeads, WEIGHTS, copy_heads, load_again, load_heads};
use crate::report::write_training;
use crate::training::TrainingContext;

/// The title of the page about the training.
const TITLE: &str = "Training of the heads";

/// Trained heads, and the folder that they were loaded from.
pub struct TrainedHeads {
    /// The heads, on the run's device and without automatic differentiation.
    pub heads: FrozenHeads,
    /// The folder of the heads and of the checkpoints of their training.
    pub folder: PathBuf,
}

/// Trains the heads or copies the given ones, unless that is done, and loads them.
///
/// # Errors
/// Fails if the heads belong to another backbone or tokenizer, if the training fails, or on an interrupt.
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
        // The page is also written after a training that was interrupted, to show its course so far.
        if folder.join("metrics.jsonl").exists() {
            write_training(folder, TITLE)?;
        }
        trained
    })?;
    let heads = match workspace.given_heads {
        // The workspace has checked them.
        Some(_) => load_again(&folder, &folder.join(WEIGHTS), backbone)?,
        None => load_heads(&folder, backbone, config.heads.binding())?,
    };
    Ok(TrainedHeads { heads: heads.with_weights(config.heads.weights), folder })
}

/// Loads the backbone again on each device that heads train on, except the first.
///
/// # Errors
/// Fails if a device cannot be opened, or if the backbone cannot be loaded.
fn elsewhere(config: &Config) -> Result<Vec<Backbone>> {
    let load = |&choice: &DeviceChoice| Ok(load_backbone(config, &device::open(choice)?.device)?.0);
    config.device_choices()?[1..].iter().map(load).collect()
}
