//! The blockwise loop (Stern et al. 2018, arXiv 1811.03115; drafts as a prefix-sharing tree).
//!
//! Verification and the next prediction share a forward: the hidden state of the last accepted node feeds the next
//! block's heads, and the backbone's argmax there is the next block's pinned first token.

use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::stop::worthwhile;
use super::verification::{Outcome, Verification, Verifier};
use crate::backbone::{Backbone, KvCache, Span};
use crate::config::{StopRule, StorageType};
use crate::error::{Result, bail};
use crate::heads::FrozenHeads;
use crate::lattice::{DraftTree, Lattice};
use crate::nn::{from_host, to_host};
use crate::rescorer::{Closest, Decision, Drafter, Drafts, Opening, Session};

/// One decoded block.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The accepted tokens, at least one.
    pub tokens: Vec<u32>,
    /// Draft nodes verified.
    pub nodes: usize,
    /// The closest decision.
    pub closest: Closest,
    /// Where its time went.
    pub spent: Spent,
}

/// The time of a block by what it was spent on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// The verification forward and its logits.
    pub backbone: Duration,
    /// Heads and their top k.
    pub heads: Duration,
    /// Lattice, rescorers and the search.
    pub drafting: Duration,
    /// The rest: the tree, acceptance, the cache.
    pub bookkeeping: Duration,
}

impl std::iter::Sum for Spent {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            backbone: sum.backbone + one.backbone,
            heads: sum.heads + one.heads,
            drafting: sum.drafting + one.drafting,
            bookkeeping: sum.bookkeeping + one.bookkeeping,
        })
    }
}

/// How documents are decoded.
#[derive(Debug, Clone, Copy)]
pub struct Decoding {
    /// k: candidates per head.
    pub top_k: usize,
    /// Hidden states are rounded to it before the heads, as the trace's are.
    pub dtype: StorageType,
    /// Where blocks end early.
    pub stop: StopRule,
    /// Which drafts are kept.
    pub verification: Verification,
}

/// Decodes one document block by block.
pub struct Decoder<'a> {
    backbone: &'a Backbone,
    heads: &'a FrozenHeads,
    drafter: &'a dyn Drafter,
    session: Box<dyn Session + 'a>,
    options: Decoding,
    verifier: Verifier,
    cache: KvCache,
    text: Vec<u32>,
    prompt: usize,
    limit: usize,
    /// After the last committed token: hidden state `[1, d]`, the next token and the lead of the backbone's first choice.
    hidden: Tensor<2>,
    next: (u32, f32),
}

