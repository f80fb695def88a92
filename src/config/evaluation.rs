//! `[evaluation]`: lattice, what is tuned, oracle, bootstrap, live check.

use serde::{Deserialize, Serialize};

use super::schema::at_least;
use crate::error::{Result, bail};

/// Where a block's drafts end before its last slot, because what follows would hardly be accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopRule {
    /// Nowhere.
    #[default]
    Never,
    /// Before the first slot whose head gives its first choice a smaller probability.
    MaxProbability(f64),
    /// Before the first slot with `1 - sqrt(0.2 H)` below this, H the entropy of the head's distribution in nats: a lower
    /// bound of the share of its drafts that are accepted (AdaEDL; arXiv 2410.18351, section 3, with its bound held fixed).
    EntropyBound(f64),
}

/// `[evaluation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// k: candidates per head in the lattice.
    pub top_k: usize,
    /// p: drafts verified together by the p-best variants.
    pub paths: usize,
    /// The p for which the p-best variants' block efficiency is reported besides, at the settings chosen for `paths`.
    pub curve_paths: Vec<usize>,
    /// Weights of a rescorer tried on dev, 0 to 1; 0 is always tried.
    pub lm_scales: Vec<f64>,
    /// The k for which the oracle is reported.
    pub oracle_top_k: Vec<usize>,
    /// n: nodes of the `tree-` variants' trees, the most tokens that one of their calls verifies.
    pub nodes: usize,
    /// "never", { max-probability = 0.1 } or { entropy-bound = 0.3 }: where blocks of every variant end early.
    pub stop: StopRule,
    /// Whether plain decoding's draft is always among several, so that no block of theirs is shorter than its.
    pub include_top1: bool,
    /// Factors tried on dev by the `path-` and `tree-` variants that have copies of what followed the last tokens earlier in the
    /// text besides, `NAME+lookup`: how probable copies are said to be is multiplied by it. 0, which leaves copies out, is
    /// always tried; empty, there are no such variants.
    pub lookup: Vec<f64>,
    /// Decays over the slots tried on dev by variants with one draft; 1 is always tried.
    pub decays: Vec<f64>,
    /// Powers tried on dev: every head's scores are divided by this power of the temperature that makes them most likely on
    /// dev. 0, which leaves them as they are, is tried as well; empty, nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slot_tempering: Vec<f64>,
    /// Temperatures tried on dev by the variants that maximise expected accepted length.
    pub temperatures: Vec<f64>,
    /// Gates tried on dev: candidates whose head score is further behind their slot's first are left out. No gate is always
    /// tried.
    pub gates: Vec<f64>,
    /// Shares of a sum's terms tried on dev, each against the others' together.
    pub shares: Vec<f64>,
    /// Keeps every step of every variant with its drafts, `report/steps/SET.jsonl.gz`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_steps: bool,
    /// Evaluates every checkpoint of the heads as well; needs `heads.keep_checkpoints`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all_checkpoints: bool,
    /// Bootstrap resamples.
    pub bootstrap: usize,
    /// Names of the variants to evaluate, as in the report's table; empty: all. `bpd` is there in any case.
    pub variants: Vec<String>,
    /// Test documents per corpus that are also decoded live, for every variant.
    pub live_documents: usize,
    /// How many of them are decoded side by side, token by token as well as block by block. Changes what is timed, no result.
    #[serde(skip_serializing_if = "is_one")]
    pub live_batch: usize,
}

/// A batch of one is not written: evaluations from before it could be larger stay valid.
fn is_one(number: &usize) -> bool {
    *number == 1
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            top_k: 16,
            paths: 16,
            curve_paths: vec![1, 2, 4, 8, 16, 32, 64],
            lm_scales: vec![0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
            oracle_top_k: vec![1, 2, 4, 8, 16, 32, 64],
            nodes: 32,
            stop: StopRule::Never,
            include_top1: true,
            lookup: vec![0.7, 0.85, 1.0],
            decays: vec![0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
            slot_tempering: Vec::new(),
            temperatures: vec![0.3, 0.5, 0.7, 1.0, 1.4, 2.0],
            gates: vec![1.0, 2.0, 4.0],
            shares: vec![0.0, 0.25, 0.5, 0.75, 1.0],
            keep_steps: false,
            all_checkpoints: false,
            bootstrap: 10_000,
            variants: Vec::new(),
            live_documents: 8,
            live_batch: 1,
        }
    }
}

impl EvaluationConfig {
    pub(super) fn validate(&self) -> Result<()> {
        at_least("evaluation.top_k", self.top_k, 1)?;
        at_least("evaluation.paths", self.paths, 1)?;
        if self.lm_scales.iter().any(|s| !(0.0..=1.0).contains(s)) {
            bail!("`evaluation.lm_scales` must lie between 0 and 1.");
        }
        for (name, values, most) in [
            ("decays", &self.decays, 1.0),
            ("temperatures", &self.temperatures, f64::MAX),
            ("gates", &self.gates, f64::MAX),
        ] {
            if values.iter().any(|value| !(*value > 0.0 && *value <= most)) {
                let most = if most == f64::MAX { String::new() } else { format!(" and at most {most}") };
                bail!("`evaluation.{name}` is {values:?}; its numbers must be above 0{most}.");
            }
        }
        if self.slot_tempering.iter().any(|power| !(0.0..=1.0).contains(power)) {
            bail!("`evaluation.slot_tempering` must lie between 0 and 1.");
        }
        if self.lookup.iter().any(|factor| !(0.0..=1.0).contains(factor)) {
            bail!("`evaluation.lookup` must lie between 0 and 1; [] leaves the variants that copy out.");
        }
        if self.temperatures.is_empty() {
            bail!("`evaluation.temperatures` is empty; name at least one, such as 1.0.");
        }
        if self.shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            bail!("`evaluation.shares` must lie between 0 and 1.");
        }
        if let StopRule::MaxProbability(bound) | StopRule::EntropyBound(bound) = self.stop
            && !(0.0..=1.0).contains(&bound)
        {
            bail!("`evaluation.stop` ends blocks at {bound}; the bound must lie between 0 and 1.");
        }
        at_least("evaluation.nodes", self.nodes, 1)?;
        at_least("evaluation.live_batch", self.live_batch, 1)?;
        if self.curve_paths.contains(&0) {
            bail!("`evaluation.curve_paths` must hold numbers of at least 1.");
        }
        if self.oracle_top_k.contains(&0) {
            bail!("`evaluation.oracle_top_k` must hold numbers of at least 1.");
        }
        at_least("evaluation.bootstrap", self.bootstrap, 100)
    }

    /// The largest k that anything asks of a lattice.
    pub fn widest(&self) -> usize {
        self.oracle_top_k.iter().copied().fold(self.top_k, usize::max)
    }

    /// The scales to try, 0 among them, ascending and without repeats.
    pub fn scales(&self) -> Vec<f64> {
        let mut scales = self.lm_scales.clone();
        scales.push(0.0);
        scales.sort_by(f64::total_cmp);
        scales.dedup();
        scales
    }
}
