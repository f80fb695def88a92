//! The content of `ablation.json`. Each number is defined by the sentence of the same name in
//! [`definitions()`](super::definitions::definitions).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::seeds::{interval, mean};
use crate::evaluation::analyses::VariantRow;
use crate::tables::{BASELINE, ORACLE};

/// The cells of an ablation, and what they show together.
#[derive(Debug, Serialize)]
pub struct Ablated {
    /// The version of the layout. It is increased whenever an older reader would misread a newer file.
    pub schema_version: u64,
    /// The name of the ablation.
    pub name: String,
    /// The definition of each number, in one sentence.
    pub definitions: BTreeMap<String, String>,
    /// The keys in which cells differ.
    pub axes: Vec<Axis>,
    /// All cells, in the order of the configuration.
    pub cells: Vec<AblatedCell>,
    /// The results on each data set, in the order of the first report.
    pub datasets: Vec<AblatedSet>,
    /// The resolved configuration, and the version of the program that made this file.
    pub provenance: BTreeMap<String, Value>,
}

/// A key in which cells differ, with its values.
#[derive(Debug, Clone, Serialize)]
pub struct Axis {
    /// The key of the configuration, or `cell`.
    pub key: String,
    /// The heading in tables: the shortest end of the key that fits no other axis.
    pub label: String,
    /// The values, in the order of the configuration.
    pub values: Vec<String>,
}

/// A cell and its results.
#[derive(Debug, Serialize)]
pub struct AblatedCell {
    /// The cell's value on each axis.
    pub values: Vec<String>,
    /// The hash of the cell's configuration.
    pub key: String,
    /// Whether the cell has results.
    pub state: CellState,
    /// The message of the error, if the cell failed.
    pub error: Option<String>,
    /// The results in the cell's report, by data set.
    pub datasets: Vec<MeasuredSet>,
}

/// The results of a cell on one data set.
#[derive(Debug, Serialize)]
pub struct MeasuredSet {
    /// The name of the data set.
    pub name: String,
    /// The variants, in the order of the report.
    pub variants: Vec<Measured>,
}

/// Whether a cell has a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CellState {
    /// The cell has a report.
    Done,
    /// The last attempt ended with an error.
    Failed,
    /// The cell was not computed, or only in part.
    Missing,
}

/// The results of a variant in a cell.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub variant: String,
    pub drafts: u64,
    pub block_efficiency: f64,
    pub ci95: [f64; 2],
    pub block_efficiency_document_mean: f64,
    pub relative_gain: f64,
    pub dev_block_efficiency: Option<f64>,
    pub verified_tokens_per_call: f64,
    pub verified_tokens_per_call_max: u64,
}

impl From<(&str, VariantRow)> for Measured {
    fn from((variant, row): (&str, VariantRow)) -> Self {
        Self {
            variant: variant.to_owned(),
            drafts: row.drafts,
            block_efficiency: row.block_efficiency,
            ci95: row.ci95,
            block_efficiency_document_mean: row.block_efficiency_document_mean,
            // Plain decoding has no gain, because it is the baseline.
            relative_gain: row.relative_gain.unwrap_or_default(),
            dev_block_efficiency: row.dev_block_efficiency,
            verified_tokens_per_call: row.verified_tokens_per_call,
            verified_tokens_per_call_max: row.verified_tokens_per_call_max,
        }
    }
}

/// The results of all cells on one data set.
#[derive(Debug, Serialize)]
pub struct AblatedSet {
    /// The name of the data set.
    pub name: String,
    /// The settings. Cells that differ only in the seed are one setting.
    pub settings: Vec<Setting>,
    /// The setting and variant with the highest `dev_block_efficiency`; the first if several are equal.
    pub best: Option<Best>,
    /// The same, among variants with a single draft.
    pub best_single: Option<Best>,
}

/// Cells that differ only in the seed.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// The setting's value on each axis except the seed.
    pub values: Vec<String>,
    /// The variants, in the order of the first cell's report.
    pub variants: Vec<Summary>,
}

/// The results of a variant under a setting, as means over seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub variant: String,
    pub drafts: u64,
    /// The number of cells that the means are taken over.
    pub seeds: u64,
    pub block_efficiency: f64,
    pub interval: [f64; 2],
    pub relative_gain: f64,
    pub dev_block_efficiency: Option<f64>,
    pub verified_tokens_per_call: f64,
}

/// A setting and one of its variants.
#[derive(Debug, Clone, Serialize)]
pub struct Best {
    /// The setting's value on each axis except the seed.
    pub values: Vec<String>,
    /// The variant with its results on test.
    pub variant: Summary,
}

impl Ablated {
    /// The present version of the layout.
    pub const SCHEMA: u64 = 1;
    /// The key of the axis over which means are taken.
    pub const SEED: &str = "seed";

