//! The plan of a trace, which cuts documents into batches.

use std::ops::Range;

use rayon::prelude::*;
use serde::Serialize;

use super::format::Header;
use super::{FinishedTraces, Responses, TraceDocument, TraceText};
use crate::backbone::{Backbone, Sampler};
use crate::error::Result;
use crate::shard::Shard;
use crate::text::Document;

/// The number of batches in a window. The documents of a window are tokenised together, and then sorted by length.
const WINDOW: usize = 64;

/// The plan of a trace, which says what to trace and how.
pub struct TracePlan<'a> {
    /// The title of the progress bar and of messages.
    pub title: &'a str,
    /// The hash of everything that the trace depends on. Making resumes only what was made under the same hash.
    pub key: &'a str,
    /// The number of documents.
    pub documents: usize,
    /// A function that returns the document with a given number, which is below `documents`.
    pub read: &'a (dyn Fn(usize) -> Result<Document> + Sync),
    /// The share of the batches to make, or none for all of them.
    pub shard: Option<Shard>,
    /// The kind of text that follows the prompts.
    pub text: TraceText,
    /// Where that text is taken from.
    pub supply: Supply<'a>,
    /// The options of drawing, which [`TraceText::Sampled`] needs.
    pub sampling: Sampling,
    /// The largest number of tokens after each prompt.
    pub max_new: usize,
    /// The number of documents that are computed together.
    pub batch: usize,
}

/// Where the texts behind the prompts are taken from.
#[derive(Clone, Copy)]
pub enum Supply<'a> {
    /// The backbone writes them, or the corpus has them.
    Backbone,
    /// Finished traces of the same documents have them.
    Finished(&'a FinishedTraces),
    /// A serving engine wrote them, greedily.
    Responses {
        /// What it wrote.
        responses: &'a Responses,
        /// Whether every token must be the backbone's own choice. Otherwise a sample is checked.
        exact: bool,
    },
}

/// The options of drawing continuations at random.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// The temperature, which logits are divided by.
    pub temperature: f64,
    /// The probability of the nucleus: tokens are drawn from the fewest most probable ones that have this probability
    /// together.
    pub top_p: f64,
    /// The run's seed.
    pub seed: u64,
}

impl Sampling {
    /// Returns the sampler of the document `id`. It depends on the run's seed and on `id` alone, so that a document has
    /// the same text whatever its batch is and wherever making is resumed.
    pub(super) fn of(&self, id: &str) -> Sampler {
        let hash = blake3::hash(&[&self.seed.to_le_bytes(), id.as_bytes()].concat());
        let seed = u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"));
        Sampler::new(self.temperature, self.top_p, seed)
    }
}

/// A prompt that is to be continued.
#[derive(Debug, Serialize)]
pub struct Prompt {
    /// The id of its document.
    pub id: String,
    /// The tokens of the prompt.
    pub prompt_tokens: Vec<u32>,
    /// The largest number of tokens that may follow.
    pub max_tokens: usize,
}

/// A tokenised document.
pub(super) struct Item {
    /// The number of the document in the plan.
    pub index: usize,
    pub id: String,
    pub group: String,
    pub prompt: Vec<u32>,
    /// The text that follows the prompt. It is empty unless the corpus's own text is traced.
    pub given: Vec<u32>,
    /// The largest number of tokens that may follow the prompt.
    pub limit: usize,
}

impl Item {
    /// Returns the entry of the document in the trace, with a continuation of `continuation` tokens.
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

impl<'a> TracePlan<'a> {
    /// Plans the backbone's greedy text of at most `max_new` tokens behind the prompts of `documents` documents, 32 of them side by
    /// side. `name` is the title, and the key.
    pub fn greedy(
        name: &'a str,
        documents: usize,
        read: &'a (dyn Fn(usize) -> Result<Document> + Sync),
        max_new: usize,
    ) -> Self {
        Self {
            title: name,
            key: name,
            documents,
            read,
            shard: None,
            text: TraceText::Greedy,
            supply: Supply::Backbone,
            // Nothing is drawn.
            sampling: Sampling { temperature: 1.0, top_p: 1.0, seed: 0 },
            max_new,
            batch: 32,
        }
    }

    pub(super) fn header(&self, backbone: &Backbone) -> Header {
        Header::new(backbone.identity(), self.text)
    }

    /// Returns the prompts of all documents that can be traced, in the order of the plan.
    ///
    /// # Errors
    /// Returns an error if a document cannot be read or tokenised.
    pub fn prompts(&self, backbone: &Backbone) -> Result<Vec<Prompt>> {
        let items = (0..self.documents).into_par_iter().filter_map(|index| self.item(backbone, index).transpose());
        let prompt = |item: Item| Prompt { id: item.id, prompt_tokens: item.prompt, max_tokens: item.limit };
        items.map(|item| item.map(prompt)).collect()
    }

    /// Returns the windows from the one that document `first` lies in, each as a range of documents.
    pub(super) fn windows(&self, first: usize) -> impl Iterator<Item = Range<usize>> {
        let (size, documents) = (WINDOW.saturating_mul(self.batch), self.documents);
        (first / size * size..documents)
            .step_by(size)
            .map(move |start| start..documents.min(start.saturating_add(size)))
    }

    /// Returns the documents of a window that can be traced, those with the most tokens first. So if memory does not
    /// suffice, that shows at the beginning. Each run of `batch` documents is a batch. A shard gets whole batches, the same as
    /// one process makes.
    pub(super) fn window(&self, backbone: &Backbone, window: Range<usize>) -> Result<Vec<Item>> {
        let first = window.start / self.batch;
        let items = window.into_par_iter().filter_map(|index| self.item(backbone, index).transpose());
        let mut items: Vec<Item> = items.collect::<Result<_>>()?;
        items.sort_by_key(|item| std::cmp::Reverse(item.prompt.len() + item.given.len()));
        let Some(shard) = self.shard else { return Ok(items) };
        let own = items.into_iter().enumerate().filter(|(place, _)| shard.has(first + place / self.batch));
        Ok(own.map(|(_, item)| item).collect())
    }

    /// Returns a document as tokens. Returns none if its prompt is empty or leaves no room in the context, or if the
    /// corpus's own text is to follow and the document has none.
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

    /// Whether the backbone decodes the texts.
    pub(super) fn is_decoded(&self) -> bool {
        self.text != TraceText::Corpus && matches!(self.supply, Supply::Backbone)
    }

    /// Whether the backbone's states come out of decoding with the bits that reading the text would give them.
    pub(super) fn gives_states(&self, backbone: &Backbone) -> bool {
        self.is_decoded() && backbone.model.is_packed()
    }

    /// Returns the largest number of tokens that a document can take, its prompt included.
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
        let plan = TracePlan { batch: 5, ..TracePlan::greedy("trace", 1000, &read, 1) };
        let all: Vec<_> = plan.windows(0).collect();
        assert_eq!(all, [0..320, 320..640, 640..960, 960..1000]);
        assert_eq!(plan.windows(640).collect::<Vec<_>>(), all[2..]);
        assert_eq!(plan.windows(639).collect::<Vec<_>>(), all[1..]);
    }
}
