//! The table compiled for queries: a back-off automaton in one hash table.
//!
//! Its nodes are the contexts, node 0 the empty one. An n-gram is an arc (node of its context, last word) to its
//! probability and to the context that follows it. A query tries the arc of its node and, while there is none, adds
//! the node's back-off weight and goes on from the longest proper suffix that is a context: at most one probe an
//! order, and one only where the n-gram was seen. Most (context, token) pairs of a lattice were never seen, so each
//! node has a 64-bit filter of the words that follow it, which saves most of the probes that would find nothing.
//!
//! A context is worth a state only if something follows it in the model or its back-off weight is not 1; from any
//! other, every query continues as from its suffix. All states are reduced so (KenLM's state minimisation, to the
//! right), which makes equal states meet in dynamic programming.

use std::f64::consts::LN_10;
use std::ops::AddAssign;

use super::slots::Slots;
use super::table::Table;
use super::words::{BOS, EOS, Ending, UNK, Vocabulary};
use crate::error::{Result, bail};

/// The empty context.
const EMPTY: u32 = 0;

/// What the model remembers of a context. Two contexts with equal states have equal continuations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State(u32);

#[derive(Clone, Copy, Default)]
struct Arc {
    log10_prob: f32,
    next: u32,
}

struct Node {
    log10_backoff: f32,
    /// The longest proper suffix that is worth a state.
    suffix: u32,
    /// The [`filter_bit`]s of the words that follow.
    filter: u64,
}

/// An n-gram model in memory: about 24 bytes an n-gram, and 16 more for each below the highest order.
pub struct Model {
    vocabulary: Vocabulary,
    order: usize,
    arcs: Slots<Arc>,
    nodes: Vec<Node>,
    begin: State,
}

/// The log-probability of texts with what perplexity needs; add the scores of documents up. A token is *known* if it is
/// a unigram of the model; any other is out of vocabulary (OOV) and read as `<unk>`. `</s>` is a token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Log10 probability of all tokens.
    pub log10: f64,
    pub tokens: u64,
    /// Log10 probability of the known tokens, each in its full context.
    pub known_log10: f64,
    pub known_tokens: u64,
}

impl Score {
    /// Perplexity with OOV tokens; NaN when there are no tokens.
    pub fn perplexity(&self) -> f64 {
        10f64.powf(-self.log10 / self.tokens as f64)
    }

    /// Perplexity without OOV tokens; NaN when all are.
    pub fn perplexity_without_oov(&self) -> f64 {
        10f64.powf(-self.known_log10 / self.known_tokens as f64)
    }

    fn add(&mut self, log10: f64, known: bool) {
        self.log10 += log10;
        self.tokens += 1;
        if known {
            self.known_log10 += log10;
            self.known_tokens += 1;
        }
    }
}

impl AddAssign for Score {
    fn add_assign(&mut self, other: Self) {
        self.log10 += other.log10;
        self.tokens += other.tokens;
        self.known_log10 += other.known_log10;
        self.known_tokens += other.known_tokens;
    }
}

