//! Heads that draft: the top-k of every head at many positions; only ids and scores leave the device's logits.

use std::cell::RefCell;

use burn::module::Module;
use burn::tensor::Tensor;

use super::DraftHeads;
use crate::backbone::{Feature, FeatureTensors, Model};
use crate::error::{Result, bail};
use crate::kernels::SoftmaxStats;
use crate::nn::{Largest, Linear, Projection, count_parameters};

/// Trained heads, ready to draft.
pub struct FrozenHeads {
    heads: Box<dyn DraftHeads>,
    parameters: usize,
    /// What turns states into logits: one for all heads, or one a head.
    tables: Vec<Projection>,
    /// The ids that the tables' rows stand for, ascending; none where they are all of the vocabulary.
    ids: Option<Vec<u32>>,
}

/// The k best tokens of every head at every position, best first.
pub struct Candidates {
    /// Heads (H - 1).
    pub heads: usize,
    /// k
    pub k: usize,
    /// `[positions, heads, k]`
    pub ids: Vec<u32>,
    /// `[positions, heads, k]` logits.
    pub scores: Vec<f32>,
    /// `[positions, heads]`: the k-th logit's lead over the first one left out.
    pub margins: Vec<f32>,
    /// `[positions, heads]`: the softmax over all that the head drafts from; empty where it was not asked for.
    pub stats: Vec<SoftmaxStats>,
}

/// Logits held at once: 64 MB of float32.
const CHUNK: usize = 1 << 24;

impl FrozenHeads {
    /// Heads above `model`, drafting from the tokens `ids` (ascending) or from all.
    pub fn new<N: DraftHeads + Module + 'static>(mut heads: N, model: &Model, ids: Option<Vec<u32>>) -> Self {
        heads.linears().into_iter().for_each(Linear::freeze);
        let own: Vec<Projection> =
            (0..heads.count()).filter_map(|head| heads.unembedding(head).map(Projection::new)).collect();
        let tables = match &ids {
            Some(ids) => vec![model.projection().select(ids)],
            None if own.is_empty() => vec![model.projection()],
            None => own,
        };
        Self { parameters: count_parameters(&heads), heads: Box::new(heads), tables, ids }
    }

    /// H - 1
    pub fn count(&self) -> usize {
        self.heads.count()
    }

    /// How many tokens are drafted from.
    pub fn vocabulary(&self) -> usize {
        self.tables[0].dims()[0]
    }

    /// Their parameters, unembeddings of their own included.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The backbone's states that they read.
    pub fn features(&self) -> Vec<Feature> {
        self.heads.features()
    }

    /// Multiplications to draft at one position: one for each parameter, and for every head the unembedding that it shares.
    pub fn products(&self) -> usize {
        let own = self.tables.len() > 1 || (self.ids.is_none() && self.heads.unembedding(0).is_some());
        let [vocabulary, d] = self.tables[0].dims();
        self.parameters() + if own { 0 } else { self.count() * vocabulary * d }
    }

    /// Heads that can be computed together: all where none reads what another drafted and one table serves them.
    fn together(&self) -> usize {
        if self.heads.reads_drafted() || self.tables.len() > 1 { 1 } else { self.count() }
    }

    /// Candidates from the backbone's states at n positions, after each of which the backbone's own next token is that of `first`; k is cut
    /// to the number of tokens that are drafted from.
    ///
    /// # Errors
    /// Logits that are not numbers.
    pub fn candidates(&self, model: &Model, read: &FeatureTensors, first: &[u32], k: usize) -> Result<Candidates> {
        self.find(model, read, first, k, false)
    }

    /// The same with [`Candidates::stats`], which cost an exponential for every logit.
    ///
    /// # Errors
    /// As [`FrozenHeads::candidates`].
    pub fn candidates_with_stats(
        &self,
        model: &Model,
        read: &FeatureTensors,
        first: &[u32],
        k: usize,
    ) -> Result<Candidates> {
        self.find(model, read, first, k, true)
    }

    fn find(&self, model: &Model, read: &FeatureTensors, first: &[u32], k: usize, stats: bool) -> Result<Candidates> {
        let (n, vocabulary, count) = (first.len(), self.vocabulary(), self.count());
        let k = k.min(vocabulary);
        let mut all =
            Candidates { heads: count, k, ids: Vec::new(), scores: Vec::new(), margins: Vec::new(), stats: Vec::new() };
        let chunk = (CHUNK / vocabulary / count).max(1);
        for start in (0..n).step_by(chunk) {
            let rows = chunk.min(n - start);
            let drafted = RefCell::new(vec![first[start..start + rows].to_vec()]);
            let embedded = |slot: usize| model.embed(&drafted.borrow()[slot]);
            let mut states = self.heads.begin(&read.map(|state| state.narrow(0, start, rows)), &embedded);
            // By head, then by row.
            let mut found = Vec::with_capacity(count * rows);
            for head in (0..count).step_by(self.together()) {
                let group: Vec<Tensor<2>> = (head..head + self.together()).map(&mut states).collect();
                let (heads, width) = (group.len(), group[0].dims()[1]);
                let table = &self.tables[head.min(self.tables.len() - 1)];
                let states = Tensor::stack::<3>(group, 0).reshape([heads * rows, width]);
                // One more, for the margin.
                let mut best = table.largest(states, k + 1, stats);
                if !best.iter().all(|best| best.is_finite(vocabulary.min(k + 1))) {
                    bail!(
                        "the heads, or the hidden states they read, hold numbers that are not finite. Train the heads anew with a lower learning rate; if the traces are stored as float16, try bfloat16 or float32."
                    );
                }
                if let Some(names) = &self.ids {
                    best.iter_mut().flat_map(|best| &mut best.ids).for_each(|id| *id = names[*id as usize]);
                }
                for best in best.chunks(rows) {
                    drafted.borrow_mut().push(best.iter().map(|best| best.ids[0]).collect());
                }
                found.extend(best);
            }
            for (row, head) in (0..rows).flat_map(|row| (0..count).map(move |head| (row, head))) {
                let Largest { ids, logits, stats } = &found[head * rows + row];
                all.ids.extend(&ids[..k]);
                all.scores.extend(&logits[..k]);
                all.margins.push(logits.get(k).map_or(f32::INFINITY, |left_out| logits[k - 1] - left_out));
                all.stats.extend(stats);
            }
        }
        Ok(all)
    }
}

