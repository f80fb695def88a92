//! Verification rules: which of the tokens drafted after a committed text is kept, given the backbone's distribution
//! there.
//!
//! A rule looks at the tokens drafted for one position in order. It gives each the probability of being accepted if
//! those before it were rejected, and the distribution from which a token is drawn if none is accepted. So a rule is a
//! calculation without random numbers: decoding draws them, and a test can sum over all outcomes.
//!
//! Lossless rules emit exactly the backbone's greedy token, or exactly a sample of its distribution, *whatever was
//! drafted*, as long as the drafts come from where the rule expects them ([`Origin`]). Lossy rules do not, and are
//! called lossy everywhere.

use std::str::FromStr;

use crate::drafting::Origin;
use crate::error::{Error, Result, bail};

/// The tokens drafted for one position and, if they were drawn at random, the distribution that they were drawn from.
#[derive(Debug, Clone, Copy)]
pub struct DraftedTokens<'a> {
    /// The tokens, in the order in which they are considered.
    pub tokens: &'a [u32],
    /// `[V]`, sums to 1; empty for deterministic drafts.
    pub q: &'a [f64],
}

/// What a rule decides about one position.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// For each drafted token, the probability of accepting it if those before it were rejected.
    pub accept: Vec<f64>,
    /// `[V]`, the distribution of the emitted token if none is accepted; all zero if that cannot happen.
    pub residual: Vec<f64>,
}

/// A verification rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Accepts a draft if it is the backbone's most probable token, so that the text is the backbone's greedy text.
    /// Lossless.
    Greedy,
    /// Accepts a draft if it is among the backbone's `k` most probable tokens (Stern et al. 2018, section 5.1). Lossy.
    TopK(usize),
    /// Accepts a draft x if `p(x) > min(epsilon, delta * exp(-H(p)))` (Medusa, arXiv 2401.10774). Lossy.
    Typical {
        /// The highest threshold.
        epsilon: f64,
        /// The threshold as a share of the distribution's own typical probability.
        delta: f64,
    },
    /// Accepts a draft x with probability p(x). If it is rejected, p(x) becomes zero and p is renormalised (the rule of
    /// SpecInfer and EAGLE for drafts that were not drawn at random). Lossless for deterministic drafts of distinct
    /// tokens.
    Deterministic,
    /// Accepts a single draft with probability min(1, p/q), and otherwise draws a token from `(p - q)+` (Leviathan et
    /// al. 2023; Chen et al. 2023). Several drafts, drawn with replacement, are considered in turn against what is left
    /// of p (arXiv 2401.06706). Lossless.
    Rejection,
    /// The same for drafts drawn without replacement: a rejected token's q becomes zero, and q is renormalised (arXiv
    /// 2401.06706). Lossless.
    RejectionWithoutReplacement,
    /// K-SEQ of SpecTr (arXiv 2310.15141): accepts each of k drafts with probability min(1, p/(r q)), where r in [1, k]
    /// solves `1 - (1 - b)^k = r b` with `b = sum of min(p/r, q)`, and otherwise draws a token from `(p - r q)+`.
    /// Lossless.
    KSeq,
}

impl FromStr for Rule {
    type Err = Error;

    /// Parses `greedy`, `sample`, `rejection`, `without-replacement`, `k-seq`, `top-k=K` or `typical=EPSILON,DELTA`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, numbers) = text.split_once('=').unwrap_or((text, ""));
        let numbers: Vec<f64> = numbers.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        match (name, &numbers[..]) {
            ("greedy", []) => Ok(Self::Greedy),
            ("sample", []) => Ok(Self::Deterministic),
            ("rejection", []) => Ok(Self::Rejection),
            ("without-replacement", []) => Ok(Self::RejectionWithoutReplacement),
            ("k-seq", []) => Ok(Self::KSeq),
            ("top-k", [k]) if *k >= 1.0 && k.fract() == 0.0 => Ok(Self::TopK(*k as usize)),
            ("typical", [epsilon, delta]) if *epsilon > 0.0 && *delta > 0.0 => {
                Ok(Self::Typical { epsilon: *epsilon, delta: *delta })
            }
            _ => bail!(
                "`{text}` is no verification rule; there are greedy, sample, rejection, without-replacement, k-seq, and the lossy top-k=K (such as top-k=3) and typical=EPSILON,DELTA (such as typical=0.09,0.3)."
            ),
        }
    }
}

