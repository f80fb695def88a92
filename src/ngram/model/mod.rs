//! The model compiled for queries: a back-off automaton in flat columns, in a file that is mapped as it is.
//!
//! Its nodes are the contexts; node 0 is the empty one. An n-gram is an arc from (node of its context, last word) to
//! its probability and to the context that follows it. A query looks for the word among the arcs of its node. While the
//! word is not there, it adds the node's back-off weight and continues from the longest proper suffix that is a
//! context. The arcs of a node are adjacent and sorted by word; long contexts have few, so that most misses cost one
//! cache line.
//!
//! A context is worth a state only if something follows it in the model or its back-off weight is not 1. From any other
//! context, every query continues as from its suffix. All states are reduced in this way (KenLM's state minimisation,
//! to the right), so that more paths meet in equal states in dynamic programming.
//!
//! [`Rows`] asks for the same tokens after many states. `layout.rs` is the file, `compile.rs` makes it from a listing,
//! `list.rs` makes a listing from it, `quantise.rs` makes it smaller, and `prune.rs` leaves n-grams out.

mod compile;
mod layout;
mod list;
mod prune;
mod quantise;
mod rows;
mod score;
#[cfg(test)]
mod tests;

use std::f64::consts::LN_10;
use std::path::Path;

use memmap2::Mmap;

pub use quantise::Quantisation;
pub use rows::Rows;
pub use score::Score;

use super::listing::Listing;
use super::words::{BOS, EOS, Ending, UNK, Vocabulary};
use crate::error::{Result, bail};
use layout::{Columns, Header};

/// The empty context.
const ROOT: u32 = 0;

/// What the model remembers of a context; the default is that of no context. Two contexts with equal states have equal
/// continuations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct State(u32);

impl From<State> for u32 {
    /// Returns the state's number, for code that keeps states of several kinds.
    fn from(state: State) -> Self {
        state.0
    }
}

impl From<u32> for State {
    /// Returns the state with a number that came from a state of the same model.
    fn from(number: u32) -> Self {
        Self(number)
    }
}

/// An n-gram model, mapped from its file or in memory. It takes 10 bytes for each n-gram of the highest order and 18
/// for each of the others, and 2 more if any id is above 65,532.
pub struct Model {
    header: Header,
    columns: Columns,
    begin: State,
}

impl Model {
    /// Compiles `listing` in memory.
    pub fn compile(listing: &Listing) -> Result<Self> {
        Self::of_map(compile::in_memory(listing)?)
    }

    /// Compiles `listing` to a file, whole or not at all, without holding it in memory.
    pub fn write(listing: &Listing, path: &Path) -> Result<()> {
        compile::to_file(listing, path)
    }

    /// Maps the file at `path`, which takes no time whatever its size.
    ///
    /// # Errors
    /// When it is not a whole model file of this version. The columns themselves are not checked; [`Model::verify`]
    /// does that.
    pub fn open(path: &Path) -> Result<Self> {
        layout::map(path).and_then(Self::of_map).map_err(|e| e.within(path.display()))
    }

    fn of_map(map: Mmap) -> Result<Self> {
        let (header, columns) = layout::read(map)?;
        let begin = State(columns.begin());
        Ok(Self { header, columns, begin })
    }

    /// Compares the columns with their checksums, and checks that every query comes to an end, whoever made the file.
    ///
    /// # Errors
    /// When a column is damaged, which the error names, or the columns lead to what is not there.
    pub fn verify(&self) -> Result<()> {
        layout::verify(&self.header, &self.columns)
    }

    /// Fails if the model's vocabulary is not `expected`.
    ///
    /// # Errors
    /// When the model was made with another tokenizer, or other special ids.
    pub fn require(&self, expected: &Vocabulary) -> Result<()> {
        if self.header.vocabulary != *expected {
            bail!(
                "the n-gram model was made with another tokenizer, or with other end-of-text ids ({:?} here, {:?} in the \
                 model). Estimate it again from text of this tokenizer.",
                expected.eos,
                self.header.vocabulary.eos
            );
        }
        Ok(())
    }

    /// Returns the highest order.
    pub fn order(&self) -> usize {
        self.header.sizes.len()
    }

    /// Returns the number of n-grams of every order, unigrams first.
    pub fn sizes(&self) -> &[u64] {
        &self.header.sizes
    }

