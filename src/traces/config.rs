//! The section `[traces]` of the configuration, which says what is recorded of the backbone and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::above_zero;
use crate::storage_type::StorageType;

/// `[traces]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// What follows the prompts in the traces of the train split. There is one trace for each kind of text, and the heads train
    /// on all of them. Traces of dev and test are always greedy, because replay is exact for that text only.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub train_text: Vec<TraceText>,
    /// A file with greedy text that a serving engine wrote, `docs/traces.md` says how, which is used instead of decoding: lines of
    /// JSON with the `id` of a document and `tokens` or `text`. On dev and test every token is checked, and text for training on
    /// a sample. Empty: the backbone decodes.
    pub from: String,
    /// The temperature of sampled text, by which logits are divided.
    #[schemars(transform = above_zero)]
    pub temperature: f64,
    /// For sampled text: tokens are drawn from the smallest set of likeliest tokens with at least this probability together.
    #[schemars(range(max = 1.0), transform = above_zero)]
    pub top_p: f64,
    /// The most tokens after each prompt.
    #[schemars(range(min = 1))]
    pub max_new: usize,
    /// Whether the backbone's states that heads read are stored, or computed again whenever they are read, which takes little disk
    /// and much time: `docs/traces.md` says how much.
    pub keep: Keep,
    /// The type of the states, stored or not. Live decoding rounds to it before the heads.
    pub dtype: StorageType,
    /// How many of the backbone's likeliest next tokens the traces of the train split keep for every position, at 8 bytes each;
    /// 0 for none. Where there are some, `heads.soft_targets` learns from these
    /// alone.
    pub probabilities: usize,
    /// The most documents of the train split to trace, per corpus.
    #[schemars(range(min = 1))]
    pub train_documents: usize,
    /// The most documents of the dev split to trace, per corpus.
    #[schemars(range(min = 1))]
    pub dev_documents: usize,
    /// The most documents of the test split to trace, per corpus.
    #[schemars(range(min = 1))]
    pub test_documents: usize,
    /// The number of documents decoded side by side. Documents of similar length are put together.
    #[schemars(range(min = 1, max = 65_536))]
    pub batch: usize,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            train_text: vec![TraceText::Greedy],
            from: String::new(),
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Tokens only.
    Tokens,
    /// Tokens, and the backbone's states that heads read, a file for each.
    Features,
}

/// What follows a prompt in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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
    /// Returns the name of this kind of text in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Sampled => "sampled",
            Self::Corpus => "corpus",
        }
    }
}
