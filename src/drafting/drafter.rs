//! The traits that drafters implement, and the drafter of plain blockwise decoding.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::DrawnTokens;
use super::settings::null_is_infinite;
use crate::error::Result;
use crate::heads::Growth;
use crate::lattice::{Expected, Lattice, PBest};
use crate::nn::Largest;
use crate::rescorer::BlockContext;

/// The drafts for one block.
#[derive(Debug, Clone, PartialEq)]
pub struct Drafts {
    /// The drafted paths, at least one. A path holds one token per slot, from the first slot on, and may end before the
    /// last slot. All paths begin with the same pinned token.
    pub paths: Vec<Vec<u32>>,
    /// The smallest lead of what was chosen over what was rejected, in score units. It tells how clear the choice was.
    pub margin: f64,
    /// What was drawn behind each path, if tokens were drawn and not chosen.
    pub drawn: HashMap<Vec<u32>, DrawnTokens>,
    /// The expected accepted length, if the choice was made by it.
    pub length: Option<f64>,
}

impl Drafts {
    /// Makes drafts from paths that a search chose.
    pub fn chosen(paths: Vec<Vec<u32>>, margin: f64) -> Self {
        Self { paths, margin, drawn: HashMap::new(), length: None }
    }
}

impl From<PBest> for Drafts {
    fn from(best: PBest) -> Self {
        Self::chosen(best.paths.into_iter().map(|path| path.tokens).collect(), best.margin)
    }
}

impl From<Expected> for Drafts {
    fn from(expected: Expected) -> Self {
        Self { length: Some(expected.length), ..Self::chosen(expected.paths, expected.margin) }
    }
}

/// A kind of decision that could turn out differently if floating-point sums were taken in another order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The backbone's choice of its largest logit over the second largest.
    Verifier,
    /// The choice of a head's k-th candidate over the next one.
    Candidates,
    /// The decision to end a block early, which compares a value with a bound.
    Stop,
    /// The drafter's choice of the p-th path over the next one, or of the best token of a slot.
    Draft,
}

impl Decision {
    /// Returns the name of the decision in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Verifier => "verifier",
            Self::Candidates => "candidates",
            Self::Stop => "stop",
            Self::Draft => "draft",
        }
    }
}

/// The decision behind a block that had the smallest lead, and that lead.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TightestMargin {
    /// The kind of the decision.
    pub decision: Decision,
    /// The lead by which it was taken, in the units of the compared scores.
    #[serde(with = "null_is_infinite")]
    pub margin: f64,
}

impl TightestMargin {
    /// Makes the margin of a single decision.
    pub fn new(decision: Decision, margin: f64) -> Self {
        Self { decision, margin }
    }

    /// Returns the one of the two with the smaller lead, or `self` if the leads are equal.
    pub fn or(self, other: Self) -> Self {
        if other.margin < self.margin { other } else { self }
    }
}

/// How a drafter comes by its tokens. This decides which verification rules are valid for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The tokens are chosen by a search and depend on the committed text alone.
    Deterministic,
    /// The tokens behind a path are drawn independently of each other from a known distribution.
    Independent,
    /// The tokens behind a path are drawn one after another from a known distribution, and none is drawn twice.
    WithoutReplacement,
}

/// A method of drafting.
pub trait Drafter: Sync {
    /// Starts a session, which drafts for one text.
    fn session(&self) -> Box<dyn Session + '_>;

    /// Returns whether candidates other than the first of a slot can enter a draft. If so, the draft depends on which
    /// candidates are in the lattice.
    fn reads_whole_lattice(&self) -> bool {
        true
    }

    /// Returns whether the drafter reads more of the lattice than the pinned token. If so, the heads must be computed.
    fn reads_heads(&self) -> bool {
        true
    }

    /// Returns whether the drafter reads the heads' states ([`BlockContext::states`]).
    fn reads_states(&self) -> bool {
        false
    }

    /// Returns whether drafts are grown token by token ([`GrowingSession`]), and not searched in a lattice.
    fn grows(&self) -> bool {
        false
    }

    /// Returns how the drafter comes by its tokens.
    fn origin(&self) -> Origin {
        Origin::Deterministic
    }