impl Rule {
    /// Returns the origin that drafts must have, if the rule is meant for drafts drawn at random.
    pub fn drawn(self) -> Option<Origin> {
        match self {
            Self::Rejection | Self::KSeq => Some(Origin::Independent),
            Self::RejectionWithoutReplacement => Some(Origin::WithoutReplacement),
            Self::Greedy | Self::TopK(_) | Self::Typical { .. } | Self::Deterministic => None,
        }
    }

    /// Returns whether the emitted text is the backbone's own: its greedy text, or a sample of its distribution.
    pub fn is_lossless(self) -> bool {
        !matches!(self, Self::TopK(_) | Self::Typical { .. })
    }

    /// Returns whether the rule samples from the backbone's distribution, so that the text depends on a seed.
    pub fn samples(self) -> bool {
        !matches!(self, Self::Greedy | Self::TopK(_) | Self::Typical { .. })
    }

    /// Checks that the rule holds for drafts of `origin`.
    ///
    /// # Errors
    /// When it does not, with the reason.
    pub fn require(self, origin: Origin) -> Result<()> {
        let valid = match self {
            Self::Deterministic => origin == Origin::Deterministic,
            _ => self.drawn().is_none_or(|needed| origin == needed),
        };
        if !valid {
            let needs = match self {
                Self::Deterministic => "drafts that are a function of the text, such as the best paths of a lattice",
                Self::RejectionWithoutReplacement => "drafts drawn from a known distribution without replacement",
                _ => "drafts drawn independently from a known distribution",
            };
            let are = match origin {
                Origin::Deterministic => "chosen by a search",
                Origin::Independent => "drawn independently",
                Origin::WithoutReplacement => "drawn without replacement",
            };
            bail!(
                "this verification rule is exact only for {needs}, but these drafts are {are}: the text would not have the backbone's distribution. Take another rule or another way to draft."
            );
        }
        Ok(())
    }

    /// Returns the verdict at a position where the backbone's distribution is `p` (`[V]`, sums to 1).
    pub fn verdict(self, p: &[f64], drafted: DraftedTokens) -> Verdict {
        match self {
            Self::Greedy => by_set(p, drafted.tokens, |token| token == largest(p)),
            Self::TopK(k) => by_set(p, drafted.tokens, |token| {
                let above = |(other, &x): (usize, &f64)| {
                    let own = p[token as usize];
                    x > own || (x == own && (other as u32) < token)
                };
                p.iter().enumerate().filter(|&entry| above(entry)).count() < k
            }),
            Self::Typical { epsilon, delta } => {
                let entropy: f64 = p.iter().filter(|x| **x > 0.0).map(|x| -x * x.ln()).sum();
                let threshold = epsilon.min(delta * (-entropy).exp());
                by_set(p, drafted.tokens, |token| p[token as usize] > threshold)
            }
            Self::Deterministic => one_by_one(p, drafted.tokens, |left, token, _| {
                let accept = left[token as usize];
                left[token as usize] = 0.0;
                accept
            }),
            Self::Rejection => one_by_one(p, drafted.tokens, |left, token, _| against(left, drafted.q, token)),
            Self::RejectionWithoutReplacement => {
                let mut q = drafted.q.to_vec();
                one_by_one(p, drafted.tokens, |left, token, _| {
                    let accept = against(left, &q, token);
                    q[token as usize] = 0.0;
                    normalise(&mut q);
                    accept
                })
            }
            Self::KSeq if drafted.tokens.is_empty() => Verdict { accept: Vec::new(), residual: p.to_vec() },
            Self::KSeq => {
                let r = k_seq_ratio(p, drafted.q, drafted.tokens.len());
                let accept = |&token: &u32| {
                    let (p, q) = (p[token as usize], drafted.q[token as usize]);
                    if q > 0.0 { (p / (r * q)).min(1.0) } else { 0.0 }
                };
                let mut residual: Vec<f64> = p.iter().zip(drafted.q).map(|(p, q)| (p - r * q).max(0.0)).collect();
                normalise(&mut residual);
                Verdict { accept: drafted.tokens.iter().map(accept).collect(), residual }
            }
        }
    }
}

