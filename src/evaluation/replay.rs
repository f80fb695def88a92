//! Replay: simulates blockwise decoding on a trace, without running the backbone.
//!
//! Greedy exact-match decoding emits the backbone's greedy text, whatever the drafts are. On a trace of that text, the
//! accepted length of any draft is found by comparing tokens, so block efficiency is exact. The token of slot 1 is
//! taken from the trace and never computed again.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::growth::{TextGrowth, walk_grown};
use super::stop_if_interrupted;
use crate::backbone::{Backbone, Feature};
use crate::drafting::{Decision, Drafter, Drafts, StopRule, TightestMargin, early_stop_len};
use crate::error::Result;
use crate::heads::{FrozenHeads, SlotStats, StoredCandidates};
use crate::lattice::{DraftTree, Lattice, accepted_length, oracle_length, walk};
use crate::rescorer::BlockContext;
use crate::traces::{Trace, TraceDocument};

/// A traced document, with the lattice of every position at which a block could begin.
pub struct ReplayText<'a> {
    /// The tokens of the prompt and the continuation.
    pub tokens: Vec<u32>,
    /// The number of tokens of the prompt.
    pub prompt: usize,
    /// The largest number of tokens that the continuation could have had.
    pub limit: usize,
    /// The document's entry in the trace, with its id and group for the report.
    pub entry: TraceDocument,
    /// The hidden states, `[continuation, d]`. The one with index `t` is the state from which the block after `t`
    /// tokens of the continuation is drafted.
    pub hidden: Vec<f32>,
    /// The heads' states at the same places, `[continuation, H - 1, d]`, if they are kept.
    head_states: Vec<f32>,
    /// The lattice of the block after `t` tokens, for each `t`.
    pub lattices: Vec<Lattice>,
    /// The smallest lead of a head's k-th candidate over the first one left out, for each of these blocks.
    pub margins: Vec<f32>,
    /// What is known of every slot besides its candidates, `[continuation, H - 1]`.
    pub stats: Vec<SlotStats>,
    /// What drafts are grown from.
    pub growth: TextGrowth<'a>,
}

/// One block of a replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The number of tokens of the continuation that were committed before.
    pub start: usize,
    /// The number of accepted tokens.
    pub accepted: usize,
    /// The number of slots that could have been accepted, which is at most H and ends at `limit` and at the end of the
    /// text.
    pub slots: usize,
    /// The number of draft nodes that were verified.
    pub nodes: usize,
    /// The tightest decision behind the draft.
    pub tightest: TightestMargin,
}

impl Step {
    /// Makes the block at `start`, with the drafts `paths` from `lattice`.
    pub fn new(
        text: &ReplayText,
        start: usize,
        lattice: &Lattice,
        paths: &[impl AsRef<[u32]>],
        tightest: TightestMargin,
    ) -> Self {
        let target = &text.continuation()[start..];
        Self {
            start,
            accepted: accepted_length(paths, target).max(1),
            slots: lattice.slots().min(target.len()),
            nodes: DraftTree::from_paths(paths).len(),
            tightest,
        }
    }
}

impl<'t> ReplayText<'t> {
    /// Reads one document of `trace` with the candidates of `heads`. Margins are those of the top `k`, which will be drafted
    /// from.
    pub fn new(
        trace: &'t Trace,
        document: usize,
        candidates: &StoredCandidates,
        (heads, backbone): (&'t FrozenHeads, &'t Backbone),
        k: usize,
    ) -> Result<Self> {
        let entry = &trace.documents()[document];
        let tokens = trace.tokens(entry).to_vec();
        let states = trace.states(document, entry.prompt - 1..entry.len() - 1, &[Feature::Last])?;
        let hidden = states.get(Feature::Last).to_vec();
        let (mut lattices, mut margins, mut head_states) = (Vec::new(), Vec::new(), Vec::new());
        for t in 0..entry.continuation {
            let lattice = candidates.lattice(document, t, tokens[entry.prompt + t], candidates.k())?;
            margins.push(candidates.at(document, t).margin(lattice.slots() - 1, k.min(candidates.k())));
            lattices.push(lattice);
            head_states.extend(candidates.states(document, t));
        }
        let stats = (0..entry.continuation).flat_map(|t| candidates.stats(document, t)).collect();
        let (entry, growth) = (entry.clone(), TextGrowth::new(trace, document, heads, backbone, k));
        let (prompt, limit) = (entry.prompt, entry.limit);
        Ok(Self { prompt, limit, entry, tokens, hidden, head_states, lattices, margins, stats, growth })
    }