impl Model {
    /// Compiles `table`. Fails only on more n-grams below the highest order than 32 bits can number.
    pub fn new(table: &Table) -> Result<Self> {
        let order = table.order();
        let contexts: usize = table.sizes()[..order - 1].iter().sum();
        if contexts >= u32::MAX as usize - 1 {
            bail!(
                "the n-gram model has {contexts} contexts, more than {}. Use a lower order or less text.",
                u32::MAX - 2
            );
        }
        let mut arcs = Slots::<Arc>::with_capacity(table.sizes().iter().sum());
        let mut nodes = vec![Node { log10_backoff: 0.0, suffix: EMPTY, filter: 0 }];
        let mut worth = vec![true];

        // First with every listed n-gram below the highest order as a node of its own ...
        let mut base = 0;
        for (index, grams) in table.grams.iter().enumerate() {
            let next_base = nodes.len() as u32;
            let highest = index + 1 == order;
            for (i, (&parent, &word)) in grams.parent.iter().zip(&grams.word).enumerate() {
                let context = base + parent;
                worth[context as usize] = true;
                nodes[context as usize].filter |= filter_bit(word);
                let suffix = longest_suffix(&arcs, &nodes, context, word);
                let own = if highest { suffix } else { next_base + i as u32 };
                arcs.insert(context, word, Arc { log10_prob: grams.log10_prob[i], next: own });
                if !highest {
                    nodes.push(Node { log10_backoff: grams.log10_backoff[i], suffix, filter: 0 });
                    worth.push(grams.log10_backoff[i] != 0.0);
                }
            }
            base = next_base;
        }
        // ... then without those that are not worth a state. A suffix has a smaller number than what it is a suffix of.
        let mut reduced: Vec<u32> = Vec::with_capacity(nodes.len());
        for (node, own) in nodes.iter_mut().zip(0..) {
            if own != EMPTY {
                node.suffix = reduced[node.suffix as usize];
            }
            reduced.push(if worth[own as usize] { own } else { node.suffix });
        }
        for arc in arcs.values_mut() {
            arc.next = reduced[arc.next as usize];
        }
        let begin = State(arcs.get(EMPTY, BOS).map_or(EMPTY, |arc| arc.next));
        Ok(Self { vocabulary: table.vocabulary.clone(), order, arcs, nodes, begin })
    }

    /// The highest order.
    pub fn order(&self) -> usize {
        self.order
    }

    /// The state after `<s>`.
    pub fn begin(&self) -> State {
        self.begin
    }

    /// The state of no context.
    pub fn empty(&self) -> State {
        State(EMPTY)
    }

    /// The natural log-probability of `token` after `state`, and the state after both. After an end-of-text id or a
    /// beginning-of-text id that is [`Model::begin`].
    #[inline]
    pub fn extend(&self, state: State, token: u32) -> (f64, State) {
        let (log10, next, _) = self.step(state, token);
        (log10 * LN_10, next)
    }

    /// The natural log-probability of `</s>` after `state`.
    #[inline]
    pub fn end(&self, state: State) -> f64 {
        self.follow(state, EOS).0 * LN_10
    }

    /// The state after a committed context, of which the last n - 1 tokens matter. `starts_document` tells whether
    /// `context[0]` is the first token of its document, so that `<s>` stands before it.
    pub fn state_of(&self, context: &[u32], starts_document: bool) -> State {
        let mut tokens = context;
        let mut state = self.empty();
        if starts_document {
            tokens = self.vocabulary.strip_bos(tokens);
            state = self.begin;
        }
        let reach = self.order - 1;
        if tokens.len() >= reach {
            tokens = &tokens[tokens.len() - reach..];
            state = self.empty();
        }
        tokens.iter().fold(state, |state, &token| self.step(state, token).1)
    }

    /// The log10 probability of a whole document, `</s>` included.
    pub fn score_document(&self, tokens: &[u32]) -> f64 {
        self.score(tokens, Ending::Complete).log10
    }

    /// The score of one document.
    pub fn score(&self, tokens: &[u32], ending: Ending) -> Score {
        let mut score = Score::default();
        let mut state = self.begin;
        let tokens = self.vocabulary.strip_bos(tokens);
        for &token in tokens {
            let (log10, next, known) = self.step(state, token);
            score.add(log10, known);
            state = next;
        }
        let ended = tokens.last().is_some_and(|&token| self.vocabulary.word(token) == EOS);
        if ending == Ending::Complete && !ended {
            score.add(self.follow(state, EOS).0, true);
        }
        score
    }

