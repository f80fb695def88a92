//! Drafting from head scores and any sum of rescorers.

use super::local::{LocalSession, WeighedReader};
use super::{Drafter, Drafts, Session, Settings, SizedSelection};
use crate::error::Result;
use crate::lattice::{
    Beside, BlockBudget, Lattice, LookupToken, NoScorer, PrefixProbabilities, SlotScorer, greedy_path, p_best,
};
use crate::rescorer::{BlockContext, Rescorer, Scoring, Sum};

/// A drafter that searches the lattice by head scores and rescorers. Without rescorers, it searches by head scores
/// alone (p-best 0-gram).
pub struct Rescoring<'a> {
    /// The terms of the sum, in the order of the settings' shares.
    pub rescorers: Vec<&'a dyn Rescorer>,
    /// What is taken from the lattice.
    pub selection: SizedSelection,
    /// Whether the draft of plain decoding is always among several paths, or in a tree with a given number of nodes, so
    /// that no block is shorter than with plain decoding.
    pub include_top1: bool,
    /// The settings, such as the weight of the rescorers.
    pub settings: Settings,
}

impl Rescoring<'_> {
    /// Returns whether rescorers take part: there are some, and their scale is not 0.
    fn rescores(&self) -> bool {
        self.settings.weighting.scale != 0.0 && !self.rescorers.is_empty()
    }

    /// Returns the rescorers that take part, each behind its share, which is not 0.
    fn terms(&self) -> impl Iterator<Item = (f64, Scoring<'_>)> {
        self.settings.terms(&self.rescorers).map(|(share, rescorer)| (share, rescorer.scoring()))
    }

    /// Returns a reader for a new text for each rescorer that reads prefixes, behind the rescorer's share.
    fn readers(&self) -> Vec<WeighedReader<'_>> {
        let reader = |(share, scoring)| match scoring {
            Scoring::Local(reader) => Some((share, reader)),
            Scoring::Global(_) => None,
        };
        self.terms().filter_map(reader).collect()
    }

    /// Returns how many prefixes a local search keeps for each block. For expected lengths it keeps one: they need sums
    /// over all paths, which a local search does not have.
    pub(super) fn beam(&self) -> usize {
        match self.selection {
            SizedSelection::Paths(p) => p.max(1),
            _ => 1,
        }
    }

    /// Returns the part of a lattice that is searched, as the settings' `top_k` and `gate` say.
    ///
    /// # Errors
    /// Fails if the lattice cannot be narrowed.
    pub(super) fn narrowed(&self, lattice: &Lattice) -> Result<Lattice> {
        lattice.narrowed(self.settings.top_k, self.settings.gate)
    }

    /// Returns the sum of the scores that the rescorers which score block by block give to a block.
    ///
    /// # Errors
    /// Fails if a rescorer cannot score the block.
    pub(super) fn sum<'a>(&'a self, text: &[u32], block: &BlockContext<'a>) -> Result<Sum<'a>> {
        let mut terms = Vec::new();
        for (share, scoring) in self.terms() {
            if let Scoring::Global(scoring) = scoring {
                terms.push((share, scoring.scores(text, block)?));
            }
        }
        Ok(Sum::new(terms))
    }

    /// Searches the whole lattice for the selection. `copied` are tokens copied from the text. Given a budget, a tree of the
    /// longest expected accepted length is the one that uses its time best.
    fn select<S: SlotScorer + ?Sized>(
        &self,
        lattice: &Lattice,
        scorer: &mut S,
        start: S::State,
        copied: &[LookupToken],
        budget: Option<&BlockBudget>,
    ) -> Drafts {
        let Settings { weighting, calibration, .. } = &self.settings;
        let mut probable = || PrefixProbabilities::new(lattice, &mut *scorer, start, *weighting, calibration);
        match &self.selection {
            &SizedSelection::Paths(p) => p_best(lattice, scorer, start, *weighting, p).into(),
            SizedSelection::GreedyPath => greedy_path(lattice, scorer, start, *weighting).into(),
            SizedSelection::ExpectedPath => probable().path(copied).into(),
            &SizedSelection::ExpectedTree(nodes) => match budget {
                Some(budget) => probable().timed_tree(copied, budget.of_nodes(nodes)).into(),
                None => {
                    let held = if self.include_top1 { lattice.top1() } else { Vec::new() };
                    probable().tree(Beside { held: &held, copied }, nodes).into()
                }
            },
            SizedSelection::Grown(..) => unreachable!("drafts that grow have a drafter of their own"),
        }
    }

    /// Adds the draft of plain decoding if it is to be included, several paths are selected, and it is not among them.
    pub(super) fn with_top1(&self, mut drafts: Drafts, lattice: &Lattice) -> Drafts {
        let several = matches!(self.selection, SizedSelection::Paths(p) if p > 1);
        let top1 = lattice.top1();
        if self.include_top1 && several && !drafts.paths.contains(&top1) {
            drafts.paths.push(top1);
        }
        drafts
    }

    fn global(&self, text: &[u32], block: &BlockContext) -> Result<Drafts> {
        let narrowed = self.narrowed(block.lattice)?;
        let tempered = self.settings.tempered(&narrowed);
        let lattice = &*tempered;
        let copied = self.settings.copied(&text[..block.start], lattice.ids(0)[0], lattice.slots());
        let drafts = if self.rescores() {
            let block = BlockContext { lattice: &narrowed, ..*block };
            let mut sum = self.sum(text, &block)?;
            match sum.only() {
                Some(scores) => self.select(lattice, scores, scores.start(), &copied, block.budget),
                None => {
                    let start = sum.start();
                    self.select(lattice, &mut sum, start, &copied, block.budget)
                }
            }
        } else {
            self.select(lattice, &mut NoScorer, (), &copied, block.budget)
        };
        Ok(self.with_top1(drafts, lattice))
    }
}

impl Drafter for Rescoring<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        let readers = self.readers();
        if readers.is_empty() { Box::new(GlobalSession(self)) } else { Box::new(LocalSession::new(self, readers)) }
    }

    fn reads_whole_lattice(&self) -> bool {
        // Without rescorers, the single best path is every head's first choice.
        self.rescores() || self.selection != SizedSelection::Paths(1)
    }

    fn reads_states(&self) -> bool {
        self.settings.terms(&self.rescorers).any(|(_, rescorer)| rescorer.reads_states())
    }

    fn prefers_all_starts(&self) -> bool {
        self.terms().any(|(_, scoring)| matches!(scoring, Scoring::Local(_)))
    }
}

struct GlobalSession<'a>(&'a Rescoring<'a>);

impl Session for GlobalSession<'_> {
    fn drafts(&mut self, text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>> {
        blocks.iter().map(|block| self.0.global(text, block)).collect()
    }
}
