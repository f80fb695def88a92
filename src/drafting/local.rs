//! Local rescoring: paths grown from left to right, for rescorers that read the whole prefix (arXiv 2404.09221).
//!
//! One path is grown greedily, `y_j = argmax over the slot of its interpolated score`; several by a beam, which keeps the best
//! prefixes of every length by their score so far. Rescorers that score block by block go along as finite states.
//!
//! Drafts at many starts of one text are grown side by side, each seeing the text up to its own start and its own prefix only:
//! all prefixes of all blocks are read together, slot by slot. What the readers have read of the text they keep.

use super::drafter::{Drafts, Session};
use super::rescoring::Rescoring;
use crate::error::Result;
use crate::lattice::{Lattice, SlotScorer};
use crate::rescorer::{BlockContext, PrefixReader, PrefixToken, Sum};

/// Local rescoring on one text.
pub(super) struct LocalSession<'a> {
    rescoring: &'a Rescoring<'a>,
    /// With their shares; at least one.
    readers: Vec<(f64, Box<dyn PrefixReader + 'a>)>,
}

/// The prefixes of one block in the making.
struct Growing<'a> {
    lattice: &'a Lattice,
    sum: Sum<'a>,
    /// Best first.
    beam: Vec<BeamPrefix>,
    /// The smallest lead of what was kept over what was dropped.
    margin: f64,
}

#[derive(Clone)]
struct BeamPrefix {
    tokens: Vec<u32>,
    score: f64,
    state: u64,
    /// The number, as the readers count, of the token that the newest one follows; none at the start of a text.
    after: Option<usize>,
}

impl<'a> LocalSession<'a> {
    pub fn new(rescoring: &'a Rescoring<'a>, readers: Vec<(f64, Box<dyn PrefixReader + 'a>)>) -> Self {
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
        // The last start needs the text before it and no more.
        let mut read = last.start.min(text.len());
        for (_, reader) in &mut self.readers {
            reader.read(&text[..read], blocks.len() * slots * width)?;
        }
        for slot in 1..slots {
            let mut active: Vec<&mut Growing> = growing.iter_mut().filter(|g| g.lattice.slots() > slot).collect();
            let mut newest = Vec::new();
            for growing in &mut active {
                let candidates = growing.lattice.ids(slot);
                for prefix in &mut growing.beam {
                    let token = *prefix.tokens.last().expect("a prefix begins with its pinned token");
                    newest.push(PrefixToken { token, after: prefix.after, candidates });
                    prefix.after = Some(read);
                    read += 1;
                }
            }
            let mut behind = self.scores(&newest, width > 1)?.into_iter();
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

impl LocalSession<'_> {
    /// What the readers say of the candidates behind every prefix, each times its share, summed.
    fn scores(&mut self, newest: &[PrefixToken], compared: bool) -> Result<Vec<Vec<f64>>> {
        let mut sum: Vec<Vec<f64>> = newest.iter().map(|prefix| vec![0.0; prefix.candidates.len()]).collect();
        for (share, reader) in &mut self.readers {
            let scores = reader.extend(newest, compared)?;
            for (sum, scores) in sum.iter_mut().zip(scores) {
                sum.iter_mut().zip(scores).for_each(|(sum, score)| *sum += *share * score);
            }
        }
        Ok(sum)
    }
}

impl Growing<'_> {
    /// Extends every prefix by the candidates of `slot` and keeps the best. `read` is what the readers say of the candidates
    /// behind each prefix.
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
        // Ties as in the global search: by tokens in lexicographic order.
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