    /// The log10 probability of `token` after `state`, the state after both, and whether the token is known.
    #[inline]
    fn step(&self, state: State, token: u32) -> (f64, State, bool) {
        match self.vocabulary.word(token) {
            BOS => (self.follow(state, UNK).0, self.begin, false),
            EOS => (self.follow(state, EOS).0, self.begin, true),
            word => self.follow(state, word),
        }
    }

    /// [`Model::step`] for a word.
    #[inline]
    fn follow(&self, state: State, mut word: u32) -> (f64, State, bool) {
        let mut at = state.0;
        let mut log10 = 0.0;
        loop {
            let node = &self.nodes[at as usize];
            if node.filter & filter_bit(word) != 0
                && let Some(arc) = self.arcs.get(at, word)
            {
                return (log10 + f64::from(arc.log10_prob), State(arc.next), word != UNK);
            }
            if at == EMPTY {
                // No unigram, hence in no n-gram either. A table lists `<unk>`, so this happens once.
                (word, at, log10) = (UNK, state.0, 0.0);
            } else {
                log10 += f64::from(node.log10_backoff);
                at = node.suffix;
            }
        }
    }
}

/// One of 64 bits by which most words that do not follow a context are told without a probe.
#[inline]
fn filter_bit(word: u32) -> u64 {
    1 << (word.wrapping_mul(0x9E37_79B1) >> 26)
}

/// The node of the longest proper suffix of (`context`, `word`) that is listed; the empty one for a unigram. The
/// suffixes of a context chain down to the empty one, and those one word longer are already in `arcs`, with their own
/// nodes.
fn longest_suffix(arcs: &Slots<Arc>, nodes: &[Node], context: u32, word: u32) -> u32 {
    let mut at = context;
    while at != EMPTY {
        at = nodes[at as usize].suffix;
        if let Some(arc) = arcs.get(at, word) {
            return arc.next;
        }
    }
    EMPTY
}

#[cfg(test)]
mod tests {
    use super::super::{Counter, DEFAULT_FALLBACK, estimate};
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Ids 0..12, of which 0 is `</s>` and 1 `<s>`.
    fn vocabulary(size: Option<usize>) -> Vocabulary {
        Vocabulary { eos: vec![0], bos: Some(1), size }
    }

    fn table(order: usize, size: Option<usize>, documents: &[Vec<u32>]) -> Table {
        let mut counter = Counter::new(order, vocabulary(size)).unwrap();
        counter.add(&[2], Ending::Complete).unwrap();
        for (i, tokens) in documents.iter().enumerate() {
            let ending = if i % 3 == 0 { Ending::Cut } else { Ending::Complete };
            counter.add(tokens, ending).unwrap();
        }
        estimate(&counter.finish().unwrap(), Some(DEFAULT_FALLBACK)).unwrap().table
    }

    fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(0u32..10, 0..15), 0..12)
    }

    /// The ARPA rule on whole contexts, by a plain map.
    fn by_definition(grams: &HashMap<Vec<u32>, (f32, f32)>, context: &[u32], word: u32) -> f64 {
        let gram: Vec<u32> = context.iter().copied().chain([word]).collect();
        match (grams.get(&gram), context) {
            (Some(&(prob, _)), _) => f64::from(prob),
            (None, []) => by_definition(grams, &[], UNK),
            (None, [_, rest @ ..]) => {
                let backoff = grams.get(context).map_or(0.0, |&(_, backoff)| f64::from(backoff));
                backoff + by_definition(grams, rest, word)
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn probabilities_sum_to_one(
            order in 1usize..=4, padded in any::<bool>(), documents in documents(),
            context in prop::collection::vec(0u32..14, 0..6), starts in any::<bool>(),
        ) {
            let table = table(order, padded.then_some(14), &documents);
            let model = Model::new(&table).unwrap();
            let state = model.state_of(&context, starts);
            let mut sum = model.end(state).exp();
            for id in 2..14 {
                let (ln, _) = model.extend(state, id);
                if padded || table.grams[0].word.contains(&(id + 3)) {
                    sum += ln.exp();
                }
            }
            if !padded {
                sum += model.extend(state, 9999).0.exp();
            }
            prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }

        #[test]
        fn reduced_states_do_not_alter_scores(
            order in 1usize..=5, documents in documents(), text in prop::collection::vec(2u32..14, 0..20),
        ) {
            let table = table(order, None, &documents);
            let model = Model::new(&table).unwrap();
            let mut grams = HashMap::new();
            for n in 1..=order {
                for i in 0..table.sizes()[n - 1] {
                    let backoff = table.grams[n - 1].log10_backoff.get(i).copied().unwrap_or(0.0);
                    grams.insert(table.words(n, i), (table.grams[n - 1].log10_prob[i], backoff));
                }
            }
            let mut words = vec![BOS];
            let mut state = model.begin();
            let mut total = 0.0;
            for (at, &token) in text.iter().enumerate() {
                let known = grams.contains_key(&vec![token + 3]);
                let word = if known { token + 3 } else { UNK };
                let context = &words[(words.len() + 1).saturating_sub(order)..];
                let (ln, next) = model.extend(state, token);
                let expected = by_definition(&grams, context, word) * LN_10;
                prop_assert!((ln - expected).abs() < 1e-9, "{ln} {expected}");
                words.push(word);
                state = next;
                total += ln;
                prop_assert_eq!(state, model.state_of(&text[..=at], true));
            }
            total += model.end(state);
            prop_assert!((model.score_document(&text) * LN_10 - total).abs() < 1e-9);
        }
    }

    #[test]
    fn states_of_contexts_that_nothing_follows_are_equal() {
        let model = Model::new(&table(3, None, &[vec![], vec![2, 3, 4], vec![5, 3, 4], vec![2, 6]])).unwrap();
        assert_eq!(model.state_of(&[9, 8], false), model.empty());
        assert_eq!(model.state_of(&[8, 3], false), model.state_of(&[3], false));
        assert_ne!(model.state_of(&[2, 3], false), model.state_of(&[3], false));
        assert_eq!(model.state_of(&[], true), model.begin());
        assert_eq!(model.state_of(&[1], true), model.begin());
        assert_eq!(model.state_of(&[2, 0], false), model.begin(), "after </s> a document begins");
    }

    #[test]
    fn special_ids_and_perplexity() {
        let model = Model::new(&table(2, None, &[vec![], vec![2, 3, 4], vec![2, 3, 3]])).unwrap();
        assert_eq!(model.score(&[1, 2, 3, 0], Ending::Cut), model.score(&[2, 3], Ending::Complete));
        let cut = model.score(&[2, 3], Ending::Cut);
        assert_eq!(cut.tokens, 2);
        assert_eq!(model.extend(model.begin(), 1), (model.extend(model.begin(), 9).0, model.begin()));

        let mut score = model.score(&[2, 9, 3], Ending::Complete);
        assert_eq!((score.tokens, score.known_tokens), (4, 3));
        assert!(score.perplexity() > score.perplexity_without_oov());
        assert!((score.perplexity() - 10f64.powf(-model.score_document(&[2, 9, 3]) / 4.0)).abs() < 1e-9);
        score += cut;
        assert_eq!((score.tokens, score.known_tokens), (6, 5));
    }

    #[test]
    fn every_unseen_id_has_its_own_share_of_a_padded_vocabulary() {
        let documents = [vec![], vec![2, 3, 4], vec![2, 3, 3]];
        let padded = Model::new(&table(2, Some(1000), &documents)).unwrap();
        let plain = Model::new(&table(2, None, &documents)).unwrap();
        let share = |model: &Model| model.extend(model.empty(), 999).0;
        // 998 ids and </s> in place of the types 2, 3, 4, </s> and <unk>.
        assert!((share(&plain) - share(&padded) - (999f64 / 5.0).ln()).abs() < 1e-5);
    }
}