    /// Returns the vocabulary of the model.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.header.vocabulary
    }

    /// Returns whether probabilities and weights are codes of one byte.
    pub fn quantised(&self) -> bool {
        self.header.quantised
    }

    /// Returns the size of the file in bytes.
    pub fn bytes(&self) -> usize {
        self.columns.bytes().len()
    }

    /// Returns the state after `<s>`.
    pub fn begin(&self) -> State {
        self.begin
    }

    /// Returns the state of no context.
    pub fn empty(&self) -> State {
        State(ROOT)
    }

    /// Returns the natural log-probability of `token` after `state`, and the state after both. After an end-of-text or
    /// a beginning-of-text id, that state is [`Model::begin`].
    #[inline]
    pub fn extend(&self, state: State, token: u32) -> (f64, State) {
        let (log10, next, _) = self.step(state, token);
        (log10 * LN_10, next)
    }

    /// Returns the natural log-probability of `</s>` after `state`.
    #[inline]
    pub fn end(&self, state: State) -> f64 {
        self.follow(state, EOS).0 * LN_10
    }

    /// Returns the state after a committed context, of which the last n - 1 tokens matter. `starts_document` tells
    /// whether `context[0]` is the first token of its document, so that `<s>` stands before it.
    pub fn state_of(&self, context: &[u32], starts_document: bool) -> State {
        let mut tokens = context;
        let mut state = self.empty();
        if starts_document {
            tokens = self.header.vocabulary.strip_bos(tokens);
            state = self.begin;
        }
        let reach = self.order() - 1;
        if tokens.len() >= reach {
            tokens = &tokens[tokens.len() - reach..];
            state = self.empty();
        }
        tokens.iter().fold(state, |state, &token| self.step(state, token).1)
    }

    /// Returns the log10 probability of a whole document, `</s>` included.
    pub fn score_document(&self, tokens: &[u32]) -> f64 {
        self.score(tokens, Ending::Complete).log10
    }

    /// Returns the score of one document.
    pub fn score(&self, tokens: &[u32], ending: Ending) -> Score {
        let mut score = Score::default();
        let mut state = self.begin;
        let vocabulary = &self.header.vocabulary;
        let tokens = vocabulary.strip_bos(tokens);
        for &token in tokens {
            let (log10, next, known) = self.step(state, token);
            score.add(log10, known);
            state = next;
        }
        let ended = tokens.last().is_some_and(|&token| vocabulary.word(token) == EOS);
        if ending == Ending::Complete && !ended {
            score.add(self.follow(state, EOS).0, true);
        }
        score
    }

    /// Returns the log10 probability of `token` after `state`, the state after both, and whether the token is known.
    #[inline]
    fn step(&self, state: State, token: u32) -> (f64, State, bool) {
        match self.header.vocabulary.word(token) {
            BOS => (self.follow(state, UNK).0, self.begin, false),
            EOS => (self.follow(state, EOS).0, self.begin, true),
            word => self.follow(state, word),
        }
    }

    /// Does the same as [`Model::step`] for a word.
    #[inline]
    fn follow(&self, state: State, mut word: u32) -> (f64, State, bool) {
        let mut at = state.0;
        let mut log10 = 0.0;
        loop {
            if let Some(arc) = self.find(at, word) {
                let (prob, next) = self.follow_arc(arc);
                return (log10 + prob, next, word != UNK);
            }
            if at == ROOT {
                // The word is not a unigram, so it is in no n-gram. Every model has `<unk>`, so this happens only once.
                (word, at, log10) = (UNK, state.0, 0.0);
            } else {
                log10 += f64::from(self.columns.backoffs().get(at as usize));
                at = self.columns.suffix(at);
            }
        }
    }

    /// Returns the arc of `node` by `word`.
    #[inline]
    fn find(&self, node: u32, word: u32) -> Option<u32> {
        if node == ROOT
            && let Some(&arc) = self.columns.roots().get(word as usize)
        {
            return (arc != ROOT).then_some(arc);
        }
        self.columns.words().find(self.columns.arcs(node), word)
    }

    /// Returns the log10 probability on an arc.
    #[inline]
    fn log10_prob(&self, arc: u32) -> f64 {
        -f64::from(self.columns.probs().get(arc as usize).abs())
    }

    /// Returns the log10 probability on an arc, and the state after it.
    #[inline]
    fn follow_arc(&self, arc: u32) -> (f64, State) {
        let columns = &self.columns;
        let stored = columns.probs().get(arc as usize);
        let next = match arc.checked_sub(columns.nodes()) {
            Some(leaf) => columns.leaves()[leaf as usize],
            // The n-gram is not worth a state of its own.
            None if stored.is_sign_positive() => columns.suffix(arc),
            None => arc,
        };
        (-f64::from(stored.abs()), State(next))
    }
}
