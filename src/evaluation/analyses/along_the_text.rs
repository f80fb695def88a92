//! The analysis of how block efficiency changes along the text.

use std::ops::RangeInclusive;

use super::{Analysis, by_variant};
use crate::error::Result;
use crate::evaluation::bootstrap::Counts;
use crate::evaluation::{EvaluatedSet, Step, block_efficiency};
use crate::tables::{Family, Record, Section, record};

pub const ANALYSIS: Analysis =
    Analysis { id: "along-the-text", title: "Along the text", definition: AlongTheTextRow::DEFINITION, fill };

record! {
    /// Block efficiency by how far into the text blocks begin. Later blocks have more text before them, from which drafts can be
    /// copied and to which heads can attend.
    struct AlongTheTextRow in "along-the-text", each "variant" {
        /// For the blocks that begin after FIRST-LAST tokens of the continuation: their decoded tokens divided by their number.
        /// Ranges double in length; those in which none of the variant's blocks begins are left out.
        block_efficiency: Family<f64> = "after {}" as ThreeDecimals;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let row = |place: usize| {
        Ok(AlongTheTextRow { block_efficiency: by_start(set.variants[place].result.steps.iter().flatten()) })
    };
    section.tables.push(by_variant(set, row)?.detail());
    Ok(())
}

/// Returns the block efficiency of the blocks that begin in each range.
fn by_start<'s>(steps: impl Iterator<Item = &'s Step> + Clone) -> Family<f64> {
    let last = steps.clone().map(|step| step.start).max().unwrap_or(0);
    let one = |range: RangeInclusive<usize>| {
        let begun = steps.clone().filter(|step| range.contains(&step.start));
        let blocks: Vec<Counts> = begun.map(|step| Counts { tokens: step.accepted as u64, calls: 1 }).collect();
        let name = format!("{}-{}", range.start(), range.end());
        (!blocks.is_empty()).then(|| (name, block_efficiency(&blocks)))
    };
    ranges().take_while(|range| *range.start() <= last).filter_map(one).collect()
}

/// Returns 0-15, 16-31, 32-63, 64-127 and so on.
fn ranges() -> impl Iterator<Item = RangeInclusive<usize>> {
    const FIRST: usize = 16;
    let doubling = (0..).map(|n| (FIRST << n)..=(FIRST << (n + 1)) - 1);
    std::iter::once(0..=FIRST - 1).chain(doubling)
}
