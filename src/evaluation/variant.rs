//! The evaluation of one variant on one data set: its settings, chosen on dev, and its walk over test.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::tuning::{Axis, Trial, search};
use super::{Evaluator, Step, Tally, Texts, stop_if_interrupted};
use crate::drafting::{PreparedVariant, Settings, SizedSelection, Variant};
use crate::error::Result;

/// The results of one variant on one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantResult {
    /// The settings that were chosen on dev.
    pub settings: Settings,
    /// Whether the variant drafts like plain decoding, because none of the settings tried on dev was as good as that.
    pub switched_off: bool,
    /// The block efficiency on dev with these settings, or that of plain decoding if the variant is switched off.
    pub dev_block_efficiency: f64,
    /// The trials of the last pass over all settings on dev.
    pub trials: Vec<Trial>,
    /// The walk over each test document.
    pub steps: Vec<Vec<Step>>,
    /// The seconds that these walks took.
    pub seconds: f64,
}

/// Everything that a [`VariantResult`] depends on.
#[derive(Serialize)]
pub(super) struct VariantKey<'a> {
    /// The keys of the two traces.
    pub dev: &'a str,
    pub test: &'a str,
    /// The key of the heads.
    pub heads: &'a str,
    /// The number of candidates per slot.
    pub top_k: usize,
    pub variant: &'a Variant,
    pub selection: &'a SizedSelection,
    pub include_top1: bool,
    /// The names and keys of the rescorers that are its terms.
    pub terms: Vec<(&'a str, &'a str)>,
    /// The settings where the search begins, and the axes along which it goes.
    pub start: &'a Settings,
    pub axes: &'a [Axis],
}

impl Evaluator<'_> {
    /// Chooses a variant's settings on dev, beginning at `start`, and walks over test with them. `plain` is the block
    /// efficiency of plain decoding on dev, or none if the variant is plain decoding.
    pub(super) fn measure(
        &self,
        variant: &PreparedVariant,
        start: Settings,
        axes: &[Axis],
        plain: Option<f64>,
        [dev, test]: [&Texts; 2],
    ) -> Result<VariantResult> {
        let stop = variant.variant.stop;
        let tuned = search(start, axes, |settings| {
            stop_if_interrupted()?;
            Ok(Tally::of(&dev.walk(stop, &*variant.drafter(settings))?).block_efficiency())
        })?;
        let plain = plain.unwrap_or(tuned.block_efficiency);
        // A variant that is worse than plain decoding on dev is switched off.
        let switched_off = !axes.is_empty() && tuned.block_efficiency < plain;
        let variant = if switched_off { &variant.clone().switched_off() } else { variant };
        let started = Instant::now();
        let steps = test.walk(stop, &*variant.drafter(&tuned.settings))?;
        Ok(VariantResult {
            settings: tuned.settings,
            switched_off,
            dev_block_efficiency: if switched_off { plain } else { tuned.block_efficiency },
            trials: tuned.curve,
            seconds: started.elapsed().as_secs_f64(),
            steps,
        })
    }
}
