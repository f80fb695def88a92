//! `[drafting]`: which drafts are made of the lattice.

use serde::{Deserialize, Serialize};

use super::schema::at_least;
use crate::drafting::{StopRule, Variant};
use crate::error::Result;

/// `[drafting]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DraftingConfig {
    /// Names of the variants to evaluate, as in the report's table; empty: all. `bpd` is there in any case.
    pub variants: Vec<Variant>,
    /// p: drafts verified together by the p-best variants.
    pub paths: usize,
    /// n: nodes of the `tree-` variants' trees, the most tokens that one of their calls verifies.
    pub nodes: usize,
    /// Whether plain decoding's draft is always among several, so that no block of theirs is shorter than its.
    pub include_top1: bool,
    /// Where blocks end early: "never", "max-probability=0.1" or "entropy-bound=0.3". The variants that draft from the heads' candidates
    /// use it, beside plain `bpd` without it.
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
        self.stop.validate().map_err(|e| e.within("`drafting.stop`"))
    }
}
