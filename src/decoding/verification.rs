//! A rule at work: rolls the dice, if the rule has any.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::rules::{Drafted, Rule};
use crate::backbone::{best_two, draw_place};

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

    /// Which token follows where the backbone's logits are these, and the lead of the largest over the second.
    pub fn at(&mut self, logits: &[f32], tokens: &[u32], q: &[f64]) -> (Outcome, f32) {
        let (best, lead) = best_two(logits);
        if self.options.rule == Rule::Greedy {
            let outcome = tokens.iter().position(|&token| token == best).map_or(Outcome::Emit(best), Outcome::Accept);
            return (outcome, lead);
        }
        let verdict = self.options.rule.verdict(&self.distribution(logits), Drafted { tokens, q });
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
