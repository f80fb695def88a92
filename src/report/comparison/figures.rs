//! The figures of a comparison. A run has the same colour in all of them.

use super::{ComparedSet, ComparedVariant, Comparison};
use crate::tables::{Bar, BarRow, Bars, Colour, Figure, LengthAxis, Reference};

/// Draws the block efficiency of every run, and the differences of later runs from the first.
pub fn figures(comparison: &Comparison, set: &ComparedSet) -> [Figure; 2] {
    let keys = |from: usize| {
        let named = |(i, run): (usize, &String)| (format!("run {}: {run}", i + 1), Colour::Cycle(i));
        comparison.runs.iter().enumerate().skip(from).map(named).collect::<Vec<_>>()
    };
    let lengths = LengthAxis::Efficiency("tokens per backbone call".into());
    let bars = Bars::new(lengths, rows(set, efficiencies));
    let bars = bars.references(vec![Reference::autoregressive()]).keys(keys(0));
    let caption =
        "On the documents that all runs share; whiskers are 95 % bootstrap intervals over groups of documents.";
    let efficiency = Figure::new("block-efficiency", "Block efficiency by run", caption, bars);
    let lengths = LengthAxis::Change("block efficiency against run 1".into());
    let bars = Bars::new(lengths, rows(set, changes)).keys(keys(1));
    let caption =
        "Whiskers are 95 % intervals with both runs resampled together: one that leaves out 0 is a clear difference.";
    [efficiency, Figure::new("difference", "Difference from run 1", caption, bars)]
}

/// Returns a row for every variant that has a bar.
fn rows(set: &ComparedSet, bars: fn(&ComparedVariant) -> Vec<Bar>) -> Vec<BarRow> {
    let rows = set.variants.iter().map(|variant| BarRow { label: variant.name.clone(), bars: bars(variant) });
    rows.filter(|row| !row.bars.is_empty()).collect()
}

fn efficiencies(variant: &ComparedVariant) -> Vec<Bar> {
    let bars = variant.block_efficiency.iter().zip(&variant.ci95).enumerate();
    bars.filter_map(|(i, (value, interval))| {
        Some(Bar { value: (*value)?, interval: (*interval)?, colour: Colour::Cycle(i) })
    })
    .collect()
}

fn changes(variant: &ComparedVariant) -> Vec<Bar> {
    let from_first = variant.differences.iter().filter(|difference| difference.base == 1);
    from_first
        .map(|d| Bar { value: d.difference, interval: d.difference_ci95, colour: Colour::Cycle(d.run as usize - 1) })
        .collect()
}