    /// Returns the block after `t` tokens of the continuation, with the given candidates.
    pub fn block_context<'a>(&'a self, t: usize, lattice: &'a Lattice) -> BlockContext<'a> {
        let of_block = |all: &'a [f32]| {
            let width = all.len() / self.lattices.len();
            &all[t * width..(t + 1) * width]
        };
        let heads = self.stats.len() / self.lattices.len();
        BlockContext {
            start: self.prompt + t,
            slots: self.lattices[t].slots(),
            lattice,
            hidden: of_block(&self.hidden),
            states: of_block(&self.head_states),
            stats: &self.stats[t * heads..][..heads],
            budget: None,
        }
    }

    /// Returns the tokens of the continuation.
    pub fn continuation(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// Returns the lattices, cut to the top `k` and to where the stop rule ends blocks.
    pub fn narrowed(&self, k: usize, stop: StopRule) -> Result<Vec<Lattice>> {
        let heads = self.stats.len() / self.lattices.len().max(1);
        let one = |(t, lattice): (usize, &Lattice)| {
            lattice.prefix(early_stop_len(stop, lattice, &self.stats[t * heads..][..heads]).0, k)
        };
        self.lattices.iter().enumerate().map(one).collect()
    }
}

/// The blocks of a text for which a drafter drafts.
pub struct Route<'a> {
    /// The text.
    pub text: &'a ReplayText<'a>,
    /// A lattice for each position of its continuation.
    pub lattices: &'a [Lattice],
    /// The numbers of tokens of the continuation before each block, ascending. None for a walk, whose blocks begin behind what
    /// the blocks before accepted.
    pub starts: Option<Vec<usize>>,
}

impl<'a> Route<'a> {
    /// Returns the walk over a text.
    pub fn walk(text: &'a ReplayText<'a>, lattices: &'a [Lattice]) -> Self {
        Self { text, lattices, starts: None }
    }

    /// Returns where the block behind `blocks` others begins, the last of which accepted the text up to `end`. None at the end.
    pub(super) fn next(&self, blocks: usize, end: usize) -> Option<usize> {
        match &self.starts {
            Some(starts) => starts.get(blocks).copied(),
            None => (end < self.text.continuation().len()).then_some(end),
        }
    }

    /// Returns the step from `start` with these drafts.
    pub(super) fn step(&self, start: usize, drafts: &Drafts, drafter: &dyn Drafter) -> Step {
        let mut tightest = TightestMargin::new(Decision::Draft, drafts.margin);
        if drafter.reads_whole_lattice() {
            tightest = tightest.or(TightestMargin::new(Decision::Candidates, f64::from(self.text.margins[start])));
        }
        Step::new(self.text, start, &self.lattices[start], &drafts.paths, tightest)
    }

    /// Takes the route with a drafter that searches lattices.
    fn search<T>(&self, drafter: &dyn Drafter, keep: impl Fn(Step, &Drafts) -> T) -> Result<Vec<T>> {
        let Self { text, lattices, starts } = self;
        let mut session = drafter.session();
        let mut drafts = |starts: &[usize]| {
            let blocks: Vec<BlockContext> = starts.iter().map(|&t| text.block_context(t, &lattices[t])).collect();
            session.drafts(&text.tokens, &blocks)
        };
        // Some drafters do all blocks of a text at less cost than those of a walk one by one.
        let together = match starts {
            Some(starts) => starts.clone(),
            None if drafter.prefers_all_starts() => (0..lattices.len()).collect(),
            None => Vec::new(),
        };
        let drafted = drafts(&together)?;
        let mut known = together.into_iter().zip(drafted).collect::<HashMap<usize, Drafts>>();
        let (mut kept, mut next) = (Vec::new(), self.next(0, 0));
        while let Some(start) = next {
            let drafts = match known.remove(&start) {
                Some(drafts) => drafts,
                None => drafts(&[start])?.remove(0),
            };
            let step = self.step(start, &drafts, drafter);
            next = self.next(kept.len() + 1, start + step.accepted);
            kept.push(keep(step, &drafts));
        }
        Ok(kept)
    }
}

