//! The report of an evaluation, and its renderers.
//!
//! [`Report`] contains everything that an evaluation found: for each data set, the sections of its analyses, which
//! consist of tables and figures. The renderers need nothing else:
//!
//! - [`to_json`] writes the record that other programs read, and from which the other renderings can be made again.
//! - [`csv()`] writes a line for every cell, and [`csv_tables`] a file for every table.
//! - [`markdown()`] makes the tables for a pull request, and [`table`] the aligned ones for the terminal.
//! - [`html()`] makes the self-contained page that one opens first, with figures drawn as inline SVG.
//!
//! [`compare`] puts runs side by side, using the results of every document in [`Documents`]. [`check_gates`] decides
//! whether a report reaches the numbers that it must. [`schema()`] returns the JSON schema of the record.
//! [`write_training`] makes a page in the same frame from the log of a training, and [`write_index`] one that leads to all
//! runs.

pub mod ablation;
mod comparison;
mod csv;
mod documents;
#[cfg(test)]
mod fixture;
mod gate;
mod html;
mod index;
mod json;
mod markdown;
mod model;
mod page;
mod schema;
mod settings;
mod svg;
mod tensorboard;
mod training;

use std::path::Path;

pub use comparison::{Comparison, EvaluatedRun, compare};
pub use csv::{csv, csv_tables};
pub use documents::{DocumentSet, Documents};
pub use gate::{Gate, check_gate_names, check_gates};
pub use html::html;
pub use index::write_index;
pub use json::{from_json, read, to_json};
pub use markdown::{markdown, table};
pub use model::{Report, SCHEMA_VERSION};
pub use schema::schema;
pub use settings::{DifferingKey, flatten};
pub use training::write_training;

use crate::error::Result;
use crate::files::write_atomic;

/// Writes `report.json`, `report.csv`, `report.md`, `report.html` and `tables/` into `dir`, which is created if it does not
/// exist.
///
/// All of them are rendered before the first one is written. If a report cannot be rendered, the old files stay as they
/// are.
///
/// # Errors
/// Returns an error if a number is not finite, or if the folder cannot be written to.
pub fn write(report: &Report, dir: &Path) -> Result<()> {
    let whole = [
        ("report.json", to_json(report)?),
        ("report.csv", csv(report)?),
        ("report.md", markdown(report)),
        ("report.html", html(report)?),
    ];
    let whole = whole.map(|(name, text)| (name.to_owned(), text));
    let tables = csv_tables(report)?.into_iter().map(|(name, text)| (format!("tables/{name}"), text));
    let files: Vec<(String, String)> = whole.into_iter().chain(tables).collect();
    files.iter().try_for_each(|(name, text)| write_atomic(&dir.join(name), text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Cell;

    #[test]
    fn writes_four_files_and_the_tables_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("report");
        write(&fixture::report(), &dir).unwrap();
        write(&fixture::report(), &dir).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["report.csv", "report.html", "report.json", "report.md", "tables"]);
        assert!(dir.join("tables/tales/block-efficiency.csv").exists());
        assert!(read(&dir.join("report.json")).unwrap() == fixture::report());
    }

    #[test]
    fn a_number_that_is_not_finite_leaves_the_old_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        write(&fixture::report(), folder.path()).unwrap();
        let mut broken = fixture::report();
        broken.datasets[0].sections[0].tables[0].rows[0].cells[0] = Cell::Number(f64::NAN);
        assert!(write(&broken, folder.path()).is_err());
        assert!(read(&folder.path().join("report.json")).unwrap() == fixture::report());
    }
}
