//! The analysis of what a perfect choice from the lattice would reach, by the number of candidates per head.

use super::{Analysis, TOKENS_PER_CALL};
use crate::error::Result;
use crate::evaluation::{EvaluatedSet, Step, Tally, Texts, oracle_lengths, replay_oracle};
use crate::lattice::oracle_dp;
use crate::tables::{Colour, Figure, Lines, Record, Reference, Section, Series, Table, XAxis, YAxis, record};

pub const ANALYSIS: Analysis = Analysis { id: "oracle", title: "Oracle", definition: OracleRow::DEFINITION, fill };

record! {
    /// What a perfect choice from the lattice of every head's top k candidates would reach, for several k: a bound for every
    /// variant, and no way to decode.
    struct OracleRow in "oracle", each "k" {
        /// Block efficiency when each step takes, from the lattice of every head's k best candidates, the path with the longest
        /// accepted prefix; over a whole text it need not be the best, which block_efficiency_dp is.
        block_efficiency: f64 = "longest each step" as ThreeDecimals;
        /// The strict bound of the lattice: block efficiency when the accepted lengths, each at most the oracle's at its
        /// position, are chosen so that the whole text needs the fewest calls.
        block_efficiency_dp: f64 = "fewest calls (dp)" as ThreeDecimals;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let mut points: Vec<(usize, OracleRow)> =
        set.evaluator.options.oracle_top_k.iter().map(|&k| (k, of_k(&set.texts, k))).collect();
    if points.is_empty() {
        return Ok(());
    }
    section.tables.push(Table::of(points.iter().map(|(k, row)| (k.to_string(), row.clone()))));
    points.sort_by_key(|(k, _)| *k);
    // These colours belong to no variant.
    let series = |label: &str, colour, value: fn(&OracleRow) -> f64| {
        Series::new(label, colour, points.iter().map(|(k, row)| [*k as f64, value(row)]))
    };
    let series = vec![
        series("fewest calls (dp)", Colour::Ink, |row| row.block_efficiency_dp),
        series("longest each step", Colour::Accent, |row| row.block_efficiency),
    ];
    let best = set.best();
    let reference = |place: usize| {
        let (label, value) = (set.variants[place].name(), set.variants[place].tally.block_efficiency());
        Reference { label, value, colour: set.colour(place) }
    };
    let references = [0].into_iter().chain((best != 0).then_some(best)).map(reference);
    let x = XAxis::Log2("candidates per head, k".into());
    let lines = Lines::new(x, YAxis::Linear(TOKENS_PER_CALL.into()), series).references(references.collect());
    let caption = format!(
        "What a perfect choice from the top-k lattice would reach. The variants use k = {}.",
        set.evaluator.top_k
    );
    section.figures.push(Figure::new("oracle", "Oracle by candidates per head", caption, lines));
    Ok(())
}

fn of_k(texts: &Texts, k: usize) -> OracleRow {
    let (tally, mut fewest) = (Tally::of(&oracle_walks(texts, k)), 0);
    texts.texts.iter().for_each(|text| fewest += oracle_dp(&oracle_lengths(text, k)));
    OracleRow {
        block_efficiency: tally.block_efficiency(),
        block_efficiency_dp: tally.total().tokens as f64 / fewest as f64,
    }
}

/// Returns the walks of the oracle, which takes the longest step that the top `k` candidates allow at every start.
pub fn oracle_walks(texts: &Texts, k: usize) -> Vec<Vec<Step>> {
    texts.texts.iter().map(|text| replay_oracle(text, &oracle_lengths(text, k))).collect()
}
