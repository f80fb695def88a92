//! What `ablation.json` holds. The definition of each number is the sentence of the same name in
//! [`definitions()`](super::definitions::definitions).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::seeds::{interval, mean};
use crate::evaluation::analyses::VariantRow;
use crate::tables::{BASELINE, ORACLE};

/// An ablation's cells and what they say together.
#[derive(Debug, Serialize)]
pub struct Ablated {
    /// Rises whenever an older reader would misread a newer file.
    pub schema_version: u64,
    /// Its name.
    pub name: String,
    /// One sentence for each number.
    pub definitions: BTreeMap<String, String>,
    /// What varies.
    pub axes: Vec<Axis>,
    /// Every cell, in the order of the configuration.
    pub cells: Vec<AblatedCell>,
    /// By data set, in the order of the first report.
    pub datasets: Vec<AblatedSet>,
    /// The resolved configuration, and what made this file.
    pub provenance: BTreeMap<String, Value>,
}

/// What varies.
#[derive(Debug, Clone, Serialize)]
pub struct Axis {
    /// The key of the configuration, or `cell`.
    pub key: String,
    /// As tables head it: the shortest end of the key that no other axis has.
    pub label: String,
    /// In the order of the configuration.
    pub values: Vec<String>,
}

/// A cell.
#[derive(Debug, Serialize)]
pub struct AblatedCell {
    /// By axis.
    pub values: Vec<String>,
    /// Hash of its configuration.
    pub key: String,
    /// Whether it is in the numbers.
    pub state: CellState,
    /// Why not, where it failed.
    pub error: Option<String>,
    /// By data set: what its report says.
    pub datasets: Vec<MeasuredSet>,
}

/// What a cell's report says about a data set.
#[derive(Debug, Serialize)]
pub struct MeasuredSet {
    /// The data set.
    pub name: String,
    /// In the report's order.
    pub variants: Vec<Measured>,
}

/// Whether a cell has a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CellState {
    /// It has.
    Done,
    /// Its last attempt ended with an error.
    Failed,
    /// It was not, or not wholly, computed.
    Missing,
}

/// A variant in a cell.
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
            // Plain decoding gains nothing over itself.
            relative_gain: row.relative_gain.unwrap_or_default(),
            dev_block_efficiency: row.dev_block_efficiency,
            verified_tokens_per_call: row.verified_tokens_per_call,
            verified_tokens_per_call_max: row.verified_tokens_per_call_max,
        }
    }
}

/// What the cells say about one data set.
#[derive(Debug, Serialize)]
pub struct AblatedSet {
    /// The data set.
    pub name: String,
    /// Cells that differ in nothing but the seed, together.
    pub settings: Vec<Setting>,
    /// The setting and variant with the highest `dev_block_efficiency`, the first of equal ones.
    pub best: Option<Best>,
    /// The same among variants with one draft.
    pub best_single: Option<Best>,
}

/// Cells that differ in nothing but the seed.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// By axis but the seed's.
    pub values: Vec<String>,
    /// In the order of the first cell's report.
    pub variants: Vec<Summary>,
}

/// A variant under a setting: means over seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub variant: String,
    pub drafts: u64,
    /// How many cells.
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
    /// By axis but the seed's.
    pub values: Vec<String>,
    /// The variant, with its result on test.
    pub variant: Summary,
}

impl Ablated {
    /// The version written today.
    pub const SCHEMA: u64 = 1;
    /// The axis over which means are taken.
    pub const SEED: &str = "seed";

    /// What is left to say once every cell has said its part.
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

    /// The axes but the seed's, as settings have values for.
    pub fn setting_axes(&self) -> impl Iterator<Item = &Axis> {
        self.axes.iter().filter(|axis| axis.key != Self::SEED)
    }

    /// A setting's values in a few words.
    pub fn words(&self, setting: &Setting) -> String {
        let values = self.setting_axes().zip(&setting.values);
        let words = values
            .map(|(axis, value)| if axis.key == "cell" { value.clone() } else { format!("{} {value}", axis.label) });
        words.collect::<Vec<_>>().join(", ")
    }

    /// Cells of a state.
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

    /// The variants of all settings, in the order in which they come up.
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

    /// A variant by its name.
    pub fn variant(&self, name: &str) -> Option<&Summary> {
        self.variants.iter().find(|variant| variant.variant == name)
    }

    /// The variants that can decode.
    pub fn decoders(&self) -> impl Iterator<Item = &Summary> {
        self.variants.iter().filter(|variant| variant.variant != ORACLE)
    }

    /// Plain decoding.
    pub fn baseline(&self) -> Option<&Summary> {
        self.variant(BASELINE)
    }

    /// The variant that is best on dev, the first of equal ones.
    pub fn best(&self) -> Option<&Summary> {
        self.decoders().reduce(|best, variant| if variant.on_dev() > best.on_dev() { variant } else { best })
    }
}

impl Summary {
    /// What it is chosen by.
    pub fn on_dev(&self) -> f64 {
        self.dev_block_efficiency.unwrap_or(f64::NEG_INFINITY)
    }
}
