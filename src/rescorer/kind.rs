//! The interface of a kind of rescorer: its section of the configuration, from which a rescorer can be fitted and
//! loaded.

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

/// A section `[rescorer.NAME]` of one kind. It knows how to fit and load its rescorer, and how much work fitting is.
pub trait RescorerKind {
    /// Returns the `kind` of the section.
    fn name(&self) -> &'static str;

    /// Checks what the types of the section cannot express. Messages call the section `key`. `own_text` tells whether
    /// the train traces contain text that the backbone wrote itself.
    ///
    /// # Errors
    /// Returns an error, which names the key, if a value is out of its range.
    fn validate(&self, key: &str, own_text: bool) -> Result<()>;

    /// Returns the options that fitting depends on. Sections that return equal values share one fitted rescorer.
    fn fitted(&self) -> Value;

    /// Returns whether fitting depends on the run's seed.
    fn uses_seed(&self) -> bool {
        true
    }

    /// Returns whether the rescorer scores the candidates behind any path ([`Rescorer::reader`]).
    fn scores_paths(&self) -> bool {
        false
    }

    /// Returns whether the rescorer is a language model, whose scores behind any path are log-probabilities over the vocabulary, so
    /// that it can propose tokens itself.
    fn is_language_model(&self) -> bool {
        false
    }

    /// Returns whether the rescorer is fitted on the heads' candidates.
    fn reads_lattices(&self) -> bool {
        false
    }

    /// Returns whether the rescorer learns with the heads, so that there is nothing to fit.
    fn learns_with_heads(&self) -> bool {
        false
    }

    /// Returns whether the heads must be trained before the rescorer.
    fn needs_heads(&self) -> bool {
        self.reads_lattices() || self.learns_with_heads()
    }

    /// Returns whether the rescorer reads the heads' states ([`BlockContext::states`](super::BlockContext::states)).
    fn reads_states(&self) -> bool {
        false
    }

    /// Returns how many prefixes the variant `beam-NAME` keeps, or none if the rescorer does not read the whole prefix.
    fn beam(&self) -> Option<usize> {
        None
    }

    /// Fits the rescorer and writes it into the folder of `context.place`.
    ///
    /// # Errors
    /// Returns an error if there is too little to fit the rescorer on, if its training diverges, if a file cannot be
    /// read or written, or after an interrupt.
    fn fit(&self, context: &FitContext) -> Result<()>;

    /// Loads the rescorer that was fitted into `folder`.
    ///
    /// # Errors
    /// Returns an error if files are missing or damaged, or if they do not fit the backbone, its tokenizer or the
    /// number of slots.
    fn load(&self, folder: &Path, context: &LoadContext) -> Result<Box<dyn Rescorer>>;

    /// Estimates from sizes what fitting takes.
    fn estimate(&self, sizes: &FitSizes) -> FitEstimate;
}

/// The inputs of fitting a rescorer.
pub struct FitContext<'a> {
    /// The frozen backbone that the rescorer will draft for.
    pub backbone: &'a Backbone,
    /// The device that the rescorer is fitted on.
    pub device: &'a Device,
    /// The run's seed.
    pub seed: u64,
    /// The folder that the rescorer is written into, and its name in messages.
    pub place: TrainingContext<'a>,
    /// The data that the rescorer learns from.
    pub data: &'a dyn FitData,
}

/// The data that rescorers learn from. Each part is made only when it is asked for.
pub trait FitData {
    /// Returns the tokenised texts of the train split from the given sources. Each comes with how it ends: complete, or
    /// cut by a length limit.
    ///
    /// # Errors
    /// Returns an error if a text cannot be tokenised.
    fn texts(&self, sources: &[TextSource]) -> Result<Vec<(Vec<u32>, Ending)>>;

    /// Returns the texts that the backbone wrote on the dev split, prompts included. They are of the sort that will be
    /// rescored.
    fn dev_texts(&self) -> Vec<Vec<u32>>;

    /// Returns the largest number of tokens, prompt included, of any text that may have to be rescored.
    fn longest(&self) -> usize;

    /// Returns the folder of the trained heads. To be called by kinds that need heads.
    fn heads(&self) -> &Path;

    /// Returns the heads' candidates on the traces.
    ///
    /// # Errors
    /// Returns an error if the heads cannot compute the candidates, or if files cannot be read or written.
    fn lattices(&self) -> Result<FitLattices<'_>>;
}

/// The heads' candidates on the traces of train and dev.
pub struct FitLattices<'a> {
    /// The traces of the train split.
    pub train: Vec<Recorded<'a>>,
    /// The traces of the dev split.
    pub dev: Vec<Recorded<'a>>,
    /// The number of slots after the pinned one, H - 1.
    pub slots: usize,
    /// The number of candidates per slot in a lattice.
    pub top_k: usize,
}

/// The inputs of loading a fitted rescorer.
pub struct LoadContext<'a> {
    /// The frozen backbone.
    pub backbone: &'a Backbone,
    /// The device that tensors are put on.
    pub device: &'a Device,
    /// The number of slots after the pinned one, H - 1.
    pub slots: usize,
}

/// The sizes that the work of fitting depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FitSizes {
    /// The number of documents of the train split.
    pub documents: usize,
    /// The largest number of tokens that the backbone writes for a document.
    pub new_tokens: usize,
    /// The number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The width of the backbone's hidden states.
    pub width: usize,
    /// The number of slots after the pinned one, H - 1.
    pub slots: usize,
    /// The number of candidates per slot in a lattice.
    pub top_k: usize,
}

/// An estimate of what fitting takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitEstimate {
    /// The number of floating-point operations.
    pub operations: f64,
    /// The number of bytes on disk.
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
    /// Returns an error unless the sources under `key` have text. They have none if they are the backbone's own text
    /// alone and the train traces do not contain it.
    pub(super) fn validate(sources: &[Self], key: &str, own_text: bool) -> Result<()> {
        if !own_text && !sources.contains(&Self::Gold) {
            bail!(
                "`{key}` is the backbone's own text alone, but `traces.train_text` has none. Add \"greedy\" or \"sampled\" to the latter, or \"gold\" to the former."
            );
        }
        Ok(())
    }
}
