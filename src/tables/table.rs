//! Tables: columns with definitions, rows of cells.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::record::{Entry, FieldSpec, Record};
use crate::error::{Error, Result};

/// Rows of numbers under columns that say what they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What it is called; no other table of the data set is called so.
    pub id: String,
    /// What it says.
    pub definition: String,
    /// What the rows are, in the singular.
    pub rows_are: String,
    /// Whether it is for other programs: pages and texts leave it out, since a figure or another table shows the same.
    pub detail: bool,
    /// From left to right, behind the rows' names.
    pub columns: Vec<Column>,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// What it is called; columns of one family share it.
    pub id: String,
    /// Which of its family it is; null for a column of no family.
    pub key: Option<String>,
    /// What stands above it.
    pub heading: String,
    /// What its numbers are.
    pub definition: String,
    /// How they are written.
    pub format: Format,
    /// Whether narrow tables show it as well.
    pub compact: bool,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What it is about.
    pub name: String,
    /// A word on it, shown behind its name.
    pub mark: Option<String>,
    /// Whether dev chose it; the claims are about it.
    pub best: bool,
    /// One for each column.
    pub cells: Vec<Cell>,
}

/// How the numbers of a column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// As words, yes or no.
    Words,
    /// Whole numbers: `12,288`.
    Count,
    /// `61.4`
    OneDecimal,
    /// `0.35`
    TwoDecimals,
    /// `1.739`
    ThreeDecimals,
    /// Three digits, as far as decimals go: `0.0123`, `1.23`, `123`.
    ThreeDigits,
    /// 0.359 as `35.9 %`.
    Percent,
    /// 0.359 as `+35.9 %`.
    SignedPercent,
    /// `23.6 MB`
    Bytes,
    /// `23.6 M`
    Scaled,
    /// Three digits and a sign: `1.23×`.
    Times,
}

impl Table {
    /// A table of records by the names of their rows. A family has the columns of all its keys, in the order in which they come
    /// up.
    pub fn of<R: Record>(records: impl IntoIterator<Item = (String, R)>) -> Self {
        let (fields, mut names, mut entries) = (R::fields(), Vec::new(), Vec::new());
        for (name, record) in records {
            names.push(name);
            entries.push(record.entries());
        }
        let mut columns: Vec<Column> = Vec::new();
        let mut cells: Vec<Vec<Cell>> = vec![Vec::new(); entries.len()];
        for (place, field) in fields.iter().enumerate() {
            for key in keys(entries.iter().map(|entries| &entries[place])) {
                columns.push(Column::new(field, key.clone()));
                for (cells, entries) in cells.iter_mut().zip(&entries) {
                    let found = entries[place].iter().find(|(other, _)| *other == key);
                    cells.push(found.map_or(Cell::Nothing, |(_, cell)| cell.clone()));
                }
            }
        }
        let rows = names.into_iter().zip(cells).map(|(name, cells)| Row { name, mark: None, best: false, cells });
        Self {
            id: R::TABLE.into(),
            definition: R::DEFINITION.into(),
            rows_are: R::ROWS_ARE.into(),
            detail: false,
            columns,
            rows: rows.collect(),
        }
    }

    /// For other programs alone.
    #[must_use]
    pub fn detail(self) -> Self {
        Self { detail: true, ..self }
    }

    /// With `word` behind the names of the rows that `which` says, by their places.
    #[must_use]
    pub fn marked(mut self, word: &str, which: impl Fn(usize) -> bool) -> Self {
        for (_, row) in self.rows.iter_mut().enumerate().filter(|(place, _)| which(*place)) {
            row.mark = Some(word.to_owned());
        }
        self
    }

    /// With the row at `place` as the one that dev chose.
    #[must_use]
    pub fn best(mut self, place: Option<usize>) -> Self {
        for (row, of_table) in self.rows.iter_mut().enumerate() {
            of_table.best = Some(row) == place;
        }
        self
    }

    /// The records that the table was made of, by the names of their rows.
    ///
    /// # Errors
    /// A table of another shape.
    pub fn records<R: Record>(&self) -> Result<Vec<(&str, R)>> {
        self.rows.iter().map(|row| self.record(row)).collect::<Option<_>>().ok_or_else(|| {
            Error::new(format!("the table `{}` of the report is not of the shape that this program writes.", self.id))
        })
    }

