//! Drafts beside plain decoding's at the same starts: who is longer, and how often tokens repeat (arXiv 2404.09221).

use std::cmp::Ordering;
use std::iter::Sum;

use super::{ReplayText, Step};
use crate::drafting::Drafter;
use crate::error::Result;
use crate::lattice::{Lattice, accepted_length};
use crate::rescorer::BlockContext;

/// Counts over the blocks that plain decoding visits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SameStarts {
    /// Blocks in which the accepted length is longer than plain decoding's at the same start.
    pub wins: u64,
    /// Equally long.
    pub ties: u64,
    /// Shorter.
    pub losses: u64,
    /// Wins where plain decoding's first rejected token repeats the token before it.
    pub repairs: u64,
    /// Neighbouring tokens in the first drafts.
    pub pairs: u64,
    /// Those that are equal.
    pub repeats: u64,
    /// Sum over the first drafts of the longest run of equal tokens, from 1.
    pub longest_runs: u64,
}

impl SameStarts {
    /// All blocks.
    pub fn blocks(&self) -> u64 {
        self.wins + self.ties + self.losses
    }

    /// Those of one text, which plain decoding walked in `steps`.
    pub fn of(text: &ReplayText, lattices: &[Lattice], steps: &[Step], drafter: &dyn Drafter) -> Result<Self> {
        let mut counts = Self::default();
        let blocks: Vec<BlockContext> =
            steps.iter().map(|step| text.block_context(step.start, &lattices[step.start])).collect();
        let drafts = drafter.session().drafts(&text.tokens, &blocks)?;
        for (step, drafts) in steps.iter().zip(drafts) {
            let target = &text.continuation()[step.start..];
            let (accepted, plain) = (accepted_length(&drafts.paths, target).max(1), text.lattices[step.start].top1());
            match accepted.cmp(&step.accepted) {
                Ordering::Less => counts.losses += 1,
                Ordering::Equal => counts.ties += 1,
                Ordering::Greater => {
                    counts.wins += 1;
                    // A block that ended early had nothing rejected.
                    let rejected = plain.get(step.accepted);
                    counts.repairs += u64::from(rejected == Some(&plain[step.accepted - 1]));
                }
            }
            let first = &drafts.paths[0];
            counts.pairs += first.len() as u64 - 1;
            counts.repeats += first.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
            counts.longest_runs += longest_run(first);
        }
        Ok(counts)
    }
}

impl Sum for SameStarts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            wins: sum.wins + one.wins,
            ties: sum.ties + one.ties,
            losses: sum.losses + one.losses,
            repairs: sum.repairs + one.repairs,
            pairs: sum.pairs + one.pairs,
            repeats: sum.repeats + one.repeats,
            longest_runs: sum.longest_runs + one.longest_runs,
        })
    }
}

/// The longest run of equal tokens.
fn longest_run(tokens: &[u32]) -> u64 {
    tokens.chunk_by(|a, b| a == b).map(|run| run.len() as u64).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_from_one() {
        assert_eq!([&[1, 2, 3][..], &[1, 1, 2, 2, 2], &[5]].map(longest_run), [1, 3, 1]);
    }
}
