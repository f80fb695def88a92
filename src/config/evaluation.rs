//! `[evaluation]`: what is measured and reported.

use serde::{Deserialize, Serialize};

use super::schema::at_least;
use crate::error::{Result, bail};

/// `[evaluation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// The k for which the oracle is reported.
    pub oracle_top_k: Vec<usize>,
    /// The p for which the p-best variants' block efficiency is reported besides, at the settings chosen for `paths`.
    pub curve_paths: Vec<usize>,
    /// Bootstrap resamples.
    pub bootstrap: usize,
    /// Test documents per corpus that are also decoded live, for every variant.
    pub live_documents: usize,
    /// How many of them are decoded side by side, token by token as well as block by block. Changes what is timed, no result.
    pub live_batch: usize,
    /// Keeps every step of every variant with its drafts, `report/steps/SET.jsonl.gz`.
    pub keep_steps: bool,
    /// Evaluates every checkpoint of the heads as well; needs `heads.keep_checkpoints`.
    pub all_checkpoints: bool,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            oracle_top_k: vec![1, 2, 4, 8, 16, 32, 64],
            curve_paths: vec![1, 2, 4, 8, 16, 32, 64],
            bootstrap: 10_000,
            live_documents: 8,
            live_batch: 1,
            keep_steps: false,
            all_checkpoints: false,
        }
    }
}

impl EvaluationConfig {
    pub(super) fn validate(&self) -> Result<()> {
        at_least("evaluation.live_batch", self.live_batch, 1)?;
        if self.curve_paths.contains(&0) {
            bail!("`evaluation.curve_paths` must hold numbers of at least 1.");
        }
        if self.oracle_top_k.contains(&0) {
            bail!("`evaluation.oracle_top_k` must hold numbers of at least 1.");
        }
        at_least("evaluation.bootstrap", self.bootstrap, 100)
    }
}
