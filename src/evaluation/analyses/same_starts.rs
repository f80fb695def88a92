//! The comparison of drafts with those of plain decoding at the same starts: which are accepted further, and how often
//! tokens repeat (arXiv 2404.09221).

use std::cmp::Ordering;
use std::collections::HashSet;
use std::iter::Sum;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Analysis, by_variant};
use crate::drafting::Drafts;
use crate::error::Result;
use crate::evaluation::{EvaluatedSet, EvaluatedVariant, ReplayText, Route, Step, replay_all};
use crate::tables::{Record, Section, record};

pub const ANALYSIS: Analysis =
    Analysis { id: "same-starts", title: "Beside plain decoding", definition: SameStartsRow::DEFINITION, fill };

record! {
    /// The drafts of every variant at the starts that its walk and that of plain bpd both visit, so that both draft for the same
    /// places: plain bpd's own row is before rescoring, the others' after.
    pub struct SameStartsRow in "same-starts", each "variant" {
        /// Of the blocks that begin at these starts, those where the variant's accepted length is longer.
        wins: u64 = "wins" as Count;
        /// Of the blocks that begin at these starts, those where both accepted lengths are equal.
        ties: u64 = "ties" as Count;
        /// Of the blocks that begin at these starts, those where the variant's accepted length is shorter.
        losses: u64 = "losses" as Count;
        /// Of the wins, those where the first token that plain bpd had rejected equals the token before it in its draft, so that
        /// a repetition was repaired.
        repairs: u64 = "repairs" as Count;
        /// Of all pairs of neighbouring tokens in the variant's first drafts at these starts, the share whose two tokens are
        /// equal.
        repetition: f64 = "repeats" as Percent;
        /// The mean over these starts of the longest run of equal tokens in the variant's first draft, counted from 1.
        longest_run: f64 = "longest run" as TwoDecimals;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let row = |place| {
        let counts = measure(set, place)?;
        let SameStarts { wins, ties, losses, repairs, .. } = *counts;
        let (repetition, longest_run) = (counts.repetition(), counts.longest_run());
        Ok(SameStartsRow { wins, ties, losses, repairs, repetition, longest_run })
    };
    section.tables.push(by_variant(set, row)?);
    Ok(())
}

/// Counts over the blocks of the variant with index `place`, at the starts that plain decoding visits as well. What the heads
/// propose there is known from the walk.
pub fn measure(set: &EvaluatedSet, place: usize) -> Result<Arc<SameStarts>> {
    let EvaluatedVariant { prepared, key, result, .. } = &set.variants[place];
    let (plain, findings) = (set.plain(), set.evaluator.findings);
    findings.find(&findings.key("same-starts", &(key, &plain.key)), || {
        let drafter = prepared.drafter(&result.settings);
        let texts = set.texts.texts.iter().zip(set.texts.lattices(prepared.variant.stop));
        let routes = texts.zip(plain.result.steps.iter().zip(&result.steps)).map(|((text, lattices), (plain, own))| {
            let plain: HashSet<usize> = plain.iter().map(|step| step.start).collect();
            let starts = own.iter().map(|step| step.start).filter(|start| plain.contains(start)).collect();
            Route { text, lattices, starts: Some(starts) }
        });
        let keep = |number: usize, step: Step, drafts: &Drafts| {
            let plain = &plain.result.steps[number];
            let plain = &plain[plain.partition_point(|plain| plain.start < step.start)];
            SameStarts::of(&set.texts.texts[number], plain, &step, &drafts.paths[0])
        };
        let counts = replay_all(&routes.collect::<Vec<_>>(), &*drafter, keep)?;
        Ok(counts.into_iter().flatten().sum())
    })
}

/// Counts over blocks that begin where one of plain decoding's does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SameStarts {
    /// The number of blocks whose accepted length is longer than plain decoding's at the same start.
    pub wins: u64,
    /// The number of blocks with the same accepted length.
    pub ties: u64,
    /// The number of blocks with a shorter accepted length.
    pub losses: u64,
    /// The number of wins where plain decoding's first rejected token repeats the token before it.
    pub repairs: u64,
    /// The number of pairs of neighbouring tokens in the first drafts.
    pub pairs: u64,
    /// The number of these pairs whose tokens are equal.
    pub repeats: u64,
    /// The sum over the first drafts of the length of the longest run of equal tokens, which is at least 1.
    pub longest_runs: u64,
}

impl SameStarts {
    /// Returns the share of neighbouring tokens that are equal.
    pub fn repetition(&self) -> f64 {
        self.repeats as f64 / self.pairs.max(1) as f64
    }

    /// Returns the mean length of a first draft's longest run of equal tokens.
    fn longest_run(&self) -> f64 {
        self.longest_runs as f64 / (self.wins + self.ties + self.losses).max(1) as f64
    }

    /// Counts a block, whose draft is `first`, or its first draft, beside the block of plain decoding at the same start.
    fn of(text: &ReplayText, plain: &Step, step: &Step, first: &[u32]) -> Self {
        let mut counts = Self::default();
        match step.accepted.cmp(&plain.accepted) {
            Ordering::Less => counts.losses = 1,
            Ordering::Equal => counts.ties = 1,
            Ordering::Greater => {
                counts.wins = 1;
                let draft = text.lattices[plain.start].top1();
                // In a block that ended early, no token was rejected.
                counts.repairs = u64::from(draft.get(plain.accepted) == Some(&draft[plain.accepted - 1]));
            }
        }
        counts.pairs = first.len() as u64 - 1;
        counts.repeats = first.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
        counts.longest_runs = longest_run(first);
        counts
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

/// Returns the length of the longest run of equal tokens.
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
