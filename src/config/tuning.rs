//! `[tuning]`: the settings tried on dev.

use serde::{Deserialize, Serialize};

use crate::error::{Result, bail};

/// `[tuning]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuningConfig {
    /// Weights of a rescorer tried on dev, 0 to 1; 0 is always tried.
    pub lm_scales: Vec<f64>,
    /// Shares of a sum's terms tried on dev, each against the others' together.
    pub shares: Vec<f64>,
    /// Temperatures tried on dev by the variants that maximise expected accepted length.
    pub temperatures: Vec<f64>,
    /// Decays over the slots tried on dev by variants with one draft; 1 is always tried.
    pub decays: Vec<f64>,
    /// Gates tried on dev: candidates whose head score is further behind their slot's first are left out. No gate is always
    /// tried.
    pub gates: Vec<f64>,
    /// Powers tried on dev: every head's scores are divided by this power of the temperature that makes them most likely on
    /// dev. 0, which leaves them as they are, is tried as well; empty, nothing is.
    pub slot_tempering: Vec<f64>,
    /// Factors tried on dev by the `path-` and `tree-` variants that have copies of what followed the last tokens earlier in the
    /// text besides, `NAME+lookup`: how probable copies are said to be is multiplied by it. 0, which leaves copies out, is
    /// always tried; empty, there are no such variants.
    pub lookup: Vec<f64>,
}

impl Default for TuningConfig {
    fn default() -> Self {
        Self {
            lm_scales: vec![0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
            shares: vec![0.0, 0.25, 0.5, 0.75, 1.0],
            temperatures: vec![0.3, 0.5, 0.7, 1.0, 1.4, 2.0],
            decays: vec![0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
            gates: vec![1.0, 2.0, 4.0],
            slot_tempering: Vec::new(),
            lookup: vec![0.7, 0.85, 1.0],
        }
    }
}

impl TuningConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if self.lm_scales.iter().any(|s| !(0.0..=1.0).contains(s)) {
            bail!("`tuning.lm_scales` must lie between 0 and 1.");
        }
        for (name, values, most) in [
            ("decays", &self.decays, 1.0),
            ("temperatures", &self.temperatures, f64::MAX),
            ("gates", &self.gates, f64::MAX),
        ] {
            if values.iter().any(|value| !(*value > 0.0 && *value <= most)) {
                let most = if most == f64::MAX { String::new() } else { format!(" and at most {most}") };
                bail!("`tuning.{name}` is {values:?}; its numbers must be above 0{most}.");
            }
        }
        if self.slot_tempering.iter().any(|power| !(0.0..=1.0).contains(power)) {
            bail!("`tuning.slot_tempering` must lie between 0 and 1.");
        }
        if self.lookup.iter().any(|factor| !(0.0..=1.0).contains(factor)) {
            bail!("`tuning.lookup` must lie between 0 and 1; [] leaves the variants that copy out.");
        }
        if self.temperatures.is_empty() {
            bail!("`tuning.temperatures` is empty; name at least one, such as 1.0.");
        }
        if self.shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            bail!("`tuning.shares` must lie between 0 and 1.");
        }
        Ok(())
    }

    /// The scales to try, 0 among them, ascending and without repeats.
    pub fn scales(&self) -> Vec<f64> {
        let mut scales = self.lm_scales.clone();
        scales.push(0.0);
        scales.sort_by(f64::total_cmp);
        scales.dedup();
        scales
    }
}
