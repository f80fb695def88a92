//! Renders `runs/index.html`, the page that leads to all runs, and has for each data set what dev chose and what that
//! reaches on test.

use std::path::Path;

use serde::Serialize;

use super::json;
use super::model::Report;
use super::page::{self, Entry, Plot, prose};
use crate::claims::Claims;
use crate::error::Result;
use crate::evaluation::analyses::OverviewRow;
use crate::files::{self, write_atomic};
use crate::tables::{self, Column, Record, Table, format};

/// Writes `index.html` into `runs`, the folder of all runs, from their reports. Runs without a report are named, and so are
/// those whose report cannot be read. If several processes finish runs at once, the last one writes a page with all of them.
///
/// # Errors
/// Returns an error if the folder cannot be read or written, or on an interrupt.
pub fn write_index(runs: &Path) -> Result<()> {
    let path = runs.join("index.html");
    let writers = Claims::new();
    let claim = writers.wait(&path, "index of runs")?;
    let mut index = Index::default();
    for folder in files::listing(runs)?.into_iter().filter(|folder| folder.join("run.toml").exists()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        index.add(runs, &name);
        for heads in files::listing(&folder.join("other-heads")).unwrap_or_default() {
            let key = heads.file_name().unwrap_or_default().to_string_lossy().into_owned();
            index.add(runs, &format!("{name}/other-heads/{key}"));
        }
    }
    // The latest first.
    index.rows.sort_by(|a, b| b.started.cmp(&a.started));
    write_atomic(&path, page::render(include_str!("index.html"), index.page())?.as_bytes())?;
    claim.finish();
    Ok(())
}

/// What was found in the folder of all runs.
#[derive(Default)]
struct Index {
    rows: Vec<Row>,
    headings: Vec<Heading>,
    /// The names of the ablations, with their links.
    ablations: Vec<[String; 2]>,
    unfinished: Vec<String>,
    /// The errors of reports that cannot be read.
    broken: Vec<String>,
}

/// A data set of a run.
#[derive(Serialize)]
struct Row {
    /// The folder of the run in the folder of all runs, and as it stands in links.
    run: String,
    link: String,
    set: String,
    backbone: String,
    heads: String,
    cells: Vec<Cell>,
    /// When the run was last started, as far as that is known.
    started: String,
    /// Whether there is a page about the training of its heads.
    trained: bool,
}

/// The heading of a column that all rows have.
#[derive(Serialize)]
struct Heading {
    text: String,
    definition: String,
    /// Whether the column is not shown until the reader chooses it.
    extra: bool,
}

#[derive(Serialize)]
struct Cell {
    text: String,
    order: Option<String>,
}

#[derive(Serialize)]
struct Page {
    title: &'static str,
    byline: String,
    claims: [String; 0],
    contents: [Entry; 0],
    opening: [Plot; 0],
    headings: Vec<Heading>,
    rows: Vec<Row>,
    ablations: Vec<[String; 2]>,
    unfinished: String,
    broken: Vec<String>,
    definitions: Vec<[String; 2]>,
}

impl Index {
    /// Adds the run in the folder `name` of `runs`.
    fn add(&mut self, runs: &Path, name: &str) {
        let folder = runs.join(name);
        let file = folder.join("report/report.json");
        if folder.join("report/ablation.html").exists() {
            return self.ablations.push([name.to_owned(), link(name)]);
        }
        if !file.exists() {
            return self.unfinished.push(name.to_owned());
        }
        match json::read(&file) {
            Ok(report) => self.add_report(&folder, name, &report),
            Err(error) => self.broken.push(error.to_string()),
        }
    }

    fn add_report(&mut self, folder: &Path, name: &str, report: &Report) {
        let provenance: serde_json::Value = files::read_json(&folder.join("provenance.json")).unwrap_or_default();
        let started = provenance["started"].as_str().unwrap_or_default().chars().take(16).collect::<String>();
        let tables = report.across.iter().flat_map(|section| &section.tables);
        for table in tables.filter(|table| table.id == OverviewRow::TABLE) {
            let heading = |column: &Column| Heading {
                text: prose(column.heading.clone()),
                definition: column.definition.clone(),
                extra: !column.compact,
            };
            self.headings = table.columns.iter().map(heading).collect();
            for row in &table.rows {
                let set = report.datasets.iter().find(|set| set.name == row.name);
                let size = set.map(|set| format!("block size {}", set.facts.block_size));
                self.rows.push(Row {
                    run: name.to_owned(),
                    link: link(name),
                    set: row.name.clone(),
                    backbone: report.backbone().unwrap_or_default(),
                    heads: report.heads().into_iter().chain(size).collect::<Vec<_>>().join(", "),
                    cells: cells(table, &row.cells),
                    started: started.replace('T', " "),
                    trained: folder.join("heads/report.html").exists(),
                });
            }
        }
    }

