//! Replay: blockwise decoding without decoding.
//!
//! Greedy exact-match decoding emits the backbone's greedy text whatever the draft, so on a trace of that text the
//! accepted length of any draft is a comparison of tokens, and block efficiency is exact without a forward of the
//! backbone. Slot 1 is the trace's own token, never recomputed.

use crate::backbone::Model;
use crate::error::Result;
use crate::heads::FrozenHeads;
use crate::lattice::{DraftTree, Lattice, accepted_length, oracle_length};
use crate::nn::from_host;
use crate::rescorer::{Closest, Decision, Drafter};
use crate::traces::{Trace, TraceDocument};

/// One traced document, with the lattice of every position at which a block could begin.
pub struct ReplayText {
    /// Prompt and continuation.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// The most tokens the continuation could have had.
    pub limit: usize,
    /// Document and group, for the report.
    pub entry: TraceDocument,
    /// For `t` committed tokens of the continuation: the lattice of the next block.
    pub lattices: Vec<Lattice>,
    /// For the same `t`: the smallest lead of a head's k-th candidate over the first left out.
    pub margins: Vec<f32>,
}

/// One block of a replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Tokens of the continuation committed before.
    pub start: usize,
    /// Accepted tokens.
    pub accepted: usize,
    /// Slots that could be accepted: up to H, `limit` and the end of the text.
    pub slots: usize,
    /// Draft nodes verified.
    pub nodes: usize,
    /// The closest decision behind the draft.
    pub closest: Closest,
}

impl ReplayText {
    /// Builds the lattices of one document: the top `widest` of every head at every start; margins are those of the top
    /// `k`, at most `widest`, that will be drafted from.
    pub fn new(
        trace: &Trace,
        entry: &TraceDocument,
        heads: &FrozenHeads,
        model: &Model,
        widest: usize,
        k: usize,
    ) -> Result<Self> {
        let (tokens, width) = (trace.tokens(entry).to_vec(), trace.width());
        let rows = entry.prompt - 1..entry.len() - 1;
        let hidden = from_host(trace.hidden(entry, rows.clone()), [rows.len(), width], model.device());
        let found = heads.candidates(model, hidden, &tokens[entry.prompt..], widest)?;
        let (mut lattices, mut margins) = (Vec::new(), Vec::new());
        for t in 0..entry.continuation {
            let (ids, scores) = found.at(t);
            let whole = Lattice::pinned(tokens[entry.prompt + t], found.k, ids, scores)?;
            let slots = (entry.limit - t).min(heads.count() + 1);
            lattices.push(whole.prefix(slots, found.k)?);
            margins.push(found.margin(t, slots - 1, k));
        }
        Ok(Self { prompt: entry.prompt, limit: entry.limit, entry: entry.clone(), tokens, lattices, margins })
    }

    /// The continuation.
    pub fn continuation(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// The same text with the lattices cut to the top `k`.
    pub fn narrowed(&self, k: usize) -> Result<Vec<Lattice>> {
        self.lattices.iter().map(|lattice| lattice.prefix(lattice.slots(), k)).collect()
    }
}

/// Walks one text with a drafter on the given lattices (one per position of the continuation).
pub fn replay(text: &ReplayText, lattices: &[Lattice], drafter: &dyn Drafter) -> Result<Vec<Step>> {
    let target = text.continuation();
    let mut session = drafter.session();
    let all = if drafter.prefers_all_starts() {
        let starts: Vec<usize> = (0..target.len()).map(|t| text.prompt + t).collect();
        session.drafts(&text.tokens, &starts, &lattices.iter().collect::<Vec<_>>())?
    } else {
        Vec::new()
    };
    let mut steps = Vec::new();
    let mut start = 0;
    while start < target.len() {
        let one;
        let drafts = match all.get(start) {
            Some(drafts) => drafts,
            None => {
                one = session.drafts(&text.tokens, &[text.prompt + start], &[&lattices[start]])?;
                &one[0]
            }
        };
        let accepted = accepted_length(&drafts.paths, &target[start..]).max(1);
        let mut closest = Closest::new(Decision::Draft, drafts.margin);
        if drafter.reads_whole_lattice() {
            closest = closest.or(Closest::new(Decision::Candidates, f64::from(text.margins[start])));
        }
        steps.push(Step {
            start,
            accepted,
            slots: lattices[start].slots().min(target.len() - start),
            nodes: DraftTree::from_paths(&drafts.paths).len(),
            closest,
        });
        start += accepted;
    }
    Ok(steps)
}

/// What the best draft of the lattice would be accepted for, at every start, with the top `k` of every head.
pub fn oracle_lengths(text: &ReplayText, k: usize) -> Vec<usize> {
    let target = text.continuation();
    (0..target.len()).map(|t| oracle_length(&text.lattices[t], &target[t..], k).max(1)).collect()
}

/// The greedy-per-step oracle as a walk.
pub fn replay_oracle(text: &ReplayText, lengths: &[usize]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut start = 0;
    while start < lengths.len() {
        let slots = text.lattices[start].slots().min(lengths.len() - start);
        let nodes = text.lattices[start].slots();
        steps.push(Step {
            start,
            accepted: lengths[start],
            slots,
            nodes,
            closest: Closest::new(Decision::Draft, f64::INFINITY),
        });
        start += lengths[start];
    }
    steps
}
