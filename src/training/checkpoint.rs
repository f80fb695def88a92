//! Checkpoints on disk: `checkpoints/step-000500/{model.safetensors, optimizer.safetensors, state.json}` (and
//! `average.safetensors`), `latest.json`, `best.json`. Each folder appears whole; older ones are removed once nothing points at them,
//! or cut down to the weights that dev saw, where every checkpoint is kept.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::{AdamW, Average};
use crate::config::{OptimizationConfig, StorageType};
use crate::error::{Error, Result, bail};
use crate::files::{self, StagedDir};
use crate::nn::{collect_parameters, load_parameters, parameters_from_safetensors, parameters_to_safetensors};

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// The averaged weights, where they are kept.
const AVERAGE: &str = "average.safetensors";

/// Version of the layout.
const SCHEMA: u32 = 1;

/// `state.json`: all of a training's state that is not tensors. Batches are functions of seed and step, so there is no
/// random state and no data cursor to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    schema_version: u32,
    /// Hash of everything the training depends on.
    pub key: String,
    /// Steps done.
    pub step: usize,
    /// Length of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// The best dev score so far and its step.
    pub best: Option<Best>,
    /// The weights of every multiple of so many steps stay; none where only the latest and the best do.
    pub kept_every: Option<usize>,
}

/// A dev evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done when it was taken.
    pub step: usize,
    /// Lower is better.
    pub score: f64,
}

impl State {
    /// Whether dev has been no better for as long as `patience` allows.
    pub fn gave_up(&self, options: &OptimizationConfig) -> bool {
        let since = self.best.map_or(0, |best| self.step - best.step);
        options.patience > 0 && since >= options.patience * options.dev_every
    }

    /// Before the first step.
    pub fn new(key: &str) -> Self {
        Self { schema_version: SCHEMA, key: key.to_owned(), step: 0, metrics_bytes: 0, best: None, kept_every: None }
    }
}

/// The checkpoints that a training with [`TrainingContext::keep_checkpoints`](super::TrainingContext) left.
pub struct KeptCheckpoints {
    /// The step that dev chose.
    pub best: usize,
    /// By rising step: the file with the weights that dev saw.
    pub weights: Vec<(usize, PathBuf)>,
}

impl KeptCheckpoints {
    /// Those under `folder/checkpoints`; none unless all are there.
    ///
    /// # Errors
    /// Files that cannot be read.
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

/// Returns the bytes on disk of a finished training of so many parameters: the weights, and checkpoints of the latest and the
/// best step with the optimizer's two moments each.
pub fn kept_bytes(parameters: usize) -> u64 {
    7 * 4 * parameters as u64
}

impl Checkpoints {
    /// Those under `folder/checkpoints`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.join("checkpoints") }
    }

    fn of_step(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:06}"))
    }

    /// Writes a checkpoint, points `latest.json` at it and `best.json` at the best, and removes all others.
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
        if let Some(best) = state.best {
            files::write_json(&self.folder.join("best.json"), &Pointer { step: best.step })?;
        }
        // What is kept follows from the state, not from the pointers: one of them may be older after a crash.
        self.clear_up(state)
    }

    /// Leaves the latest and the best checkpoint whole, and of the others the weights that are kept.
    fn clear_up(&self, state: &State) -> Result<()> {
        for (step, path) in self.steps()? {
            if step == state.step || state.best.is_some_and(|best| best.step == step) {
                continue;
            }
            if state.kept_every.is_none_or(|every| !step.is_multiple_of(every)) {
                fs::remove_dir_all(&path).map_err(|e| Error::io("remove", &path, e))?;
                continue;
            }
            let averaged = path.join(AVERAGE).exists();
            for path in [Some(OPTIMIZER), averaged.then_some(MODEL)].into_iter().flatten().map(|name| path.join(name)) {
                if path.exists() {
                    fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
                }
            }
        }
        Ok(())
    }

    /// The folders of all steps, rising.
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

    /// The state that `latest.json` points at; none without one.
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

    /// The latest state of a training with this key; none when there is none, or one of other inputs.
    pub fn latest(&self, key: &str) -> Result<Option<State>> {
        Ok(self.latest_state()?.filter(|state| state.key == key))
    }

    /// Model, optimizer and average as they were at `state`.
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

    /// The model alone, or with averaged weights, of any kept step.
    pub fn load_model<M: Module>(&self, step: usize, model: M, averaged: bool) -> Result<M> {
        let path = self.of_step(step).join(if averaged { AVERAGE } else { MODEL });
        load_parameters(model, parameters_from_safetensors(&path)?).map_err(|e| e.within(path.display()))
    }

    /// Removes them all; gives whether there were any.
    pub fn clear(&self) -> Result<bool> {
        let any = self.folder.exists();
        if any {
            fs::remove_dir_all(&self.folder).map_err(|e| Error::io("remove", &self.folder, e))?;
        }
        Ok(any)
    }
}