impl<'a> Decoder<'a> {
    /// Prefills `prompt`. At most `max_new` tokens, or up to the context's end, will be decoded.
    ///
    /// # Errors
    /// An empty prompt, or one that fills the context; a rule that is not valid for the drafter's drafts.
    pub fn new(
        backbone: &'a Backbone,
        heads: &'a FrozenHeads,
        drafter: &'a dyn Drafter,
        options: Decoding,
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
        options.verification.rule.require(drafter.origin())?;
        let limit = max_new.min(config.max_position_embeddings - prompt.len());
        // With room for a draft tree.
        let mut cache = backbone.model.cache(1, prompt.len() + limit + 16 * (heads.count() + 1));
        let mut verifier = Verifier::new(options.verification);
        let (hidden, next) = advance(backbone, &mut cache, &mut verifier, prompt);
        Ok(Self {
            backbone,
            heads,
            drafter,
            session: drafter.session(),
            options,
            verifier,
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
        let began = Instant::now();
        let mut hidden = to_host(self.hidden.clone());
        self.options.dtype.round(&mut hidden);
        let Looked { lattice, margin: lattice_margin, stop_margin } = self.lattice(&hidden)?;
        let heads = began.elapsed();
        let start = self.text.len();
        let opening = Opening { start, slots: self.slots(), lattice: &lattice, hidden: &hidden };
        let mut drafts = self.session.drafts(&self.text, &[opening])?;
        let drafts = drafts.pop().expect("one start gives one set of drafts");
        let drafting = began.elapsed() - heads;
        let tree = DraftTree::from_paths(&drafts.paths);
        let forward = Instant::now();
        let states = self.verify(&tree);
        let logits = self.backbone.model.logits(states.clone());
        let backbone = forward.elapsed();
        let walk = self.walk(&tree, &drafts, &logits);
        let tokens: Vec<u32> = walk.accepted.iter().map(|&node| tree.tokens()[node]).collect();
        // The lead after the last accepted node decides where acceptance ended, so it belongs to this block as well.
        let lead = walk.lead.min(self.next.1);
        let mut closest =
            Closest::new(Decision::Verifier, f64::from(lead)).or(Closest::new(Decision::Draft, drafts.margin));
        closest = closest.or(Closest::new(Decision::Stop, stop_margin));
        if self.drafter.reads_whole_lattice() {
            closest = closest.or(Closest::new(Decision::Candidates, f64::from(lattice_margin)));
        }
        let last = *walk.accepted.last().expect("the pinned token is always accepted");
        self.cache.keep(0, start, &walk.accepted);
        self.text.extend(&tokens);
        self.hidden = states.narrow(0, last, 1);
        self.next = walk.next;
        let bookkeeping = began.elapsed() - heads - drafting - backbone;
        let spent = Spent { backbone, heads, drafting, bookkeeping };
        Ok(Block { tokens, nodes: tree.len(), closest, spent })
    }

    /// Follows the drafts from the pinned root as far as the rule keeps them, to an end-of-text at most.
    fn walk(&mut self, tree: &DraftTree, drafts: &Drafts, logits: &[f32]) -> Walk {
        let vocabulary = self.backbone.model.config().vocab_size;
        let ends = |token: u32| self.backbone.end_of_text.contains(&token);
        let (mut node, mut lead) = (0, f32::INFINITY);
        let mut accepted = vec![node];
        if ends(tree.tokens()[node]) {
            return Walk { accepted, next: self.next, lead };
        }
        // The paths that begin with what was accepted.
        let mut paths: Vec<&Vec<u32>> = drafts.paths.iter().collect();
        loop {
            let depth = accepted.len();
            let mut tokens: Vec<u32> = Vec::new();
            for token in paths.iter().filter_map(|path| path.get(depth)) {
                // What was drawn twice is looked at twice; what was chosen is one choice.
                if !drafts.q.is_empty() || !tokens.contains(token) {
                    tokens.push(*token);
                }
            }
            let mut q = Vec::new();
            if let Some(known) = drafts.q.get(depth) {
                q = vec![0.0; vocabulary];
                known.iter().for_each(|&(token, probability)| q[token as usize] = probability);
            }
            let (outcome, here) = self.verifier.at(&logits[node * vocabulary..][..vocabulary], &tokens, &q);
            lead = lead.min(here);
            match outcome {
                Outcome::Emit(token) => return Walk { accepted, next: (token, here), lead },
                Outcome::Accept(number) => {
                    let token = tokens[number];
                    node = tree.child(node, token).expect("every drafted token is a node");
                    accepted.push(node);
                    paths.retain(|path| path.get(depth) == Some(&token));
                    if ends(token) {
                        return Walk { accepted, next: (token, here), lead };
                    }
                }
            }
        }
    }

    /// Takes back everything after `decoded` tokens of the continuation and commits `tokens` instead, with a plain
    /// forward: how a comparison goes on after a near-tie.
    pub fn replace(&mut self, decoded: usize, tokens: &[u32]) {
        self.text.truncate(self.prompt + decoded);
        self.cache.truncate(0, self.prompt + decoded);
        self.text.extend(tokens);
        (self.hidden, self.next) = advance(self.backbone, &mut self.cache, &mut self.verifier, tokens);
    }

    /// The most tokens that the next block may have.
    fn slots(&self) -> usize {
        (self.limit - self.decoded().len()).min(self.heads.count() + 1)
    }

    fn lattice(&self, hidden: &[f32]) -> Result<Looked> {
        let first = self.next.0;
        if !self.drafter.reads_heads() {
            return Looked::nowhere(first);
        }
        let (model, k) = (&self.backbone.model, self.options.top_k);
        let hidden = from_host(hidden.to_vec(), [1, hidden.len()], &self.hidden.device());
        let found = match self.options.stop {
            StopRule::Never => self.heads.candidates(model, hidden, &[first], k),
            _ => self.heads.candidates_and_spreads(model, hidden, &[first], k),
        };
        // Heads whose numbers are not finite cannot draft; the text is the backbone's in any case.
        let Ok(found) = found else { return Looked::nowhere(first) };
        let lattice = Lattice::pinned(first, found.k, &found.ids, &found.scores)?.prefix(self.slots(), found.k)?;
        let (slots, stop_margin) = worthwhile(self.options.stop, &lattice, &found.spreads);
        let margin = found.at(0).margin(slots - 1, found.k);
        Ok(Looked { lattice: lattice.prefix(slots, found.k)?, margin, stop_margin })
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

/// The lattice of a block.
struct Looked {
    lattice: Lattice,
    /// The smallest lead of a k-th candidate over the first one left out.
    margin: f32,
    /// How close the block came to another end.
    stop_margin: f64,
}

impl Looked {
    /// The pinned token alone.
    fn nowhere(first: u32) -> Result<Self> {
        Ok(Self { lattice: Lattice::pinned(first, 1, &[], &[])?, margin: f32::INFINITY, stop_margin: f64::INFINITY })
    }
}

/// What a rule kept of a tree.
struct Walk {
    /// Nodes, root first.
    accepted: Vec<usize>,
    /// The token behind them, which the next block begins with, and the lead of the backbone's first choice there.
    next: (u32, f32),
    /// The smallest lead of a first choice on the way.
    lead: f32,
}

/// Feeds committed tokens; gives hidden state and next token after the last one.
fn advance(
    backbone: &Backbone,
    cache: &mut KvCache,
    verifier: &mut Verifier,
    tokens: &[u32],
) -> (Tensor<2>, (u32, f32)) {
    let hidden = backbone.model.hidden(&[Span::chain(tokens)], Some(cache)).narrow(0, tokens.len() - 1, 1);
    let (outcome, lead) = verifier.at(&backbone.model.logits(hidden.clone()), &[], &[]);
    let Outcome::Emit(next) = outcome else { unreachable!("nothing was drafted that could be accepted") };
    (hidden, (next, lead))
}
