//! From lattices to drafts: without a rescorer, with an n-gram model (global), with a small neural model (local).
//!
//! A [`Drafter`] is one way to turn a lattice into drafts, its scale and number of paths fixed; a [`Session`] is that
//! drafter at work on one text. Replay and live decoding use the same sessions, so both see the same drafts.

mod lattice_only;
mod neural;
pub mod ngram;
mod ngram_drafter;

pub use lattice_only::{Bpd, PBestHeads};
pub use neural::NeuralDrafter;
pub use ngram_drafter::{NgramDrafter, load_ngram, ngram_vocabulary, save_ngram};

use crate::error::Result;
use crate::lattice::Lattice;

/// The drafts for one block.
#[derive(Debug, Clone, PartialEq)]
pub struct Drafts {
    /// One or more paths, each one token per slot, all with the same pinned first token.
    pub paths: Vec<Vec<u32>>,
    /// How clear the choice was: the smallest lead of what was taken over what was left, in score units.
    pub margin: f64,
}

/// A decision that another order of floating-point sums could take otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// The backbone's largest logit against the second.
    Verifier,
    /// A head's k-th candidate against the next.
    Candidates,
    /// The drafter's choice: the p-th path against the next, or an argmax over a slot.
    Draft,
}

impl Decision {
    /// As written in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Verifier => "verifier",
            Self::Candidates => "candidates",
            Self::Draft => "draft",
        }
    }
}

/// The closest decision behind a block, and the lead by which it was taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Closest {
    /// Which decision.
    pub decision: Decision,
    /// Its lead, in the units of its scores.
    pub margin: f64,
}

impl Closest {
    /// One decision.
    pub fn new(decision: Decision, margin: f64) -> Self {
        Self { decision, margin }
    }

    /// The closer of two.
    pub fn or(self, other: Self) -> Self {
        if other.margin < self.margin { other } else { self }
    }
}

/// One way to draft.
pub trait Drafter: Sync {
    /// Starts on a text.
    fn session(&self) -> Box<dyn Session + '_>;

    /// Whether more than a slot's first candidate can enter a draft, so that it matters which k are in the lattice.
    fn reads_whole_lattice(&self) -> bool {
        true
    }

    /// Whether drafting at every position of a text at once costs less than at the visited ones one by one.
    fn prefers_all_starts(&self) -> bool {
        false
    }
}

/// A drafter at work on one text.
pub trait Session {
    /// Drafts for blocks that begin at `starts` (ascending, at most `text.len()`), each with its lattice. The block at
    /// `start` is drafted as if only `text[..start]` were committed.
    fn drafts(&mut self, text: &[u32], starts: &[usize], lattices: &[&Lattice]) -> Result<Vec<Drafts>>;
}
