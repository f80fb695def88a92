//! The evaluation of one variant on one data set: its settings, chosen on dev, and its walk over test.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::tuning::{Axis, Trial, Tuned, search};
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
    /// The names and keys of its rescorers.
    pub rescorers: Vec<(&'a str, &'a str)>,
    /// The settings where the search begins, and the axes along which it goes.
    pub start: &'a Settings,
    pub axes: &'a [Axis],
    /// The bounds that are tried for the variant's stop rule, and what they may cost.
    pub stop: Option<(&'a [f64], f64)>,
}

/// Returns the block efficiency on dev.
fn on_dev(variant: &PreparedVariant, settings: &Settings, dev: &Texts) -> Result<f64> {
    stop_if_interrupted()?;
    Ok(Tally::of(&dev.walk(variant.variant.stop, &*variant.drafter(settings))?).block_efficiency())
}

impl Evaluator<'_> {
    /// Adds the largest bound to settings that were chosen without one, among those that cost no more than they may.
    fn with_stop_bound(&self, variant: &PreparedVariant, mut tuned: Tuned, dev: &Texts) -> Result<Tuned> {
        let least = (1.0 - self.tuning.stop_loss) * tuned.block_efficiency;
        let mut bounds = self.tuning.stop_bounds.clone();
        bounds.sort_by(|a, b| b.total_cmp(a));
        for value in bounds {
            let settings = Settings { stop_bound: Some(value), ..tuned.settings.clone() };
            let block_efficiency = on_dev(variant, &settings, dev)?;
            tuned.curve.push(Trial { parameter: "stop_bound".to_owned(), value, block_efficiency });
            if block_efficiency >= least {
                (tuned.settings, tuned.block_efficiency) = (settings, block_efficiency);
                break;
            }
        }
        Ok(tuned)
    }

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
        let tuned = search(start, axes, |settings| on_dev(variant, settings, dev))?;
        let tuned = if stop.is_tuned() { self.with_stop_bound(variant, tuned, dev)? } else { tuned };
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
