//! Drafting with heads: the k best tokens of every head at many positions. Logits stay on the device; only the best ids
//! and scores are copied from it.

use std::cell::RefCell;

use burn::module::Module;
use burn::tensor::Tensor;

use super::network::{Context, DraftHeads, Starts};
use crate::backbone::{Feature, FeatureTensors, KvCache, Model};
use crate::error::{Error, Result};
use crate::kernels::SoftmaxStats;
use crate::nn::{Largest, Projection, Tokens, count_parameters, to_host};
use crate::storage_type::StorageType;

/// Trained heads, ready to draft.
pub struct FrozenHeads {
    heads: Box<dyn DraftHeads>,
    parameters: usize,
    /// The matrices that turn states into logits: one for all heads, or one per head.
    tables: Vec<Projection>,
    /// The ids of the matrices' rows, ascending, or none if the rows are the whole vocabulary.
    ids: Option<Vec<u32>>,
    /// The type of the heads' own matrices in `heads` and `tables`.
    weights: StorageType,
}

/// The k best tokens of every head at every position, best first.
#[derive(Debug, Default)]
pub struct Candidates {
    /// The number of heads, H - 1.
    pub heads: usize,
    /// The number of candidates per head.
    pub k: usize,
    /// The token ids, `[positions, heads, k]`.
    pub ids: Vec<u32>,
    /// The logits, `[positions, heads, k]`.
    pub scores: Vec<f32>,
    /// By how much the k-th logit exceeds the first one left out, `[positions, heads]`.
    pub margins: Vec<f32>,
    /// What is known of each slot besides its candidates, `[positions, heads]`; empty if it was not asked for.
    pub stats: Vec<SlotStats>,
    /// The heads' states, which the logits are made of, `[positions, heads, d]`; empty if they were not asked for.
    pub states: Vec<f32>,
}

/// What is known of a slot besides its candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlotStats {
    /// The statistics of the softmax over all tokens that the head drafts from.
    pub softmax: SoftmaxStats,
    /// The probability that the slot's first choice is right where those before it were, if the heads say so.
    pub confidence: Option<f32>,
}

/// What is wanted besides ids and logits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// [`Candidates::stats`], which cost an exponential for every logit.
    pub stats: bool,
    /// [`Candidates::states`].
    pub states: bool,
}

/// What is found of blocks that are drafted together, ordered by head, then by block.
#[derive(Default)]
struct Together {
    found: Vec<Largest>,
    /// The states `[d]`, if they are wanted.
    states: Vec<f32>,
    /// The confidence, if statistics are wanted and the heads know it.
    confidence: Vec<f32>,
}

/// Where blocks begin.
pub struct BlockStarts<'a> {
    /// The backbone's states at the last token before each block, each `[n, d]`.
    pub states: &'a FeatureTensors,
    /// The backbone's own next token after each of these, which is pinned.
    pub pinned: &'a [u32],
    /// The texts before the blocks; not read by heads that do not attend to them.
    pub context: Option<Context<'a>>,
}

/// The number of logits that are held at once: 64 MB of float32.
const CHUNK: usize = 1 << 24;
/// The number of blocks that heads which attend draft at once. Every block adds its rows to the columns that all rows of a
/// text are compared with, so more at once cost more each.
const ATTENDING: usize = 32;

