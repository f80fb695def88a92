//! The traits of rescorers: how well tokens follow each other, to choose among the heads' candidates.

use super::{BlockContext, BlockShape, RescoringCost};
use crate::error::Result;
use crate::lattice::SlotScorer;

/// A fitted rescorer.
pub trait Rescorer: Send + Sync {
    /// Returns what scores candidates. How much of a path the scores depend on decides how paths are searched.
    fn scoring(&self) -> Scoring<'_>;

    /// Returns what a block costs, for the report's cost table.
    fn cost(&self, block: &BlockShape) -> RescoringCost;

    /// Whether scores depend on the whole prefix, so that paths can only be searched from left to right.
    fn reads_prefix(&self) -> bool {
        matches!(self.scoring(), Scoring::Local(_))
    }
}

/// What scores candidates.
pub enum Scoring<'a> {
    /// Scores depend on one of few states of the path before: the whole lattice is searched (global rescoring of
    /// arXiv 2404.09221).
    Global(&'a dyn GlobalScoring),
    /// Scores depend on the whole prefix: paths grow from left to right (local rescoring). The reader is new and is used on
    /// one text.
    Local(Box<dyn PrefixReader + 'a>),
}

/// Scores candidates block by block.
pub trait GlobalScoring {
    /// Returns the scores of a block of `text`.
    ///
    /// # Errors
    /// Scores that are not numbers.
    fn scores<'a>(&'a self, text: &[u32], block: &BlockContext<'a>) -> Result<Box<dyn BlockScores + 'a>>;
}

/// The scores of one block's candidates, as a finite-state machine over the block's lattice.
///
/// States are numbers of the implementation's choice. Equal states must score all continuations alike; the fewer states, the
/// less work. Scores are never above 0, as the search drops prefixes by that bound: natural-log probabilities, or
/// [`Table`](super::Table)s of other scores.
pub trait BlockScores: SlotScorer<State = u32> {
    /// Returns the state behind the committed text.
    fn start(&self) -> u32;
}

/// Reads one text, and prefixes of drafts that go on from its places side by side.
///
/// Tokens are numbered in the order of reading: those of the text from 0, then those of prefixes. A prefix token names the
/// token that it follows by that number, and sees what that one sees and itself.
pub trait PrefixReader {
    /// Goes to the end of `text` and forgets all prefixes. What this text has in common with the last one may be kept. At most
    /// `more` tokens of prefixes will follow.
    ///
    /// # Errors
    /// Scores that are not numbers.
    fn read(&mut self, text: &[u32], more: usize) -> Result<()>;

    /// Reads the newest token of every prefix, and returns for each the scores of its candidates behind it: natural
    /// log-probabilities. Where scores are not `compared` across prefixes, those of a prefix may be off by a constant.
    ///
    /// # Errors
    /// Scores that are not numbers.
    fn extend(&mut self, newest: &[PrefixToken], compared: bool) -> Result<Vec<Vec<f64>>>;
}

/// The newest token of a prefix.
#[derive(Debug, Clone, Copy)]
pub struct PrefixToken<'a> {
    /// The token.
    pub token: u32,
    /// The number of the token that it follows; none at the start of a text.
    pub after: Option<usize>,
    /// The tokens to be scored behind it.
    pub candidates: &'a [u32],
}
