//! Local rescoring: paths grown from left to right, for rescorers that read the whole prefix (arXiv 2404.09221).
//!
//! One path is grown greedily, `y_j = argmax over the slot of its interpolated score`; several by a beam, which keeps the best
//! prefixes of every length by their score so far. Language models' log-probabilities are normalised over the vocabulary,
//! as prefixes are compared with each other; other rescorers in the sum go along as finite states.
//!
//! The model's keys and values of the committed text are kept; drafts at many starts of one text extend it side by side,
//! each seeing the text up to its own start and its own prefix only. All prefixes of all blocks are one forward a slot.

use burn::tensor::Tensor;

use super::drafter::{Drafts, Session};
use super::rescoring::Rescoring;
use crate::backbone::{KvCache, Model, Span};
use crate::config::Normalisation;
use crate::error::{Result, bail};
use crate::kernels::{exponentiate, largest};
use crate::lattice::{Lattice, PathScorer, SlotScorer};
use crate::rescorer::{BlockContext, NeuralRescorer, Sum, SumState};

/// Local rescoring on one text.
pub(super) struct LocalSession<'a> {
    rescoring: &'a Rescoring<'a>,
    /// The tokens whose keys and values are in the cache.
    committed: Vec<u32>,
    cache: Option<KvCache>,
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
    state: SumState,
    /// The column of the cache that the newest token follows; none at the start of a text.
    after: Option<usize>,
}

impl<'a> LocalSession<'a> {
    pub fn new(rescoring: &'a Rescoring<'a>) -> Self {
        Self { rescoring, committed: Vec::new(), cache: None }
    }

    /// Brings the cache to `text`.
    fn commit(&mut self, model: &Model, text: &[u32], more: usize) -> KvCache {
        let common = self.committed.iter().zip(text).take_while(|(a, b)| a == b).count();
        // Room for the text to grow, so that a live decode rarely copies.
        let mut cache = self.cache.take().unwrap_or_else(|| model.cache(1, 2 * (text.len() + more)));
        cache.truncate(0, common);
        if common < text.len() {
            model.hidden(&[Span::chain(&text[common..])], Some(&mut cache));
        }
        self.committed = text.to_vec();
        cache
    }
}

impl Session for LocalSession<'_> {
    fn drafts(&mut self, text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>> {
        let (rescoring, width) = (self.rescoring, self.rescoring.beam());
        let lattices: Vec<Lattice> =
            blocks.iter().map(|block| rescoring.narrowed(block.lattice)).collect::<Result<_>>()?;
        let compared: Vec<_> = lattices.iter().map(|lattice| rescoring.settings.tempered(lattice)).collect();
        let (mut growing, mut language) = (Vec::with_capacity(blocks.len()), None);
        for (block, (lattice, compared)) in blocks.iter().zip(lattices.iter().zip(&compared)) {
            let (sum, found) = rescoring.sum(text, &BlockContext { lattice, ..*block })?;
            language = found;
            let first = lattice.ids(0)[0];
            let state = if sum.is_empty() { sum.start() } else { sum.extend(sum.start(), first).1 };
            let after = block.start.checked_sub(1);
            let beam = vec![BeamPrefix { tokens: vec![first], score: 0.0, state, after }];
            growing.push(Growing { lattice: compared, sum, beam, margin: f64::INFINITY });
        }
        let Some((share, rescorer)) = language else {
            assert!(blocks.is_empty(), "a search is local because a language model has a share");
            return Ok(Vec::new());
        };
        let model = &rescorer.model;
        let slots = lattices.iter().map(Lattice::slots).max().unwrap_or(0);
        // The last start needs the text before it and no more.
        let base = blocks.last().map_or(0, |last| last.start.min(text.len()));
        let mut cache = self.commit(model, &text[..base], blocks.len() * slots * width);
        for slot in 1..slots {
            let mut active: Vec<&mut Growing> = growing.iter_mut().filter(|g| g.lattice.slots() > slot).collect();
            let hidden = extend(model, &mut cache, &mut active);
            let prefixes = active.iter().flat_map(|growing| growing.beam.iter().map(|_| growing.lattice.ids(slot)));
            let mut behind = log_probabilities(rescorer, hidden, &prefixes.collect::<Vec<_>>(), width)?.into_iter();
            for growing in active {
                let behind: Vec<Vec<f64>> = behind.by_ref().take(growing.beam.len()).collect();
                growing.grow(slot, share, &behind, rescoring);
            }
        }
        cache.truncate(0, base);
        self.cache = Some(cache);
        let drafts = |g: Growing| {
            let paths = g.beam.into_iter().map(|prefix| prefix.tokens).collect();
            rescoring.with_top1(Drafts::chosen(paths, g.margin), g.lattice)
        };
        Ok(growing.into_iter().map(drafts).collect())
    }
}

