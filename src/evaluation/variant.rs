//! What is found out about one variant on one data set: its settings, chosen on dev, and its walk over test.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::tuning::{Axis, Trial, search};
use super::{Evaluator, Step, Tally, Texts, stop_if_interrupted};
use crate::drafting::{PreparedVariant, Settings, SizedSelection, Variant};
use crate::error::Result;

/// What is found out about one variant on one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantResult {
    /// The settings that dev chose.
    pub settings: Settings,
    /// Whether it drafts as plain decoding does, because nothing that was tried helped on dev.
    pub switched_off: bool,
    /// Block efficiency on dev, at these settings or, switched off, of plain decoding.
    pub dev_block_efficiency: f64,
    /// The last pass over every setting, on dev.
    pub trials: Vec<Trial>,
    /// Its walk over every test document.
    pub steps: Vec<Vec<Step>>,
    /// What these walks took.
    pub seconds: f64,
}

/// All that a [`VariantResult`] depends on.
#[derive(Serialize)]
pub(super) struct VariantKey<'a> {
    /// Keys of the traces.
    pub dev: &'a str,
    pub test: &'a str,
    /// Key of the heads.
    pub heads: &'a str,
    /// Candidates per slot.
    pub top_k: usize,
    pub variant: &'a Variant,
    pub selection: &'a SizedSelection,
    pub include_top1: bool,
    /// By name, keys of the rescorers that are its terms.
    pub terms: Vec<(&'a str, &'a str)>,
    /// Where the search begins, and along which axes it goes.
    pub start: &'a Settings,
    pub axes: &'a [Axis],
}

impl Evaluator<'_> {
    /// Chooses a variant's settings on dev, from `start` on, and walks over test with them. `plain` is block efficiency on dev of
    /// plain decoding, unless this is it.
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
        // What does not help on dev is switched off.
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
