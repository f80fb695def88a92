//! The answer in short: what dev chose on each data set, and what that reaches on test. A page opens with its figure.

use super::TOKENS_PER_CALL;
use super::block_efficiency::VariantRow;
use crate::error::Result;
use crate::tables::{
    BASELINE, Bar, BarRow, Bars, Colour, Dataset, Estimate, Figure, LengthAxis, ORACLE, Record, Reference, Section,
    Table, record,
};

record! {
    /// For each data set, the lossless variant with the highest block efficiency on dev, and what it reaches on test, which had
    /// no part in the choice.
    pub struct OverviewRow in "overview", each "data set" {
        /// The documents (prompts) evaluated.
        documents: u64 = "documents" as Count;
        /// Block efficiency of plain bpd on test, with its 95 % bootstrap interval.
        plain: Estimate = "bpd" as ThreeDecimals;
        /// The lossless variant with the highest block efficiency on dev, the first of equal ones.
        best: String = "best on dev" as Words, compact;
        /// Its block efficiency on dev.
        dev_block_efficiency: Option<f64> = "dev" as ThreeDecimals;
        /// Its block efficiency on test, with its 95 % bootstrap interval.
        block_efficiency: Estimate = "test" as ThreeDecimals, compact;
        /// Its relative_gain over plain bpd on test; null where plain bpd is the best.
        relative_gain: Option<f64> = "gain" as SignedPercent, compact;
        /// Block efficiency of the oracle on test, with its 95 % bootstrap interval.
        oracle: Estimate = "oracle" as ThreeDecimals;
    }
}

/// Sums up the data sets in a table and a figure. Returns none if there is no data set.
///
/// # Errors
/// Returns an error if the tables do not have the shape that this program writes.
pub fn across(datasets: &[Dataset]) -> Result<Option<Section>> {
    let mut rows = Vec::new();
    for set in datasets {
        let variants = set.rows::<VariantRow>()?;
        let chosen = set.table(VariantRow::TABLE).and_then(|table| table.rows.iter().position(|row| row.best));
        let find = |sought: &str| variants.iter().find(|(name, _)| *name == sought).map(|(_, row)| row);
        if let (Some(plain), Some(oracle)) = (find(BASELINE), find(ORACLE)) {
            let (name, best) = chosen.map_or((BASELINE, plain), |place| (variants[place].0, &variants[place].1));
            let row = OverviewRow {
                documents: set.facts.documents,
                plain: estimate(plain),
                best: name.to_owned(),
                dev_block_efficiency: best.dev_block_efficiency,
                block_efficiency: estimate(best),
                relative_gain: best.relative_gain,
                oracle: estimate(oracle),
            };
            rows.push((set.name.clone(), row));
        }
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let mut section = Section::new(OverviewRow::TABLE, "Best on dev", OverviewRow::DEFINITION);
    section.figures.push(figure(&rows).opening());
    section.tables.push(Table::of(rows));
    Ok(Some(section))
}

fn estimate(row: &VariantRow) -> Estimate {
    Estimate { value: row.block_efficiency, interval: row.ci95 }
}

/// Draws plain decoding, the best variant and the oracle side by side, for each data set.
fn figure(rows: &[(String, OverviewRow)]) -> Figure {
    let bar = |estimate: Estimate, colour| Bar { value: estimate.value, interval: estimate.interval, colour };
    let of_set = |(name, row): &(String, OverviewRow)| BarRow {
        label: name.clone(),
        bars: vec![
            bar(row.plain, Colour::Baseline),
            bar(row.block_efficiency, Colour::Accent),
            bar(row.oracle, Colour::Ink),
        ],
    };
    let bars = Bars::new(LengthAxis::Efficiency(TOKENS_PER_CALL.into()), rows.iter().map(of_set).collect());
    let keys = [(BASELINE, Colour::Baseline), ("best on dev", Colour::Accent), (ORACLE, Colour::Ink)];
    let bars = bars.keys(keys.map(|(name, colour)| (name.to_owned(), colour)).to_vec());
    let caption = "On test. The oracle is a bound that knows the answer; whiskers are 95 % bootstrap intervals.";
    Figure::new("overview", "Block efficiency", caption, bars.references(vec![Reference::autoregressive()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::analyses::block_efficiency::tests::variants;
    use crate::tables::Facts;

    #[test]
    fn the_row_is_about_what_dev_chose() {
        let mut rows = variants();
        rows.push((ORACLE.to_owned(), rows[2].1.clone()));
        let set = |name: &str, best: Option<usize>| {
            let mut section = Section::new("block-efficiency", "Block efficiency", "");
            section.tables.push(Table::of(rows.clone()).best(best));
            let facts = Facts { documents: 200, decoded_tokens: 9, block_size: 9, top_k: 16 };
            Dataset { name: name.into(), split: "test".into(), facts, sections: vec![section] }
        };
        let section = across(&[set("tales", Some(1)), set("news", None)]).unwrap().unwrap();
        let found = section.tables[0].records::<OverviewRow>().unwrap();
        let short: Vec<_> = found.iter().map(|(set, row)| (*set, &*row.best, row.block_efficiency.value)).collect();
        assert_eq!(short, [("tales", "ngram", 1.739), ("news", BASELINE, 1.525)]);
        assert!(section.figures[0].opens);
        assert!(across(&[]).unwrap().is_none());
    }
}
