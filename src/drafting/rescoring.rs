//! Drafts from head scores and any sum of rescorers.

use std::borrow::Cow;

use super::local::LocalSession;
use super::{Drafter, Drafts, LookupConfidence, Session};
use crate::error::Result;
use crate::lattice::{
    Beside, Calibration, Lattice, LookupToken, NoScorer, PathScorer, PrefixProbabilities, TimeBudget, Weighting, p_best,
};
use crate::rescorer::{BlockContext, NeuralRescorer, Rescorer, Sum};

/// What is taken from the lattice.
#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    /// The p best paths.
    Paths(usize),
    /// The path with the longest expected accepted length.
    ExpectedPath,
    /// The tree of so many nodes with the longest expected accepted length.
    ExpectedTree(usize),
    /// The tree that makes the most of its time, given the seconds of a block by its nodes (from 1) on this machine. What a
    /// second is worth is what the blocks before were expected to bring in theirs, so the tree is a function of the committed
    /// blocks and the given seconds, not of the clock.
    TimedTree(Vec<f64>),
}

/// What is fitted on dev.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Scale of the rescorers together, and decay over the slots.
    pub weighting: Weighting,
    /// How scores become probabilities; for expected lengths.
    pub calibration: Calibration,
    /// Candidates per slot that are looked at.
    pub top_k: usize,
    /// Candidates whose head score is further than this behind their slot's first are not looked at: a slot whose head is
    /// sure has no choice left.
    pub gate: f64,
    /// By slot (0 is the pinned one): the temperature that makes the head's scores most likely on dev; none beyond their end.
    pub slot_temperatures: Vec<f64>,
    /// The power of `slot_temperatures` by which head scores are divided where paths are compared: 0, they are taken as they are.
    pub tempering: f64,
    /// How far copies can be trusted, measured on dev.
    pub confidence: LookupConfidence,
    /// What `confidence` is multiplied by; 0: nothing is copied.
    pub lookup_scale: f64,
    /// Of each rescorer in the sum: its share of `scale`. They sum to 1.
    pub shares: Vec<f64>,
}

/// [`Calibration::cut`]: a path that is left out is less than 6e-6 times as probable as a good one.
const CUT: f64 = 12.0;

impl Settings {
    /// Head scores alone, from the top `top_k` of every slot; expected lengths by the given `coverage` and `temperature`.
    pub fn new(top_k: usize, coverage: Vec<f64>, temperature: f64) -> Self {
        Self {
            weighting: Weighting::from(0.0),
            calibration: Calibration { temperature, coverage, cut: CUT },
            top_k,
            gate: f64::INFINITY,
            slot_temperatures: Vec::new(),
            tempering: 0.0,
            confidence: LookupConfidence::default(),
            lookup_scale: 0.0,
            shares: Vec::new(),
        }
    }

    /// What is copied behind `text` and the pinned token.
    fn copied(&self, text: &[u32], lattice: &Lattice) -> Vec<LookupToken> {
        if self.lookup_scale == 0.0 {
            return Vec::new();
        }
        let mut copied = self.confidence.copied(text, lattice);
        // The pinned token is right.
        copied.iter_mut().skip(1).for_each(|copied| copied.confidence *= self.lookup_scale);
        copied
    }

    /// The lattice as paths are compared in it; rescorers read it as it was.
    pub(super) fn tempered<'a>(&self, lattice: &'a Lattice) -> Cow<'a, Lattice> {
        if self.tempering == 0.0 {
            return Cow::Borrowed(lattice);
        }
        let temperatures: Vec<f64> = self.slot_temperatures.iter().map(|t| t.powf(self.tempering)).collect();
        Cow::Owned(lattice.tempered(&temperatures))
    }
}

/// A way to draft from head scores and rescorers; without rescorers, from head scores alone (p-best 0-gram).
pub struct Rescoring<'a> {
    /// The sum's terms.
    pub rescorers: Vec<&'a dyn Rescorer>,
    /// What is taken.
    pub selection: Selection,
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

    fn reads_prefix(&self) -> bool {
        let mut terms = self.rescorers.iter().zip(&self.settings.shares);
        self.rescores() && terms.any(|(rescorer, share)| *share != 0.0 && rescorer.reads_prefix())
    }

    /// Prefixes that a local search keeps for each block. Expected lengths need sums over all paths, which it has not: it
    /// then keeps one.
    pub(super) fn beam(&self) -> usize {
        match self.selection {
            Selection::Paths(p) => p.max(1),
            Selection::ExpectedPath | Selection::ExpectedTree(_) | Selection::TimedTree(_) => 1,
        }
    }

    /// The part of a lattice that is looked at; slot 0 has one candidate anyway.
    pub(super) fn narrowed(&self, lattice: &Lattice) -> Result<Lattice> {
        lattice.narrowed(self.settings.top_k, self.settings.gate)
    }

    /// A block's scores, summed.
    pub(super) fn sum<'a>(
        &'a self,
        text: &[u32],
        block: &BlockContext<'a>,
    ) -> Result<(Sum<'a>, Option<(f64, &'a NeuralRescorer)>)> {
        let mut parts = Vec::new();
        for (rescorer, &share) in self.rescorers.iter().zip(&self.settings.shares) {
            if share != 0.0 {
                parts.push((share, rescorer.scores(text, block)?));
            }
        }
        Ok(Sum::new(block.lattice, parts))
    }

    /// Searches the whole lattice.
    fn select<S: PathScorer>(
        &self,
        lattice: &Lattice,
        scorer: &S,
        start: S::State,
        copied: &[LookupToken],
        pace: &mut Pace,
    ) -> Drafts {
        let Settings { weighting, calibration, .. } = &self.settings;
        let probable = || PrefixProbabilities::new(lattice, scorer, start, *weighting, calibration);
        match &self.selection {
            &Selection::Paths(p) => p_best(lattice, scorer, start, *weighting, p).into(),
            Selection::ExpectedPath => probable().path(copied).into(),
            &Selection::ExpectedTree(nodes) => {
                let held = if self.include_top1 { lattice.top1() } else { Vec::new() };
                probable().tree(Beside { held: &held, copied }, nodes).into()
            }
            Selection::TimedTree(seconds) => {
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
        let several = matches!(self.selection, Selection::Paths(p) if p > 1);
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
            let (sum, _) = self.sum(text, &block)?;
            match sum.only_ngram() {
                Some((model, state)) => self.select(lattice, model, state, &copied, pace),
                None => self.select(lattice, &sum, sum.start(), &copied, pace),
            }
        } else {
            self.select(lattice, &NoScorer, (), &copied, pace)
        };
        Ok(self.with_top1(drafts, lattice))
    }
}

impl Drafter for Rescoring<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        if self.reads_prefix() {
            Box::new(LocalSession::new(self))
        } else {
            Box::new(GlobalSession { rescoring: self, pace: Pace::default() })
        }
    }

    fn reads_whole_lattice(&self) -> bool {
        // At scale 0 the one best path is every head's first choice.
        self.rescores() || self.selection != Selection::Paths(1)
    }

    fn prefers_all_starts(&self) -> bool {
        self.reads_prefix()
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
