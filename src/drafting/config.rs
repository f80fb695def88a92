//! `[drafting]`: which drafts are made of the lattice.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{StopRule, Variant};

/// `[drafting]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DraftingConfig {
    /// The variants to evaluate, by their names in the report's table, such as "tree-ngram+lookup". Empty: all that follow from
    /// the configured rescorers. Plain decoding, `bpd`, is always evaluated.
    pub variants: Vec<Variant>,
    /// p: the number of drafts that the `pbest-` variants verify together.
    #[schemars(range(min = 1))]
    pub paths: usize,
    /// n: the number of nodes in a tree of the `tree-` variants, and so the most tokens that one of their calls verifies.
    #[schemars(range(min = 1))]
    pub nodes: usize,
    /// The most nodes of a level that the heads propose tokens behind, for the trees of the `grown-` variants.
    #[schemars(range(min = 1))]
    pub frontier: usize,
    /// Whether variants with several drafts always include the draft of plain decoding, so that none of their blocks is
    /// shorter than its block.
    pub include_top1: bool,
    /// Where blocks end early: "never", "max-probability=P" (before the first slot whose first choice has a probability below
    /// P), "entropy-bound=B" (before the first slot with 1 - sqrt(0.2 x entropy in nats) below B) or, of heads that know it
    /// (`heads.bias.confidence`), "confidence=P" (before the first slot up to which all first choices are right with a probability
    /// below P), with P and B from 0 to 1. The variants that draft from the heads' lattice use it; plain `bpd` is evaluated without
    /// it as well.
    pub stop: StopRule,
}

impl Default for DraftingConfig {
    fn default() -> Self {
        Self { variants: Vec::new(), paths: 16, nodes: 32, frontier: 8, include_top1: true, stop: StopRule::Never }
    }
}
