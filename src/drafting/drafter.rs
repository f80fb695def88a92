//! What drafts: the traits, and plain blockwise decoding.

use serde::{Deserialize, Serialize};

use super::settings::null_is_infinite;
use crate::error::Result;
use crate::lattice::{Expected, Lattice, PBest};
use crate::rescorer::BlockContext;

/// The drafts for one block.
#[derive(Debug, Clone, PartialEq)]
pub struct Drafts {
    /// One or more paths, each one token per slot from the first on, all with the same pinned first token; a path may end
    /// before the last slot.
    pub paths: Vec<Vec<u32>>,
    /// How clear the choice was: the smallest lead of what was taken over what was left, in score units.
    pub margin: f64,
    /// By slot, the distribution that the tokens were drawn from; empty where they were chosen.
    pub q: Vec<Vec<(u32, f64)>>,
}

impl Drafts {
    /// Paths that were chosen by a search.
    pub fn chosen(paths: Vec<Vec<u32>>, margin: f64) -> Self {
        Self { paths, margin, q: Vec::new() }
    }
}

impl From<PBest> for Drafts {
    fn from(best: PBest) -> Self {
        Self::chosen(best.paths.into_iter().map(|path| path.tokens).collect(), best.margin)
    }
}

impl From<Expected> for Drafts {
    fn from(expected: Expected) -> Self {
        Self::chosen(expected.paths, expected.margin)
    }
}

/// A decision that another order of floating-point sums could take otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The backbone's largest logit against the second.
    Verifier,
    /// A head's k-th candidate against the next.
    Candidates,
    /// Where the block ends early, against its bound.
    Stop,
    /// The drafter's choice: the p-th path against the next, or an argmax over a slot.
    Draft,
}

impl Decision {
    /// As written in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Verifier => "verifier",
            Self::Candidates => "candidates",
            Self::Stop => "stop",
            Self::Draft => "draft",
        }
    }
}

/// The tightest decision behind a block, and the lead by which it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TightestMargin {
    /// Which decision.
    pub decision: Decision,
    /// Its lead, in the units of its scores.
    #[serde(with = "null_is_infinite")]
    pub margin: f64,
}

impl TightestMargin {
    /// One decision.
    pub fn new(decision: Decision, margin: f64) -> Self {
        Self { decision, margin }
    }

    /// The closer of two.
    pub fn or(self, other: Self) -> Self {
        if other.margin < self.margin { other } else { self }
    }
}

/// How drafted tokens come about, which decides what verification rules are valid for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Chosen by a search: a function of the committed text alone.
    Deterministic,
    /// Drawn independently from a known distribution.
    Independent,
    /// Drawn one after another from a known distribution, none twice.
    WithoutReplacement,
}

/// One way to draft.
pub trait Drafter: Sync {
    /// Starts on a text.
    fn session(&self) -> Box<dyn Session + '_>;

    /// Whether more than a slot's first candidate can enter a draft, so that it matters which k are in the lattice.
    fn reads_whole_lattice(&self) -> bool {
        true
    }

    /// Whether it reads more of the lattice than the pinned token, so that heads must be computed.
    fn reads_heads(&self) -> bool {
        true
    }

    /// How its tokens come about.
    fn origin(&self) -> Origin {
        Origin::Deterministic
    }

    /// Whether drafting at every position of a text at once costs less than at the visited ones one by one.
    fn prefers_all_starts(&self) -> bool {
        false
    }
}

/// A drafter at work on one text.
pub trait Session {
    /// Drafts for every one of `blocks`, which begin at ascending places of `text`, at most at its end.
    fn drafts(&mut self, text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>>;
}

/// Plain blockwise parallel decoding: every head's own best token.
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

/// The smallest lead of a slot's first candidate over its second.
pub(super) fn first_leads(lattice: &Lattice) -> f64 {
    let lead = |slot| match lattice.scores(slot) {
        [first, second, ..] => f64::from(first - second),
        _ => f64::INFINITY,
    };
    (0..lattice.slots()).map(lead).fold(f64::INFINITY, f64::min)
}
