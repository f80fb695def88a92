//! Tests of the estimates against plain implementations of the formulas.

use super::super::words::{BOS, EOS, Ending, UNK, Vocabulary};
use super::super::{Collector, Counter, Model};
use super::*;
use std::collections::{BTreeMap, BTreeSet};

type Gram = Vec<u32>;

/// A plain implementation with maps: slow, and written from the formulas alone.
struct Naive {
    smoothing: Smoothing,
    raw: Vec<BTreeMap<Gram, u32>>,
    /// The counts that smoothing uses.
    counts: Vec<BTreeMap<Gram, u32>>,
    /// The discounts of the counts 1, 2, ... and of larger ones.
    discounts: Vec<(Vec<f64>, f64)>,
    prune: Vec<u32>,
    types: usize,
}

impl Naive {
    fn new(smoothing: Smoothing, order: usize, documents: &[Vec<u32>], fallback: [f64; 3], prune: Vec<u32>) -> Self {
        let mut raw = vec![BTreeMap::<Gram, u32>::new(); order];
        let mut left = vec![BTreeMap::<Gram, BTreeSet<u32>>::new(); order];
        for document in documents {
            let words: Gram = [BOS].into_iter().chain(document.iter().map(|t| t + 3)).chain([EOS]).collect();
            for n in 1..=order {
                for (at, gram) in words.windows(n).enumerate().filter(|(_, gram)| gram != &[BOS]) {
                    *raw[n - 1].entry(gram.to_vec()).or_default() += 1;
                    if at > 0 {
                        left[n - 1].entry(gram.to_vec()).or_default().insert(words[at - 1]);
                    }
                }
            }
        }
        let mut counts = raw.clone();
        if smoothing == Smoothing::KneserNey {
            for n in 1..order {
                for (gram, count) in &mut counts[n - 1] {
                    *count = left[n - 1].get(gram).map_or(*count, |set| set.len() as u32);
                }
            }
        }
        let discounts = counts
            .iter()
            .map(|counts| {
                let n = |c: usize| counts.values().filter(|&&count| count as usize == c).count() as f64;
                let (amounts, beyond) = match smoothing {
                    Smoothing::KneserNey => {
                        let y = n(1) / (n(1) + 2.0 * n(2));
                        let d3 = 3.0 - 4.0 * y * n(4) / n(3);
                        (vec![1.0 - 2.0 * y * n(2) / n(1), 2.0 - 3.0 * y * n(3) / n(2), d3], d3)
                    }
                    Smoothing::Katz => {
                        let most = 6.0 * n(6) / n(1);
                        let off = |r: usize| {
                            let better = (r + 1) as f64 * n(r + 1) / n(r);
                            r as f64 - r as f64 * (better / r as f64 - most) / (1.0 - most)
                        };
                        ((1..=5).map(off).collect(), 0.0)
                    }
                };
                let fine = (1..).zip(&amounts).all(|(r, d)| d.is_finite() && *d >= 0.0 && *d <= f64::from(r));
                if fine { (amounts, beyond) } else { (fallback.to_vec(), fallback[2]) }
            })
            .collect();
        let types = raw[0].values().filter(|&&count| count > prune[0]).count() + 1;
        Self { smoothing, raw, counts, discounts, prune, types }
    }

    fn listed(&self, gram: &[u32]) -> bool {
        gram == [EOS] || self.raw[gram.len() - 1].get(gram).is_some_and(|&count| count > self.prune[gram.len() - 1])
    }

    fn prob(&self, context: &[u32], word: u32) -> f64 {
        let lower = |word| match context {
            [] => 1.0 / self.types as f64,
            [_, rest @ ..] => self.prob(rest, word),
        };
        let order = context.len();
        let after: Vec<(u32, u32)> = self.counts[order]
            .iter()
            .filter(|(gram, _)| gram[..order] == *context)
            .map(|(gram, &count)| (gram[order], count))
            .collect();
        if after.is_empty() || (order > 0 && context != [BOS] && !self.listed(context)) {
            return lower(word);
        }
        let listed = |word: u32| self.listed(&[context, &[word]].concat());
        let (amounts, beyond) = &self.discounts[order];
        let discount = |count: u32| amounts.get(count as usize - 1).copied().unwrap_or(*beyond);
        let mut sum: f64 = after.iter().map(|&(_, count)| f64::from(count)).sum();
        let mut left: f64 =
            after.iter().map(|&(word, count)| if listed(word) { discount(count) } else { f64::from(count) }).sum();
        if left == 0.0 {
            (sum, left) = (sum + 1.0, 1.0);
        }
        let own = after.iter().find(|&&(other, _)| other == word && listed(word));
        let own = own.map(|&(_, count)| (f64::from(count) - discount(count)) / sum);
        match self.smoothing {
            Smoothing::Katz if order > 0 => own.unwrap_or_else(|| {
                let others: f64 = after.iter().filter(|(word, _)| listed(*word)).map(|&(word, _)| lower(word)).sum();
                left / sum / (1.0 - others) * lower(word)
            }),
            _ => own.unwrap_or(0.0) + left / sum * lower(word),
        }
    }
}

/// Returns the options of Kneser-Ney without pruning.
fn with(discount_fallback: Option<[f64; 3]>) -> Options {
    Options { discount_fallback, ..Options::default() }
}

fn model(counts: &Counts, options: &Options) -> Model {
    Model::compile(&estimate(counts, options, &Memory::usual()).unwrap().listing).unwrap()
}

/// Returns skewed pseudo-random documents over a handful of ids.
fn documents(seed: u64) -> Vec<Vec<u32>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u32
    };
    (0..40).map(|_| (0..next() % 12).map(|_| (next() % 5) * (next() % 4)).collect()).collect()
}

