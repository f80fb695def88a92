//! `kind = "sum"`: a weighted sum of other rescorers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BlockScores, RescorerConfig};
use crate::error::{Result, bail};
use crate::hash::FastMap;
use crate::lattice::SlotScorer;

/// `kind = "sum"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SumConfig {
    /// The names of the rescorers that are summed. Their shares are chosen on dev.
    #[schemars(length(min = 2), extend("uniqueItems" = true))]
    pub of: Vec<String>,
}

impl SumConfig {
    /// Checks that all terms are among the `rescorers` of the configuration and that none is a sum itself. Messages
    /// call the section `key`.
    pub(super) fn validate(&self, key: &str, rescorers: &BTreeMap<String, RescorerConfig>) -> Result<()> {
        for name in &self.of {
            match rescorers.get(name) {
                None => bail!("`{key}.of` names `{name}`, but there is no [rescorer.{name}]."),
                Some(RescorerConfig::Sum(_)) => {
                    bail!("`{key}.of` names `{name}`, which is a sum itself; name its terms instead.")
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// The weighted sum of the scores of several rescorers for a block. Without terms, every candidate scores 0.
///
/// A state of the sum combines the states of its terms in one number of 64 bits. With two terms, their states are the
/// two halves of that number. With a third term, each pair of the first two states gets a number when it is first met,
/// which becomes the first half, and so on for more terms.
pub struct Sum<'a> {
    /// The terms, each with its share.
    terms: Vec<(f64, Box<dyn BlockScores + 'a>)>,
    /// The numbers of combined states: first those of the first two terms, then those of the first three, and so on, up
    /// to all terms but the last.
    numbered: Vec<Numbered>,
    /// The state of each term. It is a buffer that is kept between calls.
    states: Vec<u32>,
    steps: Vec<(f64, u32)>,
}

/// Numbers for pairs of states, given in the order in which the pairs are met.
#[derive(Default)]
struct Numbered {
    pairs: Vec<u64>,
    number_of: FastMap<u64, u32>,
}

impl Numbered {
    fn number(&mut self, pair: u64) -> u32 {
        *self.number_of.entry(pair).or_insert_with(|| {
            self.pairs.push(pair);
            (self.pairs.len() - 1) as u32
        })
    }
}

/// Combines a term's state with the number of the states of all terms before it.
fn pair(before: u32, state: u32) -> u64 {
    u64::from(before) << 32 | u64::from(state)
}

impl<'a> Sum<'a> {
    /// Makes the sum of terms, each with its share.
    pub fn new(terms: Vec<(f64, Box<dyn BlockScores + 'a>)>) -> Self {
        let numbered = (2..terms.len()).map(|_| Numbered::default()).collect();
        Self { states: vec![0; terms.len()], terms, numbered, steps: Vec::new() }
    }

    /// Returns the only term if there is just one and its share is 1, so that the sum equals it.
    pub fn only(&mut self) -> Option<&mut (dyn BlockScores + 'a)> {
        match &mut self.terms[..] {
            [(share, scores)] if *share == 1.0 => Some(&mut **scores),
            _ => None,
        }
    }

    /// Returns the state after the committed text.
    pub fn start(&mut self) -> u64 {
        let mut all = 0;
        for index in 0..self.terms.len() {
            all = pair(self.before(index, all), self.terms[index].1.start());
        }
        all
    }

    /// Returns the number of the states of all terms before term `index`, which `all` combines.
    fn before(&mut self, index: usize, all: u64) -> u32 {
        match index {
            // The state of a single term is its own number.
            0 | 1 => all as u32,
            _ => self.numbered[index - 2].number(all),
        }
    }

    /// Splits a state of the sum into the states of its terms, and puts them into `states`.
    fn take_apart(&mut self, mut all: u64) {
        for index in (0..self.terms.len()).rev() {
            self.states[index] = all as u32;
            let before = (all >> 32) as u32;
            all = if index < 2 { u64::from(before) } else { self.numbered[index - 2].pairs[before as usize] };
        }
    }
}

impl SlotScorer for Sum<'_> {
    type State = u64;

    fn extend(&mut self, slot: usize, state: u64, number: usize, out: &mut Vec<(f64, u64)>) {
        self.take_apart(state);
        let (base, mut steps) = (out.len(), std::mem::take(&mut self.steps));
        out.resize(base + number, (0.0, 0));
        for index in 0..self.terms.len() {
            let (share, scores) = &mut self.terms[index];
            let share = *share;
            steps.clear();
            scores.extend(slot, self.states[index], number, &mut steps);
            for ((sum, all), &(score, after)) in out[base..].iter_mut().zip(&steps) {
                *sum += share * score;
                *all = pair(self.before(index, *all), after);
            }
        }
        self.steps = steps;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lattice::testing::{MadeUp, START, all_paths, path_score, small_lattice};
    use crate::lattice::{Lattice, OneByOne, Path, PathScorer, Weighting, p_best};
    use crate::ngram::{Counter, DEFAULT_FALLBACK, Ending, Memory, Model, Options, Vocabulary, estimate};
    use crate::rescorer::{NgramScores, Table};

    /// A made-up n-gram model whose states are numbers.
    struct Counted<'a>(OneByOne<'a, MadeUp>);

    fn packed(state: [u32; 3]) -> u32 {
        state.iter().fold(0, |all, token| all << 8 | token)
    }

    impl SlotScorer for Counted<'_> {
        type State = u32;

        fn extend(&mut self, slot: usize, state: u32, number: usize, out: &mut Vec<(f64, u32)>) {
            let mut found = Vec::new();
            self.0.extend(slot, [state >> 16, state >> 8 & 255, state & 255], number, &mut found);
            out.extend(found.into_iter().map(|(score, next)| (score, packed(next))));
        }
    }

    impl BlockScores for Counted<'_> {
        fn start(&self) -> u32 {
            packed(START)
        }
    }

    /// A term of a sum. Its scores are multiples of -1/4 and follow from a seed.
    #[derive(Debug, Clone, Copy)]
    enum Term {
        Ngram(usize),
        Alone,
        Pairs,
    }

    /// Returns the score of the candidate at `place` of `slot` after the candidate at `before` of the slot before.
    fn made_up(seed: u32, slot: usize, before: usize, place: usize) -> f64 {
        let hash = (seed ^ (slot * 64 + before * 8 + place) as u32).wrapping_mul(0x9E37_79B1);
        -f64::from(hash >> 29) / 4.0
    }

    fn table(lattice: &Lattice, seed: u32, pairs: bool) -> Table {
        let rows = |slot: usize| if pairs && slot > 0 { lattice.width(slot - 1) } else { 1 };
        let row =
            |slot: usize, before: usize| (0..lattice.width(slot)).map(move |place| made_up(seed, slot, before, place));
        Table::new(lattice, |slot| (0..rows(slot)).flat_map(|before| row(slot, before)).collect()).unwrap()
    }

    /// Returns the scores of a path under a term, by the term's definition.
    fn says(term: Term, seed: u32, model: &MadeUp, lattice: &Lattice, path: &[u32]) -> Vec<f64> {
        let place = |slot: usize| lattice.ids(slot).iter().position(|&id| id == path[slot]).unwrap();
        let mut state = START;
        let step = |slot: usize| match term {
            Term::Ngram(_) => {
                let (score, next) = model.extend(state, path[slot]);
                state = next;
                score
            }
            Term::Alone => made_up(seed, slot, 0, place(slot)),
            Term::Pairs => made_up(seed, slot, if slot == 0 { 0 } else { place(slot - 1) }, place(slot)),
        };
        (0..path.len()).map(step).collect()
    }

    fn term() -> impl Strategy<Value = Term> {
        prop_oneof![(1usize..=4).prop_map(Term::Ngram), Just(Term::Alone), Just(Term::Pairs)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Compares the best paths with those of a full enumeration. All sums of these numbers are exact.
        #[test]
        fn the_best_paths_of_a_sum_are_found(
            lattice in small_lattice(),
            terms in prop::collection::vec((prop::sample::select(vec![0.25, 0.5, 1.0]), term(), any::<u32>()), 0..7),
            scale in prop::sample::select(vec![0.25, 0.5, 1.0]),
            p in 1usize..20,
        ) {
            let order = |term: Term| if let Term::Ngram(order) = term { order } else { 1 };
            let models: Vec<MadeUp> = terms.iter().map(|&(_, term, seed)| MadeUp::new(seed, order(term))).collect();
            let scores = |((&(share, term, seed), model), lattice): ((&(f64, Term, u32), _), _)| {
                let scores: Box<dyn BlockScores> = match term {
                    Term::Ngram(_) => Box::new(Counted(MadeUp::on(model, lattice))),
                    Term::Alone | Term::Pairs => Box::new(table(lattice, seed, matches!(term, Term::Pairs))),
                };
                (share, scores)
            };
            let mut sum = Sum::new(terms.iter().zip(&models).zip(std::iter::repeat(&lattice)).map(scores).collect());
            let start = sum.start();
            let found = p_best(&lattice, &mut sum, start, Weighting::from(scale), p);

            let by_definition = |tokens: Vec<u32>| {
                let mut score = 0.0;
                let said: Vec<(f64, Vec<f64>)> = terms
                    .iter()
                    .zip(&models)
                    .map(|(&(share, term, seed), model)| (share, says(term, seed, model, &lattice, &tokens)))
                    .collect();
                for (slot, token) in tokens.iter().enumerate() {
                    let place = lattice.ids(slot).iter().position(|id| id == token).unwrap();
                    let summed: f64 = said.iter().map(|(share, said)| share * said[slot]).sum();
                    score += (1.0 - scale) * f64::from(lattice.scores(slot)[place]) + scale * summed;
                }
                Path { tokens, score }
            };
            let mut expected: Vec<Path> = all_paths(&lattice).into_iter().map(by_definition).collect();
            expected.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.tokens.cmp(&b.tokens)));
            expected.truncate(p);
            prop_assert_eq!(found.paths, expected);
        }
    }

    fn model(order: usize, text: &[u32]) -> Model {
        let vocabulary = Vocabulary { size: Some(8), ..Vocabulary::default() };
        let mut counter = Counter::new(order, vocabulary, &Memory::usual()).unwrap();
        counter.add(text, Ending::Complete).unwrap();
        let options = Options { discount_fallback: Some(DEFAULT_FALLBACK), ..Options::default() };
        Model::compile(&estimate(&counter.finish().unwrap(), &options, &Memory::usual()).unwrap().listing).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_number_of_ngram_models_can_be_summed(
            lattice in small_lattice(),
            text in prop::collection::vec(0u32..6, 20..60),
            number in 1usize..=4,
            p in 1usize..20,
        ) {
            let models: Vec<Model> = (1..=number).map(|order| model(order, &text[order..])).collect();
            let share = 1.0 / number as f64;
            let states: Vec<_> = models.iter().map(|model| model.state_of(&text[..9], true)).collect();
            let scores = models.iter().zip(&states).map(|(model, &state)| NgramScores::new(model, &lattice, state));
            let mut sum = Sum::new(scores.map(|scores| (share, Box::new(scores) as Box<dyn BlockScores>)).collect());
            let start = sum.start();
            let found = p_best(&lattice, &mut sum, start, Weighting::from(0.5), p);
            let by_definition = |path: &[u32]| -> f64 {
                let mut states = states.clone();
                let step = |(slot, token): (usize, &u32)| {
                    let place = lattice.ids(slot).iter().position(|id| id == token).unwrap();
                    let mut summed = 0.0;
                    for (model, state) in models.iter().zip(&mut states) {
                        let (log_probability, next) = model.extend(*state, *token);
                        (summed, *state) = (summed + share * log_probability, next);
                    }
                    0.5 * f64::from(lattice.scores(slot)[place]) + 0.5 * summed
                };
                path.iter().enumerate().map(step).sum()
            };
            let mut expected: Vec<f64> = all_paths(&lattice).iter().map(|path| by_definition(path)).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            prop_assert_eq!(found.paths.len(), p.min(expected.len()));
            for (path, expected) in found.paths.iter().zip(expected) {
                prop_assert!((path.score - expected).abs() < 1e-9, "{} {expected}", path.score);
                prop_assert!((path.score - by_definition(&path.tokens)).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn one_term_with_all_the_share_is_the_sum() {
        let lattice = Lattice::pinned(4, 2, &[1, 2, 3, 1], &[3.0, 2.0, 1.0, 0.5]).unwrap();
        let sum = |shares: &[f64]| {
            let term = |&share: &f64| (share, Box::new(table(&lattice, 7, true)) as Box<dyn BlockScores>);
            Sum::new(shares.iter().map(term).collect())
        };
        for (shares, alone) in [(&[1.0][..], true), (&[0.5], false), (&[1.0, 1.0], false), (&[], false)] {
            assert_eq!(sum(shares).only().is_some(), alone, "{shares:?}");
        }
        let mut both = sum(&[0.5, 0.5]);
        let start = both.start();
        for path in all_paths(&lattice) {
            let alone = path_score(&lattice, &mut table(&lattice, 7, true), 0, &path, Weighting::from(0.5));
            assert_eq!(path_score(&lattice, &mut both, start, &path, Weighting::from(0.5)), alone);
        }
    }
}
