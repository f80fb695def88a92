//! Renders CSV, for spreadsheets and data frames: `report.csv` with a line for every cell of every table, and a file for
//! each table with a line for every row.

use super::Report;
use crate::error::{Error, Result};
use crate::tables::{Cell, Column, Estimate, Table};

/// Renders a report as CSV: a heading, then a line for each cell that is not empty. Numbers have all their digits, and
/// the ends of intervals have their own columns.
pub fn csv(report: &Report) -> Result<String> {
    let mut lines =
        vec![["dataset", "table", "row", "column", "key", "value", "low", "high"].map(str::to_owned).to_vec()];
    for (set, table) in report.sections().flat_map(|(set, section)| section.tables.iter().map(move |t| (set, t))) {
        for row in &table.rows {
            for (column, cell) in table.columns.iter().zip(&row.cells).filter(|(_, cell)| **cell != Cell::Nothing) {
                let key = column.key.as_deref().unwrap_or_default();
                let names = [set, &table.id, &row.name, &column.id, key].map(str::to_owned);
                lines.push(names.into_iter().chain(texts(cell)).collect());
            }
        }
    }
    written(&lines)
}

/// Renders every table of a report as CSV of its own. Returns their paths, `SET/TABLE.csv` or `TABLE.csv` where a table is
/// about all data sets, with their texts.
pub fn csv_tables(report: &Report) -> Result<Vec<(String, String)>> {
    let tables = report.sections().flat_map(|(set, section)| section.tables.iter().map(move |table| (set, table)));
    let file = |(set, table): (&str, &Table)| {
        let folder = if set.is_empty() { String::new() } else { format!("{set}/") };
        Ok((format!("{folder}{}.csv", table.id), of_table(table)?))
    };
    tables.map(file).collect()
}

/// Renders a table with a line for each row. A column is called `id`, or `id.key` in a family; an interval has the columns
/// `id.low` and `id.high`, beside `id` where it belongs to a number.
fn of_table(table: &Table) -> Result<String> {
    let cells = |place: usize| table.rows.iter().map(move |row| &row.cells[place]);
    // Which of value, low end and high end any row of the column has.
    let parts = |place: usize| -> Vec<usize> {
        let found: Vec<[String; 3]> = cells(place).map(texts).collect();
        let has = |part: &usize| found.iter().any(|of_cell| !of_cell[*part].is_empty());
        let parts: Vec<usize> = (0..3).filter(has).collect();
        if parts.is_empty() { vec![0] } else { parts }
    };
    let columns: Vec<(&Column, Vec<usize>)> = table.columns.iter().enumerate().map(|(i, c)| (c, parts(i))).collect();
    let heading = |(column, parts): &(&Column, Vec<usize>)| -> Vec<String> {
        let name = column.key.as_ref().map_or(column.id.clone(), |key| format!("{}.{key}", column.id));
        parts.iter().map(|part| name.clone() + ["", ".low", ".high"][*part]).collect()
    };
    let mut lines = vec![[table.rows_are.clone()].into_iter().chain(columns.iter().flat_map(heading)).collect()];
    for row in &table.rows {
        let cells = row.cells.iter().zip(&columns);
        let texts = cells.flat_map(|(cell, (_, parts))| parts.iter().map(|part| texts(cell)[*part].clone()));
        lines.push([row.name.clone()].into_iter().chain(texts).collect::<Vec<_>>());
    }
    written(&lines)
}

fn written(lines: &[Vec<String>]) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |e: &dyn std::fmt::Display| Error::new(format!("cannot write the report as CSV: {e}."));
    lines.iter().try_for_each(|line| writer.write_record(line)).map_err(|e| failed(&e))?;
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

    #[test]
    fn every_table_is_a_file_with_a_line_for_each_row() {
        let files = csv_tables(&fixture::report()).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tales/block-efficiency.csv", "tales/by-step.csv", "line.csv"]);
        let [low, high] = [1.525 - 0.036, 1.525 + 0.036];
        let mut lines = files[0].1.lines();
        assert_eq!(lines.next(), Some("variant,block_efficiency,ci95.low,ci95.high,gain,drafts,lossless"));
        assert_eq!(lines.next(), Some(&*format!("bpd,1.525,{low},{high},,1,true")));
        assert_eq!(
            files[1].1,
            "step,block_efficiency.bpd,block_efficiency.bpd.low,block_efficiency.bpd.high\n50,1.25,1,1.5\n"
        );
    }
}