    fn page(self) -> Page {
        let Self { rows, headings, ablations, unfinished, broken } = self;
        let fields = OverviewRow::fields().into_iter();
        Page {
            title: "Runs",
            byline: format!(
                "{} · draftsmith {}",
                format::counted(rows.len() as u64, "data set of a run", "data sets of runs"),
                env!("CARGO_PKG_VERSION")
            ),
            claims: [],
            contents: [],
            opening: [],
            headings,
            rows,
            ablations,
            unfinished: unfinished.join(", "),
            broken,
            definitions: fields.map(|field| [field.id.to_owned(), field.definition.to_owned()]).collect(),
        }
    }
}

/// Writes a path as it stands in a link. A name may have signs that mean something there.
fn link(path: &str) -> String {
    path.replace('%', "%25").replace('#', "%23").replace('?', "%3F")
}

fn cells(table: &Table, cells: &[tables::Cell]) -> Vec<Cell> {
    let cell = |(column, cell): (&Column, &tables::Cell)| {
        let text = column.format.text(cell);
        let order =
            cell.number().map_or_else(|| (text != "–").then(|| text.clone()), |number| Some(number.to_string()));
        Cell { text, order }
    };
    table.columns.iter().zip(cells).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{self, fixture};
    use crate::tables::{Estimate, Section};
    use std::fs;

    /// Writes a run with a report of one data set.
    fn run(runs: &Path, name: &str, efficiency: f64, started: &str) {
        let estimate = |value: f64| Estimate { value, interval: [value - 0.1, value + 0.1] };
        let row = OverviewRow {
            documents: 200,
            plain: estimate(1.5),
            best: "ngram".into(),
            dev_block_efficiency: Some(1.8),
            block_efficiency: estimate(efficiency),
            relative_gain: Some(0.2),
            oracle: estimate(3.0),
        };
        let mut section = Section::new(OverviewRow::TABLE, "Best on dev", "");
        section.tables.push(Table::of([("tales".to_owned(), row)]));
        let report = Report { across: vec![section], ..fixture::report() };
        report::write(&report, &runs.join(name).join("report")).unwrap();
        fs::write(runs.join(name).join("run.toml"), "").unwrap();
        fs::write(runs.join(name).join("provenance.json"), format!("{{\"started\": \"{started}\"}}")).unwrap();
    }

    #[test]
    fn leads_to_every_run_the_latest_first_whatever_the_others_are_like() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path();
        run(runs, "first", 1.7, "2026-01-02T03:04:05Z");
        run(runs, "a <b> #2", 1.9, "2026-02-02T03:04:05Z");
        run(runs, "broken", 1.9, "");
        fs::write(runs.join("broken/report/report.json"), "{\"schema").unwrap();
        fs::create_dir(runs.join("begun")).unwrap();
        fs::write(runs.join("begun/run.toml"), "").unwrap();
        fs::create_dir(runs.join("store")).unwrap();
        write_index(runs).unwrap();
        let page = fs::read_to_string(runs.join("index.html")).unwrap();
        let links: Vec<&str> = page.split("href=\"").skip(1).map(|link| link.split('"').next().unwrap()).collect();
        let expected = ["a &lt;b&gt; %232/report/report.html", "first/report/report.html"];
        assert_eq!(links, expected, "{page}");
        assert!(page.contains("1.900 [1.800, 2.000]") && page.contains("2026-01-02 03:04"), "{page}");
        assert!(page.contains("ffn heads, block size 9") && page.contains("SmolLM2-135M-Instruct"));
        assert!(page.contains("Without a report: begun.") && page.matches("class=\"bad\"").count() == 1);
        let left: Vec<_> = files::listing(runs).unwrap().into_iter().filter(|path| path.is_file()).collect();
        assert_eq!(left, [runs.join("index.html")], "no claim is left");
    }

    #[test]
    fn several_processes_write_a_page_with_all_runs() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path();
        std::thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || {
                    run(runs, &format!("run-{number}"), 1.7, "");
                    write_index(runs).unwrap();
                });
            }
        });
        let page = fs::read_to_string(runs.join("index.html")).unwrap();
        assert!((0..4).all(|number| page.contains(&format!("run-{number}/report/report.html"))), "{page}");
    }
}
