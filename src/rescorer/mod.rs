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

/// One way to draft.
pub trait Drafter: Sync {
    /// Starts on a text.
    fn session(&self) -> Box<dyn Session + '_>;

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
