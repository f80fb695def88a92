//! What a rescorer is told about the block that it scores.

use crate::lattice::Lattice;

/// A block to be drafted.
#[derive(Clone, Copy)]
pub struct BlockContext<'a> {
    /// Tokens committed before it: it is drafted as if only `text[..start]` were there.
    pub start: usize,
    /// The most tokens it may have: H, fewer near the end of the context and of what may be decoded.
    pub slots: usize,
    /// The heads' candidates.
    pub lattice: &'a Lattice,
    /// The backbone's last hidden state `[d]` that the heads read, rounded as the traces store it.
    pub hidden: &'a [f32],
}
