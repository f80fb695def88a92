//! What to trace, cut into batches.

use std::ops::Range;

use rayon::prelude::*;

use super::format::Header;
use super::{TraceDocument, TraceText};
use crate::backbone::{Backbone, Sampler};
use crate::error::Result;
use crate::text::Document;

/// Batches of a window. A window's documents are tokenised and sorted by length together.
const WINDOW: usize = 64;

/// What to trace, and how.
pub struct TracePlan<'a> {
    /// Shown while it runs.
    pub title: &'a str,
    /// Hash of everything the trace depends on: only what was made under the same one is gone on with.
    pub key: &'a str,
    /// How many documents there are.
    pub documents: usize,
    /// Gives the document of a number below `documents`.
    pub read: &'a (dyn Fn(usize) -> Result<Document> + Sync),
    /// What follows their prompts.
    pub text: TraceText,
    /// For [`TraceText::Sampled`].
    pub sampling: Sampling,
    /// Tokens after each prompt, at most.
    pub max_new: usize,
    /// Documents computed side by side.
    pub batch: usize,
}

/// How continuations are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// Divides the logits.
    pub temperature: f64,
    /// Share of the probability drawn from.
    pub top_p: f64,
    /// The run's seed.
    pub seed: u64,
}

impl Sampling {
    /// The sampler of a document: a function of seed and name, so that neither batches nor resumption change its text.
    pub(super) fn of(&self, id: &str) -> Sampler {
        let hash = blake3::hash(&[&self.seed.to_le_bytes(), id.as_bytes()].concat());
        let seed = u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"));
        Sampler::new(self.temperature, self.top_p, seed)
    }
}

/// A tokenised document.
pub(super) struct Item {
    /// Its number in the plan.
    pub index: usize,
    pub id: String,
    pub group: String,
    pub prompt: Vec<u32>,
    /// What follows the prompt, where the corpus gives it.
    pub given: Vec<u32>,
    /// The most tokens that may follow it.
    pub limit: usize,
}

impl Item {
    /// Its entry in the trace, with a continuation of `continuation` tokens.
    pub fn entry(&self, first: usize, continuation: usize) -> TraceDocument {
        TraceDocument {
            id: self.id.clone(),
            group: self.group.clone(),
            first,
            prompt: self.prompt.len(),
            continuation,
            limit: self.limit,
        }
    }
}

impl TracePlan<'_> {
    pub(super) fn header(&self, backbone: &Backbone) -> Header {
        Header::new(backbone.identity(), self.text)
    }

    /// The windows from the one on that document `first` lies in.
    pub(super) fn windows(&self, first: usize) -> impl Iterator<Item = Range<usize>> {
        let (size, documents) = (WINDOW.saturating_mul(self.batch), self.documents);
        (first / size * size..documents)
            .step_by(size)
            .map(move |start| start..documents.min(start.saturating_add(size)))
    }

    /// The documents of a window that can be traced, those of most tokens first: should memory not suffice, it shows at
    /// once. Consecutive runs of `batch` are its batches.
    pub(super) fn window(&self, backbone: &Backbone, window: Range<usize>) -> Result<Vec<Item>> {
        let items = window.into_par_iter().filter_map(|index| self.item(backbone, index).transpose());
        let mut items: Vec<Item> = items.collect::<Result<_>>()?;
        items.sort_by_key(|item| std::cmp::Reverse(item.prompt.len() + item.given.len()));
        Ok(items)
    }

    /// A document as tokens; none where there is no room after the prompt, or the text that should follow is missing.
    pub(super) fn item(&self, backbone: &Backbone, index: usize) -> Result<Option<Item>> {
        let document = (self.read)(index)?;
        let (context, tokenizer) = (backbone.model.config().max_position_embeddings, &backbone.tokenizer);
        if self.text == TraceText::Corpus && document.completion.is_empty() {
            return Ok(None);
        }
        let prompt = tokenizer.encode(&document.prompt).map_err(|e| e.within(&document.id))?;
        if prompt.is_empty() || prompt.len() >= context {
            return Ok(None);
        }
        let limit = self.max_new.min(context - prompt.len());
        let mut given = Vec::new();
        if self.text == TraceText::Corpus {
            given = tokenizer.encode_continuation(&document.completion).map_err(|e| e.within(&document.id))?;
            if !document.cut {
                given.extend(backbone.end_of_text.first());
            }
            given.truncate(limit);
        }
        Ok(Some(Item { index, id: document.id, group: document.group, prompt, given, limit }))
    }

    /// The most tokens that a document can take.
    pub(super) fn most(&self, item: &Item) -> usize {
        item.prompt.len() + if self.text == TraceText::Corpus { item.given.len() } else { item.limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_the_same_wherever_one_goes_on() {
        let read = |_| unreachable!("windows read nothing");
        let plan = TracePlan {
            title: "",
            key: "",
            documents: 1000,
            read: &read,
            text: TraceText::Greedy,
            sampling: Sampling { temperature: 1.0, top_p: 1.0, seed: 0 },
            max_new: 1,
            batch: 5,
        };
        let all: Vec<_> = plan.windows(0).collect();
        assert_eq!(all, [0..320, 320..640, 640..960, 960..1000]);
        assert_eq!(plan.windows(640).collect::<Vec<_>>(), all[2..]);
        assert_eq!(plan.windows(639).collect::<Vec<_>>(), all[1..]);
    }
}
