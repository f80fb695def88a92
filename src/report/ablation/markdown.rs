//! Renders `ablation.md`, and the table for the terminal.

use super::model::{Ablated, AblatedSet, Best, CellState, Setting, Summary};
use crate::report::markdown::aligned_rows;
use crate::tables::format;

/// The headings after those of the axes.
const HEADINGS: [&str; 7] =
    ["seeds", "bpd", "best on dev", "block efficiency", "95 % interval", "gain", "verified / call"];

/// Renders the whole report as Markdown.
pub fn markdown(report: &Ablated) -> String {
    let mut text = format!("# Ablation {}\n\n{}\n", report.name, counts(report));
    for set in &report.datasets {
        text += &format!("\n## {}\n\n{}\n\n", set.name, claims(report, set).join("\n\n"));
        let rows = rows(report, set);
        text += &format!("| {} |\n", rows[0].join(" | "));
        text += &format!("|{}\n", "---|".repeat(rows[0].len()));
        for row in &rows[1..] {
            text +=
                &format!("| {} |\n", row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "));
        }
        text += &all_variants(report, set);
    }
    let failures = failures(report);
    if !failures.is_empty() {
        text += "\n## Failed cells\n\n";
        failures.iter().for_each(|failure| text += &format!("- {failure}\n"));
    }
    text += "\n## Definitions\n\n";
    for (name, sentence) in &report.definitions {
        text += &format!("- **{name}**: {sentence}\n");
    }
    text
}

/// Renders the results as aligned columns for the terminal, in lines of at most `width` characters where a width is given.
pub fn table(report: &Ablated, width: Option<usize>) -> String {
    let mut text = String::new();
    for set in &report.datasets {
        text += &format!("{}\n{}", set.name, aligned_rows(&rows(report, set), width));
        text += &format!("\n{}\n\n", claims(report, set).join("\n"));
    }
    for failure in failures(report) {
        text += &format!("failed: {failure}\n");
    }
    text + &format!("{}\n", counts(report))
}

/// Says how many cells are in each state.
pub fn counts(report: &Ablated) -> String {
    let (failed, missing) = (report.count(CellState::Failed), report.count(CellState::Missing));
    let mut text = format::counted(report.cells.len() as u64, "cell", "cells");
    for (n, what) in [(failed, "failed"), (missing, "not computed yet")] {
        if n > 0 {
            text += &format!(", {n} {what}");
        }
    }
    text + "."
}

/// Says in sentences what is best on a data set.
pub fn claims(report: &Ablated, set: &AblatedSet) -> Vec<String> {
    let place = |best: &Best| {
        let values = report.setting_axes().zip(&best.values).map(|(axis, value)| format!("{} {value}", axis.label));
        let values = values.collect::<Vec<_>>().join(", ");
        if values.is_empty() { String::new() } else { format!(" with {values}") }
    };
    let claim = |best: &Best, among: &str| {
        let variant = &best.variant;
        format!(
            "Best on dev{among}: {}{}. On test it decodes {} tokens per backbone call {}, {} over plain bpd, at {} verified tokens a call.",
            variant.variant,
            place(best),
            format::efficiency(variant.block_efficiency),
            format::interval(variant.interval),
            format::signed_percent(variant.relative_gain),
            format::fixed(variant.verified_tokens_per_call, 1),
        )
    };
    let mut claims: Vec<String> = set.best.iter().map(|best| claim(best, "")).collect();
    let single = set
        .best_single
        .as_ref()
        .filter(|single| set.best.as_ref().is_none_or(|best| best.variant.drafts != 1 && single.variant.drafts == 1));
    claims.extend(single.map(|best| claim(best, " among single drafts")));
    claims
}

/// Lists every failed cell with its error.
pub fn failures(report: &Ablated) -> Vec<String> {
    let failed = report.cells.iter().filter(|cell| cell.state == CellState::Failed);
    let words = |cell: &super::AblatedCell| {
        let values = report.axes.iter().zip(&cell.values).map(|(axis, value)| format!("{}={value}", axis.label));
        format!("{}: {}", values.collect::<Vec<_>>().join(", "), cell.error.as_deref().unwrap_or_default())
    };
    failed.map(words).collect()
}

/// Returns the cells of a table: first the headings, then a row for each setting.
pub fn rows(report: &Ablated, set: &AblatedSet) -> Vec<Vec<String>> {
    let axes = report.setting_axes().map(|axis| axis.label.clone());
    let mut rows = vec![axes.chain(HEADINGS.iter().map(|name| (*name).to_owned())).collect::<Vec<_>>()];
    for setting in &set.settings {
        let seeds = setting.variants.first().map_or(0, |variant| variant.seeds);
        let base = setting.baseline().map_or_else(String::new, |base| format::efficiency(base.block_efficiency));
        let mut row = setting.values.clone();
        row.extend([seeds.to_string(), base]);
        row.extend(setting.best().map_or_else(|| vec![String::new(); HEADINGS.len() - 2], cells));
        rows.push(row);
    }
    rows
}

fn cells(variant: &Summary) -> Vec<String> {
    vec![
        variant.variant.clone(),
        format::efficiency(variant.block_efficiency),
        format::interval(variant.interval),
        format::signed_percent(variant.relative_gain),
        format::fixed(variant.verified_tokens_per_call, 1),
    ]
}

/// Makes a table with a row for each variant and a column for each setting. It is empty if there are too many settings
/// to read.
fn all_variants(report: &Ablated, set: &AblatedSet) -> String {
    const MOST: usize = 12;
    if !(1..=MOST).contains(&set.settings.len()) {
        return String::new();
    }
    let heading = |setting: &Setting| report.words(setting).replace('|', "\\|");
    let headings: Vec<String> = set.settings.iter().map(heading).collect();
    let mut text =
        format!("\n| block efficiency | {} |\n|---|{}\n", headings.join(" | "), "---:|".repeat(headings.len()));
    for name in set.variants() {
        let cell = |setting: &Setting| {
            setting.variant(name).map_or("–".to_owned(), |variant| format::efficiency(variant.block_efficiency))
        };
        text += &format!("| `{name}` | {} |\n", set.settings.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    text
}