    /// Makes the report from the cells, and computes all that they show together.
    pub fn new(
        name: String,
        axes: Vec<(String, Vec<String>)>,
        cells: Vec<AblatedCell>,
        provenance: BTreeMap<String, Value>,
    ) -> Self {
        let keys: Vec<&String> = axes.iter().map(|(key, _)| key).collect();
        let label = |key: &str| {
            let parts: Vec<&str> = key.split('.').collect();
            let ends = (1..=parts.len()).map(|n| parts[parts.len() - n..].join("."));
            let alone = |end: &String| {
                keys.iter().filter(|other| **other == end || other.ends_with(&format!(".{end}"))).count() == 1
            };
            ends.into_iter().find(alone).unwrap_or_else(|| key.to_owned())
        };
        let axes: Vec<Axis> = axes
            .iter()
            .map(|(key, values)| Axis { label: label(key), key: key.clone(), values: values.clone() })
            .collect();
        let seed = axes.iter().position(|axis| axis.key == Self::SEED);
        let mut names: Vec<&String> = Vec::new();
        for MeasuredSet { name, .. } in cells.iter().flat_map(|cell| &cell.datasets) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let datasets = names.into_iter().map(|name| AblatedSet::new(name, &cells, seed)).collect();
        let definitions = super::definitions::definitions();
        Self { schema_version: Self::SCHEMA, name, definitions, axes, cells, datasets, provenance }
    }

    /// Returns all axes except the seed. Settings have a value on each of these.
    pub fn setting_axes(&self) -> impl Iterator<Item = &Axis> {
        self.axes.iter().filter(|axis| axis.key != Self::SEED)
    }

    /// Describes a setting by its values.
    pub fn words(&self, setting: &Setting) -> String {
        let values = self.setting_axes().zip(&setting.values);
        let words = values
            .map(|(axis, value)| if axis.key == "cell" { value.clone() } else { format!("{} {value}", axis.label) });
        words.collect::<Vec<_>>().join(", ")
    }

    /// Counts the cells in a state.
    pub fn count(&self, state: CellState) -> usize {
        self.cells.iter().filter(|cell| cell.state == state).count()
    }
}

impl AblatedSet {
    fn new(name: &str, cells: &[AblatedCell], seed: Option<usize>) -> Self {
        let mut grouped: Vec<(Vec<String>, Vec<&[Measured]>)> = Vec::new();
        for cell in cells {
            let Some(measured) = cell.datasets.iter().find(|set| set.name == name) else { continue };
            let measured = measured.variants.as_slice();
            let values = cell.values.iter().enumerate().filter(|(axis, _)| Some(*axis) != seed);
            let values: Vec<String> = values.map(|(_, value)| value.clone()).collect();
            match grouped.iter_mut().find(|(earlier, _)| *earlier == values) {
                Some((_, all)) => all.push(measured),
                None => grouped.push((values, vec![measured])),
            }
        }
        let settings: Vec<Setting> = grouped.into_iter().map(|(values, all)| Setting::new(values, &all)).collect();
        let best = |single: bool| {
            let mut best: Option<Best> = None;
            for setting in &settings {
                for variant in setting.decoders().filter(|variant| !single || variant.drafts == 1) {
                    if best.as_ref().is_none_or(|best| variant.on_dev() > best.variant.on_dev()) {
                        best = Some(Best { values: setting.values.clone(), variant: variant.clone() });
                    }
                }
            }
            best
        };
        Self { name: name.to_owned(), best: best(false), best_single: best(true), settings }
    }

    /// Returns the names of the variants of all settings, in order of first appearance.
    pub fn variants(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for variant in self.settings.iter().flat_map(|setting| &setting.variants) {
            if !names.contains(&variant.variant.as_str()) {
                names.push(&variant.variant);
            }
        }
        names
    }
}

impl Setting {
    fn new(values: Vec<String>, cells: &[&[Measured]]) -> Self {
        let summary = |first: &Measured| {
            let of: Vec<&Measured> =
                cells.iter().filter_map(|cell| cell.iter().find(|m| m.variant == first.variant)).collect();
            let over = |value: fn(&Measured) -> f64| mean(&of.iter().map(|m| value(m)).collect::<Vec<_>>());
            let efficiencies: Vec<f64> = of.iter().map(|m| m.block_efficiency).collect();
            let dev: Option<Vec<f64>> = of.iter().map(|m| m.dev_block_efficiency).collect();
            Summary {
                variant: first.variant.clone(),
                drafts: first.drafts,
                seeds: of.len() as u64,
                block_efficiency: mean(&efficiencies),
                interval: interval(&efficiencies).unwrap_or(first.ci95),
                relative_gain: over(|m| m.relative_gain),
                dev_block_efficiency: dev.map(|dev| mean(&dev)),
                verified_tokens_per_call: over(|m| m.verified_tokens_per_call),
            }
        };
        Self { values, variants: cells[0].iter().map(summary).collect() }
    }

    /// Returns the variant with a name.
    pub fn variant(&self, name: &str) -> Option<&Summary> {
        self.variants.iter().find(|variant| variant.variant == name)
    }

    /// Returns the variants that can decode, which are all except the oracle.
    pub fn decoders(&self) -> impl Iterator<Item = &Summary> {
        self.variants.iter().filter(|variant| variant.variant != ORACLE)
    }

    /// Returns plain decoding.
    pub fn baseline(&self) -> Option<&Summary> {
        self.variant(BASELINE)
    }

    /// Returns the variant that is best on dev; the first if several are equal.
    pub fn best(&self) -> Option<&Summary> {
        self.decoders().reduce(|best, variant| if variant.on_dev() > best.on_dev() { variant } else { best })
    }
}

impl Summary {
    /// Returns the block efficiency on dev, by which the best variant is chosen.
    pub fn on_dev(&self) -> f64 {
        self.dev_block_efficiency.unwrap_or(f64::NEG_INFINITY)
    }
}