    fn record<'a, R: Record>(&'a self, row: &'a Row) -> Option<(&'a str, R)> {
        let fields = R::fields();
        let cells = |field: usize| {
            let of_field = self.columns.iter().zip(&row.cells).filter(|(column, _)| column.id == fields[field].id);
            of_field.map(|(column, cell)| (column.key.as_deref(), cell)).collect()
        };
        let whole = row.cells.len() == self.columns.len();
        Some((&row.name, R::read(cells).filter(|_| whole)?))
    }

    /// The cell of a row in the column that is called `id` and is of no family.
    pub fn cell(&self, row: &str, id: &str) -> Option<&Cell> {
        let column = self.columns.iter().position(|column| column.id == id && column.key.is_none())?;
        self.rows.iter().find(|of_table| of_table.name == row)?.cells.get(column)
    }
}

impl Column {
    fn new(field: &FieldSpec, key: Option<String>) -> Self {
        let heading = key.as_ref().map_or(field.heading.to_owned(), |key| field.heading.replace("{}", key));
        Self {
            id: field.id.into(),
            key,
            heading,
            definition: field.definition.into(),
            format: field.format,
            compact: field.compact,
        }
    }
}

/// The keys of a field's columns over all rows, in the order in which they come up.
fn keys<'a>(rows: impl Iterator<Item = &'a Vec<Entry>>) -> Vec<Option<String>> {
    let mut keys = Vec::new();
    for (key, _) in rows.flatten() {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::super::{Estimate, Family, record};
    use super::*;

    record! {
        /// What tests
        /// tabulate.
        struct Sample in "samples", each "thing" {
            /// A share
            /// of something.
            share: f64 = "share" as Percent, compact;
            /// How many; null where nobody counted.
            count: Option<u64> = "number" as Count;
            /// Whether.
            flag: bool = "flag" as Words;
            /// By place.
            places: Family<f64> = "place {}" as ThreeDecimals;
            /// With its interval.
            estimate: Estimate = "estimate" as ThreeDecimals;
        }
    }

    fn sample(share: f64, count: Option<u64>, places: &[f64]) -> Sample {
        let estimate = Estimate { value: share, interval: [share - 0.5, share + 0.5] };
        Sample { share, count, flag: share > 0.5, places: Family::numbered(2, places.iter().copied()), estimate }
    }

    #[test]
    fn a_table_has_the_doc_comments_and_gives_its_records_back() {
        let records = [("a", sample(0.25, None, &[1.0, 0.5])), ("b", sample(1.0, Some(7), &[1.0, 0.25]))];
        let table = Table::of(records.clone().map(|(name, record)| (name.to_owned(), record)));
        assert_eq!((&*table.id, &*table.definition, &*table.rows_are), ("samples", "What tests tabulate.", "thing"));
        let headings: Vec<&str> = table.columns.iter().map(|column| column.heading.as_str()).collect();
        assert_eq!(headings, ["share", "number", "flag", "place 2", "place 3", "estimate"]);
        assert_eq!(table.columns[0].definition, "A share of something.");
        assert!(table.columns[0].compact && !table.columns[1].compact);
        assert_eq!(table.columns[4].key.as_deref(), Some("3"));
        assert_eq!(table.records::<Sample>().unwrap(), records);
        let text = serde_json::to_string(&table).unwrap();
        assert!(text.contains(r#""cells":[0.25,null,false,1.0,0.5,{"value":0.25,"interval":[-0.25,0.75]}]"#), "{text}");
        assert_eq!(serde_json::from_str::<Table>(&text).unwrap(), table);
        assert_eq!(table.cell("b", "count"), Some(&Cell::Count(7)));
        assert_eq!((table.cell("b", "places"), table.cell("c", "count")), (None, None));
    }

    #[test]
    fn a_row_without_a_column_has_nothing_there() {
        let short = [("a", sample(0.25, None, &[1.0])), ("b", sample(1.0, Some(7), &[1.0, 0.25]))];
        let table = Table::of(short.clone().map(|(name, record)| (name.to_owned(), record)));
        assert_eq!(table.rows[0].cells[4], Cell::Nothing);
        assert_eq!(table.records::<Sample>().unwrap(), short);
    }

    #[test]
    fn a_table_of_another_shape_is_refused() {
        let whole = Table::of([("a".to_owned(), sample(0.25, None, &[1.0]))]);
        let without_a_cell = |table: &mut Table| drop(table.rows[0].cells.pop());
        let without_a_column = |table: &mut Table| {
            table.columns.remove(0);
            table.rows[0].cells.remove(0);
        };
        let with_another_type = |table: &mut Table| table.rows[0].cells[0] = Cell::Text("x".into());
        for change in [without_a_cell, without_a_column, with_another_type] {
            let mut table = whole.clone();
            change(&mut table);
            assert!(table.records::<Sample>().unwrap_err().to_string().contains("`samples`"));
        }
    }
}
