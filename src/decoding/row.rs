//! One document of a batch: what is drafted for it, and what of that is kept.

use super::Block;
use super::verification::{Outcome, Prediction, Predictions, Verification, Verifier};
use crate::backbone::{Feature, FeatureRows, Span};
use crate::drafting::{Decision, Drafter, Drafts, GrowingSession, Session, StopRule, TightestMargin, early_stop_len};
use crate::error::Result;
use crate::heads::{Candidates, SlotStats};
use crate::lattice::{BlockBudget, DraftTree, Lattice};
use crate::rescorer::BlockContext;

/// A text and how far it may go.
pub(super) struct Document {
    /// Prompt and what was decoded.
    pub text: Vec<u32>,
    prompt: usize,
    limit: usize,
}

impl Document {
    pub fn new(prompt: &[u32], limit: usize) -> Self {
        Self { text: prompt.to_vec(), prompt: prompt.len(), limit }
    }

    /// The number of tokens of the prompt.
    pub fn prompt(&self) -> usize {
        self.prompt
    }

    pub fn decoded(&self) -> &[u32] {
        &self.text[self.prompt..]
    }

    /// The most tokens that the text can have.
    pub fn longest(&self) -> usize {
        self.prompt + self.limit
    }

    /// The most tokens that can follow.
    pub fn left(&self) -> usize {
        self.longest() - self.text.len()
    }

    /// Whether one of the ids `ends` or the limit was reached.
    pub fn finished(&self, ends: &[u32]) -> bool {
        self.left() == 0 || self.decoded().last().is_some_and(|token| ends.contains(token))
    }

    /// Puts `tokens` in the place of everything after `decoded` tokens of the continuation; gives the number of tokens that
    /// stayed.
    pub fn rewrite(&mut self, decoded: usize, tokens: &[u32]) -> usize {
        let kept = self.prompt + decoded;
        self.text.truncate(kept);
        self.text.extend(tokens);
        kept
    }
}

/// The lattice of a block.
pub(super) struct BlockLattice {
    lattice: Lattice,
    /// The most tokens that the block may have.
    slots: usize,
    /// The smallest lead of a k-th candidate over the first one left out.
    margin: f32,
    /// How close the block came to another end.
    stop_margin: f64,
    /// The heads' states, if the drafter reads them.
    states: Vec<f32>,
    /// What the heads know of each slot, if the stop rule reads it.
    stats: Vec<SlotStats>,
}

impl BlockLattice {
    /// Behind `first`, the block's pinned token, the candidates at position `at`.
    pub fn new(first: u32, slots: usize, found: &Candidates, at: usize, stop: StopRule) -> Result<Self> {
        let (k, of_heads) = (found.k, found.at(at));
        let lattice = Lattice::pinned(first, k, of_heads.ids, of_heads.scores)?.prefix(slots, k)?;
        let (worth, stop_margin) = early_stop_len(stop, &lattice, found.stats_at(at));
        let margin = of_heads.margin(worth - 1, k);
        Ok(Self {
            lattice: lattice.prefix(worth, k)?,
            slots,
            margin,
            stop_margin,
            states: found.states_at(at).to_vec(),
            stats: found.stats_at(at).to_vec(),
        })
    }

    /// The pinned token alone.
    pub fn nowhere(first: u32, slots: usize) -> Result<Self> {
        let lattice = Lattice::pinned(first, 1, &[], &[])?;
        Ok(Self {
            lattice,
            slots,
            margin: f32::INFINITY,
            stop_margin: f64::INFINITY,
            states: Vec::new(),
            stats: Vec::new(),
        })
    }

    fn context<'a>(
        &'a self,
        document: &Document,
        hidden: &'a [f32],
        budget: Option<&'a BlockBudget>,
    ) -> BlockContext<'a> {
        let Self { lattice, slots, states, stats, .. } = self;
        BlockContext { start: document.text.len(), slots: *slots, lattice, hidden, states, stats, budget }
    }
}

/// The drafts of a block as a tree.
pub(super) struct Proposal {
    drafts: Drafts,
    tree: DraftTree,
    /// The column that each node follows.
    after: Vec<Option<usize>>,
    /// The tightest decision in drafting.
    tightest: TightestMargin,
}

impl Proposal {
    /// The drafts of a block behind `start` tokens.
    fn new(drafts: Drafts, start: usize, tightest: TightestMargin) -> Self {
        let tree = DraftTree::from_paths(&drafts.paths);
        // A root follows the last committed token.
        let column = |parent: &Option<usize>| Some(parent.map_or(start - 1, |parent| start + parent));
        let after = tree.parents().iter().map(column).collect();
        Self { drafts, tree, after, tightest }
    }

    /// How many of its tokens are expected to be accepted, if the drafter says so.
    pub fn length(&self) -> Option<f64> {
        self.drafts.length
    }

    pub fn span(&self) -> Span<'_> {
        Span { tokens: self.tree.tokens(), after: Some(&self.after) }
    }
}