impl FrozenHeads {
    /// Makes heads above `model` that draft from the tokens `ids` (ascending), or from all.
    pub fn new<N: DraftHeads + Module + 'static>(heads: N, model: &Model, ids: Option<Vec<u32>>) -> Self {
        let shared = match &ids {
            Some(ids) => model.projection().select(ids),
            None => model.projection(),
        };
        let shared = match heads.bias() {
            Some(bias) => shared.beside(bias),
            None => shared,
        };
        let (parameters, weights) = (count_parameters(&heads), StorageType::Float32);
        Self { heads: Box::new(heads), parameters, tables: vec![shared], ids, weights }.packed_as(weights)
    }

    /// Drafts with the heads' own matrices in another type. On accelerators they stay float32. The matrix of the
    /// backbone's unembedding stays as it is.
    #[must_use]
    pub fn with_weights(self, weights: StorageType) -> Self {
        let on_cpu = matches!(self.tables[0], Projection::Packed(_));
        if on_cpu && weights != self.weights { self.packed_as(weights) } else { self }
    }

    /// Fixes the heads' own matrices, on the CPU in the type `weights`.
    fn packed_as(mut self, weights: StorageType) -> Self {
        self.heads.pack(weights);
        if self.owns_unembedding() {
            let tables = if self.heads.shares_unembedding() { 1 } else { self.count() };
            let own = (0..tables).filter_map(|head| self.heads.unembedding(head));
            self.tables = own.map(|matrix| Projection::kept_as(weights, matrix)).collect();
        }
        Self { weights, ..self }
    }

    /// Returns whether every head turns its states into logits with a matrix of its own.
    fn owns_unembedding(&self) -> bool {
        self.count() > 0 && self.heads.unembedding(0).is_some()
    }

    /// Returns the type of the heads' own matrices that it drafts with.
    pub fn weights(&self) -> StorageType {
        self.weights
    }

    /// Returns the number of heads, H - 1.
    pub fn count(&self) -> usize {
        self.heads.count()
    }

    /// Returns the number of tokens that are drafted from.
    pub fn vocabulary(&self) -> usize {
        self.tables[0].dims()[0]
    }

    /// Returns the number of the heads' parameters, including those of unembeddings of their own.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Returns the backbone's states that the heads read.
    pub fn features(&self) -> Vec<Feature> {
        self.heads.features()
    }

    /// Returns whether the heads know how likely their first choices are to be right.
    pub fn knows_confidence(&self) -> bool {
        self.heads.knows_confidence()
    }

    /// Returns the width of the heads' states.
    pub fn state_width(&self) -> usize {
        self.tables[0].dims()[1] - self.heads.bias().map_or(0, |bias| bias.dims()[1])
    }

    /// Returns the number of multiplications needed to draft one chain at one position: those of the heads themselves, and by the
    /// backbone's unembedding and a bias once for each head.
    pub fn products(&self) -> usize {
        let [vocabulary, d] = self.tables[0].dims();
        self.heads.products(self.parameters()) + if self.owns_unembedding() { 0 } else { self.count() * vocabulary * d }
    }

    /// Returns an empty cache for what the heads keep of `texts` texts, with room for `tokens` tokens each before it first
    /// grows. Returns none if they do not attend to the text.
    pub fn cache(&self, texts: usize, tokens: usize) -> Option<KvCache> {
        self.heads.cache(texts, tokens)
    }

    /// Appends tokens to the texts of a cache: `counts` of each, with the backbone's states there, text after text.
    pub fn read(&self, model: &Model, cache: &mut KvCache, counts: &[usize], states: &FeatureTensors) {
        self.heads.read(model, cache, counts, states);
    }

    /// Returns the candidates of n blocks, for sequential heads those behind every head's first choice. If fewer than `k`
    /// tokens are drafted from, `k` is reduced to their number.
    ///
    /// # Errors
    /// Returns an error if logits are not finite.
    pub fn candidates(&self, model: &Model, starts: BlockStarts, k: usize, wanted: Wanted) -> Result<Candidates> {
        let BlockStarts { states: read, pinned, mut context } = starts;
        let (n, vocabulary, count) = (pinned.len(), self.vocabulary(), self.count());
        let k = k.min(vocabulary);
        let mut all = Candidates { heads: count, k, ..Candidates::default() };
        let most = if context.is_some() { ATTENDING } else { usize::MAX };
        let chunk = (CHUNK / vocabulary / count).clamp(1, most);
        let columns: Vec<usize> =
            context.iter().flat_map(|context| (0..context.cache.texts()).map(|text| context.cache.len(text))).collect();
        for start in (0..n).step_by(chunk) {
            let rows = start..n.min(start + chunk);
            let before = context.as_mut().map(|context| context.of(rows.clone()));
            let states = read.map(|state| state.narrow(0, start, rows.len()));
            let found = self.find_together(model, (states, before), &pinned[rows.clone()], k, wanted);
            // The rows of these blocks are not needed for others, nor after an error.
            if let Some(Context { cache, .. }) = &mut context {
                columns.iter().enumerate().for_each(|(text, &len)| cache.truncate(text, len));
            }
            let Together { found, states, confidence } = found?;
            for (row, head) in (0..rows.len()).flat_map(|row| (0..count).map(move |head| (row, head))) {
                let place = head * rows.len() + row;
                let width = states.len() / found.len();
                all.states.extend(&states[place * width..][..width]);
                let Largest { ids, logits, stats } = &found[place];
                all.ids.extend(&ids[..k]);
                all.scores.extend(&logits[..k]);
                all.margins.push(logits.get(k).map_or(f32::INFINITY, |left_out| logits[k - 1] - left_out));
                let confidence = confidence.get(place).copied();
                all.stats.extend(stats.map(|softmax| SlotStats { softmax, confidence }));
            }
        }
        Ok(all)
    }

    /// Finds the `k` + 1 best tokens of blocks that are drafted together, and what else is wanted.
    fn find_together(
        &self,
        model: &Model,
        (states, context): (FeatureTensors, Option<Context>),
        pinned: &[u32],
        k: usize,
        wanted: Wanted,
    ) -> Result<Together> {
        let count = self.count();
        let drafted = RefCell::new(vec![pinned.to_vec()]);
        let tokens = |slot: usize| Tokens::new(&drafted.borrow()[slot], model.embed(&drafted.borrow()[slot]));
        let begun = self.heads.begin(Starts { model, states, pinned: tokens(0), context });
        // Heads can be computed together if none reads what another drafted and all use the same matrix.
        let together = if begun.is_sequential() || self.tables.len() > 1 { 1 } else { count };
        let mut states = begun.chains(&tokens);
        let mut all = Together { found: Vec::with_capacity(count * pinned.len()), ..Together::default() };
        for head in (0..count).step_by(together) {
            let group: Vec<Tensor<2>> = (head..head + together).map(&mut states).collect();
            let (heads, width) = (group.len(), group[0].dims()[1]);
            let states = Tensor::stack::<3>(group, 0).reshape([heads * pinned.len(), width]);
            if wanted.states {
                // Without what belongs to a bias.
                all.states.extend(to_host(states.clone().narrow(1, 0, model.config().hidden_size)));
            }
            if let Some(logits) = wanted.stats.then(|| self.heads.confidence(states.clone())).flatten() {
                all.confidence.extend(to_host(logits).into_iter().map(|logit| 1.0 / (1.0 + (-logit).exp())));
            }
            // One more than k, for the margin.
            let best = self.largest(head, states, k + 1, wanted.stats)?;
            for best in best.chunks(pinned.len()) {
                drafted.borrow_mut().push(best.iter().map(|best| best.ids[0]).collect());
            }
            all.found.extend(best);
        }
        Ok(all)
    }

    /// Returns the `k` best tokens, or all where there are fewer, of states `[n, d]` of head `head` (0 is head 2).
    pub(super) fn largest(&self, head: usize, states: Tensor<2>, k: usize, stats: bool) -> Result<Vec<Largest>> {
        let best: Option<Vec<Largest>> = self.largest_where_finite(head, states, k, stats).into_iter().collect();
        best.ok_or_else(|| Error::new(
            "the heads, or the hidden states they read, hold numbers that are not finite. Train the heads anew with a lower learning rate; if the traces are stored as float16, try bfloat16 or float32."
        ))
    }

    /// Returns the same as [`FrozenHeads::largest`], but none for states where numbers are not finite.
    pub(super) fn largest_where_finite(
        &self,
        head: usize,
        states: Tensor<2>,
        k: usize,
        stats: bool,
    ) -> Vec<Option<Largest>> {
        let best = self.tables[head.min(self.tables.len() - 1)].largest(states, k, stats);
        let named = |mut best: Largest| {
            if let Some(names) = &self.ids {
                best.ids.iter_mut().for_each(|id| *id = names[*id as usize]);
            }
            best
        };
        let finite = |best: &Largest| best.is_finite(k.min(self.vocabulary()));
        best.into_iter().map(|best| finite(&best).then(|| named(best))).collect()
    }

    pub(super) fn network(&self) -> &dyn DraftHeads {
        &*self.heads
    }
}

