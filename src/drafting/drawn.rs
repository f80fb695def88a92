//! Drafts that are drawn from the heads' own distributions, for verification rules that need to know the distribution.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{Drafter, Drafts, Origin, Session};
use crate::backbone::draw_place;
use crate::error::Result;
use crate::rescorer::BlockContext;

/// A drafter that draws its paths at random.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrawnDrafter {
    /// The largest number of paths per block. Without replacement, there may be too few tokens in slot 2 for that many.
    pub paths: usize,
    /// The temperature, above 0, that the heads' scores are divided by.
    pub temperature: f64,
    /// Whether two paths may have the same token in slot 2. The tokens of later slots are drawn independently either
    /// way.
    pub replacement: bool,
    /// The seed of the random number generator that every session starts with.
    pub seed: u64,
}

impl Drafter for DrawnDrafter {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(DrawnSession { drafter: *self, rng: ChaCha8Rng::seed_from_u64(self.seed) })
    }

    fn origin(&self) -> Origin {
        if self.replacement { Origin::Independent } else { Origin::WithoutReplacement }
    }
}

struct DrawnSession {
    drafter: DrawnDrafter,
    rng: ChaCha8Rng,
}

impl Session for DrawnSession {
    fn drafts(&mut self, _: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>> {
        blocks.iter().map(|block| Ok(self.draw(block))).collect()
    }
}

impl DrawnSession {
    fn draw(&mut self, block: &BlockContext) -> Drafts {
        let lattice = block.lattice;
        let q: Vec<Vec<(u32, f64)>> = (0..lattice.slots())
            .map(|slot| {
                let scores = lattice.scores(slot);
                let weight = |score: &f32| (f64::from(score - scores[0]) / self.drafter.temperature).exp();
                let sum: f64 = scores.iter().map(weight).sum();
                lattice.ids(slot).iter().copied().zip(scores.iter().map(|score| weight(score) / sum)).collect()
            })
            .collect();
        let mut second: Vec<(u32, f64)> = q.get(1).cloned().unwrap_or_default();
        let mut paths = Vec::new();
        while paths.len() < self.drafter.paths {
            let mut path = vec![q[0][0].0];
            for (slot, q) in q.iter().enumerate().skip(1) {
                let from = if slot == 1 { &second } else { q };
                path.push(from[draw_place(from.iter().map(|(_, weight)| *weight), &mut self.rng)].0);
            }
            if !self.drafter.replacement {
                second.retain(|(token, _)| path.get(1) != Some(token));
            }
            paths.push(path);
            if second.is_empty() {
                break;
            }
        }
        Drafts { paths, margin: f64::INFINITY, q }
    }
}
