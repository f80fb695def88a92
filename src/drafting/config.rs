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
    /// The most nodes of a level that the heads propose tokens behind, for the variants that grow their drafts.
    #[schemars(range(min = 1))]
    pub frontier: usize,
    /// The number of tokens that the `chains-` variants keep behind each path, by slot from the second one on, such as [5, 4, 3].
    /// The last number holds for all further slots. Empty: all candidates.
    #[schemars(inner(range(min = 1)))]
    pub branching: Vec<usize>,
    /// The number of tokens that the `cape-` variants keep behind each node of the path of first choices, by the probability of the
    /// first choice: the range from 0 to 1 is cut into as many equal parts as there are numbers. The default is the authors' (CAPE, arXiv
    /// 2402.02082), who keep 7, 5, 3 and 1 beside the first choice up to 0.3, 0.6, 0.8 and 1.
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub confidence_widths: Vec<usize>,
    /// What the graphs of the `graph-` variants hold.
    pub graph: GraphConfig,
    /// Whether variants with several drafts always include the draft of plain decoding, so that none of their blocks is
    /// shorter than its block.
    pub include_top1: bool,
    /// Where blocks end early: "never", "length=N" (behind N slots), "max-probability=P" (before the first slot whose first choice has a probability below
    /// P), "entropy-bound=B" (before the first slot with 1 - sqrt(0.2 x entropy in nats) below B) or, of heads that know it
    /// (`heads.bias.confidence`), "confidence=P" (before the first slot up to which all first choices are right with a probability
    /// below P), with P and B from 0 to 1. Without `=P` or `=B`, dev chooses the bound (`tuning.stop_bounds`), and with "adaedl"
    /// that of "entropy-bound" follows what is accepted. The
    /// variants that draft from the heads' lattice use it; plain `bpd` is evaluated without
    /// it as well.
    pub stop: StopRule,
}

impl Default for DraftingConfig {
    fn default() -> Self {
        Self {
            variants: Vec::new(),
            paths: 16,
            nodes: 32,
            frontier: 8,
            branching: Vec::new(),
            confidence_widths: vec![8, 8, 8, 6, 6, 6, 4, 4, 2, 2],
            graph: GraphConfig::default(),
            include_top1: true,
            stop: StopRule::Never,
        }
    }
}

/// `[drafting.graph]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GraphConfig {
    /// The most tokens that are kept behind a node.
    #[schemars(range(min = 1))]
    pub children: usize,
    /// A token is kept if its share of the node's probability is at least this part of the largest share there. The paper tries
    /// 0.1 to 0.4.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub theta: f64,
    /// Nothing grows behind a token whose share is smaller. The paper takes 0.3 or 0.4.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tau: f64,
    /// Whether equal tokens are one node, behind which tokens are proposed once. Without, the graph is a tree.
    pub merge: bool,
    /// For two tokens to be one node, so many tokens before them must be equal too. The paper tries 0 and 1.
    pub equal_before: usize,
}

impl Default for GraphConfig {
    fn default() -> Self {
        Self { children: 4, theta: 0.2, tau: 0.3, merge: true, equal_before: 1 }
    }
}
