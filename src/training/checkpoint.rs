//! Checkpoints on disk: `checkpoints/step-000500/{model.safetensors, optimizer.safetensors, state.json}` (and
//! `average.safetensors`), `latest.json`, `best.json`.
//!
//! Each folder appears whole. Older ones are removed once nothing points at them, or, where every checkpoint is kept,
//! cut down to the weights that were evaluated on dev.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::{AdamW, Average, OptimizationConfig};
use crate::error::{Error, Result, bail};
use crate::files::{self, StagedDir};
use crate::nn::{collect_parameters, load_parameters, parameters_from_safetensors, parameters_to_safetensors};
use crate::storage_type::StorageType;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// The averaged weights, if there is an average.
const AVERAGE: &str = "average.safetensors";

/// The version of the layout.
const SCHEMA: u32 = 1;

/// The contents of `state.json`: all of a training's state except tensors. Batches are functions of the seed and the
/// step, so there is no random state and no position in the data to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    schema_version: u32,
    /// The hash of everything that the training depends on.
    pub key: String,
    /// The number of steps done.
    pub step: usize,
    /// The length of `metrics.jsonl` in bytes.
    pub metrics_bytes: u64,
    /// The best dev evaluation so far.
    pub best: Option<Best>,
    /// The interval of the steps whose weights are kept; none if only the latest and the best are.
    pub kept_every: Option<usize>,
}

/// An evaluation on dev.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The number of steps done before it.
    pub step: usize,
    /// The score; lower is better.
    pub score: f64,
}

impl State {
    /// Returns whether dev has not improved for as long as `patience` allows.
    pub fn gave_up(&self, options: &OptimizationConfig) -> bool {
        let since = self.best.map_or(0, |best| self.step - best.step);
        options.patience > 0 && since >= options.patience * options.dev_every
    }

    /// Returns whether there is no further step.
    pub fn has_ended(&self, options: &OptimizationConfig) -> bool {
        self.step >= options.steps || self.gave_up(options)
    }

    /// Makes the state before the first step.
    pub fn new(key: &str) -> Self {
        Self { schema_version: SCHEMA, key: key.to_owned(), step: 0, metrics_bytes: 0, best: None, kept_every: None }
    }
}

/// The checkpoints that a training with [`TrainingContext::keep_checkpoints`](super::TrainingContext) left.
pub struct KeptCheckpoints {
    /// The step that dev chose.
    pub best: usize,
    /// The steps in ascending order, each with the file of the weights that were evaluated on dev.
    pub weights: Vec<(usize, PathBuf)>,
}

impl KeptCheckpoints {
    /// Finds the checkpoints under `folder/checkpoints`; returns none unless all of them are there.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let checkpoints = Checkpoints::new(folder);
        let Some(State { step, best: Some(best), kept_every: Some(every), .. }) = checkpoints.latest_state()? else {
            return Ok(None);
        };
        let file = |path: PathBuf| [AVERAGE, MODEL].map(|name| path.join(name)).into_iter().find(|file| file.exists());
        let steps = checkpoints.steps()?.into_iter();
        let weights: Vec<_> = steps.filter_map(|(step, path)| Some((step, file(path)?))).collect();
        let has = |step: usize| weights.iter().any(|(kept, _)| *kept == step);
        let all = (every..=step).step_by(every).chain([best.step]).all(has);
        Ok(all.then_some(Self { best: best.step, weights }))
    }
}

