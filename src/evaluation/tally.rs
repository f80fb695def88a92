//! Sums over documents, from which all reported numbers are computed.

use super::Step;
use super::bootstrap::Counts;

/// Sums over the walks of one variant over a data set.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// The decoded tokens and backbone calls of each document.
    pub documents: Vec<Counts>,
    offered: Vec<u64>,
    /// For each position, the number of blocks that had the position and accepted the one before it.
    reached: Vec<u64>,
    accepted: Vec<u64>,
    nodes: u64,
    most_nodes: usize,
}

impl Tally {
    /// Sums up the walks over all documents of a data set.
    pub fn of(walks: &[Vec<Step>]) -> Self {
        let mut tally = Self::default();
        walks.iter().for_each(|steps| tally.add(steps));
        tally
    }

    /// Adds the walk over one document.
    pub fn add(&mut self, steps: &[Step]) {
        let tokens = steps.iter().map(|s| s.accepted as u64).sum();
        self.documents.push(Counts { tokens, calls: steps.len() as u64 });
        for step in steps {
            let positions = step.slots.max(self.offered.len());
            self.offered.resize(positions, 0);
            self.accepted.resize(positions, 0);
            self.reached.resize(positions, 0);
            self.offered[..step.slots].iter_mut().for_each(|n| *n += 1);
            self.accepted[..step.accepted].iter_mut().for_each(|n| *n += 1);
            self.reached[..step.slots.min(step.accepted + 1)].iter_mut().for_each(|n| *n += 1);
            self.nodes += step.nodes as u64;
            self.most_nodes = self.most_nodes.max(step.nodes);
        }
    }

    /// Returns the counts of all documents together.
    pub fn total(&self) -> Counts {
        total(&self.documents)
    }

    /// Returns decoded tokens / calls, as a ratio of sums.
    pub fn block_efficiency(&self) -> f64 {
        block_efficiency(&self.documents)
    }

    /// Returns the unweighted mean over documents of tokens / calls.
    pub fn document_mean(&self) -> f64 {
        self.documents.iter().copied().map(ratio).sum::<f64>() / self.documents.len().max(1) as f64
    }

    /// Returns the mean and the largest number of draft nodes in a call.
    pub fn verified(&self) -> (f64, usize) {
        (self.nodes as f64 / self.total().calls.max(1) as f64, self.most_nodes)
    }

    /// Returns a rate for each position j = 1 to `block_size`: the number of blocks that accepted at least j tokens,
    /// divided by the number of blocks with at least j slots. The rate is 0 if there are none.
    pub fn accept_rates(&self, block_size: usize) -> Vec<f64> {
        rates(&self.accepted, &self.offered, block_size)
    }

    /// Returns a rate for each position j = 1 to `block_size`: the number of blocks that accepted at least j tokens,
    /// divided by the number of blocks with at least j slots that accepted at least j - 1. The rate is 0 if there are
    /// none.
    pub fn conditional_accept_rates(&self, block_size: usize) -> Vec<f64> {
        rates(&self.accepted, &self.reached, block_size)
    }
}

fn rates(accepted: &[u64], of: &[u64], block_size: usize) -> Vec<f64> {
    let rates = accepted.iter().zip(of).map(|(&a, &o)| a as f64 / o.max(1) as f64);
    rates.chain(std::iter::repeat(0.0)).take(block_size).collect()
}

/// Returns decoded tokens / calls, each summed over the documents.
pub fn block_efficiency(documents: &[Counts]) -> f64 {
    ratio(total(documents))
}

fn total(documents: &[Counts]) -> Counts {
    let sum = |f: fn(&Counts) -> u64| documents.iter().map(f).sum();
    Counts { tokens: sum(|c| c.tokens), calls: sum(|c| c.calls) }
}

fn ratio(counts: Counts) -> f64 {
    counts.tokens as f64 / counts.calls.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drafting::{Decision, TightestMargin};

    #[test]
    fn rates_count_only_blocks_that_had_the_position() {
        let step = |start, accepted, slots| Step {
            start,
            accepted,
            slots,
            nodes: 3,
            tightest: TightestMargin::new(Decision::Draft, 1.0),
        };
        let mut tally = Tally::default();
        tally.add(&[step(0, 2, 3), step(2, 1, 3), step(3, 1, 1)]);
        tally.add(&[step(0, 1, 1)]);
        assert_eq!(tally.accept_rates(4), [1.0, 0.5, 0.0, 0.0]);
        // Of the two blocks with a second slot, one accepted it. This block did not accept its third slot.
        assert_eq!(tally.conditional_accept_rates(4), [1.0, 0.5, 0.0, 0.0]);
        assert_eq!(tally.block_efficiency(), 5.0 / 4.0);
        assert_eq!(tally.document_mean(), (4.0 / 3.0 + 1.0) / 2.0);
        assert_eq!(tally.verified(), (3.0, 3));
        tally.add(&[step(0, 3, 3)]);
        assert_eq!(tally.accept_rates(3), [1.0, 2.0 / 3.0, 1.0 / 3.0]);
        assert_eq!(tally.conditional_accept_rates(3), [1.0, 2.0 / 3.0, 1.0 / 2.0]);
    }
}
