//! The analysis of loops. Small models often fall into loops, and loops are easy to draft.

use super::Analysis;
use crate::error::Result;
use crate::evaluation::EvaluatedSet;
use crate::tables::{BASELINE, Record, Section, Table, format, record};

pub const ANALYSIS: Analysis = Analysis { id: "loops", title: "Loops", definition: LoopRow::DEFINITION, fill };

record! {
    /// A document loops when, in its decoded text, an n-gram of at most 16 tokens repeats three times or more in a row; small
    /// models fall into loops, and loops are easy to draft.
    pub struct LoopRow in "loops", each "data set" {
        /// The documents that loop.
        looping_documents: u64 = "looping documents" as Count;
        /// Looping documents divided by all documents of the data set.
        share: f64 = "share" as Percent;
        /// Block efficiency of plain bpd over the documents that do not loop; null when every document loops.
        bpd_block_efficiency_without: Option<f64> = "bpd without them" as ThreeDecimals;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let (looping, documents) = (set.texts.looping.iter().filter(|&&l| l).count(), set.texts.looping.len());
    let row = LoopRow {
        looping_documents: looping as u64,
        share: looping as f64 / documents as f64,
        bpd_block_efficiency_without: set.without_loops(&set.plain().tally.documents),
    };
    section.notes.push(sentence(&row, documents as u64));
    section.tables.push(Table::of([(set.name.clone(), row)]).detail());
    section.brief = true;
    Ok(())
}

fn sentence(row: &LoopRow, documents: u64) -> String {
    let share = format!(
        "{} of {} ({}) loop",
        format::count(row.looping_documents),
        format::counted(documents, "document", "documents"),
        format::percent(row.share)
    );
    match row.bpd_block_efficiency_without {
        _ if row.looping_documents == 0 => "No document loops.".to_owned(),
        Some(x) => format!("{share}; without them {BASELINE} has a block efficiency of {}.", format::efficiency(x)),
        None => format!("{share}, so nothing is left to measure without them."),
    }
}

/// The length of the longest n-gram whose repetition counts as a loop.
const LOOP_LENGTH: usize = 16;

/// Returns whether an n-gram of at most 16 tokens occurs at least three times in a row.
pub fn loops(tokens: &[u32]) -> bool {
    (1..=LOOP_LENGTH).any(|n| {
        // If 2n consecutive tokens equal the tokens n places later, the same n tokens occur three times in a row.
        let mut run = 0;
        tokens.iter().zip(tokens.iter().skip(n)).any(|(a, b)| {
            run = if a == b { run + 1 } else { 0 };
            run >= 2 * n
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_three_repeats_in_a_row() {
        assert!(loops(&[7, 1, 2, 1, 2, 1, 2]));
        assert!(!loops(&[1, 2, 1, 2, 1, 3]));
        assert!(loops(&[5, 5, 5]));
        assert!(!loops(&[5, 5, 1, 5, 5]));
        let long: Vec<u32> = (0..16).collect();
        assert!(loops(&long.repeat(3)));
        assert!(!loops(&(0..17).collect::<Vec<u32>>().repeat(3)));
    }

    #[test]
    fn the_share_is_said_in_words() {
        let row = |looping_documents, share, bpd_block_efficiency_without| LoopRow {
            looping_documents,
            share,
            bpd_block_efficiency_without,
        };
        let some = sentence(&row(12, 0.06, Some(1.462)), 200);
        assert_eq!(some, "12 of 200 documents (6.0 %) loop; without them bpd has a block efficiency of 1.462.");
        assert_eq!(sentence(&row(0, 0.0, Some(1.5)), 3), "No document loops.");
        assert!(sentence(&row(1, 1.0, None), 1).ends_with("nothing is left to measure without them."));
    }
}
