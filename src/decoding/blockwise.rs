//! The blockwise loop (Stern et al. 2018, arXiv 1811.03115; drafts as a prefix-sharing tree).
//!
//! Verification and the next prediction share a forward: the hidden state of the last accepted node feeds the next
//! block's heads, and the backbone's argmax there is the next block's pinned first token.
//!
//! Documents are decoded side by side: one pass of the heads and one forward serve all of them, whatever each accepts. What
//! was committed and not read yet, such as a prompt, is read in the same forward that verifies the others' drafts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pace::{BlockSeconds, Drafted, Pace};
use super::row::{BlockLattice, Document, Proposal, Row};
use super::verification::{Predictions, Verification};
use crate::backbone::{Backbone, Feature, FeatureRows, FeatureTensors, KvCache, Span};
use crate::drafting::{Drafter, StopRule, TightestMargin, grow_together};
use crate::error::{Result, bail};
use crate::heads::{BlockStarts, Context, FrozenHeads, Wanted};
use crate::lattice::BlockBudget;
use crate::nn::indices;
use crate::storage_type::StorageType;

/// One decoded block.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The accepted tokens, at least one.
    pub tokens: Vec<u32>,
    /// Draft nodes verified.
    pub nodes: usize,
    /// The tightest decision.
    pub tightest: TightestMargin,
}

/// What one step of all documents gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Round {
    /// The blocks with the numbers of their documents. Documents whose prompts were read in this step have none.
    pub blocks: Vec<(usize, Block)>,
    /// Where its time went.
    pub spent: Spent,
}

/// The time of a step by what it was spent on.
///
/// Prefill is reading prompts, and everything else together is decoding, as [`DecodingSeconds`](crate::backbone::DecodingSeconds)
/// says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// The forward that reads prompts, and what heads keep of them. Where it verifies drafts of other documents as well, its time is
    /// divided by its tokens of either kind.
    pub prefill: Duration,
    /// The forward that verifies, and its logits.
    pub backbone: Duration,
    /// Heads, their top k and the lattice.
    pub heads: Duration,
    /// Rescorers, the search and the tree.
    pub drafting: Duration,
    /// The rest: acceptance, the cache.
    pub bookkeeping: Duration,
}

impl std::iter::Sum for Spent {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            prefill: sum.prefill + one.prefill,
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
    /// The backbone's states are rounded to it before the heads, as the trace's are.
    pub dtype: StorageType,
    /// Where blocks end early.
    pub stop: StopRule,
    /// Which drafts are kept.
    pub verification: Verification,
}

/// What is proposed in a step.
struct Proposed {
    /// By row, its drafts; none where there is still something to read.
    proposals: Vec<Option<Proposal>>,
    /// The rows of each level of what was grown, or none if nothing is drafted.
    levels: Option<Vec<usize>>,
    /// The time that the heads took.
    heads: Duration,
}

/// Decodes documents block by block, several side by side. Each gets the text that it gets alone, and the blocks as well unless
/// they are sized by time ([`Decoder::sized_by`]).
pub struct Decoder<'a> {
    backbone: &'a Backbone,
    heads: &'a FrozenHeads,
    drafter: &'a dyn Drafter,
    options: Decoding,
    /// What every forward gives: what the heads read, and what predicts the next token.
    features: Vec<Feature>,
    documents: Vec<Document>,
    /// Numbers of the documents that have no row yet.
    waiting: VecDeque<usize>,
    /// The documents that are being decoded, each with a text of the cache.
    rows: Vec<Row<'a>>,
    cache: KvCache,
    /// What heads that attend keep of the same texts.
    kept: Option<KvCache>,
    /// How much drafting pays, if trees are to be as large as pays.
    pace: Option<Pace>,
}

