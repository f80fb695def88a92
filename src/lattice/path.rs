//! The result of a search.

/// A path through the lattice.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// One token for each slot.
    pub tokens: Vec<u32>,
    /// The sum over the slots, from left to right in f64, of [`Weighting::score`](super::Weighting::score).
    pub score: f64,
}

impl AsRef<[u32]> for Path {
    fn as_ref(&self) -> &[u32] {
        &self.tokens
    }
}
