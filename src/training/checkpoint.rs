//! Checkpoints on disk: `checkpoints/step-000500/{model.safetensors, optimizer.safetensors, state.json}` (and
//! `average.safetensors`), `latest.json`, `best.json`. Each folder appears whole; older ones are removed once nothing points at them.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::{AdamW, Average};
use crate::config::{OptimizationConfig, StorageType};
use crate::error::{Error, Result, bail};
use crate::files::{self, StagedDir};
use crate::nn::{collect_parameters, load_parameters, parameters_from_safetensors, parameters_to_safetensors};

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
        Self { schema_version: SCHEMA, key: key.to_owned(), step: 0, metrics_bytes: 0, best: None }
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
        parameters_to_safetensors(&staged.path().join("model.safetensors"), &collect_parameters(model), single)?;
        parameters_to_safetensors(&staged.path().join("optimizer.safetensors"), &optimizer.state(), single)?;
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
        self.remove_all_but(&[Some(state.step), state.best.map(|best| best.step)])
    }

    fn remove_all_but(&self, steps: &[Option<usize>]) -> Result<()> {
        let kept: Vec<PathBuf> = steps.iter().flatten().map(|&step| self.of_step(step)).collect();
        let listing = fs::read_dir(&self.folder).map_err(|e| Error::io("read", &self.folder, e))?;
        for path in listing.flatten().map(|entry| entry.path()) {
            if path.is_dir() && !kept.contains(&path) {
                fs::remove_dir_all(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
        }
        Ok(())
    }

    /// The latest state of a training with this key; none when there is none, or one of other inputs.
    pub fn latest(&self, key: &str) -> Result<Option<State>> {
        let pointer = self.folder.join("latest.json");
        if !pointer.exists() {
            return Ok(None);
        }
        let path = self.of_step(files::read_json::<Pointer>(&pointer)?.step).join("state.json");
        let state: State = files::read_json(&path)?;
        if state.schema_version > SCHEMA {
            bail!(
                "{} was written by a newer version of this program (schema {}, this one reads {SCHEMA}). Use that version, or delete the folder to train anew.",
                path.display(),
                state.schema_version
            );
        }
        Ok((state.key == key).then_some(state))
    }

    /// Model, optimizer and average as they were at `state`.
    pub fn load<M: Module>(
        &self,
        state: &State,
        model: M,
        optimizer: &mut AdamW,
        average: Option<&mut Average>,
    ) -> Result<M> {
        let path = self.of_step(state.step).join("optimizer.safetensors");
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
        let path = self.of_step(step).join(if averaged { AVERAGE } else { "model.safetensors" });
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
