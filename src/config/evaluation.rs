//! `[evaluation]`: what is measured and reported.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[evaluation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// The numbers k of candidates per slot for which the oracle is reported.
    #[schemars(inner(range(min = 1)))]
    pub oracle_top_k: Vec<usize>,
    /// The numbers p of drafts for which the block efficiency of the `pbest-` variants is also reported, at the settings chosen
    /// for `drafting.paths`.
    #[schemars(inner(range(min = 1)))]
    pub curve_paths: Vec<usize>,
    /// The number of bootstrap resamples behind confidence intervals.
    #[schemars(range(min = 100))]
    pub bootstrap: usize,
    /// The number of test documents per corpus that every variant also decodes live.
    pub live_documents: usize,
    /// How many of these documents are decoded side by side. It changes the measured times, but no other result.
    #[schemars(range(min = 1))]
    pub live_batch: usize,
    /// Whether every step of every variant is kept, with its drafts, in `report/steps/SET.jsonl.gz`.
    pub keep_steps: bool,
    /// Whether every checkpoint of the heads is evaluated, too. This needs `heads.keep_checkpoints`.
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