impl Candidates {
    /// Those of one position.
    pub fn at(&self, position: usize) -> CandidatesAt<'_> {
        let size = self.heads * self.k;
        let cells = position * size..(position + 1) * size;
        CandidatesAt {
            k: self.k,
            ids: &self.ids[cells.clone()],
            scores: &self.scores[cells],
            margins: &self.margins[position * self.heads..][..self.heads],
        }
    }

    /// The softmax of every head at one position; none where they were not asked for.
    pub fn stats_at(&self, position: usize) -> &[SoftmaxStats] {
        self.stats.get(position * self.heads..(position + 1) * self.heads).unwrap_or_default()
    }
}

/// The k best tokens of every head at one position.
#[derive(Clone, Copy)]
pub struct CandidatesAt<'a> {
    /// k
    pub k: usize,
    /// `[heads, k]`
    pub ids: &'a [u32],
    /// `[heads, k]` logits.
    pub scores: &'a [f32],
    /// `[heads]`: the k-th logit's lead over the first one left out.
    pub margins: &'a [f32],
}

impl CandidatesAt<'_> {
    /// The smallest lead of the `k`-th candidate of one of the first `heads` heads over the next one.
    pub fn margin(&self, heads: usize, k: usize) -> f32 {
        let lead = |head: usize| {
            let scores = &self.scores[head * self.k..][..self.k];
            if k < self.k { scores[k - 1] - scores[k] } else { self.margins[head] }
        };
        (0..heads).map(lead).fold(f32::INFINITY, f32::min)
    }
}
