//! A small decoder-only language model as a rescorer (arXiv 2404.09221): it reads the whole prefix.

use super::{Opening, Rescorer, Scores};
use crate::backbone::Model;
use crate::config::Normalisation;
use crate::error::Result;

/// A language model with the backbone's tokenizer.
pub struct NeuralRescorer {
    /// The model.
    pub model: Model,
    /// Whose probabilities sum to 1 where prefixes are compared.
    pub normalise: Normalisation,
}

impl Rescorer for NeuralRescorer {
    fn scores<'a>(&'a self, _: &[u32], _: &Opening) -> Result<Scores<'a>> {
        Ok(Scores::Language(self))
    }

    fn reads_prefix(&self) -> bool {
        true
    }
}
