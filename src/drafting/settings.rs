//! The settings that are chosen for a variant on dev, and the file in which a run keeps them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{LookupConfidence, Variant};
use crate::error::{Result, bail};
use crate::files;
use crate::lattice::{Calibration, Lattice, LookupToken, Weighting};
use crate::rescorer::Rescorer;

/// The settings of a variant that are fitted on dev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The scale of the rescorers' sum, and how it decays over the slots.
    pub weighting: Weighting,
    /// How scores are turned into probabilities, which expected lengths need.
    pub calibration: Calibration,
    /// The number of candidates per slot that are searched.
    pub top_k: usize,
    /// The largest distance of a candidate's head score from that of the first candidate of its slot. Candidates
    /// further behind are left out, so that a slot whose head is sure has no other choice.
    #[serde(with = "null_is_infinite")]
    pub gate: f64,
    /// The temperature of each slot, from the pinned slot 0 on, at which the head's scores make dev most likely. Slots
    /// behind the last temperature have none.
    pub slot_temperatures: Vec<f64>,
    /// The power to which `slot_temperatures` are raised before head scores are divided by them for the comparison of
    /// paths. At 0, head scores are compared as they are.
    pub tempering: f64,
    /// How probable it is that copies are right, measured on dev.
    pub confidence: LookupConfidence,
    /// The factor that `confidence` is multiplied by. At 0, nothing is copied.
    pub lookup_scale: f64,
    /// The bound of a stop rule that has none of its own ([`StopRule::is_tuned`](super::StopRule::is_tuned)). None ends no block
    /// early.
    pub stop_bound: Option<f64>,
    /// How often what was proposed behind the text itself was right on dev: by slot from the second one on, and by rank. Empty
    /// unless a tree of a fixed shape is grown by it.
    pub rank_rates: Vec<Vec<f64>>,
    /// The share of the scale that each rescorer in the sum has. The shares sum to 1.
    pub shares: Vec<f64>,
}

/// The value of [`Calibration::cut`]. A path that is left out is less than about 6e-6 times as probable as a good one.
const CUT: f64 = 12.0;

impl Settings {
    /// Makes settings under which only head scores count, for the first `top_k` candidates of every slot. `coverage`
    /// and `temperature` are those of the calibration, for expected lengths.
    pub fn new(top_k: usize, coverage: Vec<f64>, temperature: f64) -> Self {
        Self {
            weighting: Weighting::from(0.0),
            calibration: Calibration { temperature, coverage, cut: CUT },
            top_k,
            gate: f64::INFINITY,
            slot_temperatures: Vec::new(),
            tempering: 0.0,
            confidence: LookupConfidence::default(),
            lookup_scale: 0.0,
            stop_bound: None,
            rank_rates: Vec::new(),
            shares: Vec::new(),
        }
    }

    /// Returns those of the rescorers, which are in the order of the shares, that take part: each behind its share, which is
    /// not 0. There are none if their scale is 0.
    pub(super) fn terms<'a>(
        &'a self,
        rescorers: &'a [&'a dyn Rescorer],
    ) -> impl Iterator<Item = (f64, &'a dyn Rescorer)> {
        let terms =
            rescorers.iter().zip(&self.shares).filter(|(_, share)| self.weighting.scale != 0.0 && **share != 0.0);
        terms.map(|(rescorer, &share)| (share, *rescorer))
    }

    /// Returns the copy that continues `text`, of at most `slots` tokens from the pinned one on. The confidence of every token
    /// but the pinned one is multiplied by `lookup_scale`.
    pub(super) fn copied(&self, text: &[u32], pinned: u32, slots: usize) -> Vec<LookupToken> {
        if self.lookup_scale == 0.0 {
            return Vec::new();
        }
        let mut copied = self.confidence.copied(text, pinned, slots);
        // The pinned token is certain, so its confidence stays as it is.
        copied.iter_mut().skip(1).for_each(|copied| copied.confidence *= self.lookup_scale);
        copied
    }

    /// Returns the lattice in which paths are compared, with tempered head scores. Rescorers read the lattice without
    /// tempering.
    pub(super) fn tempered<'a>(&self, lattice: &'a Lattice) -> Cow<'a, Lattice> {
        if self.tempering == 0.0 {
            return Cow::Borrowed(lattice);
        }
        let temperatures: Vec<f64> = self.slot_temperatures.iter().map(|t| t.powf(self.tempering)).collect();
        Cow::Owned(lattice.tempered(&temperatures))
    }
}

/// Writes infinity as `null`, since JSON has no infinity, and reads `null` as infinity.
pub(crate) mod null_is_infinite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}

/// A variant with the settings that were chosen for it on dev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedVariant {
    /// The variant.
    pub variant: Variant,
    /// Whether the variant drafts as plain decoding does, because none of the settings tried was better on dev.
    pub switched_off: bool,
    /// The block efficiency on dev with these settings, or that of plain decoding if the variant is switched off.
    pub dev_block_efficiency: f64,
    /// The settings.
    pub settings: Settings,
}

/// The variants that were tuned on one data set, with their settings. A run keeps them in `tuned/SET.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedSet {
    schema_version: u32,
    /// The name of the data set on whose dev split the settings were chosen.
    pub dataset: String,
    /// The variants in the order in which they were evaluated, plain decoding first.
    pub variants: Vec<TunedVariant>,
}

/// The version of the file's layout. There is only one so far.
const SCHEMA: u32 = 1;

impl TunedSet {
    /// Makes the record of `variants` on the data set called `dataset`.
    pub fn new(dataset: impl Into<String>, variants: Vec<TunedVariant>) -> Self {
        Self { schema_version: SCHEMA, dataset: dataset.into(), variants }
    }

    /// Writes the settings to `folder/SET.json`.
    ///
    /// # Errors
    /// Fails if the folder cannot be written to.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_json(&folder.join(format!("{}.json", self.dataset)), self)
    }

    /// Reads every set in `folder` and returns them by the names of their data sets.
    ///
    /// # Errors
    /// Fails if the folder cannot be listed, or if a file is damaged or has another layout.
    pub fn read_all(folder: &Path) -> Result<BTreeMap<String, Self>> {
        let mut sets = BTreeMap::new();
        for path in files::listing(folder)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "json")) {
            let set: Self = files::read_json(&path)?;
            if set.schema_version != SCHEMA {
                bail!(
                    "{}: these settings have layout {}, this program reads {SCHEMA}. Evaluate the run again.",
                    path.display(),
                    set.schema_version
                );
            }
            sets.insert(set.dataset.clone(), set);
        }
        Ok(sets)
    }

    /// Returns the variant with the highest block efficiency on dev, or `None` if there are no variants. If several are
    /// equally good, returns the first of them.
    pub fn best(&self) -> Option<&TunedVariant> {
        let better =
            |best: &'_ TunedVariant, next: &TunedVariant| next.dev_block_efficiency > best.dev_block_efficiency;
        self.variants.iter().reduce(|best, next| if better(best, next) { next } else { best })
    }
}
