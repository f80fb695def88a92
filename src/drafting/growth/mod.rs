//! Drafts that are grown from what heads propose behind each path, level by level.
//!
//! In a lattice, the candidates of a slot are the same whatever was drafted before. Sequential heads know better: behind
//! another token they propose other tokens. So a tree is grown instead of searched. Which nodes it has is up to a
//! [`GrowthPolicy`].

mod tree;

#[cfg(test)]
mod tests;

use tree::{GrowingTree, Node};
pub use tree::{GrowthLimits, GrowthPolicy};

use super::local::{WeighedReader, summed_scores};
use super::{Drafter, Drafts, GrowingSession, Session, Settings};
use crate::error::Result;
use crate::nn::Largest;
use crate::rescorer::{BlockContext, PrefixToken, Rescorer};

/// A drafter whose drafts grow.
pub struct Grown<'a> {
    /// The rescorers, in the order of the settings' shares. All score any path ([`Rescorer::reader`]).
    pub rescorers: Vec<&'a dyn Rescorer>,
    /// Which nodes a tree has.
    pub policy: GrowthPolicy,
    /// How large a tree may be.
    pub limits: GrowthLimits,
    /// The settings: `top_k`, the gate, the weighting and the temperature of the calibration. Coverage is not read, because
    /// the heads' own probabilities tell how much is left out.
    pub settings: Settings,
}

impl Drafter for Grown<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        let readers = self.settings.terms(&self.rescorers).map(|(share, rescorer)| {
            (share, rescorer.reader().expect("only rescorers of paths take part in grown trees"))
        });
        let readers = readers.collect();
        Box::new(GrownSession { grown: self, readers, tree: GrowingTree::default() })
    }

    fn reads_heads(&self) -> bool {
        false
    }

    fn reads_whole_lattice(&self) -> bool {
        false
    }

    fn grows(&self) -> bool {
        true
    }
}

struct GrownSession<'a> {
    grown: &'a Grown<'a>,
    readers: Vec<WeighedReader<'a>>,
    /// The tree of the present block.
    tree: GrowingTree,
}

impl GrowingSession for GrownSession<'_> {
    fn begin(&mut self, text: &[u32], block: &BlockContext) -> Result<()> {
        let Grown { limits, settings, policy, .. } = self.grown;
        let text = &text[..block.start];
        for (_, reader) in &mut self.readers {
            reader.read(text, block.slots * limits.frontier)?;
            reader.hear(block.hidden);
        }
        let pinned = block.lattice.ids(0)[0];
        // Other trees have a shape of their own.
        let budget = block.budget.filter(|_| *policy == GrowthPolicy::MostProbable);
        self.tree = GrowingTree::new(text, pinned, block.slots, budget.cloned());
        self.tree.copy = settings.copied(text, pinned, block.slots);
        self.tree.narrow(limits);
        Ok(())
    }

    fn wanted(&self) -> Vec<&[u32]> {
        self.tree.level.iter().map(|&node| &self.tree.found[node].path[..]).collect()
    }

    fn give(&mut self, proposed: &[Largest]) -> Result<()> {
        let proposed = self.proposals(proposed);
        let scores = self.scores(&proposed)?;
        let (grown, tree) = (self.grown, &mut self.tree);
        let of_level = tree.level.iter().enumerate().zip(proposed.iter().zip(&scores));
        let behind = of_level.map(|((number, &parent), (proposed, scores))| {
            let (parent, after) = (&tree.found[parent], Some(tree.read + number));
            let mut copied = tree.copy.get(tree.slot).filter(|_| parent.copied);
            let mut children = Vec::new();
            for (&token, share) in proposed.ids.iter().zip(grown.shares(tree.slot, proposed, scores)) {
                let same = copied.take_if(|copied| copied.token == token);
                let share = same.as_ref().map_or(share, |copied| copied.confidence.max(share));
                children.push(parent.child(token, share, same.is_some(), after));
            }
            children.extend(copied.map(|copied| parent.child(copied.token, copied.confidence, true, after)));
            children
        });
        let behind = behind.collect();
        tree.extend(behind, &grown.policy, &grown.limits);
        Ok(())
    }

    fn finish(&mut self) -> Drafts {
        std::mem::take(&mut self.tree).drafts(&self.grown.policy, &self.grown.limits)
    }
}

impl GrownSession<'_> {
    /// Returns the proposals that are within the settings' `top_k` and gate.
    fn proposals(&self, found: &[Largest]) -> Vec<Largest> {
        let Settings { top_k, gate, .. } = self.grown.settings;
        let narrowed = |largest: &Largest| {
            let first = largest.logits.first().copied().unwrap_or(0.0);
            let near = |logit: &&f32| f64::from(first) - f64::from(**logit) <= gate;
            let width = largest.logits.iter().take(top_k).take_while(near).count();
            let (ids, logits) = (largest.ids[..width].to_vec(), largest.logits[..width].to_vec());
            Largest { ids, logits, stats: largest.stats }
        };
        found.iter().map(narrowed).collect()
    }

    /// Returns the sum of the readers' scores of what is proposed behind each node of the level.
    fn scores(&mut self, proposed: &[Largest]) -> Result<Vec<Vec<f64>>> {
        let Self { readers, tree: GrowingTree { level, found, .. }, .. } = self;
        let newest: Vec<PrefixToken> = level
            .iter()
            .zip(proposed)
            .map(|(&node, proposed)| {
                let Node { path, after, .. } = &found[node];
                PrefixToken {
                    token: path[path.len() - 1],
                    after: *after,
                    slot: path.len(),
                    candidates: &proposed.ids,
                    scores: &proposed.logits,
                }
            })
            .collect();
        summed_scores(readers, &newest, true)
    }
}

impl Grown<'_> {
    /// Returns the probability of each proposed token: its share of the proposals' weights `exp(score / temperature)`, times
    /// the probability that the heads give to all proposals together. In a tree of a fixed shape, it is how often a proposal
    /// of this rank was right on dev.
    fn shares(&self, slot: usize, proposed: &Largest, scores: &[f64]) -> Vec<f64> {
        let Settings { weighting, calibration, rank_rates, .. } = &self.settings;
        if self.policy == GrowthPolicy::FixedShape {
            let rates = rank_rates.get(slot - 1).map_or(&[][..], Vec::as_slice);
            return (0..proposed.ids.len()).map(|rank| rates.get(rank).copied().unwrap_or(0.0)).collect();
        }
        let log_sum = f64::from(proposed.stats.expect("asked for").log_sum);
        let inside: f64 = proposed.logits.iter().map(|&logit| (f64::from(logit) - log_sum).exp()).sum();
        let score = |(&logit, &score): (&f32, &f64)| weighting.score(slot, logit, score) / calibration.temperature;
        let weights: Vec<f64> = proposed.logits.iter().zip(scores).map(score).collect();
        let most = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = weights.iter().map(|weight| (weight - most).exp()).sum();
        weights.into_iter().map(|weight| inside.min(1.0) * (weight - most).exp() / sum).collect()
    }
}
