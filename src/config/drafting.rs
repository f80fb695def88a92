//! `[drafting]`: which drafts are made of the lattice.

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

/// `[drafting]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DraftingConfig {
    /// Names of the variants to evaluate, as in the report's table; empty: all. `bpd` is there in any case.
    pub variants: Vec<String>,
    /// p: drafts verified together by the p-best variants.
    pub paths: usize,
    /// n: nodes of the `tree-` variants' trees, the most tokens that one of their calls verifies.
    pub nodes: usize,
    /// Whether plain decoding's draft is always among several, so that no block of theirs is shorter than its.
    pub include_top1: bool,
    /// "never", { max-probability = 0.1 } or { entropy-bound = 0.3 }: where blocks of every variant end early.
    pub stop: StopRule,
}

impl Default for DraftingConfig {
    fn default() -> Self {
        Self { variants: Vec::new(), paths: 16, nodes: 32, include_top1: true, stop: StopRule::Never }
    }
}

impl DraftingConfig {
    pub(super) fn validate(&self) -> Result<()> {
        at_least("drafting.paths", self.paths, 1)?;
        at_least("drafting.nodes", self.nodes, 1)?;
        if let StopRule::MaxProbability(bound) | StopRule::EntropyBound(bound) = self.stop
            && !(0.0..=1.0).contains(&bound)
        {
            bail!("`drafting.stop` ends blocks at {bound}; the bound must lie between 0 and 1.");
        }
        Ok(())
    }
}
