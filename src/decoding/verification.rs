//! A rule at work: rolls the dice, if the rule has any.

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
    /// Which drafts are kept.
    pub rule: Rule,
    /// The backbone's logits are divided by it before they are a distribution; above 0. Greedy decoding has no use for it.
    pub temperature: f64,
    /// Of the dice.
    pub seed: u64,
}

impl Verification {
    /// The backbone's greedy text.
    pub const GREEDY: Self = Self { rule: Rule::Greedy, temperature: 1.0, seed: 0 };
}

/// What the backbone says of the tokens after some nodes. The greedy rule asks for its first choices alone, so that an
/// accelerator keeps the logits.
pub(super) enum Predictions {
    /// By node, the most probable token and its lead over the second.
    Firsts(Vec<(u32, f32)>),
    /// `[nodes, V]`
    Logits { logits: Vec<f32>, vocabulary: usize },
}

/// That of one node.
#[derive(Clone, Copy)]
pub(super) enum Prediction<'a> {
    First((u32, f32)),
    Logits(&'a [f32]),
}

impl Predictions {
    /// As much as `rule` needs behind the hidden states `[nodes, d]`.
    pub fn of(states: Tensor<2>, model: &Model, rule: Rule) -> Self {
        match rule {
            Rule::Greedy => {
                Self::Firsts(model.projection().largest(states, 2, false).iter().map(Largest::first).collect())
            }
            _ => Self::Logits { logits: model.logits(states), vocabulary: model.config().vocab_size },
        }
    }

    pub fn at(&self, node: usize) -> Prediction<'_> {
        match self {
            Self::Firsts(firsts) => Prediction::First(firsts[node]),
            Self::Logits { logits, vocabulary } => Prediction::Logits(&logits[node * vocabulary..][..*vocabulary]),
        }
    }
}

impl Prediction<'_> {
    /// The most probable token and its lead over the second.
    fn first(self) -> (u32, f32) {
        match self {
            Self::First(first) => first,
            Self::Logits(logits) => Largest::of(logits, 2, false).first(),
        }
    }
}

/// What happens at one place.
pub(super) enum Outcome {
    /// The drafted token of this number is kept.
    Accept(usize),
    /// None is; this token is emitted instead, and no draft goes on behind it.
    Emit(u32),
}

/// Verifies the places of one text.
pub(super) struct Verifier {
    options: Verification,
    rng: ChaCha8Rng,
}

impl Verifier {
    pub fn new(options: Verification) -> Self {
        Self { options, rng: ChaCha8Rng::seed_from_u64(options.seed) }
    }

    /// Which token follows where the backbone predicts this, and the lead of its first choice over the second. The `tokens`
    /// were drafted there, from the distribution `q` (`(token, probability)`, none others) where they were drawn.
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
            let roll = if samples { self.rng.random::<f64>() } else { 0.5 };
            if roll < accept {
                return (Outcome::Accept(number), lead);
            }
        }
        let token = if samples { draw_place(verdict.residual.iter().copied(), &mut self.rng) as u32 } else { best };
        (Outcome::Emit(token), lead)
    }

    fn distribution(&self, logits: &[f32]) -> Vec<f64> {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut p: Vec<f64> = logits.iter().map(|&x| (f64::from(x - most) / self.options.temperature).exp()).collect();
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|x| *x /= sum);
        p
    }
}
