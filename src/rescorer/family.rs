//! The trait of rescorers.

use super::{BlockContext, BlockShape, RescoringCost, Scores};
use crate::error::Result;

/// Says how well tokens follow each other, to choose among the heads' candidates.
pub trait Rescorer: Send + Sync {
    /// Its view of a block of `text`.
    ///
    /// # Errors
    /// Scores that are not numbers.
    fn scores<'a>(&'a self, text: &[u32], block: &BlockContext) -> Result<Scores<'a>>;

    /// What a block costs, for the report's cost table.
    fn cost(&self, block: &BlockShape) -> RescoringCost;

    /// Whether a score depends on the whole prefix, so that paths can only be searched from left to right.
    fn reads_prefix(&self) -> bool {
        false
    }
}
