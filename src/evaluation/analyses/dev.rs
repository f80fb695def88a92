//! The analysis of what is measured on dev without a search. The settings of every variant begin there.

use super::Analysis;
use crate::error::Result;
use crate::evaluation::EvaluatedSet;
use crate::tables::{Family, Record, Section, Table, record};

pub const ANALYSIS: Analysis = Analysis { id: "dev", title: "Measured on dev", definition: SlotRow::DEFINITION, fill };

record! {
    /// What is measured on dev without a search, slot by slot of the block: how expected accepted lengths are calibrated.
    struct SlotRow in "slots", each "slot" {
        /// Over all positions of dev at which a block could begin: of those whose next tokens were among the top_k candidates in
        /// every slot before, the share where it is so in this slot as well.
        coverage: f64 = "coverage" as Percent;
        /// The temperature, from 1/4 to 4, at which the softmax of the candidates' scores makes the backbone's tokens on dev most
        /// likely, over the positions where these were among the top_k candidates in this slot and in every slot before; 1 for
        /// the pinned slot, null where no slot_tempering is tried.
        slot_temperature: Option<f64> = "temperature" as TwoDecimals;
    }
}

record! {
    /// How often a copy from the text is right, by the length of the longest suffix that occurs earlier in it.
    struct LookupRow in "lookup-confidence", each "suffix" {
        /// Over all positions of dev at which a block could begin: of those whose copied tokens are right in every slot before, the
        /// share where it is so in this slot as well, both counts begun with one right of two.
        right: Family<f64> = "slot {}" as Percent;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let (coverage, temperatures) = (&set.start.calibration.coverage, &set.start.slot_temperatures);
    let slot = |(slot, &coverage): (usize, &f64)| {
        ((slot + 1).to_string(), SlotRow { coverage, slot_temperature: temperatures.get(slot).copied() })
    };
    section.tables.push(Table::of(coverage.iter().enumerate().map(slot)));
    if !set.start.confidence.is_empty() {
        let class =
            |(suffix, right): (String, &[f64])| (suffix, LookupRow { right: Family::numbered(1, right.to_vec()) });
        section.tables.push(Table::of(set.start.confidence.by_suffix().map(class)));
    }
    Ok(())
}
