//! `[lattice]`: what the heads' candidates are.

use serde::{Deserialize, Serialize};

use super::schema::at_least;
use crate::error::Result;

/// `[lattice]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatticeConfig {
    /// k: candidates per head in the lattice.
    pub top_k: usize,
}

impl Default for LatticeConfig {
    fn default() -> Self {
        Self { top_k: 16 }
    }
}

impl LatticeConfig {
    pub(super) fn validate(&self) -> Result<()> {
        at_least("lattice.top_k", self.top_k, 1)
    }
}
