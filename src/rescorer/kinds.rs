//! The kinds of rescorers. A new one has its own file, and a line in each of the two lists here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LavaConfig, NeuralConfig, NgramConfig, RescorerKind, SumConfig, TransitionConfig};
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
    /// A weighted sum of other rescorers.
    Sum(SumConfig),
}

impl RescorerConfig {
    /// Returns what is fitted and loaded; a sum is neither, its terms are.
    pub fn kind(&self) -> Option<&dyn RescorerKind> {
        Some(match self {
            Self::Ngram(kind) => kind,
            Self::Neural(kind) => kind,
            Self::Transition(kind) => kind,
            Self::Lava(kind) => kind,
            Self::Sum(_) => return None,
        })
    }

    /// Returns the names of the rescorers that this one, called `name`, is made of: a sum's terms, else itself.
    pub fn terms<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        match self {
            Self::Sum(sum) => sum.of.iter().map(String::as_str).collect(),
            _ => vec![name],
        }
    }

    /// Checks what types cannot. `key` is the section's name in messages, `rescorers` are all of the configuration, and
    /// `own_text` is as for [`RescorerKind::validate`].
    ///
    /// # Errors
    /// A value that is out of its range, a sum of what is not there; the message names the key.
    pub fn validate(&self, key: &str, rescorers: &BTreeMap<String, Self>, own_text: bool) -> Result<()> {
        if let Self::Sum(sum) = self {
            return sum.validate(key, rescorers);
        }
        self.kind().map_or(Ok(()), |kind| kind.validate(key, own_text))
    }
}
