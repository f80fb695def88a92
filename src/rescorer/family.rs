//! The trait of rescorers.

use super::{BlockShape, Opening, Price, Scores};
use crate::error::Result;

/// Says how well tokens follow each other, to choose among the heads' candidates.
pub trait Rescorer: Send + Sync {
    /// Its view of a block of `text`.
    ///
    /// # Errors
    /// Scores that are not numbers.
    fn scores<'a>(&'a self, text: &[u32], block: &Opening) -> Result<Scores<'a>>;

    /// What a block costs, for the report's cost table.
    fn price(&self, block: &BlockShape) -> Price;

    /// Whether a score depends on the whole prefix, so that paths can only be searched from left to right.
    fn reads_prefix(&self) -> bool {
        false
    }
}
