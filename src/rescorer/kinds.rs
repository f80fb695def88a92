//! The kinds of rescorers. A new kind needs its own file and a line in each of the two lists here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CorrelationConfig, LavaConfig, NeuralConfig, NgramConfig, RescorerKind, SelectorRescorerConfig, SumConfig,
    TransitionConfig,
};
use crate::error::Result;

/// `[rescorer.NAME]`: what chooses among the heads' candidates, by its `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum RescorerConfig {
    /// An n-gram language model: global rescoring.
    Ngram(NgramConfig),
    /// A small decoder-only language model: local rescoring.
    Neural(NeuralConfig),
    /// A bilinear score of neighbouring candidates, given the backbone's hidden state: global rescoring.
    Transition(TransitionConfig),
    /// Vocabulary attention with look-around, which adjusts each slot's scores by what its neighbours hold.
    Lava(LavaConfig),
    /// Attention over all candidates of a block, from which neighbouring candidates are scored: global rescoring.
    Correlation(CorrelationConfig),
    /// A score of neighbouring candidates that learnt with the heads (`heads.selector`): global rescoring.
    Selector(SelectorRescorerConfig),
    /// A weighted sum of other rescorers.
    Sum(SumConfig),
}

impl RescorerConfig {
    /// Returns the section of the kind, which can be fitted and loaded. A sum returns none, because only its terms are
    /// fitted and loaded.
    pub fn kind(&self) -> Option<&dyn RescorerKind> {
        Some(match self {
            Self::Ngram(kind) => kind,
            Self::Neural(kind) => kind,
            Self::Transition(kind) => kind,
            Self::Lava(kind) => kind,
            Self::Correlation(kind) => kind,
            Self::Selector(kind) => kind,
            Self::Sum(_) => return None,
        })
    }

    /// Returns the names of the rescorers that this one consists of: those of a sum's terms, or otherwise `name`, its
    /// own.
    pub fn terms<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        match self {
            Self::Sum(sum) => sum.of.iter().map(String::as_str).collect(),
            _ => vec![name],
        }
    }

    /// Checks what the types of the section cannot express. Messages call the section `key`. `rescorers` are all
    /// rescorers of the configuration, and `own_text` is as for [`RescorerKind::validate`].
    ///
    /// # Errors
    /// Returns an error, which names the key, if a value is out of its range, or if a sum has a term that does not
    /// exist or is a sum itself.
    pub fn validate(&self, key: &str, rescorers: &BTreeMap<String, Self>, own_text: bool) -> Result<()> {
        if let Self::Sum(sum) = self {
            return sum.validate(key, rescorers);
        }
        self.kind().map_or(Ok(()), |kind| kind.validate(key, own_text))
    }
}
