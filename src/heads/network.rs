//! The interface of a network of draft heads, for training and for drafting.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::backbone::{Feature, FeatureTensors, KvCache, Model};
use crate::error::Result;
use crate::nn::{Linear, Tokens, TransitionNetwork, indices};
use crate::storage_type::StorageType;

/// Where n blocks begin, and what the heads that draft them read there.
pub struct Starts<'a> {
    /// The frozen model below the heads.
    pub model: &'a Model,
    /// The backbone's states at the last token before each block, each `[n, d]`.
    pub states: FeatureTensors,
    /// The blocks' pinned tokens, which are the backbone's own next tokens.
    pub pinned: Tokens,
    /// The texts before the blocks, for heads that attend to them.
    pub context: Option<Context<'a>>,
}

/// The texts that heads attend to.
pub struct Context<'a> {
    /// What the heads keep of the texts ([`DraftHeads::read`]).
    pub cache: &'a mut KvCache,
    /// For each start, its text and the number of the last token before the block. Texts are in ascending order.
    pub places: Vec<(usize, usize)>,
    /// In training, the states that the cache was made of, text after text.
    pub texts: Option<&'a FeatureTensors>,
}

impl<'a> Context<'a> {
    /// Makes the context of blocks that nothing is learnt from.
    pub fn new(cache: &'a mut KvCache, places: Vec<(usize, usize)>) -> Self {
        Self { cache, places, texts: None }
    }

    /// Returns the context of some of the starts.
    pub(super) fn of(&mut self, starts: Range<usize>) -> Context<'_> {
        Context { cache: self.cache, places: self.places[starts].to_vec(), texts: self.texts }
    }
}

/// Heads that have begun to draft n blocks.
pub enum Begun<'a> {
    /// Heads that read the start alone: all candidates are known at once.
    Parallel(States<'a>),
    /// Heads that also read what was drafted before them.
    Sequential(Box<dyn Rows + 'a>),
}

/// Computes the state `[n, d]` of a head (0 is head 2) at n starts. Heads must be asked for in ascending order, but some may
/// be left out.
pub type States<'a> = Box<dyn FnMut(usize) -> Tensor<2> + 'a>;

/// Returns the n tokens that were drafted for a slot. Index 1 is the slot that head 2 drafts, and so on. In training, the text's
/// tokens take the place of drafted ones.
pub type DraftedTokens<'a> = dyn Fn(usize) -> Tokens + 'a;

/// The rows of sequential heads: one for each token that something is drafted behind. Rows are numbered in the order in which
/// they are run; the first n stand behind the pinned tokens.
pub trait Rows {
    /// Returns the states `[n, d]` of the first n rows: what head 2 predicts.
    fn root(&self) -> Tensor<2>;

    /// Runs one row behind each of the rows `parents`, which all have the same depth, and returns their states `[m, d]`: what
    /// head j + 1 predicts behind a token of head j, one of `tokens` for each. Of heads that attend, parents are in the order of
    /// their texts.
    fn expand(&mut self, parents: &[usize], tokens: Tokens) -> Tensor<2>;
}

impl<'a> Begun<'a> {
    /// Returns whether heads read what was drafted before them.
    pub fn is_sequential(&self) -> bool {
        matches!(self, Self::Sequential(_))
    }

    /// Drafts one chain a block: each head reads the tokens `drafted` before it.
    pub fn chains(self, drafted: &'a DraftedTokens) -> States<'a> {
        let mut rows = match self {
            Self::Parallel(states) => return states,
            Self::Sequential(rows) => rows,
        };
        let (mut newest, mut depth) = (rows.root(), 0);
        let n = newest.dims()[0];
        Box::new(move |head| {
            // A head that is left out must still be run for those behind it.
            while depth < head {
                let parents: Vec<usize> = (depth * n..(depth + 1) * n).collect();
                depth += 1;
                newest = rows.expand(&parents, drafted(depth));
            }
            newest.clone()
        })
    }
}

/// Heads in a training step: forward, and back.
pub trait Learning {
    /// Returns the state `[n, d]` of a head (0 is head 2), without autodiff. Heads are asked for in ascending order, but some
    /// may be left out. Behind them are the states of [`DraftHeads::neighbours`].
    fn state(&mut self, head: usize) -> Tensor<2>;

    /// Returns the gradient of the loss with respect to the heads' parameters, given the loss' gradients with respect to the
    /// states that were asked for: that of an objective, and what is known already.
    fn back(self: Box<Self>, gradients: Vec<(usize, Tensor<2>)>) -> (Tensor<1>, GradientsParams);
}

/// Heads that are trained by automatic differentiation alone.
pub(super) struct Differentiated<'a> {
    states: States<'a>,
    asked: Vec<(usize, Tensor<2>)>,
}

impl<'a> Differentiated<'a> {
    pub fn new(states: States<'a>) -> Self {
        Self { states, asked: Vec::new() }
    }
}

impl Learning for Differentiated<'_> {
    fn state(&mut self, head: usize) -> Tensor<2> {
        let state = (self.states)(head);
        self.asked.push((head, state.clone()));
        state.without_autodiff()
    }

    fn back(self: Box<Self>, gradients: Vec<(usize, Tensor<2>)>) -> (Tensor<1>, GradientsParams) {
        let of_head = |head| &self.asked.iter().find(|(asked, _)| *asked == head).expect("it was asked for").1;
        let products = gradients.into_iter().map(|(head, gradient)| (of_head(head).clone() * gradient).sum());
        (products.reduce(|a, b| a + b).expect("at least one head"), GradientsParams::new())
    }
}

