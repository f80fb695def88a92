//! Drafts that grow from what a rescorer proposes in the place of heads: an n-gram model or a small language model as the drafter.

use std::collections::HashMap;

use super::{Drafter, Drafts, Session};
use crate::error::Result;
use crate::nn::Largest;
use crate::rescorer::{BlockContext, PrefixReader, PrefixToken, Rescorer};

/// A drafter that grows its drafts from the most probable tokens of a rescorer's distribution over the vocabulary. The heads are not
/// run.
pub struct Sourced<'a> {
    /// What proposes tokens. Its scores are log-probabilities over the vocabulary.
    pub source: &'a dyn Rescorer,
    /// The number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The number of tokens proposed behind a path.
    pub k: usize,
    /// The most paths of one length behind which tokens are proposed.
    pub frontier: usize,
    /// What makes drafts of the proposals.
    pub inner: Box<dyn Drafter + 'a>,
}

impl Drafter for Sourced<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        let reader = self.source.reader().expect("only rescorers of paths propose tokens");
        Box::new(SourcedSession { sourced: self, reader, inner: self.inner.session() })
    }

    fn reads_whole_lattice(&self) -> bool {
        false
    }

    fn reads_heads(&self) -> bool {
        false
    }
}

struct SourcedSession<'a> {
    sourced: &'a Sourced<'a>,
    reader: Box<dyn PrefixReader + 'a>,
    inner: Box<dyn Session + 'a>,
}

impl Session for SourcedSession<'_> {
    fn drafts(&mut self, text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>> {
        blocks.iter().map(|block| self.draft(text, block)).collect()
    }
}

impl SourcedSession<'_> {
    fn draft(&mut self, text: &[u32], block: &BlockContext) -> Result<Drafts> {
        let Self { sourced: Sourced { vocabulary, k, frontier, .. }, reader, inner } = self;
        let all: Vec<u32> = (0..*vocabulary as u32).collect();
        let scores = vec![0.0; *vocabulary];
        let growing = inner.growing().expect("the drafts grow");
        growing.begin(text, block)?;
        reader.read(&text[..block.start], block.slots * frontier)?;
        // The numbers, in the reader's count, of the tokens that paths end with.
        let (mut read, mut numbers) = (block.start, HashMap::new());
        loop {
            let wanted: Vec<Vec<u32>> = growing.wanted().into_iter().map(<[u32]>::to_vec).collect();
            if wanted.is_empty() {
                return Ok(growing.finish());
            }
            let newest = |path: &Vec<u32>| {
                let (token, before) = path.split_last().expect("a path begins with its pinned token");
                let after = if before.is_empty() { block.start.checked_sub(1) } else { Some(numbers[before]) };
                PrefixToken { token: *token, after, slot: path.len(), candidates: &all, scores: &scores }
            };
            let behind = reader.extend(&wanted.iter().map(newest).collect::<Vec<_>>(), true)?;
            for path in wanted {
                numbers.insert(path, read);
                read += 1;
            }
            let proposed = |scores: Vec<f64>| {
                let scores: Vec<f32> = scores.into_iter().map(|score| score as f32).collect();
                Largest::of(&scores, *k, true)
            };
            growing.give(&behind.into_iter().map(proposed).collect::<Vec<_>>())?;
        }
    }
}
