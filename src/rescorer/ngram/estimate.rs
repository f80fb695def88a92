//! Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998), number for number as `lmplz` has it.
//!
//! With adjusted counts `a`, discounts `D(a)` of the order, and a context's sum `A` of the `a` that follow it:
//!
//! ```text
//! p(w | c) = (a(c w) - D(a(c w))) / A(c) + g(c) p(w | c without its first word)
//! g(c)     = (sum of the D that were taken off after c) / A(c)
//! ```
//!
//! down to the uniform distribution over the model's vocabulary (see [`Vocabulary`](super::Vocabulary)). The stored
//! probability is the interpolated one, so `g` is the back-off weight. `<s>` is predicted by nothing: it is left out of
//! the unigrams' counts of counts and sums, and its own probability is written as log 1.

use super::count::{Counts, GramCounts};
use super::table::{Grams, Table};
use super::words::BOS;
use crate::error::{Result, bail};

/// What `--discount-fallback` stands for when no numbers follow it.
pub const DEFAULT_FALLBACK: [f64; 3] = [0.5, 1.0, 1.5];

/// The discounts of one order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Discounts {
    /// What is taken off an adjusted count of 1, of 2, and of 3 or more.
    pub amounts: [f64; 3],
    /// Whether the counts of counts were degenerate, so that `amounts` is the fallback.
    pub fallback: bool,
}

impl Discounts {
    fn of(&self, adjusted: u32) -> f64 {
        match adjusted {
            0 => 0.0,
            few => self.amounts[few.min(3) as usize - 1],
        }
    }
}

/// A smoothed model and the discounts that made it, unigrams first.
#[derive(Debug, PartialEq)]
pub struct Estimate {
    pub table: Table,
    pub discounts: Vec<Discounts>,
}

/// Smooths `counts`. An order whose counts of counts are degenerate takes `discount_fallback`, and only that order;
/// without a fallback it is an error.
pub fn estimate(counts: &Counts, discount_fallback: Option<[f64; 3]>) -> Result<Estimate> {
    if let Some(amounts) = discount_fallback
        && !in_range(&amounts)
    {
        bail!(
            "--discount-fallback {} {} {} is out of range: the discounts must lie between 0 and 1, 0 and 2, 0 and 3. \
             Use 0.5 1 1.5.",
            amounts[0],
            amounts[1],
            amounts[2]
        );
    }
    let mut discounts = Vec::with_capacity(counts.orders.len());
    for (index, grams) in counts.orders.iter().enumerate() {
        discounts.push(order_discounts(index + 1, grams, discount_fallback)?);
    }

    // The empty context is the one context of the unigrams; its lower order is uniform.
    let types = counts.vocabulary.padded_types().unwrap_or(counts.orders[0].word.len() - 1);
    let mut lower = vec![1.0 / types as f64];
    let mut grams: Vec<Grams> = Vec::with_capacity(counts.orders.len());
    for (order_counts, discounts) in counts.orders.iter().zip(&discounts) {
        let (probs, backoffs) = interpolate(order_counts, discounts, &lower);
        if let Some(contexts) = grams.last_mut() {
            contexts.log10_backoff = backoffs.iter().map(|backoff| backoff.log10() as f32).collect();
        }
        grams.push(Grams {
            parent: order_counts.parent.clone(),
            word: order_counts.word.clone(),
            log10_prob: probs.iter().map(|prob| prob.log10().min(0.0) as f32).collect(),
            log10_backoff: Vec::new(),
        });
        lower = probs;
    }
    Ok(Estimate { table: Table { vocabulary: counts.vocabulary.clone(), grams }, discounts })
}

/// Whether each discount leaves a count of 1, 2, 3 between 0 and itself.
fn in_range(amounts: &[f64; 3]) -> bool {
    amounts.iter().zip([1.0, 2.0, 3.0]).all(|(amount, most)| (0.0..=most).contains(amount))
}