#[test]
fn equals_the_naive_implementation() {
    for (smoothing, prune) in [
        (Smoothing::KneserNey, [0; 4]),
        (Smoothing::KneserNey, [0, 1, 1, 2]),
        (Smoothing::KneserNey, [2, 2, 2, 2]),
        (Smoothing::Katz, [0; 4]),
        (Smoothing::Katz, [0, 0, 1, 2]),
    ] {
        for (seed, order) in (0..6).flat_map(|seed| (1..=4).map(move |order| (seed, order))) {
            let documents = documents(seed);
            let naive = Naive::new(smoothing, order, &documents, DEFAULT_FALLBACK, prune.to_vec());
            let mut counter = Counter::new(order, Vocabulary::default(), &Memory::usual()).unwrap();
            documents.iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
            let options = Options {
                smoothing,
                discount_fallback: Some(DEFAULT_FALLBACK),
                prune: prune.iter().map(|&threshold| u64::from(threshold)).collect(),
            };
            let model = model(&counter.finish().unwrap(), &options);
            for tokens in documents.iter().filter(|tokens| !tokens.is_empty()) {
                let known = |word: u32| if naive.listed(&[word]) { word } else { UNK };
                let words: Vec<u32> = [BOS].into_iter().chain(tokens.iter().map(|t| known(t + 3))).collect();
                let mut state = model.begin();
                for (i, &token) in tokens.iter().enumerate() {
                    let context = &words[(i + 2).saturating_sub(order)..=i];
                    for candidate in [token, (token + 1) % 12, 77] {
                        let expected = naive.prob(context, known(candidate + 3)).ln();
                        let got = model.extend(state, candidate).0;
                        assert!(
                            (got - expected).abs() < 1e-5,
                            "{smoothing:?} {prune:?} seed {seed} order {order}: {context:?} {candidate}: {got} {expected}"
                        );
                    }
                    state = model.extend(state, token).1;
                }
            }
        }
    }
}

#[test]
fn little_memory_gives_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = Vec::new();
    for memory in [Memory::usual(), Memory::new(Memory::LEAST, folder.path())] {
        let mut counter = Counter::new(5, Vocabulary::default(), &memory).unwrap();
        for document in 0..400u32 {
            let word = |at: u32| (document * 7_919 + at * at).wrapping_mul(2_654_435_761) >> (20 + at % 10);
            counter.add(&(0..500).map(word).collect::<Vec<_>>(), Ending::Complete).unwrap();
        }
        let counts = counter.finish().unwrap();
        for smoothing in [Smoothing::KneserNey, Smoothing::Katz] {
            let options = Options { smoothing, ..with(Some(DEFAULT_FALLBACK)) };
            let path = folder.path().join("model");
            Model::write(&estimate(&counts, &options, &memory).unwrap().listing, &path).unwrap();
            made.push(std::fs::read(&path).unwrap());
        }
    }
    assert!(made[0].len() > 1 << 22, "more than fits");
    assert!(made[0] == made[2] && made[1] == made[3] && made[0] != made[1]);
}

#[test]
fn a_degenerate_order_is_an_error_that_names_it_or_takes_the_fallback() {
    let mut counter = Counter::new(2, Vocabulary::default(), &Memory::usual()).unwrap();
    counter.add(&[1, 2, 3], Ending::Complete).unwrap();
    let counts = counter.finish().unwrap();
    let message = estimate(&counts, &with(None), &Memory::usual()).err().unwrap().to_string();
    for part in ["order 1", "no n-gram has the count 2", "--discount-fallback"] {
        assert!(message.contains(part), "{message}");
    }
    let estimated = estimate(&counts, &with(Some([0.4, 0.9, 1.4])), &Memory::usual()).unwrap();
    assert!(estimated.discounts.iter().all(|d| d.fallback && d.amounts == [0.4, 0.9, 1.4]));
    assert!(estimate(&counts, &with(Some([1.5, 1.0, 1.0])), &Memory::usual()).is_err());
}

#[test]
fn only_the_degenerate_order_falls_back() {
    let mut counter = Counter::new(2, Vocabulary::default(), &Memory::usual()).unwrap();
    documents(3).iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
    let counts = counter.finish().unwrap();
    let discounts = estimate(&counts, &with(Some(DEFAULT_FALLBACK)), &Memory::usual()).unwrap().discounts;
    assert_eq!(discounts.iter().map(|d| d.fallback).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn thresholds_that_fall_are_refused() {
    let mut counter = Counter::new(3, Vocabulary::default(), &Memory::usual()).unwrap();
    counter.add(&[1, 2, 3], Ending::Complete).unwrap();
    let options = Options { prune: vec![0, 2, 1], ..with(Some(DEFAULT_FALLBACK)) };
    let message = estimate(&counter.finish().unwrap(), &options, &Memory::usual()).err().unwrap().to_string();
    assert!(message.contains("[0, 2, 1] fall"), "{message}");
}

#[test]
fn counts_that_lack_the_windows_of_contexts_are_refused() {
    // A context behind all n-grams that are listed, and one among them.
    for windows in [[[Counts::BEGIN, 1], [5, 2]], [[Counts::BEGIN, 9], [5, 9]]] {
        let mut counts = Collector::new(2, Vocabulary::default(), &Memory::usual()).unwrap();
        windows.iter().for_each(|window| counts.add(window, 3).unwrap());
        let counts = counts.finish().unwrap();
        for smoothing in [Smoothing::KneserNey, Smoothing::Katz] {
            let options = Options { smoothing, ..with(Some(DEFAULT_FALLBACK)) };
            let message = estimate(&counts, &options, &Memory::usual()).err().unwrap().to_string();
            assert!(message.contains("something follows [5], which itself is not counted"), "{message}");
        }
    }
}
