//! Renders `ablation.html`, the page of an ablation.

use serde::Serialize;

use super::figures::figures;
use super::markdown::{claims, counts, failures, rows};
use super::model::{Ablated, AblatedSet};
use crate::error::Result;
use crate::report::page::{self, Entry, Plot, TextTable, prose};
use crate::tables::format;

#[derive(Serialize)]
struct Page {
    title: String,
    byline: String,
    claims: Vec<String>,
    contents: Vec<Entry>,
    opening: [Plot; 0],
    datasets: Vec<Section>,
    failures: Vec<String>,
    definitions: Vec<[String; 2]>,
    configuration: String,
}

#[derive(Serialize)]
struct Section {
    name: String,
    settings: TextTable,
    figures: Vec<Plot>,
    variants: TextTable,
}

/// Renders an ablation as a complete page, which needs neither a network nor other files.
pub fn html(report: &Ablated) -> Result<String> {
    let axes: Vec<&str> = report.axes.iter().map(|axis| axis.key.as_str()).collect();
    let text = |name: &str| report.provenance.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let page = Page {
        title: format!("Ablation: {}", report.name),
        byline: format!(
            "{} over {} · draftsmith {}",
            counts(report).trim_end_matches('.'),
            axes.join(", "),
            text("version")
        ),
        claims: report
            .datasets
            .iter()
            .flat_map(|set| claims(report, set).into_iter().map(|claim| prose(format!("{}: {claim}", set.name))))
            .collect(),
        contents: Entry::of_sets(report.datasets.iter().map(|set| &*set.name)),
        opening: [],
        datasets: report.datasets.iter().map(|set| Section::new(report, set)).collect(),
        failures: failures(report),
        definitions: report.definitions.iter().map(|(name, text)| [name.clone(), text.clone()]).collect(),
        configuration: text("configuration"),
    };
    page::render(include_str!("page.html"), page)
}

impl Section {
    fn new(report: &Ablated, set: &AblatedSet) -> Self {
        Self {
            name: set.name.clone(),
            settings: TextTable::headed(rows(report, set)),
            figures: figures(report, set).iter().filter_map(|f| Plot::new(f, &format!("on {}", set.name))).collect(),
            variants: variants(report, set),
        }
    }
}

/// Makes the table of all variants of all settings.
fn variants(report: &Ablated, set: &AblatedSet) -> TextTable {
    let names = ["variant", "drafts", "dev", "block efficiency", "95 % interval", "gain", "verified / call"];
    let headings = report.setting_axes().map(|axis| axis.label.clone()).chain(names.map(str::to_owned));
    let mut rows = Vec::new();
    for setting in &set.settings {
        for variant in &setting.variants {
            let mut row = setting.values.clone();
            row.extend([
                variant.variant.clone(),
                variant.drafts.to_string(),
                variant.dev_block_efficiency.map_or("–".to_owned(), format::efficiency),
                format::efficiency(variant.block_efficiency),
                format::interval(variant.interval),
                format::signed_percent(variant.relative_gain),
                format::fixed(variant.verified_tokens_per_call, 1),
            ]);
            rows.push(row);
        }
    }
    TextTable::new(headings.collect(), rows)
}
