//! `[traces]`: what is recorded of the backbone, and how.

use serde::{Deserialize, Serialize};

use super::StorageType;
use super::schema::at_least;
use crate::error::{Result, bail};

/// `[traces]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// What follows the prompts in the traces of the train split: any of `greedy`, `sampled` and `corpus`, one trace for
    /// each; heads train on all of them. Dev and test are always greedy, the one text that replay is exact for.
    pub train_text: Vec<TraceText>,
    /// `sampled`: logits are divided by it; above 0.
    pub temperature: f64,
    /// `sampled`: tokens are drawn from the fewest likeliest ones with this share of the probability; above 0, at most 1.
    pub top_p: f64,
    /// Tokens after each prompt, at most.
    pub max_new: usize,
    /// "features" keeps the backbone's states that heads read, a file for each; "tokens" keeps none and computes them again
    /// whenever they are read, which takes little disk and much time: `docs/traces.md` says how much.
    pub keep: Keep,
    /// Type of the states, stored or not; live decoding rounds to it before the heads.
    pub dtype: StorageType,
    /// Tokens of the backbone's distribution that the traces of the train split keep for every position, the likeliest; 0 for
    /// none. `heads.soft_targets` needs them: 8 bytes each.
    pub probabilities: usize,
    /// Documents of the train split to trace, at most, per corpus.
    pub train_documents: usize,
    /// Documents of the dev split, at most, per corpus.
    pub dev_documents: usize,
    /// Documents of the test split, at most, per corpus.
    pub test_documents: usize,
    /// Documents decoded side by side; those of similar length come together.
    pub batch: usize,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            train_text: vec![TraceText::Greedy],
            temperature: 1.0,
            top_p: 1.0,
            max_new: 96,
            keep: Keep::Features,
            dtype: StorageType::Float32,
            probabilities: 0,
            train_documents: 1000,
            dev_documents: 100,
            test_documents: 400,
            batch: 32,
        }
    }
}

/// What traces keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Tokens alone.
    Tokens,
    /// Tokens, and the backbone's states that heads read.
    Features,
}

/// What follows a prompt in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceText {
    /// The backbone's greedy continuation.
    Greedy,
    /// A continuation drawn from the backbone's distribution.
    Sampled,
    /// The corpus's own text, which the backbone is made to read (teacher forcing).
    Corpus,
}

impl TraceText {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Sampled => "sampled",
            Self::Corpus => "corpus",
        }
    }
}

impl TracesConfig {
    pub(super) fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("max_new", self.max_new),
            ("batch", self.batch),
            ("train_documents", self.train_documents),
            ("dev_documents", self.dev_documents),
            ("test_documents", self.test_documents),
        ] {
            at_least(&format!("traces.{name}"), value, 1)?;
        }
        if self.train_text.is_empty() {
            bail!("`traces.train_text` is empty; name at least one of \"greedy\", \"sampled\" and \"corpus\".");
        }
        if let Some(text) = (1..).zip(&self.train_text).find(|(n, text)| self.train_text[*n..].contains(text)) {
            bail!("`traces.train_text` names \"{}\" twice; name it once.", text.1.name());
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            bail!("`traces.temperature` is {}; it must be above 0.", self.temperature);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            bail!("`traces.top_p` is {}; it must be above 0 and at most 1.", self.top_p);
        }
        Ok(())
    }
}
