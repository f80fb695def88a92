//! What searches give.

/// One path through the lattice.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// One token per slot.
    pub tokens: Vec<u32>,
    /// Sum over the slots, left to right in f64, of `(1 - scale) * head score + scale * log-probability`.
    pub score: f64,
}

impl AsRef<[u32]> for Path {
    fn as_ref(&self) -> &[u32] {
        &self.tokens
    }
}
