//! The traits of rescorers, which score how well tokens follow each other, so that drafting can choose among the heads'
//! candidates.

use super::{BlockContext, BlockShape, RescoringCost};
use crate::error::Result;
use crate::lattice::SlotScorer;

/// A fitted rescorer.
pub trait Rescorer: Send + Sync {
    /// Returns what scores the candidates. How much of a path the scores depend on decides how paths are searched.
    fn scoring(&self) -> Scoring<'_>;

    /// Returns a reader of one text that scores candidates behind any path, whatever the other candidates are. Returns none
    /// if scores belong to the lattice of a block.
    fn reader(&self) -> Option<Box<dyn PrefixReader + '_>> {
        match self.scoring() {
            Scoring::Local(reader) => Some(reader),
            Scoring::Global(_) => None,
        }
    }

    /// Returns the cost of a block, for the cost table of the report.
    fn cost(&self, block: &BlockShape) -> RescoringCost;

    /// Returns whether scores depend on the heads' states ([`BlockContext::states`]).
    fn reads_states(&self) -> bool {
        false
    }

    /// Returns whether scores depend on the whole prefix, so that paths can only be searched from left to right.
    fn reads_prefix(&self) -> bool {
        matches!(self.scoring(), Scoring::Local(_))
    }
}

/// A scorer of candidates, by how much of a path its scores depend on.
pub enum Scoring<'a> {
    /// Scores depend on the path before only through one of a few states, so the whole lattice can be searched (global
    /// rescoring of arXiv 2404.09221).
    Global(&'a dyn GlobalScoring),
    /// Scores depend on the whole prefix, so paths grow from left to right (local rescoring). The reader is a new one,
    /// and is used for one text.
    Local(Box<dyn PrefixReader + 'a>),
}

/// A scorer that scores candidates block by block.
pub trait GlobalScoring {
    /// Returns the scores of a block of `text`.
    ///
    /// # Errors
    /// Returns an error if scores are not numbers.
    fn scores<'a>(&'a self, text: &[u32], block: &BlockContext<'a>) -> Result<Box<dyn BlockScores + 'a>>;
}

/// The scores of one block's candidates, as a finite-state machine over the block's lattice.
///
/// The implementation chooses the numbers of its states. Equal states must score all continuations alike; the fewer
/// states there are, the less work the search has. No score may be above 0, because the search relies on that bound to
/// drop prefixes. Scores are natural-log probabilities, or other scores that a [`Table`](super::Table) shifted.
pub trait BlockScores: SlotScorer<State = u32> {
    /// Returns the state after the committed text.
    fn start(&self) -> u32;
}

/// A reader of one text and of the prefixes of drafts that continue it. A prefix may begin after any token of the text,
/// and many prefixes are read side by side.
///
/// Tokens are numbered in the order of reading: first those of the text, from 0 on, then those of prefixes. A token of
/// a prefix names the token that it follows by its number. It sees that token, everything which that token sees, and
/// itself.
pub trait PrefixReader: Send {
    /// Reads `text` to its end and forgets all prefixes. What the text has in common with the last one may be kept. At
    /// most `more` tokens of prefixes will follow.
    ///
    /// # Errors
    /// Returns an error if scores are not numbers.
    fn read(&mut self, text: &[u32], more: usize) -> Result<()>;

    /// Hears the backbone's last hidden state `[d]` at the end of the text, for readers whose scores depend on it. It holds for
    /// the prefixes that follow.
    fn hear(&mut self, _hidden: &[f32]) {}

    /// Reads the newest token of every prefix. Returns for each prefix the natural-log probabilities of its candidates
    /// as the next token. If scores are not `compared` across prefixes, those of a prefix may be off by a constant.
    ///
    /// # Errors
    /// Returns an error if scores are not numbers.
    fn extend(&mut self, newest: &[PrefixToken], compared: bool) -> Result<Vec<Vec<f64>>>;
}

/// The newest token of a prefix.
#[derive(Debug, Clone, Copy)]
pub struct PrefixToken<'a> {
    /// The token.
    pub token: u32,
    /// The number of the token that it follows. None at the start of a text.
    pub after: Option<usize>,
    /// The slot that follows it; that of the pinned token is 0.
    pub slot: usize,
    /// The tokens to be scored as its successors.
    pub candidates: &'a [u32],
    /// The head score of each of these, best first.
    pub scores: &'a [f32],
}
