//! What dev chooses for a variant, and the file in which a run keeps it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{LookupConfidence, Variant};
use crate::error::{Result, bail};
use crate::files;
use crate::lattice::{Calibration, Lattice, LookupToken, Weighting};

/// The settings of a variant that are fitted on dev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Scale of the rescorers together, and decay over the slots.
    pub weighting: Weighting,
    /// How scores become probabilities; for expected lengths.
    pub calibration: Calibration,
    /// Candidates per slot that are looked at.
    pub top_k: usize,
    /// Candidates whose head score is further than this behind their slot's first are not looked at: a slot whose head is
    /// sure has no choice left.
    #[serde(with = "null_is_infinite")]
    pub gate: f64,
    /// By slot (0 is the pinned one): the temperature that makes the head's scores most likely on dev; none beyond their end.
    pub slot_temperatures: Vec<f64>,
    /// The power of `slot_temperatures` by which head scores are divided where paths are compared: 0, they are taken as they are.
    pub tempering: f64,
    /// How far copies can be trusted, measured on dev.
    pub confidence: LookupConfidence,
    /// What `confidence` is multiplied by; 0: nothing is copied.
    pub lookup_scale: f64,
    /// Of each rescorer in the sum: its share of `scale`. They sum to 1.
    pub shares: Vec<f64>,
}

/// [`Calibration::cut`]: a path that is left out is less than 6e-6 times as probable as a good one.
const CUT: f64 = 12.0;

impl Settings {
    /// Head scores alone, from the top `top_k` of every slot; expected lengths by the given `coverage` and `temperature`.
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
            shares: Vec::new(),
        }
    }

    /// What is copied behind `text` and the pinned token.
    pub(super) fn copied(&self, text: &[u32], lattice: &Lattice) -> Vec<LookupToken> {
        if self.lookup_scale == 0.0 {
            return Vec::new();
        }
        let mut copied = self.confidence.copied(text, lattice);
        // The pinned token is right.
        copied.iter_mut().skip(1).for_each(|copied| copied.confidence *= self.lookup_scale);
        copied
    }

    /// The lattice as paths are compared in it; rescorers read it as it was.
    pub(super) fn tempered<'a>(&self, lattice: &'a Lattice) -> Cow<'a, Lattice> {
        if self.tempering == 0.0 {
            return Cow::Borrowed(lattice);
        }
        let temperatures: Vec<f64> = self.slot_temperatures.iter().map(|t| t.powf(self.tempering)).collect();
        Cow::Owned(lattice.tempered(&temperatures))
    }
}

/// JSON has no infinity.
pub(crate) mod null_is_infinite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}

/// A variant with what dev chose for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedVariant {
    /// The variant.
    pub variant: Variant,
    /// Whether it drafts as plain decoding does, because nothing that was tried helped on dev.
    pub switched_off: bool,
    /// Block efficiency on dev, at these settings or, switched off, of plain decoding.
    pub dev_block_efficiency: f64,
    /// The settings.
    pub settings: Settings,
}

/// The variants of one data set with their settings: `tuned/SET.json` of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedSet {
    schema_version: u32,
    /// The data set, on whose dev split the settings were chosen.
    pub dataset: String,
    /// In the order in which they were evaluated, plain decoding first.
    pub variants: Vec<TunedVariant>,
}

/// The only layout there is.
const SCHEMA: u32 = 1;

impl TunedSet {
    /// The settings of some variants on a data set.
    pub fn new(dataset: impl Into<String>, variants: Vec<TunedVariant>) -> Self {
        Self { schema_version: SCHEMA, dataset: dataset.into(), variants }
    }

    /// Writes `folder/SET.json`.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_json(&folder.join(format!("{}.json", self.dataset)), self)
    }

    /// Reads every set in `folder`, by name.
    ///
    /// # Errors
    /// Files that are damaged or of another layout.
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

    /// The variant with the highest block efficiency on dev; of equals the first.
    pub fn best(&self) -> Option<&TunedVariant> {
        let better =
            |best: &'_ TunedVariant, next: &TunedVariant| next.dev_block_efficiency > best.dev_block_efficiency;
        self.variants.iter().reduce(|best, next| if better(best, next) { next } else { best })
    }
}
