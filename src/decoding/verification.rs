//! Applies a verification rule, and draws the random numbers if the rule needs any.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use burn::tensor::Tensor;

use super::rules::{DraftedTokens, Rule};
use crate::backbone::{Model, draw_place};
use crate::nn::Largest;

/// How drafts are verified.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verification {
    /// The rule by which drafts are kept.
    pub rule: Rule,
    /// The number by which the backbone's logits are divided before the softmax; above 0. Greedy decoding does not use
    /// it.
    pub temperature: f64,
    /// The seed of the random numbers.
    pub seed: u64,
}

impl Verification {
    /// Verification against the backbone's greedy text.
    pub const GREEDY: Self = Self { rule: Rule::Greedy, temperature: 1.0, seed: 0 };
}

/// The backbone's predictions of the tokens after some nodes. The greedy rule needs the most probable tokens only, so
/// that the logits can stay on an accelerator.
pub(super) enum Predictions {
    /// For each node, the most probable token and its lead over the second.
    Firsts(Vec<(u32, f32)>),
    /// `[nodes, V]`
    Logits { logits: Vec<f32>, vocabulary: usize },
}

/// The prediction after one node.
#[derive(Clone, Copy)]
pub(super) enum Prediction<'a> {
    First((u32, f32)),
    Logits(&'a [f32]),
}

impl Predictions {
    /// Computes what `rule` needs from the hidden states `[nodes, d]` of the nodes.
    pub fn of(states: Tensor<2>, model: &Model, rule: Rule) -> Self {
        match rule {
            Rule::Greedy => {
                Self::Firsts(model.projection().largest(states, 2, false).iter().map(Largest::first).collect())
            }
            _ => Self::Logits { logits: model.logits(states), vocabulary: model.config().vocab_size },
        }
    }

    /// Returns the prediction after a node.
    pub fn at(&self, node: usize) -> Prediction<'_> {
        match self {
            Self::Firsts(firsts) => Prediction::First(firsts[node]),
            Self::Logits { logits, vocabulary } => Prediction::Logits(&logits[node * vocabulary..][..*vocabulary]),
        }
    }
}

impl Prediction<'_> {
    /// Returns the most probable token and its lead over the second.
    fn first(self) -> (u32, f32) {
        match self {
            Self::First(first) => first,
            Self::Logits(logits) => Largest::of(logits, 2, false).first(),
        }
    }
}

/// The outcome of verification at one position.
pub(super) enum Outcome {
    /// The drafted token with this index is kept.
    Accept(usize),
    /// No drafted token is kept. This token is emitted instead, and no draft continues after it.
    Emit(u32),
}

/// A verifier of the positions of one text.
pub(super) struct Verifier {
    options: Verification,
    rng: ChaCha8Rng,
}

impl Verifier {
    /// Makes a verifier with random numbers from the seed in `options`.
    pub fn new(options: Verification) -> Self {
        Self { options, rng: ChaCha8Rng::seed_from_u64(options.seed) }
    }

    /// Decides which token follows where the backbone predicts `prediction`; also returns the lead of its most probable
    /// token over the second. `tokens` were drafted for this position. If they were drawn at random, `q` is their
    /// distribution, as pairs of a token and its probability; other tokens have the probability 0.
    pub fn at(&mut self, prediction: Prediction, tokens: &[u32], q: &[(u32, f64)]) -> (Outcome, f32) {
        let (best, lead) = prediction.first();
        let Prediction::Logits(logits) = prediction else {
            let outcome = tokens.iter().position(|&token| token == best).map_or(Outcome::Emit(best), Outcome::Accept);
            return (outcome, lead);
        };
        let mut of_all = vec![0.0; if q.is_empty() { 0 } else { logits.len() }];
        q.iter().for_each(|&(token, probability)| of_all[token as usize] = probability);
        let verdict = self.options.rule.verdict(&self.distribution(logits), DraftedTokens { tokens, q: &of_all });
        let samples = self.options.rule.samples();
        for (number, &accept) in verdict.accept.iter().enumerate() {
            let drawn = if samples { self.rng.random::<f64>() } else { 0.5 };
            if drawn < accept {
                return (Outcome::Accept(number), lead);
            }
        }
        let token = if samples { draw_place(verdict.residual.iter().copied(), &mut self.rng) as u32 } else { best };
        (Outcome::Emit(token), lead)
    }

    /// Returns the backbone's distribution `[V]` at the temperature.
    fn distribution(&self, logits: &[f32]) -> Vec<f64> {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut p: Vec<f64> = logits.iter().map(|&x| (f64::from(x - most) / self.options.temperature).exp()).collect();
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|x| *x /= sum);
        p
    }
}
