//! Local rescoring, which grows paths from left to right, for rescorers that read the whole prefix (arXiv 2404.09221).
//!
//! A single path is grown greedily: each slot gets the candidate with the highest interpolated score. Several paths are
//! grown by a beam search, which keeps the best prefixes of each length by their scores so far. Rescorers that score
//! block by block take part as finite-state machines: every prefix carries its state.
//!
//! Drafts at many starts of one text are grown side by side. Slot by slot, the prefixes of all blocks are read
//! together, but each block sees only the text before its own start and its own prefixes. The readers keep what they
//! have read of the text.

use super::drafter::{Drafts, Session};
use super::rescoring::Rescoring;
use crate::error::Result;
use crate::lattice::{Lattice, SlotScorer};
use crate::rescorer::{BlockContext, PrefixReader, PrefixToken, Sum};

/// A session of local rescoring on one text.
pub(super) struct LocalSession<'a> {
    rescoring: &'a Rescoring<'a>,
    /// There is at least one.
    readers: Vec<WeighedReader<'a>>,
}

/// The state of one block whose paths are being grown.
struct Growing<'a> {
    lattice: &'a Lattice,
    sum: Sum<'a>,
    /// The prefixes kept so far, best first.
    beam: Vec<BeamPrefix>,
    /// The smallest lead, over all slots so far, of the worst prefix that was kept over the best that was dropped.
    margin: f64,
}

#[derive(Clone)]
struct BeamPrefix {
    tokens: Vec<u32>,
    score: f64,
    state: u64,
    /// The number, in the readers' count, of the token before the newest one. `None` if the newest token begins the
    /// text.
    after: Option<usize>,
}

impl<'a> LocalSession<'a> {
    pub fn new(rescoring: &'a Rescoring<'a>, readers: Vec<WeighedReader<'a>>) -> Self {
        Self { rescoring, readers }
    }
}

impl Session for LocalSession<'_> {
    fn drafts(&mut self, text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>> {
        let Some(last) = blocks.last() else { return Ok(Vec::new()) };
        let (rescoring, width) = (self.rescoring, self.rescoring.beam());
        let lattices: Vec<Lattice> =
            blocks.iter().map(|block| rescoring.narrowed(block.lattice)).collect::<Result<_>>()?;
        let compared: Vec<_> = lattices.iter().map(|lattice| rescoring.settings.tempered(lattice)).collect();
        let mut growing = Vec::with_capacity(blocks.len());
        for (block, (lattice, compared)) in blocks.iter().zip(lattices.iter().zip(&compared)) {
            let mut sum = rescoring.sum(text, &BlockContext { lattice, ..*block })?;
            let (start, mut steps) = (sum.start(), Vec::new());
            sum.extend(0, start, 1, &mut steps);
            let tokens = vec![lattice.ids(0)[0]];
            let beam = vec![BeamPrefix { tokens, score: 0.0, state: steps[0].1, after: block.start.checked_sub(1) }];
            growing.push(Growing { lattice: compared, sum, beam, margin: f64::INFINITY });
        }
        let slots = lattices.iter().map(Lattice::slots).max().unwrap_or(0);
        // No block needs more of the text than what comes before the last start.
        let mut read = last.start.min(text.len());
        for (_, reader) in &mut self.readers {
            reader.read(&text[..read], blocks.len() * slots * width)?;
        }
        for slot in 1..slots {
            let mut active: Vec<&mut Growing> = growing.iter_mut().filter(|g| g.lattice.slots() > slot).collect();
            let mut newest = Vec::new();
            for growing in &mut active {
                let (candidates, scores) = (growing.lattice.ids(slot), growing.lattice.scores(slot));
                for prefix in &mut growing.beam {
                    let token = *prefix.tokens.last().expect("a prefix begins with its pinned token");
                    newest.push(PrefixToken { token, after: prefix.after, slot, candidates, scores });
                    prefix.after = Some(read);
                    read += 1;
                }
            }
            let mut behind = summed_scores(&mut self.readers, &newest, width > 1)?.into_iter();
            for growing in active {
                let behind: Vec<Vec<f64>> = behind.by_ref().take(growing.beam.len()).collect();
                growing.grow(slot, &behind, rescoring);
            }
        }
        let drafts = |g: Growing| {
            let paths = g.beam.into_iter().map(|prefix| prefix.tokens).collect();
            rescoring.with_top1(Drafts::chosen(paths, g.margin), g.lattice)
        };
        Ok(growing.into_iter().map(drafts).collect())
    }
}

/// A reader, behind the share that its scores are multiplied by.
pub(super) type WeighedReader<'a> = (f64, Box<dyn PrefixReader + 'a>);

/// Returns, for each prefix, one score per candidate: the sum of the readers' scores, each times the reader's share.
pub(super) fn summed_scores(
    readers: &mut [WeighedReader],
    newest: &[PrefixToken],
    compared: bool,
) -> Result<Vec<Vec<f64>>> {
    let mut sum: Vec<Vec<f64>> = newest.iter().map(|prefix| vec![0.0; prefix.candidates.len()]).collect();
    for (share, reader) in readers {
        let scores = reader.extend(newest, compared)?;
        for (sum, scores) in sum.iter_mut().zip(scores) {
            sum.iter_mut().zip(scores).for_each(|(sum, score)| *sum += *share * score);
        }
    }
    Ok(sum)
}

impl Growing<'_> {
    /// Extends every prefix by the candidates of `slot` and keeps the best of the results. `read` holds the readers'
    /// scores, summed, of the candidates behind each prefix.
    fn grow(&mut self, slot: usize, read: &[Vec<f64>], rescoring: &Rescoring) {
        let width = rescoring.beam();
        let (ids, scores) = (self.lattice.ids(slot), self.lattice.scores(slot));
        let weighting = rescoring.settings.weighting;
        let (mut longer, mut steps) = (Vec::with_capacity(self.beam.len() * ids.len()), Vec::new());
        for (prefix, read) in self.beam.iter().zip(read) {
            steps.clear();
            self.sum.extend(slot, prefix.state, ids.len(), &mut steps);
            for (((&id, &head), read), &(others, state)) in ids.iter().zip(scores).zip(read).zip(&steps) {
                let score = prefix.score + weighting.score(slot, head, read + others);
                longer.push((score, prefix, id, state));
            }
        }
        // Equal scores are put in lexicographic order of their tokens, as in the global search.
        longer.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (&a.1.tokens, a.2).cmp(&(&b.1.tokens, b.2))));
        if let Some(next) = longer.get(width) {
            self.margin = self.margin.min(longer[width - 1].0 - next.0);
        }
        let kept = longer.into_iter().take(width).map(|(score, prefix, id, state)| {
            let tokens = [&prefix.tokens[..], &[id]].concat();
            BeamPrefix { tokens, score, state, after: prefix.after }
        });
        self.beam = kept.collect();
    }
}