/// The checkpoints of one training.
pub struct Checkpoints {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Pointer {
    step: usize,
}

/// Returns the bytes on disk of a finished training of so many parameters: the weights, and those of the latest and the
/// best step. While it goes on, each of these two has the optimizer's two moments as well.
pub fn kept_bytes(parameters: usize) -> u64 {
    3 * 4 * parameters as u64
}

/// Leaves the weights of a checkpoint, the averaged ones if there are any, and its state.
fn keep_weights(step: &Path) -> Result<()> {
    let averaged = step.join(AVERAGE).exists();
    for path in [Some(OPTIMIZER), averaged.then_some(MODEL)].into_iter().flatten().map(|name| step.join(name)) {
        if path.exists() {
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

impl Checkpoints {
    /// Names the checkpoints under `folder/checkpoints`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.join("checkpoints") }
    }

    /// Returns the folder of a step.
    fn of_step(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:06}"))
    }

    /// Writes a checkpoint, points `latest.json` at it and `best.json` at the best one, and clears up all others.
    pub fn save<M: Module>(
        &self,
        model: &M,
        optimizer: &AdamW,
        average: Option<&Average>,
        state: &State,
    ) -> Result<()> {
        let staged = StagedDir::new(&self.of_step(state.step))?;
        let single = StorageType::Float32;
        parameters_to_safetensors(&staged.path().join(MODEL), &collect_parameters(model), single)?;
        parameters_to_safetensors(&staged.path().join(OPTIMIZER), &optimizer.state(), single)?;
        if let Some(average) = average {
            parameters_to_safetensors(&staged.path().join(AVERAGE), average.values(), single)?;
        }
        files::write_json(&staged.path().join("state.json"), state)?;
        staged.commit()?;
        files::write_json(&self.folder.join("latest.json"), &Pointer { step: state.step })?;
        self.settle(state)
    }

    /// Does what is left to do once `latest.json` points at a state: points `best.json` at the best one, and clears up all others. A
    /// training that goes on does it again, for it may have been killed before.
    pub fn settle(&self, state: &State) -> Result<()> {
        if let Some(best) = state.best {
            files::write_json(&self.folder.join("best.json"), &Pointer { step: best.step })?;
        }
        self.clear_up(state)
    }

    /// Leaves the latest and the best checkpoint whole, and of the others only the weights that are to be kept.
    fn clear_up(&self, state: &State) -> Result<()> {
        for (step, path) in self.steps()? {
            if step == state.step || state.best.is_some_and(|best| best.step == step) {
                continue;
            }
            if state.kept_every.is_none_or(|every| !step.is_multiple_of(every)) {
                fs::remove_dir_all(&path).map_err(|e| Error::io("remove", &path, e))?;
                continue;
            }
            keep_weights(&path)?;
        }
        Ok(())
    }

    /// Leaves the weights alone of every checkpoint. Nothing else is read of a training that has ended.
    pub fn end(&self) -> Result<()> {
        self.steps()?.iter().try_for_each(|(_, path)| keep_weights(path))
    }

    /// Returns the steps in ascending order, with their folders.
    fn steps(&self) -> Result<Vec<(usize, PathBuf)>> {
        let listing = fs::read_dir(&self.folder).map_err(|e| Error::io("read", &self.folder, e))?;
        let step = |path: PathBuf| {
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path)).filter(|(_, path)| path.is_dir())
        };
        let mut steps: Vec<_> = listing.flatten().filter_map(|entry| step(entry.path())).collect();
        steps.sort();
        Ok(steps)
    }

    /// Returns the state that `latest.json` points at, if there is one.
    fn latest_state(&self) -> Result<Option<State>> {
        let pointer = self.folder.join("latest.json");
        if !pointer.exists() {
            return Ok(None);
        }
        let path = self.of_step(files::read_json::<Pointer>(&pointer)?.step).join("state.json");
        let state: State = files::read_json(&path)?;
        if state.schema_version != SCHEMA {
            bail!(
                "{}: this checkpoint has layout {}, this program reads {SCHEMA}. Delete the folder to train anew.",
                path.display(),
                state.schema_version
            );
        }
        Ok(Some(state))
    }

    /// Returns the latest state of a training with this key; none if there is none, or it is of another key.
    pub fn latest(&self, key: &str) -> Result<Option<State>> {
        Ok(self.latest_state()?.filter(|state| state.key == key))
    }

    /// Restores the model, the optimizer and the average as they were at `state`.
    pub fn load<M: Module>(
        &self,
        state: &State,
        model: M,
        optimizer: &mut AdamW,
        average: Option<&mut Average>,
    ) -> Result<M> {
        let path = self.of_step(state.step).join(OPTIMIZER);
        let device = model.devices().first().cloned().map(|d| d.without_autodiff());
        let Some(device) = device else { bail!("a model without parameters cannot be trained.") };
        optimizer
            .restore(state.step, parameters_from_safetensors(&path)?, &device)
            .map_err(|e| e.within(path.display()))?;
        if let Some(average) = average {
            average.restore(state.step, parameters_from_safetensors(&self.of_step(state.step).join(AVERAGE))?);
        }
        self.load_model(state.step, model, false)
    }

    /// Loads the model of any step whose weights are kept, with averaged weights if `averaged`.
    pub fn load_model<M: Module>(&self, step: usize, model: M, averaged: bool) -> Result<M> {
        let path = self.of_step(step).join(if averaged { AVERAGE } else { MODEL });
        load_parameters(model, parameters_from_safetensors(&path)?).map_err(|e| e.within(path.display()))
    }

    /// Removes all checkpoints; returns whether there were any.
    pub fn clear(&self) -> Result<bool> {
        let any = self.folder.exists();
        if any {
            fs::remove_dir_all(&self.folder).map_err(|e| Error::io("remove", &self.folder, e))?;
        }
        Ok(any)
    }
}