impl Growing<'_> {
    /// Extends every prefix by the candidates of `slot` and keeps the best. `language` are the language model's
    /// log-probabilities of the candidates behind each prefix, `share` is its part of the sum.
    fn grow(&mut self, slot: usize, share: f64, language: &[Vec<f64>], rescoring: &Rescoring) {
        let width = rescoring.beam();
        let (ids, scores) = (self.lattice.ids(slot), self.lattice.scores(slot));
        let weighting = rescoring.settings.weighting;
        let (mut longer, mut steps) = (Vec::with_capacity(self.beam.len() * ids.len()), Vec::new());
        let mut others = self.sum.on(self.lattice);
        for (prefix, language) in self.beam.iter().zip(language) {
            steps.clear();
            if self.sum.is_empty() {
                steps.extend(ids.iter().map(|_| (0.0, prefix.state)));
            } else {
                others.extend(slot, prefix.state, ids.len(), &mut steps);
            }
            for (((&id, &head), language), &(others, state)) in ids.iter().zip(scores).zip(language).zip(&steps) {
                let rescored = share * language + others;
                let score = prefix.score + weighting.score(slot, head, rescored);
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

/// Feeds every active prefix's newest token; gives the hidden states after it, `[prefixes, d]`.
fn extend(model: &Model, cache: &mut KvCache, active: &mut [&mut Growing]) -> Tensor<2> {
    let past = cache.len(0);
    let mut prefixes: Vec<&mut BeamPrefix> = active.iter_mut().flat_map(|growing| growing.beam.iter_mut()).collect();
    let after: Vec<Option<usize>> = prefixes.iter().map(|prefix| prefix.after).collect();
    let newest = |prefix: &BeamPrefix| *prefix.tokens.last().expect("a prefix begins with its pinned token");
    let tokens: Vec<u32> = prefixes.iter().map(|prefix| newest(prefix)).collect();
    prefixes.iter_mut().enumerate().for_each(|(i, prefix)| prefix.after = Some(past + i));
    model.hidden(&[Span { tokens: &tokens, after: Some(&after) }], Some(cache))
}

/// The log-probabilities of some tokens behind each of the hidden states. Where one prefix is kept nothing is compared across
/// prefixes, and logits, which differ from them by a constant, do as well: then the vocabulary is left alone.
fn log_probabilities(
    rescorer: &NeuralRescorer,
    hidden: Tensor<2>,
    tokens: &[&[u32]],
    width: usize,
) -> Result<Vec<Vec<f64>>> {
    let projection = rescorer.model.projection();
    let over_vocabulary = width > 1 && rescorer.normalise == Normalisation::Vocabulary;
    let rows: Vec<Vec<f32>> = if over_vocabulary {
        let logits = projection.logits(hidden);
        logits.chunks(rescorer.model.config().vocab_size).map(<[f32]>::to_vec).collect()
    } else {
        let mut logits = projection.logits_of(hidden, tokens).into_iter();
        tokens.iter().map(|tokens| logits.by_ref().take(tokens.len()).collect()).collect()
    };
    let of_row = |(row, tokens): (Vec<f32>, &&[u32])| -> Result<Vec<f64>> {
        let at = |place: usize| if over_vocabulary { row[tokens[place] as usize] } else { row[place] };
        let logits: Vec<f64> = (0..tokens.len()).map(|place| f64::from(at(place))).collect();
        let normaliser = if width > 1 { log_sum_exp(row) } else { 0.0 };
        if !normaliser.is_finite() || logits.iter().any(|logit| !logit.is_finite()) {
            bail!("a neural rescorer's logits are not numbers. Train it anew with a lower learning rate.");
        }
        Ok(logits.into_iter().map(|logit| logit - normaliser).collect())
    };
    rows.into_iter().zip(tokens).map(of_row).collect()
}

/// `ln(sum of exp)` of a row.
fn log_sum_exp(mut row: Vec<f32>) -> f64 {
    let (_, most) = largest(&row);
    f64::from(most) + f64::from(exponentiate(&mut row, most)).ln()
}
