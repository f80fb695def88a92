//! The blockwise loop (Stern et al. 2018, arXiv 1811.03115; drafts as a prefix-sharing tree).
//!
//! Verification and the next prediction share a forward: the hidden state of the last accepted node feeds the next
//! block's heads, and the backbone's argmax there is the next block's pinned first token.

use burn::tensor::Tensor;

use crate::backbone::{Backbone, KvCache, Span, best_two};
use crate::config::StorageType;
use crate::error::{Result, bail};
use crate::heads::FrozenHeads;
use crate::lattice::{DraftTree, Lattice};
use crate::nn::{from_host, to_host};
use crate::rescorer::{Closest, Decision, Drafter, Opening, Session};

/// One decoded block.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The accepted tokens, at least one.
    pub tokens: Vec<u32>,
    /// Draft nodes verified.
    pub nodes: usize,
    /// The closest decision.
    pub closest: Closest,
}

/// Decodes one document block by block.
pub struct Decoder<'a> {
    backbone: &'a Backbone,
    heads: &'a FrozenHeads,
    drafter: &'a dyn Drafter,
    session: Box<dyn Session + 'a>,
    top_k: usize,
    dtype: StorageType,
    cache: KvCache,
    text: Vec<u32>,
    prompt: usize,
    limit: usize,
    /// After the last committed token: hidden state `[1, d]`, the backbone's next token and its lead.
    hidden: Tensor<2>,
    next: (u32, f32),
}

impl<'a> Decoder<'a> {
    /// Prefills `prompt`. At most `max_new` tokens, or up to the context's end, will be decoded; hidden states are
    /// rounded to `dtype` before the heads, as the trace's are.
    pub fn new(
        backbone: &'a Backbone,
        heads: &'a FrozenHeads,
        drafter: &'a dyn Drafter,
        top_k: usize,
        dtype: StorageType,
        prompt: &[u32],
        max_new: usize,
    ) -> Result<Self> {
        let config = backbone.model.config();
        if prompt.is_empty() || prompt.len() >= config.max_position_embeddings {
            bail!(
                "a prompt of {} tokens cannot be continued: the context holds {}.",
                prompt.len(),
                config.max_position_embeddings
            );
        }
        let limit = max_new.min(config.max_position_embeddings - prompt.len());
        // With room for a draft tree.
        let mut cache = backbone.model.cache(1, prompt.len() + limit + 16 * (heads.count() + 1));
        let (hidden, next) = advance(backbone, &mut cache, prompt);
        Ok(Self {
            backbone,
            heads,
            drafter,
            session: drafter.session(),
            top_k,
            dtype,
            cache,
            text: prompt.to_vec(),
            prompt: prompt.len(),
            limit,
            hidden,
            next,
        })
    }

    /// The decoded tokens so far.
    pub fn decoded(&self) -> &[u32] {
        &self.text[self.prompt..]
    }

    /// Whether end-of-text or the length limit was reached.
    pub fn finished(&self) -> bool {
        let ended = self.decoded().last().is_some_and(|t| self.backbone.end_of_text.contains(t));
        ended || self.decoded().len() >= self.limit
    }

    /// One block: heads, lattice, drafts, one verification forward.
    pub fn step(&mut self) -> Result<Block> {
        let mut hidden = to_host(self.hidden.clone());
        self.dtype.round(&mut hidden);
        let (lattice, lattice_margin) = self.lattice(&hidden)?;
        let start = self.text.len();
        let mut drafts = self.session.drafts(&self.text, &[Opening { start, lattice: &lattice, hidden: &hidden }])?;
        let drafts = drafts.pop().expect("one start gives one set of drafts");
        let tree = DraftTree::from_paths(&drafts.paths);
        let hidden = self.verify(&tree);
        let logits = self.backbone.model.logits(hidden.clone());
        let after: Vec<(u32, f32)> = logits.chunks(self.backbone.model.config().vocab_size).map(best_two).collect();
        let next: Vec<u32> = after.iter().map(|a| a.0).collect();
        let mut accepted = tree.accept(self.next.0, &next);
        let tokens: Vec<u32> = accepted.iter().map(|&node| tree.tokens()[node]).collect();
        let kept = tokens.iter().position(|t| self.backbone.end_of_text.contains(t)).map_or(tokens.len(), |at| at + 1);
        accepted.truncate(kept);
        let tokens = tokens[..kept].to_vec();
        // The lead after the last accepted node decides where acceptance ended, so it belongs to this block as well.
        let verifier = accepted.iter().map(|&node| after[node].1).fold(self.next.1, f32::min);
        let mut closest =
            Closest::new(Decision::Verifier, f64::from(verifier)).or(Closest::new(Decision::Draft, drafts.margin));
        if self.drafter.reads_whole_lattice() {
            closest = closest.or(Closest::new(Decision::Candidates, f64::from(lattice_margin)));
        }
        let last = *accepted.last().expect("the pinned token is always accepted");
        self.cache.keep(0, start, &accepted);
        self.text.extend(&tokens);
        self.hidden = hidden.narrow(0, last, 1);
        self.next = after[last];
        Ok(Block { tokens, nodes: tree.len(), closest })
    }

    /// Takes back everything after `decoded` tokens of the continuation and commits `tokens` instead, with a plain
    /// forward: how a comparison goes on after a near-tie.
    pub fn replace(&mut self, decoded: usize, tokens: &[u32]) {
        self.text.truncate(self.prompt + decoded);
        self.cache.truncate(0, self.prompt + decoded);
        self.text.extend(tokens);
        (self.hidden, self.next) = advance(self.backbone, &mut self.cache, tokens);
    }

    fn lattice(&self, hidden: &[f32]) -> Result<(Lattice, f32)> {
        let hidden = from_host(hidden.to_vec(), [1, hidden.len()], &self.hidden.device());
        let found = self.heads.candidates(&self.backbone.model, hidden, &[self.next.0], self.top_k)?;
        let slots = (self.limit - self.decoded().len()).min(self.heads.count() + 1);
        let lattice = Lattice::pinned(self.next.0, found.k, &found.ids, &found.scores)?.prefix(slots, found.k)?;
        Ok((lattice, found.at(0).margin(slots - 1, found.k)))
    }

    /// Hidden states `[nodes, d]` of a draft tree behind the committed text.
    fn verify(&mut self, tree: &DraftTree) -> Tensor<2> {
        let past = self.cache.len(0);
        // A root follows the last committed token.
        let after: Vec<Option<usize>> =
            tree.parents().iter().map(|parent| Some(parent.map_or(past - 1, |parent| past + parent))).collect();
        let span = Span { tokens: tree.tokens(), after: Some(&after) };
        self.backbone.model.hidden(&[span], Some(&mut self.cache))
    }
}

/// Feeds committed tokens; gives hidden state and next token after the last one.
fn advance(backbone: &Backbone, cache: &mut KvCache, tokens: &[u32]) -> (Tensor<2>, (u32, f32)) {
    let hidden = backbone.model.hidden(&[Span::chain(tokens)], Some(cache)).narrow(0, tokens.len() - 1, 1);
    let next = best_two(&backbone.model.logits(hidden.clone()));
    (hidden, next)
}