impl Candidates {
    /// Returns the candidates at one position.
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

    /// Returns the states `[heads, d]` at one position; empty if they were not asked for.
    pub fn states_at(&self, position: usize) -> &[f32] {
        let size = self.states.len() / (self.margins.len() / self.heads.max(1)).max(1);
        &self.states[position * size..][..size]
    }

    /// Returns what is known of every slot at one position; empty if it was not asked for.
    pub fn stats_at(&self, position: usize) -> &[SlotStats] {
        self.stats.get(position * self.heads..(position + 1) * self.heads).unwrap_or_default()
    }
}

/// The k best tokens of every head at one position.
#[derive(Clone, Copy)]
pub struct CandidatesAt<'a> {
    /// The number of candidates per head.
    pub k: usize,
    /// The token ids, `[heads, k]`.
    pub ids: &'a [u32],
    /// The logits, `[heads, k]`.
    pub scores: &'a [f32],
    /// By how much the k-th logit exceeds the first one left out, `[heads]`.
    pub margins: &'a [f32],
}

impl CandidatesAt<'_> {
    /// Returns the smallest lead of a `k`-th candidate over the next candidate, among the first `heads` heads.
    pub fn margin(&self, heads: usize, k: usize) -> f32 {
        let lead = |head: usize| {
            let scores = &self.scores[head * self.k..][..self.k];
            if k < self.k { scores[k - 1] - scores[k] } else { self.margins[head] }
        };
        (0..heads).map(lead).fold(f32::INFINITY, f32::min)
    }
}
