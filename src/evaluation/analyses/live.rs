//! The analysis of the live check: how far live decoding of some documents agrees with the replay.

use super::{Analysis, by_variant};
use crate::error::Result;
use crate::evaluation::EvaluatedSet;
use crate::tables::{Family, Record, Section, Table, format, record};

pub const ANALYSIS: Analysis = Analysis { id: "live", title: "Live check", definition: LiveRow::DEFINITION, fill };

record! {
    /// The first documents decoded step by step with the real backbone, under every variant, and compared with replay block by
    /// block.
    pub struct LiveRow in "live", each "variant" {
        /// Documents whose live blocks or text differ from replay at a step that is no near-tie; anything but 0 is a bug.
        mismatches: u64 = "mismatches" as Count;
        /// Documents whose live decoding first differs from replay at a step where the closest decision has a margin under the
        /// stated bound (1e-3 in float32); decoding then goes on from the trace's token.
        near_ties: u64 = "near-ties" as Count;
    }
}

record! {
    /// The live check over all variants together.
    pub struct LiveTotalsRow in "live-totals", each "data set" {
        /// The documents decoded live, each with every variant.
        documents: u64 = "documents" as Count;
        /// Documents decoded side by side: block by block, one that waits takes the place of one that has ended; token by token,
        /// the next batch begins when all of the one before have ended.
        batch: u64 = "batch" as Count;
        /// Mismatches, summed over variants; anything but 0 is a bug.
        mismatches: u64 = "mismatches" as Count;
        /// Near-ties, summed over variants.
        near_ties: u64 = "near-ties" as Count;
        /// Near-ties by the decision that was nearly tied: the verifier's first two tokens, the k-th candidate against the next,
        /// where a block ends early, or the drafter's choice.
        near_ties_by_kind: Family<u64> = "near-ties, {}" as Count;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let Some(live) = &set.live else { return Ok(()) };
    let kinds = live.near_ties_by_kind();
    let totals = LiveTotalsRow {
        documents: live.documents as u64,
        batch: live.batch as u64,
        mismatches: live.mismatches(),
        near_ties: live.near_ties(),
        near_ties_by_kind: kinds.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect(),
    };
    let sentence = sentence(&totals, set.variants.len());
    if totals.mismatches > 0 {
        section.warnings.push(sentence)
    } else {
        section.notes.push(sentence)
    }
    section.tables.push(by_variant(set, |place| {
        let outcome = &live.outcomes[place];
        Ok(LiveRow { mismatches: outcome.mismatches as u64, near_ties: outcome.near_ties as u64 })
    })?);
    section.tables.push(Table::of([(set.name.clone(), totals)]).detail());
    Ok(())
}

fn sentence(totals: &LiveTotalsRow, variants: usize) -> String {
    let kinds: Vec<String> =
        totals.near_ties_by_kind.0.iter().map(|(kind, count)| format!("{kind} {}", format::count(*count))).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    let together = if totals.batch > 1 { format!(", {} side by side,", totals.batch) } else { String::new() };
    format!(
        "{} decoded live{together} with {}: {}, {}{kinds}.",
        format::counted(totals.documents, "document", "documents"),
        format::counted(variants as u64, "variant", "variants"),
        format::counted(totals.mismatches, "mismatch", "mismatches"),
        format::counted(totals.near_ties, "near-tie", "near-ties"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_said_in_words() {
        let mut totals = LiveTotalsRow {
            documents: 50,
            batch: 1,
            mismatches: 0,
            near_ties: 2,
            near_ties_by_kind: [("candidates".to_owned(), 1), ("verifier".to_owned(), 1)].into_iter().collect(),
        };
        let text = "50 documents decoded live with 2 variants: 0 mismatches, 2 near-ties (candidates 1, verifier 1).";
        assert_eq!(sentence(&totals, 2), text);
        (totals.batch, totals.mismatches, totals.near_ties_by_kind) = (4, 1, Family::default());
        let text = "50 documents decoded live, 4 side by side, with 1 variant: 1 mismatch, 2 near-ties.";
        assert_eq!(sentence(&totals, 1), text);
    }
}