/// Accepts the tokens of a set, and otherwise emits the backbone's most probable token.
fn by_set(p: &[f64], tokens: &[u32], inside: impl Fn(u32) -> bool) -> Verdict {
    let mut residual = vec![0.0; p.len()];
    residual[largest(p) as usize] = 1.0;
    Verdict { accept: tokens.iter().map(|&token| f64::from(u8::from(inside(token)))).collect(), residual }
}

/// Considers one token after the other. `accept` returns the probability of accepting it under what is left of p, and
/// removes from p what a rejection rules out.
fn one_by_one(p: &[f64], tokens: &[u32], mut accept: impl FnMut(&mut [f64], u32, usize) -> f64) -> Verdict {
    let mut left = p.to_vec();
    let accept = tokens
        .iter()
        .enumerate()
        .map(|(index, &token)| {
            let probability = accept(&mut left, token, index);
            normalise(&mut left);
            probability
        })
        .collect();
    Verdict { accept, residual: left }
}

/// Returns min(1, p/q) for a token drawn from q, and leaves `(p - q)+` of p.
fn against(left: &mut [f64], q: &[f64], token: u32) -> f64 {
    let (p, of) = (left[token as usize], q[token as usize]);
    let accept = if of > 0.0 { (p / of).min(1.0) } else { 0.0 };
    left.iter_mut().zip(q).for_each(|(p, q)| *p = (*p - q).max(0.0));
    accept
}

/// Scales the weights to a sum of 1, unless all are zero.
fn normalise(weights: &mut [f64]) {
    let sum: f64 = weights.iter().sum();
    if sum > 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
}

/// Returns the most probable token; among equal ones, the smallest.
fn largest(p: &[f64]) -> u32 {
    let better = |best: usize, at: usize| if p[at] > p[best] { at } else { best };
    (0..p.len()).fold(0, better) as u32
}

