//! The analysis of how far into the block drafts are accepted.

use super::Analysis;
use crate::error::Result;
use crate::evaluation::{EvaluatedSet, Tally};
use crate::tables::{Family, Figure, Lines, ORACLE, Record, Section, Series, Table, XAxis, YAxis, record};

pub const ANALYSIS: Analysis =
    Analysis { id: "acceptance", title: "Acceptance by position", definition: AcceptanceRow::DEFINITION, fill };

record! {
    /// How often each position of the block is accepted, of all blocks that have it and of those that accepted the position
    /// before.
    pub struct AcceptanceRow in "acceptance", each "variant" {
        /// For position j of the block: the blocks whose accepted length is at least j, divided by the blocks that had at
        /// least j slots, where a block's slots end after block_size tokens, after the end-of-text token, and at the limits
        /// of new tokens and of the context; 0 where no block had j slots.
        accept_rate_by_position: Family<f64> = "position {}" as Percent;
        /// For position j of the block: the blocks whose accepted length is at least j, divided by those that had at least
        /// j slots and an accepted length of at least j - 1; 0 where there was none.
        conditional_accept_rate_by_position: Family<f64> = "position {} after the one before" as Percent;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let block_size = set.evaluator.block_size();
    let row = |tally: &Tally| AcceptanceRow {
        accept_rate_by_position: Family::numbered(1, tally.accept_rates(block_size)),
        conditional_accept_rate_by_position: Family::numbered(1, tally.conditional_accept_rates(block_size)),
    };
    let variants = set.variants.iter().map(|variant| (variant.name(), row(&variant.tally)));
    let rows: Vec<(String, AcceptanceRow)> = variants.chain([(ORACLE.to_owned(), row(&set.oracle))]).collect();
    if block_size > 1 {
        let leading = set.leading();
        let lines = |words: &str, rates: fn(&AcceptanceRow) -> &Family<f64>| {
            let series = |(place, (name, row)): (usize, &(String, AcceptanceRow))| {
                let points = rates(row).0.iter().enumerate().skip(1).map(|(j, (_, rate))| [j as f64 + 1.0, *rate]);
                Series::new(name, set.colour(place), points).hidden(!leading[place])
            };
            let x = XAxis::Positions("position in the block".into());
            Lines::new(x, YAxis::Shares(words.into()), rows.iter().enumerate().map(series).collect())
        };
        let words = "share of blocks that accept this position";
        section.figures.push(Figure::new(
            "acceptance",
            "Acceptance by position",
            "From position 2 on: position 1 is the backbone's own next token and always accepted.",
            lines(words, |row| &row.accept_rate_by_position),
        ));
        let words = "share of blocks that accepted the one before";
        section.figures.push(Figure::new(
            "conditional-acceptance",
            "Acceptance after acceptance",
            "Of the blocks that accepted the position before, the share that accept this one.",
            lines(words, |row| &row.conditional_accept_rate_by_position),
        ));
    }
    section.tables.push(Table::of(rows).detail());
    Ok(())
}