/// Heads 2 to H above a frozen backbone.
pub trait DraftHeads: Send + Sync {
    /// Returns the number of heads, H - 1.
    fn count(&self) -> usize;

    /// Returns the backbone's states that the heads read.
    fn features(&self) -> Vec<Feature> {
        vec![Feature::Last]
    }

    /// Starts the heads. Whatever several heads read is computed only once.
    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a>;

    /// Starts the heads in a training step. `drafted` are the tokens of the text.
    fn learn<'a>(&'a self, starts: Starts<'a>, drafted: &'a DraftedTokens<'a>) -> Box<dyn Learning + 'a> {
        Box::new(Differentiated::new(self.begin(starts).chains(drafted)))
    }

    /// Returns what a head predicts besides the token of its own slot, if `heads.neighbour_loss` asks for it: the numbers of states
    /// for [`Learning::state`], from [`DraftHeads::count`] on, each with the head (0 is head 2) whose token it predicts. The number of
    /// heads stands for the slot behind the block.
    fn neighbours(&self, _head: usize) -> Vec<(usize, usize)> {
        Vec::new()
    }

    /// Returns every linear layer, except those of decoder layers.
    fn linears(&mut self) -> Vec<&mut Linear>;

    /// Fixes the heads' numbers. On the CPU matrices are kept in the type `weights`, and a row's result does not depend on
    /// the rows beside it.
    fn pack(&mut self, weights: StorageType) {
        self.linears().into_iter().for_each(|linear| linear.freeze(weights));
    }

    /// Returns an empty cache for what heads that attend to the text keep of `texts` texts, with room for `tokens` tokens
    /// each before it first grows. Returns none if they do not attend.
    fn cache(&self, _texts: usize, _tokens: usize) -> Option<KvCache> {
        None
    }

    /// Appends tokens to the texts of a cache: `counts` of each, whose states are given text after text. To be called for
    /// heads that attend.
    fn read(&self, _model: &Model, _cache: &mut KvCache, _counts: &[usize], _states: &FeatureTensors) {}

    /// Returns the matrix `[V, d]` that turns a head's state into logits, if the head has its own instead of the
    /// backbone's.
    fn unembedding(&self, _head: usize) -> Option<Tensor<2>> {
        None
    }

    /// Returns whether the unembedding of their own is one for all heads.
    fn shares_unembedding(&self) -> bool {
        false
    }

    /// Returns the multiplications needed to draft at one position, without those by an unembedding of the backbone, given the
    /// number of parameters: one for each, where none is used twice or only looked up.
    fn products(&self, parameters: usize) -> usize {
        parameters
    }

    /// Returns the matrix `[tokens drafted from, r]` that belongs to the last r numbers of a head's state, if it has more numbers
    /// than the backbone's unembedding takes.
    fn bias(&self) -> Option<Tensor<2>> {
        None
    }

    /// Returns the logits `[n, 1]` of the probabilities that the first choices in these states are right where those before them
    /// in their blocks were, if the heads know.
    fn confidence(&self, _states: Tensor<2>) -> Option<Tensor<2>> {
        None
    }

    /// Returns whether the heads know how likely their first choices are to be right.
    fn knows_confidence(&self) -> bool {
        false
    }

    /// Returns what learns with the heads to score neighbouring candidates, if anything does.
    fn selector(&self) -> Option<&TransitionNetwork> {
        None
    }

    /// Replaces the parameters that begin as copies of the backbone's.
    ///
    /// # Errors
    /// When the backbone has another shape than the heads were made for.
    fn warm_start(&mut self, _model: &Model) -> Result<()> {
        Ok(())
    }

    /// Returns the factors of the learning rates of parameters by the beginnings of their paths; those of the others are 1.
    fn rate_factors(&self) -> Vec<(String, f64)> {
        Vec::new()
    }
}

/// Numbers `[m, width]` of rows, level by level. Levels that are read together have the same width.
pub(super) struct RowStates {
    levels: Vec<Tensor<2>>,
    /// The number of the first row of each level, and the number of all rows.
    firsts: Vec<usize>,
}

impl RowStates {
    /// Begins without rows.
    pub fn new() -> Self {
        Self { levels: Vec::new(), firsts: vec![0] }
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.firsts[self.levels.len()]
    }

    /// Appends a level.
    pub fn push(&mut self, level: Tensor<2>) {
        self.firsts.push(self.len() + level.dims()[0]);
        self.levels.push(level);
    }

    /// Returns the states of the given rows, at least one.
    pub fn at(&self, rows: &[usize]) -> Tensor<2> {
        let level = |row: usize| self.firsts.partition_point(|&first| first <= row) - 1;
        let levels: BTreeSet<usize> = rows.iter().map(|&row| level(row)).collect();
        let first = level(rows[0]);
        if levels.len() == 1 && rows.iter().copied().eq(self.firsts[first]..self.firsts[first + 1]) {
            return self.levels[first].clone();
        }
        // Rows of the levels that are not read lie before the others.
        let mut before = HashMap::new();
        let mut read = 0;
        for &level in &levels {
            before.insert(level, self.firsts[level] - read);
            read += self.firsts[level + 1] - self.firsts[level];
        }
        let states = Tensor::cat(levels.iter().map(|&level| self.levels[level].clone()).collect(), 0);
        let device = states.device();
        states.select(0, indices(rows.iter().map(|&row| row - before[&level(row)]), &device))
    }
}