/// The discounts of one order from its counts of counts, or the fallback.
fn order_discounts(order: usize, grams: &GramCounts, fallback: Option<[f64; 3]>) -> Result<Discounts> {
    let mut n = [0u64; 5];
    for (&adjusted, &word) in grams.adjusted.iter().zip(&grams.word) {
        if word != BOS && adjusted <= 4 {
            n[adjusted as usize] += 1;
        }
    }
    let missing = (1..=3).find(|&count| n[count] == 0);
    let reason = if let Some(count) = missing {
        format!("no {order}-gram has adjusted count {count}")
    } else {
        let [_, n1, n2, n3, n4] = n.map(|count| count as f64);
        let y = n1 / (n1 + 2.0 * n2);
        let amounts = [1.0 - 2.0 * y * n2 / n1, 2.0 - 3.0 * y * n3 / n2, 3.0 - 4.0 * y * n4 / n3];
        if in_range(&amounts) {
            return Ok(Discounts { amounts, fallback: false });
        }
        format!("they give D1 = {:.3}, D2 = {:.3}, D3+ = {:.3}, out of range", amounts[0], amounts[1], amounts[2])
    };
    match fallback {
        Some(amounts) => Ok(Discounts { amounts, fallback: true }),
        None => bail!(
            "the Kneser-Ney discounts of order {order} cannot be estimated: the counts of counts n1 = {}, n2 = {}, \
             n3 = {}, n4 = {} are degenerate ({reason}). The text is too small or too regular. Give more text or a \
             lower order, or pass --discount-fallback to use the discounts 0.5, 1 and 1.5 for this order.",
            n[1],
            n[2],
            n[3],
            n[4]
        ),
    }
}

/// The probability of every n-gram of one order, and the back-off weight of every context one order below, from the
/// probabilities `lower` of that order. A context that nothing follows has weight 1.
fn interpolate(grams: &GramCounts, discounts: &Discounts, lower: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut sums = vec![0.0; lower.len()];
    let mut taken = vec![0.0; lower.len()];
    for i in 0..grams.word.len() {
        if grams.word[i] != BOS {
            sums[grams.parent[i] as usize] += f64::from(grams.adjusted[i]);
            taken[grams.parent[i] as usize] += discounts.of(grams.adjusted[i]);
        }
    }
    let backoffs: Vec<f64> =
        sums.iter().zip(&taken).map(|(&sum, &taken)| if sum > 0.0 { taken / sum } else { 1.0 }).collect();
    let probs = (0..grams.word.len())
        .map(|i| {
            if grams.word[i] == BOS {
                return 1.0;
            }
            let context = grams.parent[i] as usize;
            let kept = f64::from(grams.adjusted[i]) - discounts.of(grams.adjusted[i]);
            kept / sums[context] + backoffs[context] * lower[grams.suffix[i] as usize]
        })
        .collect();
    (probs, backoffs)
}

#[cfg(test)]
mod tests {
    use super::super::words::{EOS, Ending, UNK, Vocabulary};
    use super::super::{Counter, Model};
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    type Gram = Vec<u32>;

    /// A straight implementation by maps: slow, and written from the formulas alone.
    struct Naive {
        adjusted: Vec<BTreeMap<Gram, u32>>,
        discounts: Vec<[f64; 3]>,
        types: usize,
    }

    impl Naive {
        fn new(order: usize, documents: &[Vec<u32>], fallback: [f64; 3]) -> Self {
            let mut raw = vec![BTreeMap::<Gram, u32>::new(); order];
            let mut left = vec![BTreeMap::<Gram, BTreeSet<u32>>::new(); order];
            for document in documents {
                let words: Gram = [BOS].into_iter().chain(document.iter().map(|t| t + 3)).chain([EOS]).collect();
                for n in 1..=order {
                    for (at, gram) in words.windows(n).enumerate() {
                        *raw[n - 1].entry(gram.to_vec()).or_default() += 1;
                        if at > 0 {
                            left[n - 1].entry(gram.to_vec()).or_default().insert(words[at - 1]);
                        }
                    }
                }
            }
            let types = raw[0].keys().filter(|gram| gram[0] != BOS).count() + 1;
            let mut adjusted = raw.clone();
            for n in 1..order {
                for (gram, count) in &mut adjusted[n - 1] {
                    *count = left[n - 1].get(gram).map_or(*count, |set| set.len() as u32);
                }
            }
            adjusted[0].remove(&vec![BOS]);
            let discounts = adjusted
                .iter()
                .map(|counts| {
                    let n = |c| counts.values().filter(|&&count| count == c).count() as f64;
                    let y = n(1) / (n(1) + 2.0 * n(2));
                    let d = [1.0 - 2.0 * y * n(2) / n(1), 2.0 - 3.0 * y * n(3) / n(2), 3.0 - 4.0 * y * n(4) / n(3)];
                    let fine = (0..3).all(|i| d[i].is_finite() && d[i] >= 0.0 && d[i] <= (i + 1) as f64);
                    if fine { d } else { fallback }
                })
                .collect();
            Self { adjusted, discounts, types }
        }

