//! Local rescoring with a small decoder-only language model (arXiv 2404.09221): left to right,
//! `y_j = argmax over the slot of (1 - a) head score + a rescorer score`.
//!
//! The model's keys and values of the committed text are kept; drafts at many starts of one text extend it side by side,
//! each seeing the text up to its own start and its own draft only. Scores are logits: within a slot they differ from
//! log-probabilities by a constant.

use super::{Bpd, Drafter, Drafts, Session};
use crate::backbone::{KvCache, Model, Span};
use crate::error::Result;
use crate::lattice::{Lattice, choose};

/// A neural rescorer with its scale.
pub struct NeuralDrafter<'a> {
    /// Same tokenizer as the backbone.
    pub model: &'a Model,
    /// a, 0 to 1.
    pub scale: f64,
}

impl Drafter for NeuralDrafter<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(NeuralSession { drafter: self, committed: Vec::new(), cache: None })
    }

    fn reads_whole_lattice(&self) -> bool {
        self.scale > 0.0
    }

    fn prefers_all_starts(&self) -> bool {
        true
    }
}

struct NeuralSession<'a> {
    drafter: &'a NeuralDrafter<'a>,
    /// The tokens whose keys and values are in the cache.
    committed: Vec<u32>,
    cache: Option<KvCache>,
}

impl NeuralSession<'_> {
    /// Brings the cache to `text`.
    fn commit(&mut self, text: &[u32], more: usize) -> KvCache {
        let model = self.drafter.model;
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

/// One draft in the making.
struct Growing<'a> {
    lattice: &'a Lattice,
    tokens: Vec<u32>,
    margin: f64,
    /// The column of the cache that the draft's newest token follows; none at the start of a text.
    after: Option<usize>,
}

impl Session for NeuralSession<'_> {
    fn drafts(&mut self, text: &[u32], starts: &[usize], lattices: &[&Lattice]) -> Result<Vec<Drafts>> {
        let scale = self.drafter.scale;
        if scale == 0.0 {
            // The model has no say.
            return Bpd.drafts(text, starts, lattices);
        }
        let mut drafts: Vec<Growing> = starts
            .iter()
            .zip(lattices)
            .map(|(&start, lattice)| Growing {
                lattice,
                tokens: vec![lattice.ids(0)[0]],
                margin: f64::INFINITY,
                after: start.checked_sub(1),
            })
            .collect();
        let slots = lattices.iter().map(|lattice| lattice.slots()).max().unwrap_or(0);
        // The last start needs the text before it and no more.
        let base = starts.last().map_or(0, |&last| last.min(text.len()));
        let mut cache = self.commit(&text[..base], starts.len() * slots);
        for slot in 1..slots {
            let mut active: Vec<&mut Growing> = drafts.iter_mut().filter(|d| d.lattice.slots() > slot).collect();
            let logits = self.extend(&mut cache, &mut active);
            for (draft, logits) in active.iter_mut().zip(logits.chunks(self.drafter.model.config().vocab_size)) {
                let rescored: Vec<f32> = draft.lattice.ids(slot).iter().map(|&id| logits[id as usize]).collect();
                let (token, margin) = choose(draft.lattice, slot, scale, &rescored);
                draft.tokens.push(token);
                draft.margin = draft.margin.min(margin);
            }
        }
        cache.truncate(0, base);
        self.cache = Some(cache);
        Ok(drafts.into_iter().map(|d| Drafts { paths: vec![d.tokens], margin: d.margin }).collect())
    }
}

impl NeuralSession<'_> {
    /// Feeds every active draft's newest token; gives the logits after it, `[active, V]`.
    fn extend(&self, cache: &mut KvCache, active: &mut [&mut Growing]) -> Vec<f32> {
        let past = cache.len(0);
        let after: Vec<Option<usize>> = active.iter().map(|draft| draft.after).collect();
        let newest = |draft: &Growing| *draft.tokens.last().expect("a draft begins with its pinned token");
        let tokens: Vec<u32> = active.iter().map(|draft| newest(draft)).collect();
        active.iter_mut().enumerate().for_each(|(i, draft)| draft.after = Some(past + i));
        let model = self.drafter.model;
        let hidden = model.hidden(&[Span { tokens: &tokens, after: Some(&after) }], Some(cache));
        model.logits(hidden)
    }
}
