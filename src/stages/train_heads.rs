//! `train-heads`: heads 2 to H on the train traces, chosen on dev.

use burn::module::Module;

use super::{Traces, Workspace};
use crate::error::Result;
use crate::files;
use crate::heads::{HeadTraining, Heads, load_heads, save_heads};
use crate::nn::{Init, count_parameters};
use crate::progress;
use crate::training::{Place, train};

/// Trained heads and the hash of what made them.
pub struct TrainedHeads {
    /// On the run's device, without autodiff.
    pub heads: Heads,
    /// For the stages that depend on them.
    pub key: String,
}

/// Trains the heads unless that is done, and loads them.
pub fn train_heads(workspace: &Workspace, traces: &Traces) -> Result<TrainedHeads> {
    let (config, backbone) = (&workspace.config, &workspace.backbone);
    config.traces.require_hidden("train-heads")?;
    let folder = workspace.folder.join("heads");
    let key = files::hash_json(&(&config.heads, config.seed, &traces.fit_key));
    let (width, title) = (backbone.model.config().hidden_size, "train-heads");
    if !workspace.finished(title, &folder, &key)? {
        let trained = workspace.device.device.clone().autodiff();
        let (count, architecture) = (config.heads.block_size - 1, &config.heads.architecture);
        let heads = Heads::new(architecture, count, width, &mut Init::seeded(config.seed, &trained));
        let task = HeadTraining::new(
            traces.train.iter().map(|t| &t.trace).collect(),
            traces.dev.iter().map(|t| &t.trace).collect(),
            backbone.model.unembedding(),
            &config.heads,
            config.seed,
        )?;
        progress::say(format!(
            "{title}: {count} heads, {} parameters, {} positions of {} documents",
            count_parameters(&heads),
            task.train_positions(),
            traces.train.iter().map(|t| t.trace.documents().len()).sum::<usize>()
        ));
        let place = Place { folder: &folder, key: &key, title };
        let heads = train(heads, &task, &config.heads.training, &place)?;
        save_heads(&folder, &heads.valid(), width, architecture, &backbone.hash)?;
        workspace.finish(&folder, &key)?;
    }
    Ok(TrainedHeads { heads: load_heads(&folder, width, &backbone.hash, &workspace.device.device)?, key })
}
