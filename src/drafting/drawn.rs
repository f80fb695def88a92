//! Drafts that are drawn from the heads' own distributions, for verification rules that need to know the distribution.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{Drafter, Drafts, GrowingSession, Origin, Session, StopRule};
use crate::backbone::draw_place;
use crate::error::Result;
use crate::nn::Largest;
use crate::rescorer::BlockContext;

/// A drafter that draws its tokens at random, each from what the heads propose behind the path before it (multi-candidate
/// speculative decoding, arXiv 2401.06706).
#[derive(Debug, Clone, PartialEq)]
pub struct DrawnDrafter {
    /// How many tokens are drawn behind a path, by slot from the second one on; in slots behind the last number, one. Where a
    /// token was drawn twice, each of the two is drawn behind. A single number is a number of whole drafts that begin with draws
    /// of their own.
    pub branching: Vec<usize>,
    /// The temperature, above 0, that the heads' scores are divided by.
    pub temperature: f64,
    /// Whether a token may be drawn twice behind the same path. If not, there may be too few tokens for all draws.
    pub replacement: bool,
    /// Nothing is drawn in slots that the rule leaves out, by the heads' distribution behind the path. A block's tokens are then
    /// drawn or not whatever they are, so the distribution of each stays what it is.
    pub stop: StopRule,
    /// The seed of the random number generator that every session starts with.
    pub seed: u64,
}

/// The constant that keeps the random numbers of drafts apart from those of verification, where both come from one seed.
pub const DRAFT_DICE: u64 = 0x5eed_d1ce;

/// What was drawn behind a path.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawnTokens {
    /// The tokens in the order of the draws. One that was drawn twice is there twice.
    pub tokens: Vec<u32>,
    /// The distribution that the first of them was drawn from, as pairs of a token and its probability. Without replacement, each
    /// token that was drawn is taken out of it for the draws that follow.
    pub q: Vec<(u32, f64)>,
}

impl Drafter for DrawnDrafter {
    fn session(&self) -> Box<dyn Session + '_> {
        let rng = ChaCha8Rng::seed_from_u64(self.seed);
        Box::new(DrawnSession {
            drafter: self,
            rng,
            slots: 0,
            level: Vec::new(),
            paths: Vec::new(),
            drawn: HashMap::new(),
        })
    }

    fn reads_heads(&self) -> bool {
        false
    }

    fn grows(&self) -> bool {
        true
    }

    fn origin(&self) -> Origin {
        if self.replacement { Origin::Independent } else { Origin::WithoutReplacement }
    }
}

struct DrawnSession<'a> {
    drafter: &'a DrawnDrafter,
    rng: ChaCha8Rng,
    /// The number of slots of the present block.
    slots: usize,
    /// The paths behind which tokens are drawn next, each with the number of times that it was drawn.
    level: Vec<(Vec<u32>, usize)>,
    /// The paths behind which nothing was drawn.
    paths: Vec<Vec<u32>>,
    drawn: HashMap<Vec<u32>, DrawnTokens>,
}

impl GrowingSession for DrawnSession<'_> {
    fn begin(&mut self, _: &[u32], block: &BlockContext) -> Result<()> {
        self.slots = block.slots;
        self.level = vec![(vec![block.lattice.ids(0)[0]], 1)];
        Ok(())
    }

    fn wanted(&self) -> Vec<&[u32]> {
        let of_level = self.level.iter().map(|(path, _)| &path[..]);
        of_level.filter(|path| path.len() < self.slots).collect()
    }

    fn give(&mut self, proposed: &[Largest]) -> Result<()> {
        for ((path, times), proposed) in std::mem::take(&mut self.level).into_iter().zip(proposed) {
            let number = self.drafter.branching.get(path.len() - 1).copied().unwrap_or(1) * times;
            if proposed.ids.is_empty() || self.drafter.stop.leaves_out(path.len(), proposed) {
                self.paths.push(path);
                continue;
            }
            let drawn = self.draw(proposed, number);
            let mut next: Vec<(Vec<u32>, usize)> = Vec::new();
            for &token in &drawn.tokens {
                match next.iter_mut().find(|(longer, _)| longer[path.len()] == token) {
                    Some((_, times)) => *times += 1,
                    None => next.push(([&path[..], &[token]].concat(), 1)),
                }
            }
            self.level.extend(next);
            self.drawn.insert(path, drawn);
        }
        Ok(())
    }

    fn finish(&mut self) -> Drafts {
        let mut paths = std::mem::take(&mut self.paths);
        paths.extend(std::mem::take(&mut self.level).into_iter().map(|(path, _)| path));
        Drafts { drawn: std::mem::take(&mut self.drawn), ..Drafts::chosen(paths, f64::INFINITY) }
    }
}

impl DrawnSession<'_> {
    /// Draws at most `number` of the proposed tokens.
    fn draw(&mut self, proposed: &Largest, number: usize) -> DrawnTokens {
        let weight = |logit: &f32| (f64::from(logit - proposed.logits[0]) / self.drafter.temperature).exp();
        let sum: f64 = proposed.logits.iter().map(weight).sum();
        let q: Vec<(u32, f64)> =
            proposed.ids.iter().copied().zip(proposed.logits.iter().map(|logit| weight(logit) / sum)).collect();
        let (mut tokens, mut left) = (Vec::new(), q.clone());
        while tokens.len() < number && !left.is_empty() {
            let place = draw_place(left.iter().map(|(_, weight)| *weight), &mut self.rng);
            tokens.push(left[place].0);
            if !self.drafter.replacement {
                left.remove(place);
            }
        }
        DrawnTokens { tokens, q }
    }
}
