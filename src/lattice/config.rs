//! `[lattice]`: what the heads' candidates are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[lattice]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LatticeConfig {
    /// k: the number of candidates that each head proposes for its slot.
    #[schemars(range(min = 1))]
    pub top_k: usize,
}

impl Default for LatticeConfig {
    fn default() -> Self {
        Self { top_k: 16 }
    }
}