impl<'a> Decoder<'a> {
    /// Decodes `documents`: of each its prompt, and the most tokens to decode, if the context does not end before. `batch` of
    /// them, at least one, are decoded side by side; when one ends, the next takes its place.
    ///
    /// # Errors
    /// An empty prompt, or one that fills the context; a rule that is not valid for the drafter's drafts; texts that are longer
    /// than memory has room for.
    pub fn new(
        backbone: &'a Backbone,
        heads: &'a FrozenHeads,
        drafter: &'a dyn Drafter,
        options: Decoding,
        documents: &[(&[u32], usize)],
        batch: usize,
    ) -> Result<Self> {
        options.verification.rule.require(drafter.origin())?;
        let context = backbone.model.config().max_position_embeddings;
        let new = |&(prompt, max_new): &(&[u32], usize)| {
            if prompt.is_empty() || prompt.len() >= context {
                bail!("a prompt of {} tokens cannot be continued: the context holds {context}.", prompt.len());
            }
            Ok(Document::new(prompt, max_new.min(context - prompt.len())))
        };
        let documents: Vec<Document> = documents.iter().map(new).collect::<Result<_>>()?;
        let ends = &backbone.end_of_text;
        let mut waiting: VecDeque<usize> = (0..documents.len()).filter(|&n| !documents[n].finished(ends)).collect();
        let row = |document| Row::new(document, drafter, options.verification);
        let rows: Vec<Row> = waiting.drain(..batch.max(1).min(waiting.len())).map(row).collect();
        // With room for a draft tree.
        let longest = documents.iter().map(Document::longest).max().unwrap_or(0);
        let room = longest + 16 * (heads.count() + 1);
        backbone.model.require_memory(rows.len(), room, "Decode fewer texts side by side, or fewer tokens.")?;
        let (cache, kept) = (backbone.model.cache(rows.len(), room), heads.cache(rows.len(), room));
        let mut features = heads.features();
        if !features.contains(&Feature::Last) {
            features.push(Feature::Last);
        }
        Ok(Self { backbone, heads, drafter, options, features, documents, waiting, rows, cache, kept, pace: None })
    }

    /// Makes trees as large as pays where a step takes these seconds, and decodes step by step without drafts while they do not pay.
    /// The heads are not run then, either. This is about trees of the longest expected accepted length; other drafts stay as they are.
    /// Under the greedy rule the text is the same. Under the others it depends on what is drafted.
    #[must_use]
    pub fn sized_by(self, seconds: BlockSeconds) -> Self {
        Self { pace: Some(Pace::new(seconds)), ..self }
    }

    /// The tokens of a document decoded so far.
    pub fn decoded(&self, document: usize) -> &[u32] {
        self.documents[document].decoded()
    }

    /// Whether every document has reached end-of-text or its limit.
    pub fn finished(&self) -> bool {
        self.documents.iter().all(|document| document.finished(&self.backbone.end_of_text))
    }

    /// One step of every document in the batch: heads, lattices, drafts, one forward. A document's first step reads its prompt,
    /// each one after that gives a block. Where all that is left of every document is one token that is known, there is no forward.
    ///
    /// # Errors
    /// Those of the drafter.
    pub fn step(&mut self) -> Result<Round> {
        if self.finished() {
            return Ok(Round::default());
        }
        let began = Instant::now();
        self.seat();
        if let Some(blocks) = self.last_blocks() {
            return Ok(Round { blocks, spent: Spent { bookkeeping: began.elapsed(), ..Spent::default() } });
        }
        let Proposed { proposals, levels, heads } = self.propose()?;
        let drafting = began.elapsed() - heads;
        let (prompts, forward) = (self.unread_prompts(), Instant::now());
        let read = self.forward(&proposals);
        let (backbone, tokens) = (forward.elapsed(), read.1.iter().sum::<usize>());
        let blocks = self.commit(&proposals, read);
        self.count(&proposals, &blocks, levels);
        self.let_heads_read();
        let bookkeeping = began.elapsed() - heads - drafting - backbone;
        let of_prompts = prompts as f64 / tokens as f64;
        let [of_backbone, of_rest] = [backbone, bookkeeping].map(|time| time.mul_f64(of_prompts));
        let spent = Spent {
            prefill: of_backbone + of_rest,
            backbone: backbone.saturating_sub(of_backbone),
            heads,
            drafting,
            bookkeeping: bookkeeping.saturating_sub(of_rest),
        };
        Ok(Round { blocks, spent })
    }

    /// Takes back everything after `decoded` tokens of a document's continuation and commits `tokens`, at least one, instead;
    /// its next step reads them. How a comparison goes on after a near-tie.
    ///
    /// # Panics
    /// For a document that had no block in the last step.
    pub fn replace(&mut self, document: usize, decoded: usize, tokens: &[u32]) {
        let row = self.rows.iter().position(|row| row.document == document).expect("a document of the last step");
        let kept = self.documents[document].rewrite(decoded, tokens);
        if let Some(cache) = &self.kept {
            self.rows[row].unread.truncate(kept.saturating_sub(cache.len(row)));
        }
        self.caches().for_each(|cache| cache.truncate(row, kept));
    }