    /// Returns whether it is cheaper to draft at every position of a text at once than one by one at the positions that
    /// decoding visits.
    fn prefers_all_starts(&self) -> bool {
        false
    }
}

/// The work of a drafter on one text.
pub trait Session: Send {
    /// Returns the drafts for each of `blocks`, in the same order. The blocks begin at ascending positions of `text`,
    /// none of them behind its end.
    fn drafts(&mut self, text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>>;

    /// Says that the next block is decoded without drafts.
    fn skip(&mut self) {}

    /// Returns the same session as one whose drafts grow, if they do ([`Drafter::grows`]).
    fn growing(&mut self) -> Option<&mut dyn GrowingSession> {
        None
    }
}

/// A session whose drafts grow token by token from what heads propose behind each path. Whoever drives it asks the heads, and
/// may ask them for the blocks of many texts at once ([`grow_together`]).
pub trait GrowingSession: Send {
    /// Begins a block of `text`. Of its lattice only the pinned token is read.
    ///
    /// # Errors
    /// Returns the errors of rescorers.
    fn begin(&mut self, text: &[u32], block: &BlockContext) -> Result<()>;

    /// Returns the paths, all of one length, behind which tokens are wanted next. There are none once the drafts are complete.
    fn wanted(&self) -> Vec<&[u32]>;

    /// Takes what the heads propose behind the paths that are wanted, in their order.
    ///
    /// # Errors
    /// Returns the errors of rescorers.
    fn give(&mut self, proposed: &[Largest]) -> Result<()>;

    /// Returns the block's drafts, which are complete.
    fn finish(&mut self) -> Drafts;
}

impl<S: GrowingSession> Session for S {
    fn drafts(&mut self, _: &[u32], _: &[BlockContext]) -> Result<Vec<Drafts>> {
        unreachable!("whoever asks for drafts that grow gives what they grow from")
    }

    fn growing(&mut self) -> Option<&mut dyn GrowingSession> {
        Some(self)
    }
}

/// Grows the drafts of blocks that have begun, one of each session, side by side. The blocks of `growth` are those of the
/// sessions, in their order. Returns the number of paths of each level.
///
/// # Errors
/// Returns the errors of the heads and of rescorers.
pub fn grow_together(sessions: &mut [&mut dyn GrowingSession], growth: &mut dyn Growth) -> Result<Vec<usize>> {
    let mut levels = Vec::new();
    loop {
        let mut wanted: Vec<(usize, &[u32])> = Vec::new();
        for (block, session) in sessions.iter().enumerate() {
            wanted.extend(session.wanted().into_iter().map(|path| (block, path)));
        }
        if wanted.is_empty() {
            return Ok(levels);
        }
        levels.push(wanted.len());
        let blocks: Vec<usize> = wanted.iter().map(|(block, _)| *block).collect();
        let mut proposed = &growth.behind(&wanted)?[..];
        for of_block in blocks.chunk_by(|a, b| a == b) {
            let (mine, others) = proposed.split_at(of_block.len());
            sessions[of_block[0]].give(mine)?;
            proposed = others;
        }
    }
}

/// The drafter of plain blockwise parallel decoding, which takes the best token of every head.
#[derive(Debug, Clone, Copy)]
pub struct Bpd;

impl Drafter for Bpd {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(*self)
    }

    fn reads_whole_lattice(&self) -> bool {
        false
    }
}

impl Session for Bpd {
    fn drafts(&mut self, _text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>> {
        let one = |block: &BlockContext| Drafts::chosen(vec![block.lattice.top1()], first_leads(block.lattice));
        Ok(blocks.iter().map(one).collect())
    }
}

/// Returns the smallest lead of a slot's first candidate over its second, taken over all slots. It is infinite if no
/// slot has two candidates.
pub(super) fn first_leads(lattice: &Lattice) -> f64 {
    let lead = |slot| match lattice.scores(slot) {
        [first, second, ..] => f64::from(first - second),
        _ => f64::INFINITY,
    };
    (0..lattice.slots()).map(lead).fold(f64::INFINITY, f64::min)
}
