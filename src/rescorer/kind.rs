//! What a kind of rescorer is: a section of the configuration that can be fitted and loaded.

use std::path::Path;

use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Recorded, Rescorer};
use crate::backbone::Backbone;
use crate::error::{Result, bail};
use crate::ngram::Ending;
use crate::training::TrainingContext;

/// A `[rescorer.NAME]` of one kind: how it is fitted, loaded, and what that takes.
pub trait RescorerKind {
    /// Returns the `kind` of the section.
    fn name(&self) -> &'static str;

    /// Checks what types cannot. `key` is the section's name in messages; `own_text` tells whether the train traces have text
    /// that the backbone wrote itself.
    ///
    /// # Errors
    /// A value that is out of its range; the message names the key.
    fn validate(&self, key: &str, own_text: bool) -> Result<()>;

    /// Returns the options that fitting depends on: sections whose values are equal are fitted alike.
    fn fitted(&self) -> Value;

    /// Whether fitting depends on the run's seed.
    fn uses_seed(&self) -> bool {
        true
    }

    /// Whether it is fitted on what the heads propose.
    fn reads_lattices(&self) -> bool {
        false
    }

    /// Returns how many prefixes `beam-NAME` keeps, if the rescorer reads the whole prefix.
    fn beam(&self) -> Option<usize> {
        None
    }

    /// Fits it and writes it into the folder of `context.place`.
    ///
    /// # Errors
    /// Too little to fit it on, a training that diverges, an interrupt, a full disk.
    fn fit(&self, context: &FitContext) -> Result<()>;

    /// Loads what was fitted into `folder`.
    ///
    /// # Errors
    /// Files that are missing, damaged, or of another backbone, tokenizer or heads.
    fn load(&self, folder: &Path, context: &LoadContext) -> Result<Box<dyn Rescorer>>;

    /// Returns what fitting takes, counted from sizes.
    fn estimate(&self, sizes: &FitSizes) -> FitEstimate;
}

/// What a rescorer is fitted with.
pub struct FitContext<'a> {
    /// The frozen model, whose drafts are to be rescored.
    pub backbone: &'a Backbone,
    /// Where it is fitted.
    pub device: &'a Device,
    /// The run's seed.
    pub seed: u64,
    /// Where it is written, and what messages call it.
    pub place: TrainingContext<'a>,
    /// What it learns from.
    pub data: &'a dyn FitData,
}

/// What rescorers learn from; made when it is asked for.
pub trait FitData {
    /// Returns the tokenised texts of the train split from the given sources, and whether each ends as its author ended it.
    ///
    /// # Errors
    /// Text that cannot be tokenised.
    fn texts(&self, sources: &[TextSource]) -> Result<Vec<(Vec<u32>, Ending)>>;

    /// Returns what the backbone wrote on the dev split, prompts included: the text that will be rescored.
    fn dev_texts(&self) -> Vec<Vec<u32>>;

    /// Returns the most tokens of any text that may have to be rescored, prompt included.
    fn longest(&self) -> usize;

    /// Returns the heads' candidates on the traces.
    ///
    /// # Errors
    /// What the heads cannot compute; files that cannot be written or read.
    fn lattices(&self) -> Result<FitLattices<'_>>;
}

/// The heads' candidates on the traces of train and dev.
pub struct FitLattices<'a> {
    /// Traces of the train split.
    pub train: Vec<Recorded<'a>>,
    /// Traces of the dev split.
    pub dev: Vec<Recorded<'a>>,
    /// H - 1: slots behind the pinned one.
    pub slots: usize,
    /// Candidates per slot in a lattice.
    pub top_k: usize,
}

/// What a fitted rescorer is loaded for.
pub struct LoadContext<'a> {
    /// The frozen model.
    pub backbone: &'a Backbone,
    /// Where tensors live.
    pub device: &'a Device,
    /// H - 1: slots behind the pinned one.
    pub slots: usize,
}

/// The sizes that decide what fitting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FitSizes {
    /// Documents of the train split.
    pub documents: usize,
    /// Tokens that the backbone writes for each, at most.
    pub new_tokens: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Width of the backbone's hidden states.
    pub width: usize,
    /// H - 1: slots behind the pinned one.
    pub slots: usize,
    /// Candidates per slot in a lattice.
    pub top_k: usize,
}

/// What fitting takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitEstimate {
    /// Floating-point operations.
    pub operations: f64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Text that a rescorer is fitted on; always of the train split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextSource {
    /// The corpus's own text.
    Gold,
    /// The text that the backbone wrote itself: greedy and sampled traces.
    Traces,
}

impl TextSource {
    /// Checks that the sources under `key` have text.
    pub(super) fn validate(sources: &[Self], key: &str, own_text: bool) -> Result<()> {
        if !own_text && !sources.contains(&Self::Gold) {
            bail!(
                "`{key}` is the backbone's own text alone, but `traces.train_text` has none. Add \"greedy\" or \"sampled\" to the latter, or \"gold\" to the former."
            );
        }
        Ok(())
    }
}