    /// The caches of the documents' texts.
    fn caches(&mut self) -> impl Iterator<Item = &mut KvCache> {
        [&mut self.cache].into_iter().chain(&mut self.kept)
    }

    /// Gives the rows of finished documents to those that wait; what nobody takes is no row any more.
    fn seat(&mut self) {
        for row in (0..self.rows.len()).rev() {
            if !self.documents[self.rows[row].document].finished(&self.backbone.end_of_text) {
                continue;
            }
            if let Some(document) = self.waiting.pop_front() {
                self.rows[row] = Row::new(document, self.drafter, self.options.verification);
                self.caches().for_each(|cache| cache.truncate(row, 0));
            } else {
                self.rows.swap_remove(row);
                self.caches().for_each(|cache| cache.swap_remove(row));
            }
        }
    }

    /// What is committed in a row and not read yet.
    fn unread(&self, row: usize) -> &[u32] {
        &self.documents[self.rows[row].document].text[self.cache.len(row)..]
    }

    /// The number of tokens of prompts that are not read yet.
    fn unread_prompts(&self) -> usize {
        let unread =
            |(row, of_row): (usize, &Row)| self.documents[of_row.document].prompt().saturating_sub(self.cache.len(row));
        self.rows.iter().enumerate().map(unread).sum()
    }

    /// The block of a row if its only token is known, as the text ends with it.
    fn last_block(&self, number: usize) -> Option<Block> {
        let row = &self.rows[number];
        let document = &self.documents[row.document];
        row.last_block(document, &self.backbone.end_of_text).filter(|_| self.unread(number).is_empty())
    }

    /// The blocks of all documents of the batch if these are known and the last ones.
    fn last_blocks(&mut self) -> Option<Vec<(usize, Block)>> {
        let last = |number: usize| Some((self.rows[number].document, self.last_block(number)?));
        let blocks: Vec<(usize, Block)> = (0..self.rows.len()).map(last).collect::<Option<_>>()?;
        blocks.iter().for_each(|(document, block)| self.documents[*document].text.extend(&block.tokens));
        Some(blocks)
    }

    /// The drafts of the documents whose texts were read. Where drafts do not pay, or the text ends with the pinned token, that is
    /// the pinned token alone.
    fn propose(&mut self) -> Result<Proposed> {
        let began = Instant::now();
        let read = (0..self.rows.len()).filter(|&row| self.unread(row).is_empty());
        let (mut open, mut plain): (Vec<usize>, Vec<usize>) = read.partition(|&row| self.last_block(row).is_none());
        let budget = self.pace.as_ref().map(|pace| pace.budget(open.len().max(1)));
        if budget == Some(None) {
            plain.append(&mut open);
        }
        let mut looked: Vec<Option<BlockLattice>> = self.rows.iter().map(|_| None).collect();
        open.iter().zip(self.look(&open)?).for_each(|(&row, found)| looked[row] = Some(found));
        let heads = began.elapsed();
        let (mut proposals, levels) = self.draft(&looked, budget.flatten().as_ref())?;
        for number in plain {
            let row = &mut self.rows[number];
            proposals[number] = Some(row.plain(&self.documents[row.document]));
        }
        Ok(Proposed { proposals, levels: (!open.is_empty()).then_some(levels), heads })
    }

    /// Counts the blocks of a step in, for the size of the next ones.
    fn count(&mut self, proposals: &[Option<Proposal>], blocks: &[(usize, Block)], levels: Option<Vec<usize>>) {
        let Some(pace) = self.pace.as_mut().filter(|_| !blocks.is_empty()) else { return };
        let of_blocks = proposals.iter().flatten().zip(blocks);
        // What says nothing else is expected to be as long as it was.
        let expected = of_blocks.map(|(proposal, (_, block))| proposal.length().unwrap_or(block.tokens.len() as f64));
        let drafted = levels.map(|levels| Drafted {
            nodes: blocks.iter().map(|(_, block)| block.nodes).sum(),
            levels,
            expected: expected.sum(),
            accepted: blocks.iter().map(|(_, block)| block.tokens.len()).sum(),
        });
        pace.add(blocks.len(), drafted);
    }

