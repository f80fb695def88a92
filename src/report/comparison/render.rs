//! Renders a comparison as JSON, as Markdown, as aligned text and as a page.

use std::path::Path;

use serde::Serialize;

use super::figures::figures;
use super::{ComparedVariant, Comparison, DifferingKey, EvaluatedRun};
use crate::error::{Error, Result, bail};
use crate::files::StagedDir;
use crate::report::markdown::{aligned_rows, escape};
use crate::report::page::{self, Entry, Plot, TextTable};
use crate::report::training::overlaid;
use crate::tables::{Colour, format};

impl Comparison {
    /// Renders the comparison as aligned tables for the terminal, in lines of at most `width` characters where a width is
    /// given.
    pub fn table(&self, width: Option<usize>) -> String {
        let mut text = String::new();
        for (number, run) in self.runs.iter().enumerate() {
            text += &format!("run {}: {run}\n", number + 1);
        }
        if !self.settings.is_empty() {
            text += &format!("\n{}", aligned_rows(&self.setting_cells(), width));
        }
        for set in &self.datasets {
            let documents = format::counted(set.shared_documents, "shared document", "shared documents");
            text += &format!("\n{}, {documents}\n{}", set.name, aligned_rows(&self.cells(&set.variants), width));
        }
        text
    }

    /// Renders the comparison as tables for a pull request.
    pub fn markdown(&self) -> String {
        let mut text = String::from("## Runs compared\n\n");
        for (number, run) in self.runs.iter().enumerate() {
            text += &format!("{}. {}\n", number + 1, escape(run));
        }
        if !self.settings.is_empty() {
            text += &format!("\n### Settings that differ\n\n{}", markdown_rows(&self.setting_cells()));
        }
        for set in &self.datasets {
            let documents = format::counted(set.shared_documents, "shared document", "shared documents");
            let rows = markdown_rows(&self.cells(&set.variants));
            text += &format!("\n### {}, {documents}\n\n{rows}", escape(&set.name));
        }
        text += "\n<details><summary>Definitions</summary>\n\n";
        for (name, sentence) in &self.definitions {
            text += &format!("- **{name}**: {sentence}\n");
        }
        text + "\n</details>\n"
    }

    /// Renders the comparison as a self-contained page, with the trainings of `runs`, the runs that were compared, laid over
    /// each other.
    pub fn html(&self, runs: &[EvaluatedRun]) -> Result<String> {
        #[derive(Serialize)]
        struct Page<'a> {
            title: String,
            byline: String,
            claims: [String; 0],
            contents: Vec<Entry>,
            opening: [Plot; 0],
            runs: &'a [String],
            settings: Option<TextTable>,
            sets: Vec<Section<'a>>,
            curves: Vec<(&'static str, Vec<Plot>)>,
            definitions: Vec<(&'a str, &'a str)>,
        }
        #[derive(Serialize)]
        struct Section<'a> {
            name: &'a str,
            facts: String,
            figures: Vec<Plot>,
            table: TextTable,
        }
        let sets = self.datasets.iter().map(|set| Section {
            name: &set.name,
            facts: format::counted(set.shared_documents, "shared document", "shared documents"),
            figures: figures(self, set).iter().filter_map(|f| Plot::new(f, &format!("on {}", set.name))).collect(),
            table: TextTable::headed(self.cells(&set.variants)),
        });
        let name = |run: usize| format!("run {}", run + 1);
        let logs = runs.iter().enumerate().filter_map(|(place, run)| Some((place, run.training.as_ref()?)));
        let logs: Vec<_> = logs.map(|(place, log)| (name(place), Colour::Cycle(place), log)).collect();
        let curves = overlaid(&logs);
        let entry = |(id, title): (&str, &str)| Entry { id: id.into(), title: title.into(), inner: Vec::new() };
        let mut contents = Entry::of_sets(self.datasets.iter().map(|set| &*set.name));
        contents.extend((!curves.is_empty()).then(|| entry(("training", "Training of the heads"))));
        contents.push(entry(("definitions", "Definitions")));
        page::render(
            include_str!("../comparison.html"),
            Page {
                title: "Runs compared".into(),
                byline: format!("draftsmith {}", env!("CARGO_PKG_VERSION")),
                claims: [],
                contents,
                opening: [],
                runs: &self.runs,
                settings: (!self.settings.is_empty()).then(|| TextTable::headed(self.setting_cells())),
                sets: sets.collect(),
                curves,
                definitions: self.definitions.iter().map(|(name, text)| (*name, *text)).collect(),
            },
        )
    }

    /// Writes `comparison.json`, `comparison.md` and `comparison.html` into the new folder `folder`. `runs` are the runs that
    /// were compared.
    ///
    /// # Errors
    /// Returns an error if the folder exists already, because nothing is overwritten.
    pub fn write(&self, runs: &[EvaluatedRun], folder: &Path) -> Result<()> {
        if folder.exists() {
            bail!(
                "{} is there already, and nothing is written over. Name a new folder, or remove it.",
                folder.display()
            );
        }
        let staged = StagedDir::new(folder)?;
        let json = serde_json::to_string_pretty(self).expect("a comparison is JSON") + "\n";
        let files =
            [("comparison.json", json), ("comparison.md", self.markdown()), ("comparison.html", self.html(runs)?)];
        for (name, text) in files {
            let path = staged.path().join(name);
            std::fs::write(&path, text).map_err(|e| Error::io("write", folder.join(name), e))?;
        }
        staged.commit()
    }

    /// Returns the cells of the table of settings that differ, the headings first.
    fn setting_cells(&self) -> Vec<Vec<String>> {
        let headings = ["setting".to_owned()].into_iter().chain((1..=self.runs.len()).map(|run| format!("run {run}")));
        let row = |DifferingKey { key, values }: &DifferingKey| {
            let values = values.iter().map(|value| value.clone().unwrap_or_else(|| "–".into()));
            [key.clone()].into_iter().chain(values).collect()
        };
        [headings.collect()].into_iter().chain(self.settings.iter().map(row)).collect()
    }

    /// Returns the cells of a table: first the headings, then a row for each variant.
    fn cells(&self, variants: &[ComparedVariant]) -> Vec<Vec<String>> {
        let count = self.runs.len();
        let pairs: Vec<(u64, u64)> =
            (1..=count as u64).flat_map(|base| (base + 1..=count as u64).map(move |run| (base, run))).collect();
        let mut headings = vec!["variant".to_owned()];
        headings.extend((1..=count).map(|run| format!("run {run}")));
        headings.extend(pairs.iter().flat_map(|(base, run)| [format!("{run} against {base}"), "95 % interval".into()]));
        let row = |variant: &ComparedVariant| {
            let mut row = vec![variant.name.clone()];
            row.extend(variant.block_efficiency.iter().map(|x| x.map_or("–".into(), format::efficiency)));
            for pair in &pairs {
                let found = variant.differences.iter().find(|d| (d.base, d.run) == *pair);
                row.push(found.map_or("–".into(), |d| format::signed_percent(d.difference)));
                row.push(found.map_or("–".into(), |d| format::percent_interval(d.difference_ci95)));
            }
            row
        };
        std::iter::once(headings).chain(variants.iter().map(row)).collect()
    }
}

/// Renders cells as a Markdown table, the headings first.
fn markdown_rows(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
        text += &format!("| {} |\n", cells.join(" | "));
        if number == 0 {
            text += &format!("|---|{}\n", "---:|".repeat(row.len() - 1));
        }
    }
    text
}
