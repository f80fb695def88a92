//! `[tuning]`, the settings tried on dev, and `[evaluation]`, what is measured and reported.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::above_zero;
use crate::decoding::Rule;

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
    /// Bounds to try for stop rules without one, such as that of `NAME+confidence`, or at the start of a document for `NAME+adaedl`. Of those with which dev's block efficiency is at most
    /// `stop_loss` below what it is without, the largest is taken, because it verifies the fewest tokens.
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub stop_bounds: Vec<f64>,
    /// The share of dev's block efficiency that ending blocks early may cost.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub stop_loss: f64,
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
            stop_bounds: vec![0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
            stop_loss: 0.01,
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
    #[schemars(range(min = 100, max = 1_000_000))]
    pub bootstrap: usize,
    /// The number of test documents per corpus that every variant also decodes live.
    pub live_documents: usize,
    /// How many of these documents are decoded side by side. It changes the measured times, but no other result.
    #[schemars(range(min = 1, max = 65_536))]
    pub live_batch: usize,
    /// Drafts that are drawn, for samples of the backbone instead of its greedy text.
    pub sampling: SamplingConfig,
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
            sampling: SamplingConfig::default(),
            keep_steps: false,
            all_checkpoints: false,
        }
    }
}

/// `[evaluation.sampling]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// The number of test documents per corpus, from the first on, that are decoded as samples, with each of `draws`. 0: none.
    pub documents: usize,
    /// The temperature of backbone and heads.
    #[schemars(transform = above_zero)]
    pub temperature: f64,
    /// How drafts are drawn and verified. One draft, verified by "rejection", is always among them, since gains are measured against
    /// it.
    pub draws: Vec<Draws>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        let trees =
            [DrawnRule::Rejection, DrawnRule::WithoutReplacement].map(|rule| Draws { rule, drafts: vec![4, 2, 2] });
        let paths = Draws { rule: DrawnRule::KSeq, drafts: vec![8] };
        Self { documents: 0, temperature: 1.0, draws: trees.into_iter().chain([paths]).collect() }
    }
}

/// How drafts are drawn and verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Draws {
    /// The rule that verifies them.
    pub rule: DrawnRule,
    /// The number of tokens drawn behind a path, by slot from the second one on, each from what the heads propose behind that path;
    /// one in further slots. A single number is a number of whole drafts.
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub drafts: Vec<usize>,
}

impl Draws {
    /// One draft, accepted token by token by rejection (Leviathan et al. 2023).
    pub fn single() -> Self {
        Self { rule: DrawnRule::Rejection, drafts: vec![1] }
    }
}

impl fmt::Display for Draws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.drafts.iter().map(ToString::to_string).collect();
        write!(f, "{} {}", self.rule.name(), numbers.join(","))
    }
}

/// A lossless rule for drafts that are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DrawnRule {
    /// Each draw is kept with probability min(1, p/q), one after the other against what is left of p (arXiv 2401.06706).
    Rejection,
    /// The same with draws none of which equals another behind the same path.
    WithoutReplacement,
    /// K-SEQ of SpecTr (arXiv 2310.15141).
    KSeq,
}

impl DrawnRule {
    fn name(self) -> &'static str {
        match self {
            Self::Rejection => "rejection",
            Self::WithoutReplacement => "without-replacement",
            Self::KSeq => "k-seq",
        }
    }

    /// Returns the verification rule.
    pub fn rule(self) -> Rule {
        match self {
            Self::Rejection => Rule::Rejection,
            Self::WithoutReplacement => Rule::RejectionWithoutReplacement,
            Self::KSeq => Rule::KSeq,
        }
    }

    /// Returns whether a token may be drawn twice behind a path.
    pub fn replacement(self) -> bool {
        self != Self::WithoutReplacement
    }
}