    /// The lattices of some rows.
    fn look(&mut self, rows: &[usize]) -> Result<Vec<BlockLattice>> {
        let mut kept = self.kept.take();
        let looked = self.look_behind(rows, kept.as_mut());
        self.kept = kept;
        looked
    }

    /// The lattices of some rows, given what the heads keep of their texts.
    fn look_behind(&self, rows: &[usize], mut kept: Option<&mut KvCache>) -> Result<Vec<BlockLattice>> {
        let slots = |row: &Row| self.documents[row.document].left().min(self.heads.count() + 1);
        let nowhere = |&row: &usize| BlockLattice::nowhere(self.rows[row].next.0, slots(&self.rows[row]));
        if rows.is_empty() || !self.drafter.reads_heads() {
            return rows.iter().map(nowhere).collect();
        }
        let Self { heads, options, .. } = self;
        let model = &self.backbone.model;
        let states: Vec<&FeatureRows> = rows.iter().map(|&row| &self.rows[row].states).collect();
        let read = FeatureRows::concat(&states).to_device(model.device());
        let pinned: Vec<u32> = rows.iter().map(|&row| self.rows[row].next.0).collect();
        let places = rows.iter().map(|&row| (row, self.cache.len(row) - 1)).collect();
        let context = kept.as_deref_mut().map(|cache| Context::new(cache, places));
        let starts = BlockStarts { states: &read, pinned: &pinned, context };
        let wanted = Wanted { stats: options.stop.reads_stats(), states: self.drafter.reads_states() };
        match heads.candidates(model, starts, options.top_k, wanted) {
            Ok(mut found) => {
                options.dtype.round(&mut found.states);
                let lattice = |(at, &row): (usize, &usize)| {
                    BlockLattice::new(pinned[at], slots(&self.rows[row]), &found, at, options.stop)
                };
                rows.iter().enumerate().map(lattice).collect()
            }
            // Heads whose numbers are not finite cannot draft; the text is the backbone's in any case.
            Err(_) if rows.len() == 1 => rows.iter().map(nowhere).collect(),
            // Those of one document take nothing from the others.
            Err(_) => {
                let alone = rows.chunks(1).map(|row| self.look_behind(row, kept.as_deref_mut()));
                Ok(alone.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
            }
        }
    }

    /// Drafts of the rows that were looked at, and the rows of each level of what was grown.
    fn draft(
        &mut self,
        looked: &[Option<BlockLattice>],
        budget: Option<&BlockBudget>,
    ) -> Result<(Vec<Option<Proposal>>, Vec<usize>)> {
        let levels = if self.drafter.grows() { self.grow(looked, budget)? } else { Vec::new() };
        let Self { drafter, documents, .. } = self;
        let one = |(row, looked): (&mut Row, &Option<BlockLattice>)| {
            let drafts = |looked| row.draft(&documents[row.document], looked, *drafter, budget);
            looked.as_ref().map(drafts).transpose()
        };
        let proposals = self.rows.iter_mut().zip(looked).map(one).collect::<Result<_>>()?;
        Ok((proposals, levels))
    }

    /// Grows the drafts of the rows that were looked at, side by side, as far as the heads' numbers are finite. The text is the
    /// backbone's in any case. Returns the rows of each level.
    fn grow(&mut self, looked: &[Option<BlockLattice>], budget: Option<&BlockBudget>) -> Result<Vec<usize>> {
        let Self { heads, backbone, documents, rows, options, kept, .. } = self;
        let (mut states, mut pinned, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (row, looked)) in rows.iter_mut().zip(looked).enumerate() {
            let (document, Some(looked)) = (&documents[row.document], looked) else { continue };
            row.begin(document, looked, budget)?;
            states.push(&row.states);
            pinned.push(row.next.0);
            places.push((number, document.text.len() - 1));
        }
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let states = FeatureRows::concat(&states).to_device(backbone.model.device());
        let context = kept.as_mut().map(|cache| Context::new(cache, places));
        let starts = BlockStarts { states: &states, pinned: &pinned, context };
        let mut growth = heads.grow(&backbone.model, starts, options.top_k).where_finite();
        let looked_at = rows.iter_mut().zip(looked).filter(|(_, looked)| looked.is_some());
        let mut sessions: Vec<_> = looked_at.filter_map(|(row, _)| row.growing()).collect();
        let levels = grow_together(&mut sessions, &mut growth)?;
        drop(growth);
        let read = (0..self.rows.len()).map(|row| (row, self.cache.len(row)));
        read.for_each(|(row, tokens)| kept.iter_mut().for_each(|cache| cache.truncate(row, tokens)));
        Ok(levels)
    }

    /// One forward of everything drafted, and of everything that is still to be read. Gives the backbone's states, row after
    /// row and of each row all its tokens, the numbers of these, and what it predicts: after every drafted node, and after the
    /// last token that was read.
    fn forward(&mut self, proposals: &[Option<Proposal>]) -> (FeatureTensors, Vec<usize>, Predictions) {
        let model = &self.backbone.model;
        let (mut spans, mut nodes, mut tokens) = (Vec::new(), Vec::new(), 0);
        for (row, proposal) in proposals.iter().enumerate() {
            let text = &self.documents[self.rows[row].document].text;
            let span = match proposal {
                Some(proposal) => proposal.span(),
                None => Span::chain(&text[self.cache.len(row)..]),
            };
            let all = tokens..tokens + span.tokens.len();
            tokens = all.end;
            nodes.extend(if proposal.is_some() { all } else { tokens - 1..tokens });
            spans.push(span);
        }
        let states = model.features(&spans, Some(&mut self.cache), &self.features);
        let states = FeatureTensors::new(&self.features, states);
        let mut last = states.get(Feature::Last);
        if nodes.len() < tokens {
            last = last.select(0, indices(nodes, model.device()));
        }
        let predictions = Predictions::of(last, model, self.options.verification.rule);
        (states, spans.iter().map(|span| span.tokens.len()).collect(), predictions)
    }

    /// Keeps what the rule keeps of every row's draft, and remembers where each stands now.
    fn commit(
        &mut self,
        proposals: &[Option<Proposal>],
        (states, counts, predictions): (FeatureTensors, Vec<usize>, Predictions),
    ) -> Vec<(usize, Block)> {
        let model = &self.backbone.model;
        let (mut blocks, mut read) = (Vec::new(), Vec::with_capacity(counts.len()));
        let (mut first, mut node) = (0, 0);
        for (number, (proposal, tokens)) in proposals.iter().zip(counts).enumerate() {
            let row = &mut self.rows[number];
            if let Some(proposal) = proposal {
                let document = &mut self.documents[row.document];
                let (block, accepted) =
                    row.accept(proposal, &predictions, node, (document.left(), &self.backbone.end_of_text[..]));
                let text = &mut document.text;
                self.cache.keep(number, text.len(), &accepted);
                text.extend(&block.tokens);
                blocks.push((row.document, block));
                read.push(accepted.iter().map(|at| first + at).collect());
                node += tokens;
            } else {
                row.read(predictions.at(node));
                read.push((first..first + tokens).collect::<Vec<usize>>());
                node += 1;
            }
            first += tokens;
        }
        // The next block begins at the last token; only heads that attend read the others.
        if self.kept.is_none() {
            read.iter_mut().for_each(|read| drop(read.drain(..read.len() - 1)));
        }
        let all = indices(read.iter().flatten().copied(), model.device());
        let states = states.map(|state| state.select(0, all.clone())).to_rows(self.options.dtype);
        let counts: Vec<usize> = read.iter().map(Vec::len).collect();
        let mut end = 0;
        for (row, count) in self.rows.iter_mut().zip(counts) {
            let tokens = end..end + count;
            end = tokens.end;
            row.states = states.row(end - 1).to_rows();
            if self.kept.is_some() {
                row.unread.extend(&states, tokens);
            }
        }
        blocks
    }

    /// Lets heads that attend read what was committed, unless the next step drafts nothing: then it can wait.
    fn let_heads_read(&mut self) {
        let drafts = self.pace.as_ref().is_none_or(Pace::drafts);
        let Some(kept) = self.kept.as_mut().filter(|_| drafts) else { return };
        let unread: Vec<FeatureRows> = self.rows.iter_mut().map(|row| std::mem::take(&mut row.unread)).collect();
        let counts: Vec<usize> = unread.iter().map(FeatureRows::tokens).collect();
        let model = &self.backbone.model;
        let states = FeatureRows::concat(&unread.iter().collect::<Vec<_>>()).to_device(model.device());
        self.heads.read(model, kept, &counts, &states);
    }
}
