//! Drafts from head scores and any sum of rescorers.

use super::local::LocalSession;
use super::{Drafter, Drafts, Session, Settings, SizedSelection};
use crate::error::Result;
use crate::lattice::{Beside, Lattice, LookupToken, NoScorer, PrefixProbabilities, SlotScorer, TimeBudget, p_best};
use crate::rescorer::{BlockContext, PrefixReader, Rescorer, Scoring, Sum};

/// A way to draft from head scores and rescorers; without rescorers, from head scores alone (p-best 0-gram).
pub struct Rescoring<'a> {
    /// The sum's terms.
    pub rescorers: Vec<&'a dyn Rescorer>,
    /// What is taken.
    pub selection: SizedSelection,
    /// The draft of plain decoding is always among several drafts, so that none of its blocks is ever shortened.
    pub include_top1: bool,
    /// Weights and the rest.
    pub settings: Settings,
}

impl Rescoring<'_> {
    /// Whether the rescorers have a say.
    fn rescores(&self) -> bool {
        self.settings.weighting.scale != 0.0 && !self.rescorers.is_empty()
    }

    /// The rescorers that have a say, with their shares.
    fn terms(&self) -> impl Iterator<Item = (f64, Scoring<'_>)> {
        let terms =
            self.rescorers.iter().zip(&self.settings.shares).filter(|(_, share)| self.rescores() && **share != 0.0);
        terms.map(|(rescorer, &share)| (share, rescorer.scoring()))
    }

    /// Readers of prefixes for a new text, with their shares.
    fn readers(&self) -> Vec<(f64, Box<dyn PrefixReader + '_>)> {
        let reader = |(share, scoring)| match scoring {
            Scoring::Local(reader) => Some((share, reader)),
            Scoring::Global(_) => None,
        };
        self.terms().filter_map(reader).collect()
    }

    /// Prefixes that a local search keeps for each block. Expected lengths need sums over all paths, which it has not: it
    /// then keeps one.
    pub(super) fn beam(&self) -> usize {
        match self.selection {
            SizedSelection::Paths(p) => p.max(1),
            SizedSelection::ExpectedPath | SizedSelection::ExpectedTree(_) | SizedSelection::TimedTree(_) => 1,
        }
    }

    /// The part of a lattice that is looked at; slot 0 has one candidate anyway.
    pub(super) fn narrowed(&self, lattice: &Lattice) -> Result<Lattice> {
        lattice.narrowed(self.settings.top_k, self.settings.gate)
    }

    /// What the rescorers that score block by block say of a block, summed.
    pub(super) fn sum<'a>(&'a self, text: &[u32], block: &BlockContext<'a>) -> Result<Sum<'a>> {
        let mut terms = Vec::new();
        for (share, scoring) in self.terms() {
            if let Scoring::Global(scoring) = scoring {
                terms.push((share, scoring.scores(text, block)?));
            }
        }
        Ok(Sum::new(terms))
    }

    /// Searches the whole lattice.
    fn select<S: SlotScorer + ?Sized>(
        &self,
        lattice: &Lattice,
        scorer: &mut S,
        start: S::State,
        copied: &[LookupToken],
        pace: &mut Pace,
    ) -> Drafts {
        let Settings { weighting, calibration, .. } = &self.settings;
        let mut probable = || PrefixProbabilities::new(lattice, &mut *scorer, start, *weighting, calibration);
        match &self.selection {
            &SizedSelection::Paths(p) => p_best(lattice, scorer, start, *weighting, p).into(),
            SizedSelection::ExpectedPath => probable().path(copied).into(),
            &SizedSelection::ExpectedTree(nodes) => {
                let held = if self.include_top1 { lattice.top1() } else { Vec::new() };
                probable().tree(Beside { held: &held, copied }, nodes).into()
            }
            SizedSelection::TimedTree(seconds) => {
                let budget = TimeBudget { seconds, rate: pace.rate(seconds) };
                let tree = probable().timed_tree(copied, budget);
                pace.tokens += tree.length;
                pace.seconds += seconds[tree.nodes - 1];
                tree.into()
            }
        }
    }

    /// Adds the draft of plain decoding to several paths.
    pub(super) fn with_top1(&self, mut drafts: Drafts, lattice: &Lattice) -> Drafts {
        let several = matches!(self.selection, SizedSelection::Paths(p) if p > 1);
        let top1 = lattice.top1();
        if self.include_top1 && several && !drafts.paths.contains(&top1) {
            drafts.paths.push(top1);
        }
        drafts
    }

    fn global(&self, text: &[u32], block: &BlockContext, pace: &mut Pace) -> Result<Drafts> {
        let narrowed = self.narrowed(block.lattice)?;
        let tempered = self.settings.tempered(&narrowed);
        let lattice = &*tempered;
        let copied = self.settings.copied(&text[..block.start], lattice);
        let drafts = if self.rescores() {
            let block = BlockContext { lattice: &narrowed, ..*block };
            let mut sum = self.sum(text, &block)?;
            match sum.only() {
                Some(scores) => self.select(lattice, scores, scores.start(), &copied, pace),
                None => {
                    let start = sum.start();
                    self.select(lattice, &mut sum, start, &copied, pace)
                }
            }
        } else {
            self.select(lattice, &mut NoScorer, (), &copied, pace)
        };
        Ok(self.with_top1(drafts, lattice))
    }
}

impl Drafter for Rescoring<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        let readers = self.readers();
        if readers.is_empty() {
            Box::new(GlobalSession { rescoring: self, pace: Pace::default() })
        } else {
            Box::new(LocalSession::new(self, readers))
        }
    }

    fn reads_whole_lattice(&self) -> bool {
        // At scale 0 the one best path is every head's first choice.
        self.rescores() || self.selection != SizedSelection::Paths(1)
    }

    fn prefers_all_starts(&self) -> bool {
        self.terms().any(|(_, scoring)| matches!(scoring, Scoring::Local(_)))
    }
}

/// What the blocks of a text were expected to bring, and the time they were expected to take.
#[derive(Default)]
struct Pace {
    tokens: f64,
    seconds: f64,
}

impl Pace {
    /// Tokens a second. Before the first block, what a block without drafts brings.
    fn rate(&self, seconds: &[f64]) -> f64 {
        (1.0 + self.tokens) / (seconds[0] + self.seconds)
    }
}

struct GlobalSession<'a> {
    rescoring: &'a Rescoring<'a>,
    pace: Pace,
}

impl Session for GlobalSession<'_> {
    fn drafts(&mut self, text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>> {
        blocks.iter().map(|block| self.rescoring.global(text, block, &mut self.pace)).collect()
    }
}