        fn prob(&self, context: &[u32], word: u32) -> f64 {
            let lower = match context {
                [] => 1.0 / self.types as f64,
                [_, rest @ ..] => self.prob(rest, word),
            };
            let order = context.len();
            let after: Vec<(&Gram, u32)> = self.adjusted[order]
                .iter()
                .filter(|(gram, _)| gram[..order] == *context)
                .map(|(gram, &count)| (gram, count))
                .collect();
            let sum: u32 = after.iter().map(|(_, count)| count).sum();
            if sum == 0 {
                return lower;
            }
            let discount = |count: u32| self.discounts[order][count.min(3) as usize - 1];
            let taken: f64 = after.iter().map(|&(_, count)| discount(count)).sum();
            let own = after.iter().find(|(gram, _)| gram[order] == word);
            own.map_or(0.0, |&(_, count)| (f64::from(count) - discount(count)) / f64::from(sum))
                + taken / f64::from(sum) * lower
        }
    }

    /// Skewed pseudo-random documents over a handful of ids.
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
        for seed in 0..6 {
            for order in 1..=4 {
                let documents = documents(seed);
                let naive = Naive::new(order, &documents, DEFAULT_FALLBACK);
                let mut counter = Counter::new(order, Vocabulary::default()).unwrap();
                documents.iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
                let estimate = estimate(&counter.finish().unwrap(), Some(DEFAULT_FALLBACK)).unwrap();
                let model = Model::new(&estimate.table).unwrap();
                for tokens in documents.iter().filter(|tokens| !tokens.is_empty()) {
                    let words: Vec<u32> = [BOS].into_iter().chain(tokens.iter().map(|t| t + 3)).collect();
                    let mut state = model.begin();
                    for (i, &token) in tokens.iter().enumerate() {
                        let context = &words[(i + 2).saturating_sub(order)..=i];
                        for candidate in [token, (token + 1) % 12, 77] {
                            let word = if candidate == 77 { UNK } else { candidate + 3 };
                            let known = naive.adjusted[0].contains_key(&vec![word]);
                            let expected = naive.prob(context, if known { word } else { UNK }).ln();
                            let got = model.extend(state, candidate).0;
                            assert!((got - expected).abs() < 1e-5, "seed {seed} order {order}: {got} {expected}");
                        }
                        state = model.extend(state, token).1;
                    }
                }
            }
        }
    }

    #[test]
    fn a_degenerate_order_is_an_error_that_names_it_or_takes_the_fallback() {
        let mut counter = Counter::new(2, Vocabulary::default()).unwrap();
        counter.add(&[1, 2, 3], Ending::Complete).unwrap();
        let counts = counter.finish().unwrap();
        let message = estimate(&counts, None).unwrap_err().to_string();
        for part in ["order 1", "n2 = 0", "--discount-fallback"] {
            assert!(message.contains(part), "{message}");
        }
        let estimated = estimate(&counts, Some([0.4, 0.9, 1.4])).unwrap();
        assert!(estimated.discounts.iter().all(|d| d.fallback && d.amounts == [0.4, 0.9, 1.4]));
        assert!(estimate(&counts, Some([1.5, 1.0, 1.0])).is_err());
    }

    #[test]
    fn only_the_degenerate_order_falls_back() {
        let mut counter = Counter::new(2, Vocabulary::default()).unwrap();
        documents(3).iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
        let discounts = estimate(&counter.finish().unwrap(), Some(DEFAULT_FALLBACK)).unwrap().discounts;
        assert_eq!(discounts.iter().map(|d| d.fallback).collect::<Vec<_>>(), [true, false]);
    }
}
