//! The block context, which holds what a rescorer may know about the block that it scores.

use crate::heads::SlotStats;
use crate::lattice::{BlockBudget, Lattice};

/// A block that is to be drafted.
#[derive(Clone, Copy)]
pub struct BlockContext<'a> {
    /// The number of tokens committed before the block. It is drafted as if the text were only `text[..start]`.
    pub start: usize,
    /// The largest number of tokens that the block may have. It is H, or less near the end of the context or of what
    /// may be decoded.
    pub slots: usize,
    /// The heads' candidates for the block.
    pub lattice: &'a Lattice,
    /// The backbone's last hidden state `[d]`, which the heads read. It is rounded as the traces store it.
    pub hidden: &'a [f32],
    /// The heads' states `[H - 1, d]`, from which slots 2 to H are predicted, rounded in the same way. Heads that read what was
    /// drafted read first choices. Empty unless a rescorer reads them.
    pub states: &'a [f32],
    /// What the heads know of slots 2 to H. Empty unless a stop rule reads it while drafting.
    pub stats: &'a [SlotStats],
    /// What drafts cost, if trees are to be as large as pays. Only drafters read it.
    pub budget: Option<&'a BlockBudget>,
}

impl<'a> BlockContext<'a> {
    /// Makes the context of a block with all slots of its lattice, behind `start` tokens, without any states.
    pub fn new(start: usize, lattice: &'a Lattice) -> Self {
        Self { start, slots: lattice.slots(), lattice, hidden: &[], states: &[], stats: &[], budget: None }
    }
}
