//! Renders `report.csv`, which has a line for every cell of every table, for spreadsheets and data frames.

use super::Report;
use crate::error::{Error, Result};
use crate::tables::{Cell, Estimate};

/// Renders a report as CSV: a heading, then a line for each cell that is not empty. Numbers have all their digits, and
/// the ends of intervals have their own columns.
pub fn csv(report: &Report) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let heading = ["dataset", "table", "row", "column", "key", "value", "low", "high"];
    let mut write = || -> csv::Result<()> {
        writer.write_record(heading)?;
        for (set, table) in report.sections().flat_map(|(set, section)| section.tables.iter().map(move |t| (set, t))) {
            for row in &table.rows {
                for (column, cell) in table.columns.iter().zip(&row.cells).filter(|(_, cell)| **cell != Cell::Nothing) {
                    let key = column.key.as_deref().unwrap_or_default();
                    let [value, low, high] = texts(cell);
                    writer.write_record([set, &table.id, &row.name, &column.id, key, &value, &low, &high])?;
                }
            }
        }
        Ok(())
    };
    let failed = |e: &dyn std::fmt::Display| Error::new(format!("cannot write the report as CSV: {e}."));
    write().map_err(|e| failed(&e))?;
    let bytes = writer.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

/// Returns a cell's value and the two ends of its interval, each empty if there is none.
fn texts(cell: &Cell) -> [String; 3] {
    let none = String::new;
    match cell {
        Cell::Nothing => [none(), none(), none()],
        Cell::Flag(flag) => [flag.to_string(), none(), none()],
        Cell::Count(count) => [count.to_string(), none(), none()],
        Cell::Number(number) => [number.to_string(), none(), none()],
        Cell::Interval([low, high]) => [none(), low.to_string(), high.to_string()],
        Cell::Estimate(Estimate { value, interval: [low, high] }) => {
            [value.to_string(), low.to_string(), high.to_string()]
        }
        Cell::Text(text) => [text.clone(), none(), none()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn every_cell_is_a_line() {
        let text = csv(&fixture::report()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "dataset,table,row,column,key,value,low,high");
        assert_eq!(lines[1], "tales,block-efficiency,bpd,block_efficiency,,1.525,,");
        let [low, high] = [1.525 - 0.036, 1.525 + 0.036];
        assert_eq!(lines[2], format!("tales,block-efficiency,bpd,ci95,,,{low},{high}"));
        assert!(lines.contains(&"tales,block-efficiency,ngram,gain,,0.1403,,"), "{text}");
        assert!(lines.contains(&"tales,by-step,50,block_efficiency,bpd,1.25,1,1.5"), "{text}");
        assert!(lines.contains(&",line,bpd,slope,,0.21,,"), "{text}");
        assert!(!text.contains("bpd,gain"), "an empty cell is no line");
    }
}