/// Returns r in [1, k] with `1 - (1 - b(r))^k = r b(r)`, by bisection: the left side exceeds the right at 1 and not at
/// k.
fn k_seq_ratio(p: &[f64], q: &[f64], k: usize) -> f64 {
    let excess = |r: f64| {
        let b: f64 = p.iter().zip(q).map(|(p, q)| (p / r).min(*q)).sum();
        1.0 - (1.0 - b).powi(k as i32) - r * b
    };
    let (mut low, mut high) = (1.0, k.max(1) as f64);
    if excess(low) <= 0.0 {
        return low;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if excess(middle) > 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const V: usize = 4;

    fn distribution() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(prop::sample::select(vec![0.0, 0.05, 0.3, 1.0, 2.5]), V)
            .prop_filter("some weight", |weights| weights.iter().sum::<f64>() > 0.0)
            .prop_map(|mut weights| {
                normalise(&mut weights);
                weights
            })
    }

    /// Returns every sequence of `k` drafted tokens with its probability.
    fn draws(origin: Origin, q: &[f64], k: usize) -> Vec<(Vec<u32>, f64)> {
        (0..k).fold(vec![(Vec::new(), 1.0)], |draws, _| {
            let longer = |(tokens, probability): (Vec<u32>, f64)| {
                let mut q = q.to_vec();
                if origin == Origin::WithoutReplacement {
                    tokens.iter().for_each(|&token: &u32| q[token as usize] = 0.0);
                    normalise(&mut q);
                }
                let possible = (0..V).filter(|&token| q[token] > 0.0).collect::<Vec<_>>();
                if possible.is_empty() {
                    return vec![(tokens, probability)];
                }
                let one = |token: usize| ([&tokens[..], &[token as u32]].concat(), probability * q[token]);
                possible.into_iter().map(one).collect::<Vec<_>>()
            };
            draws.into_iter().flat_map(longer).collect()
        })
    }

    /// Computes the exact distribution of the emitted token.
    fn emitted(rule: Rule, p: &[f64], q: &[f64], draws: &[(Vec<u32>, f64)]) -> Vec<f64> {
        let mut emitted = vec![0.0; V];
        for (tokens, probability) in draws {
            let verdict = rule.verdict(p, DraftedTokens { tokens, q });
            let mut rejected = *probability;
            for (&token, accept) in tokens.iter().zip(&verdict.accept) {
                assert!((0.0..=1.0 + 1e-12).contains(accept), "{rule:?}: {accept}");
                emitted[token as usize] += rejected * accept;
                rejected *= 1.0 - accept;
            }
            emitted.iter_mut().zip(&verdict.residual).for_each(|(sum, share)| *sum += rejected * share);
        }
        emitted
    }

    fn total_variation(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
    }

    proptest! {
        #[test]
        fn sampling_rules_emit_the_backbones_distribution(p in distribution(), q in distribution(), k in 0usize..4) {
            for (rule, origin) in [
                (Rule::Rejection, Origin::Independent),
                (Rule::KSeq, Origin::Independent),
                (Rule::RejectionWithoutReplacement, Origin::WithoutReplacement),
            ] {
                rule.require(origin).unwrap();
                let found = emitted(rule, &p, &q, &draws(origin, &q, k));
                prop_assert!(total_variation(&found, &p) < 1e-9, "{rule:?}, k = {k}: {found:?} is not {p:?}");
            }
        }

        /// Trees in which every node draws what follows it from a distribution of its own, a token that was drawn twice twice as often:
        /// all trees of two levels, and all pairs of tokens that they lead to.
        #[test]
        fn so_do_trees_whose_nodes_draw_from_their_own_distributions(
            p in distribution(), of_first in prop::collection::vec((distribution(), distribution()), V),
            q in distribution(), (k, then) in (1usize..3, 1usize..3),
        ) {
            for (rule, origin) in [
                (Rule::Rejection, Origin::Independent),
                (Rule::KSeq, Origin::Independent),
                (Rule::RejectionWithoutReplacement, Origin::WithoutReplacement),
            ] {
                let mut pairs = vec![0.0; V * V];
                for (tokens, probability) in draws(origin, &q, k) {
                    let verdict = rule.verdict(&p, DraftedTokens { tokens: &tokens, q: &q });
                    let mut rejected = probability;
                    for (&first, accept) in tokens.iter().zip(&verdict.accept) {
                        let (p, q) = &of_first[first as usize];
                        let times = tokens.iter().filter(|&&token| token == first).count();
                        let second = emitted(rule, p, q, &draws(origin, q, times * then));
                        for (to, share) in pairs[first as usize * V..].iter_mut().zip(second) {
                            *to += rejected * accept * share;
                        }
                        rejected *= 1.0 - accept;
                    }
                    // Behind a token that was not drafted, the next block begins.
                    for (first, residual) in verdict.residual.iter().enumerate() {
                        for (to, share) in pairs[first * V..].iter_mut().zip(&of_first[first].0) {
                            *to += rejected * residual * share;
                        }
                    }
                }
                let expected: Vec<f64> =
                    p.iter().zip(&of_first).flat_map(|(p, (then, _))| then.iter().map(move |x| p * x)).collect();
                prop_assert!(total_variation(&pairs, &expected) < 1e-9, "{rule:?}: {pairs:?} is not {expected:?}");
            }
        }

        #[test]
        fn deterministic_drafts_emit_the_backbones_distribution(p in distribution(), mut tokens in prop::collection::vec(0..V as u32, 0..4)) {
            let mut seen = Vec::new();
            tokens.retain(|token| !seen.contains(token) && { seen.push(*token); true });
            let found = emitted(Rule::Deterministic, &p, &[], &[(tokens, 1.0)]);
            prop_assert!(total_variation(&found, &p) < 1e-9, "{found:?} is not {p:?}");
        }

        #[test]
        fn greedy_emits_the_most_probable_token_whatever_is_drafted(
            p in distribution(), tokens in prop::collection::vec(0..V as u32, 0..4),
        ) {
            let found = emitted(Rule::Greedy, &p, &[], &[(tokens, 1.0)]);
            prop_assert_eq!(found[largest(&p) as usize], 1.0);
        }

        #[test]
        fn more_drafts_are_accepted_no_less(p in distribution(), q in distribution(), k in 1usize..4) {
            let accepted = |rule: Rule, k: usize| -> f64 {
                let one = |(tokens, probability): (Vec<u32>, f64)| {
                    let verdict = rule.verdict(&p, DraftedTokens { tokens: &tokens, q: &q });
                    probability * (1.0 - verdict.accept.iter().map(|accept| 1.0 - accept).product::<f64>())
                };
                draws(Origin::Independent, &q, k).into_iter().map(one).sum()
            };
            let overlap: f64 = p.iter().zip(&q).map(|(p, q)| p.min(*q)).sum();
            prop_assert!((accepted(Rule::Rejection, 1) - overlap).abs() < 1e-9, "one draft: the overlap of p and q");
            for rule in [Rule::Rejection, Rule::KSeq] {
                prop_assert!(accepted(rule, k + 1) >= accepted(rule, k) - 1e-9, "{rule:?}");
            }
        }
    }

    /// Samples agree with the calculation: chi-square with 3 degrees of freedom, of which 21.1 is the 99.99 % quantile.
    #[test]
    fn samples_have_the_calculated_distribution() {
        let (p, q) = ([0.5, 0.2, 0.05, 0.25], [0.1, 0.6, 0.2, 0.1]);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let draw = |weights: &[f64], rng: &mut ChaCha8Rng| {
            let mut point = rng.random::<f64>() * weights.iter().sum::<f64>();
            let at = weights.iter().position(|weight| {
                point -= weight;
                point < 0.0
            });
            at.unwrap_or(weights.len() - 1) as u32
        };
        for rule in [Rule::Rejection, Rule::KSeq, Rule::RejectionWithoutReplacement, Rule::Deterministic] {
            let (mut counts, rounds) = ([0u32; V], 40_000);
            for _ in 0..rounds {
                let tokens = match rule {
                    Rule::Deterministic => vec![1, 0],
                    Rule::RejectionWithoutReplacement => {
                        let first = draw(&q, &mut rng);
                        let mut rest = q;
                        rest[first as usize] = 0.0;
                        vec![first, draw(&rest, &mut rng)]
                    }
                    _ => vec![draw(&q, &mut rng), draw(&q, &mut rng)],
                };
                let verdict = rule.verdict(&p, DraftedTokens { tokens: &tokens, q: &q });
                let accepted = (0..tokens.len()).find(|&at| rng.random::<f64>() < verdict.accept[at]);
                let token = accepted.map_or_else(|| draw(&verdict.residual, &mut rng), |at| tokens[at]);
                counts[token as usize] += 1;
            }
            let square = |(count, p): (&u32, &f64)| {
                let expected = p * f64::from(rounds);
                (f64::from(*count) - expected).powi(2) / expected
            };
            let chi_square: f64 = counts.iter().zip(&p).map(square).sum();
            assert!(chi_square < 21.1, "{rule:?}: {counts:?}, chi-square {chi_square}");
        }
    }

    #[test]
    fn rules_are_read_by_name() {
        for (text, rule) in [
            ("greedy", Rule::Greedy),
            ("sample", Rule::Deterministic),
            ("top-k=3", Rule::TopK(3)),
            ("typical=0.09, 0.3", Rule::Typical { epsilon: 0.09, delta: 0.3 }),
        ] {
            assert_eq!(text.parse::<Rule>().unwrap(), rule);
        }
        for wrong in ["", "top-k", "top-k=0", "top-k=1.5", "typical=1", "greedy=2", "kseq"] {
            assert!(wrong.parse::<Rule>().unwrap_err().to_string().contains("no verification rule"), "{wrong}");
        }
    }

    #[test]
    fn lossy_rules_accept_what_they_say() {
        let p = [0.5, 0.3, 0.15, 0.05];
        let accept = |rule: Rule| rule.verdict(&p, DraftedTokens { tokens: &[0, 1, 2, 3], q: &[] }).accept;
        assert_eq!(accept(Rule::TopK(2)), [1.0, 1.0, 0.0, 0.0]);
        // exp(-H) = 0.319: the threshold is the smaller of 0.2 and 0.16.
        assert_eq!(accept(Rule::Typical { epsilon: 0.2, delta: 0.5 }), [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(accept(Rule::Typical { epsilon: 0.1, delta: 0.5 }), [1.0, 1.0, 1.0, 0.0]);
        assert!(!Rule::TopK(2).is_lossless() && Rule::KSeq.is_lossless());
    }

    #[test]
    fn rules_are_refused_for_drafts_they_do_not_hold_for() {
        for (rule, origin) in [
            (Rule::KSeq, Origin::Deterministic),
            (Rule::Rejection, Origin::WithoutReplacement),
            (Rule::Deterministic, Origin::Independent),
            (Rule::RejectionWithoutReplacement, Origin::Independent),
        ] {
            let error = rule.require(origin).unwrap_err().to_string();
            assert!(error.contains("exact only for") && error.contains("Take another"), "{error}");
        }
        for origin in [Origin::Deterministic, Origin::Independent, Origin::WithoutReplacement] {
            Rule::Greedy.require(origin).unwrap();
        }
    }
}