/// Takes routes through documents of one trace with a drafter, and returns for every block what `keep` makes of the document's
/// number among `routes`, its step and its drafts. Documents are independent, so the number of threads does not change the
/// results.
///
/// # Errors
/// Returns an error if the drafter fails.
pub fn replay_all<T: Send>(
    routes: &[Route],
    drafter: &dyn Drafter,
    keep: impl Fn(usize, Step, &Drafts) -> T + Sync,
) -> Result<Vec<Vec<T>>> {
    if drafter.grows() {
        return walk_grown(routes, drafter, keep);
    }
    let one = |(number, route): (usize, &Route)| {
        stop_if_interrupted()?;
        route.search(drafter, |step, drafts| keep(number, step, drafts))
    };
    // Where models run, the work inside a document is parallel already.
    if drafter.prefers_all_starts() {
        routes.iter().enumerate().map(one).collect()
    } else {
        routes.par_iter().enumerate().map(one).collect()
    }
}

/// Walks over a text with a drafter, using the given lattices, one for each position of the continuation.
///
/// # Errors
/// Returns an error if the drafter fails.
pub fn replay(text: &ReplayText, lattices: &[Lattice], drafter: &dyn Drafter) -> Result<Vec<Step>> {
    Ok(replay_all(&[Route::walk(text, lattices)], drafter, |_, step, _| step)?.remove(0))
}

/// Returns the number of slots of the longest block.
pub(super) fn most_slots(texts: &[ReplayText]) -> usize {
    texts.iter().flat_map(|text| &text.lattices).map(Lattice::slots).max().unwrap_or(0)
}

/// Returns the coverage of each slot, over all starts of `texts`. Among the starts whose target was in the top `k` of
/// all slots before, it is the share of those whose target is in the top `k` of this slot as well. If there are none,
/// it is 1.
pub fn coverage(texts: &[ReplayText], k: usize) -> Vec<f64> {
    let slots = most_slots(texts);
    let (mut offered, mut covered) = (vec![0u64; slots], vec![0u64; slots]);
    for text in texts {
        let target = text.continuation();
        for (t, length) in oracle_lengths(text, k).into_iter().enumerate() {
            let possible = text.lattices[t].slots().min(target.len() - t);
            offered[..possible.min(length + 1)].iter_mut().for_each(|n| *n += 1);
            covered[..length].iter_mut().for_each(|n| *n += 1);
        }
    }
    offered
        .iter()
        .zip(covered)
        .map(|(&offered, covered)| if offered == 0 { 1.0 } else { covered as f64 / offered as f64 })
        .collect()
}

/// Returns, for every start, the accepted length of the best draft from the lattice with the top `k` of every head.
pub fn oracle_lengths(text: &ReplayText, k: usize) -> Vec<usize> {
    oracle_lengths_with(text, k, |_| Vec::new())
}

/// Does the same as [`oracle_lengths`], where drafts may also follow what `copy` returns for the start.
pub fn oracle_lengths_with(text: &ReplayText, k: usize, copy: impl Fn(usize) -> Vec<u32>) -> Vec<usize> {
    let target = text.continuation();
    (0..target.len()).map(|t| oracle_length(&text.lattices[t], &copy(t), &target[t..], k).max(1)).collect()
}

/// Returns the walk of the oracle, which always takes the longest possible step.
pub fn replay_oracle(text: &ReplayText, lengths: &[usize]) -> Vec<Step> {
    walk(lengths.len(), |start| {
        let nodes = text.lattices[start].slots();
        let (accepted, slots) = (lengths[start], nodes.min(lengths.len() - start));
        let tightest = TightestMargin::new(Decision::Draft, f64::INFINITY);
        (accepted, Step { start, accepted, slots, nodes, tightest })
    })
}