/// What decodes one document.
pub(super) struct Row<'a> {
    /// Its number.
    pub document: usize,
    session: Box<dyn Session + 'a>,
    verifier: Verifier,
    /// After the last token that was read: the backbone's states, rounded as the heads read them,
    pub states: FeatureRows,
    /// and the token that follows, with the lead of the backbone's first choice there.
    pub next: (u32, f32),
    /// The states of all tokens that heads which attend to the text have not read.
    pub unread: FeatureRows,
}

impl<'a> Row<'a> {
    /// Begins a document, with dice of its own.
    pub fn new(document: usize, drafter: &'a dyn Drafter, verification: Verification) -> Self {
        let (session, verifier) = (drafter.session(), Verifier::new(verification));
        let (states, unread) = (FeatureRows::default(), FeatureRows::default());
        Self { document, session, verifier, states, next: (0, f32::INFINITY), unread }
    }

    /// Begins the next block of `document`, whose text was read, if its drafts grow.
    pub fn begin(&mut self, document: &Document, looked: &BlockLattice, budget: Option<&BlockBudget>) -> Result<()> {
        let context = looked.context(document, self.states.get(Feature::Last), budget);
        self.session.growing().map_or(Ok(()), |growing| growing.begin(&document.text, &context))
    }

    /// What grows, after it has begun.
    pub fn growing(&mut self) -> Option<&mut dyn GrowingSession> {
        self.session.growing()
    }

    /// Drafts the next block of `document`. Where drafts grow, they have grown.
    pub fn draft(
        &mut self,
        document: &Document,
        looked: &BlockLattice,
        drafter: &dyn Drafter,
        budget: Option<&BlockBudget>,
    ) -> Result<Proposal> {
        let start = document.text.len();
        let drafts = match self.session.growing() {
            Some(growing) => growing.finish(),
            None => {
                let context = looked.context(document, self.states.get(Feature::Last), budget);
                self.session.drafts(&document.text, &[context])?.remove(0)
            }
        };
        let tightest = TightestMargin::new(Decision::Draft, drafts.margin);
        let mut tightest = tightest.or(TightestMargin::new(Decision::Stop, looked.stop_margin));
        if drafter.reads_whole_lattice() {
            tightest = tightest.or(TightestMargin::new(Decision::Candidates, f64::from(looked.margin)));
        }
        Ok(Proposal::new(drafts, start, tightest))
    }

    /// Proposes the pinned token alone for the next block of `document`, as plain decoding does.
    pub fn plain(&mut self, document: &Document) -> Proposal {
        self.session.skip();
        let drafts = Drafts::chosen(vec![vec![self.next.0]], f64::INFINITY);
        let tightest = TightestMargin::new(Decision::Draft, drafts.margin);
        Proposal::new(drafts, document.text.len(), tightest)
    }

    /// The block of `document` whose only token is known, as the text ends with it.
    pub fn last_block(&self, document: &Document, ends: &[u32]) -> Option<Block> {
        let (token, lead) = self.next;
        let last = document.left() == 1 || ends.contains(&token);
        let tightest = TightestMargin::new(Decision::Verifier, f64::from(lead));
        last.then(|| Block { tokens: vec![token], nodes: 1, tightest })
    }

    /// Takes the token that follows where the backbone predicts this.
    pub fn read(&mut self, prediction: Prediction) {
        let (outcome, lead) = self.verifier.at(prediction, &[], &[]);
        let Outcome::Emit(next) = outcome else { unreachable!("nothing was drafted that could be accepted") };
        self.next = (next, lead);
    }

    /// Follows the drafts from the pinned root as far as the rule keeps them, to one of the ids `ends` at most, or to the last of
    /// the `left` tokens that may follow. The root's prediction is number `root`, the other nodes' follow it. Gives the block, and
    /// the nodes that make it, root first.
    pub fn accept(
        &mut self,
        proposal: &Proposal,
        predictions: &Predictions,
        root: usize,
        (left, ends): (usize, &[u32]),
    ) -> (Block, Vec<usize>) {
        let Proposal { tree, drafts, tightest, .. } = proposal;
        // The lead after the last accepted node decides where acceptance ended, so it belongs to this block as well, unless the
        // text ends there.
        let (mut node, mut lead, mut accepted) = (0, self.next.1, vec![0]);
        let mut path = vec![tree.tokens()[0]];
        while path.len() < left && !ends.contains(&tree.tokens()[node]) {
            // What was drawn twice is looked at twice; what was chosen is one choice.
            let (tokens, q) = match drafts.drawn.get(&path) {
                Some(drawn) => (drawn.tokens.clone(), &drawn.q[..]),
                None => (tree.children(node).map(|child| tree.tokens()[child]).collect(), &[][..]),
            };
            let (outcome, here) = self.verifier.at(predictions.at(root + node), &tokens, q);
            lead = lead.min(here);
            match outcome {
                Outcome::Emit(token) => {
                    self.next = (token, here);
                    break;
                }
                Outcome::Accept(number) => {
                    let token = tokens[number];
                    node = tree.child(node, token).expect("every drafted token is a node");
                    accepted.push(node);
                    path.push(token);
                }
            }
        }
        let tightest = TightestMargin::new(Decision::Verifier, f64::from(lead)).or(*tightest);
        (Block { tokens: path, nodes: tree.len(), tightest }, accepted)
    }
}
