//! `[tuning]`, the settings tried on dev, and `[evaluation]`, what is measured and reported.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::above_zero;

/// `[tuning]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TuningConfig {
    /// Weights of a rescorer to try; 0 is always tried.
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub lm_scales: Vec<f64>,
    /// Shares of a term of a sum to try, each against the other terms together.
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub shares: Vec<f64>,
    /// Temperatures to try for the variants that maximise the expected accepted length.
    #[schemars(length(min = 1), transform = above_zero)]
    pub temperatures: Vec<f64>,
    /// Factors by which the weight decays from slot to slot, to try for variants with one draft; 1 is always tried.
    #[schemars(inner(range(max = 1.0)), transform = above_zero)]
    pub decays: Vec<f64>,
    /// Gates to try: a candidate is left out where its head score is further than this below the score of
    /// its slot's first candidate. No gate is always tried.
    #[schemars(transform = above_zero)]
    pub gates: Vec<f64>,
    /// Powers to try: every head's scores are divided by this power of the temperature at which they are likeliest on dev.
    /// Unless the list is empty, 0, which leaves the scores as they are, is tried as well.
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub slot_tempering: Vec<f64>,
    /// Factors to try on the probability of copies in the variants `NAME+lookup`: the `path-`, `tree-` and `grown-` variants with
    /// copies of what followed the last tokens earlier in the text. 0, which leaves copies out, is always tried. Empty: there
    /// are no such variants.
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub lookup: Vec<f64>,
}

impl Default for TuningConfig {
    fn default() -> Self {
        Self {
            lm_scales: vec![0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
            shares: vec![0.0, 0.25, 0.5, 0.75, 1.0],
            temperatures: vec![0.3, 0.5, 0.7, 1.0, 1.4, 2.0],
            decays: vec![0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
            gates: vec![1.0, 2.0, 4.0],
            slot_tempering: Vec::new(),
            lookup: vec![0.7, 0.85, 1.0],
        }
    }
}

impl TuningConfig {
    /// Returns the scales to try, 0 among them, ascending and without repeats.
    pub fn scales(&self) -> Vec<f64> {
        let mut scales = self.lm_scales.clone();
        scales.push(0.0);
        scales.sort_by(f64::total_cmp);
        scales.dedup();
        scales
    }
}

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
