//! The search for settings on dev. It goes over one axis after the other and keeps the other settings fixed, until a
//! round changes nothing.

use serde::{Deserialize, Serialize};

use crate::drafting::{Settings, null_is_infinite};
use crate::error::Result;

/// A setting that can be searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Coordinate {
    /// The weight of the rescorers, `lm_scale`.
    Scale,
    /// The decay over the slots.
    Decay,
    /// The temperature from which expected lengths are computed.
    Temperature,
    /// The number of candidates per slot.
    TopK,
    /// The gate: how far behind the slot's first candidate the head score of others may be.
    Gate,
    /// The power to which the slots' temperatures are raised.
    Tempering,
    /// The factor by which the confidence in copies is multiplied.
    LookupScale,
    /// The share of one term of a sum. The other shares keep their ratios.
    Share(usize),
}

/// A setting with the values to try.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Axis {
    /// The setting.
    pub coordinate: Coordinate,
    /// The name in reports.
    pub name: String,
    /// The values. If two are equally good, the earlier one is taken.
    pub values: Vec<f64>,
    /// Whether the search saves trials. It then tries only the first value, and those next to the present value in both
    /// directions, as long as the result improves.
    pub climbs: bool,
}

/// A value that was tried, and its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The name of the setting, as in [`Axis::name`].
    pub parameter: String,
    /// The value.
    #[serde(with = "null_is_infinite")]
    pub value: f64,
    /// The block efficiency on dev.
    pub block_efficiency: f64,
}

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuned {
    /// The best settings found.
    pub settings: Settings,
    /// The block efficiency on dev with these settings.
    pub block_efficiency: f64,
    /// The trials of the last pass over all axes. The other settings had the values chosen at that time.
    pub curve: Vec<Trial>,
}

impl Axis {
    /// Returns the index of the value nearest to `value`.
    fn nearest(&self, value: f64) -> usize {
        let distance = |at: &usize| if self.values[*at] == value { 0.0 } else { (self.values[*at] - value).abs() };
        (0..self.values.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
    }
}

/// The largest number of passes over all axes.
const ROUNDS: usize = 3;

impl Coordinate {
    /// Returns the value of the setting in `settings`.
    pub fn get(self, settings: &Settings) -> f64 {
        match self {
            Self::Scale => settings.weighting.scale,
            Self::Decay => settings.weighting.decay,
            Self::Temperature => settings.calibration.temperature,
            Self::TopK => settings.top_k as f64,
            Self::Gate => settings.gate,
            Self::Tempering => settings.tempering,
            Self::LookupScale => settings.lookup_scale,
            Self::Share(term) => settings.shares[term],
        }
    }

    /// Sets the setting in `settings` to `value`.
    pub fn set(self, settings: &mut Settings, value: f64) {
        match self {
            Self::Scale => settings.weighting.scale = value,
            Self::Decay => settings.weighting.decay = value,
            Self::Temperature => settings.calibration.temperature = value,
            Self::TopK => settings.top_k = value as usize,
            Self::Gate => settings.gate = value,
            Self::Tempering => settings.tempering = value,
            Self::LookupScale => settings.lookup_scale = value,
            Self::Share(term) => {
                let others: f64 =
                    settings.shares.iter().enumerate().filter(|(at, _)| *at != term).map(|(_, s)| s).sum();
                let rest = (settings.shares.len() - 1) as f64;
                for (at, share) in settings.shares.iter_mut().enumerate() {
                    *share = match at {
                        at if at == term => value,
                        _ if others > 0.0 => *share / others * (1.0 - value),
                        _ => (1.0 - value) / rest,
                    };
                }
            }
        }
    }
}

/// Searches for the best settings, beginning at `start`. `measure` returns the block efficiency on dev.
pub fn search(start: Settings, axes: &[Axis], mut measure: impl FnMut(&Settings) -> Result<f64>) -> Result<Tuned> {
    let mut known: Vec<(Settings, f64)> = Vec::new();
    let mut efficiency = |settings: &Settings| -> Result<f64> {
        if let Some((_, value)) = known.iter().find(|(earlier, _)| earlier == settings) {
            return Ok(*value);
        }
        let value = measure(settings)?;
        known.push((settings.clone(), value));
        Ok(value)
    };
    let mut tuned = Tuned { block_efficiency: efficiency(&start)?, settings: start, curve: Vec::new() };
    for _ in 0..ROUNDS {
        let before = tuned.settings.clone();
        tuned.curve.clear();
        for axis in axes {
            let present = axis.nearest(axis.coordinate.get(&tuned.settings));
            let mut best: Option<(usize, Settings, f64)> = None;
            let mut trial = |place: usize| -> Result<bool> {
                let mut settings = tuned.settings.clone();
                axis.coordinate.set(&mut settings, axis.values[place]);
                let block_efficiency = efficiency(&settings)?;
                let (parameter, value) = (axis.name.clone(), axis.values[place]);
                tuned.curve.push(Trial { parameter, value, block_efficiency });
                let better = best.as_ref().is_none_or(|(earlier, _, most)| {
                    block_efficiency > *most || (block_efficiency == *most && place < *earlier)
                });
                if better {
                    best = Some((place, settings, block_efficiency));
                }
                Ok(better)
            };
            if axis.climbs {
                trial(present)?;
                for place in present + 1..axis.values.len() {
                    if !trial(place)? {
                        break;
                    }
                }
                for place in (1..present).rev() {
                    if !trial(place)? {
                        break;
                    }
                }
                if present > 0 {
                    trial(0)?;
                }
            } else {
                for place in 0..axis.values.len() {
                    trial(place)?;
                }
            }
            tuned.curve.sort_by(|a, b| a.parameter.cmp(&b.parameter).then(a.value.total_cmp(&b.value)));
            if let Some((_, settings, block_efficiency)) = best.filter(|(_, _, most)| *most >= tuned.block_efficiency) {
                (tuned.settings, tuned.block_efficiency) = (settings, block_efficiency);
            }
        }
        if tuned.settings == before {
            break;
        }
    }
    Ok(tuned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lattice::{Calibration, Weighting};

    fn start() -> Settings {
        Settings {
            weighting: Weighting::from(0.0),
            calibration: Calibration { temperature: 1.0, coverage: vec![], cut: f64::INFINITY },
            top_k: 4,
            gate: f64::INFINITY,
            slot_temperatures: vec![],
            tempering: 0.0,
            confidence: Default::default(),
            lookup_scale: 1.0,
            stop_bound: None,
            rank_rates: vec![],
            shares: vec![0.5, 0.25, 0.25],
        }
    }

    fn axis(coordinate: Coordinate, values: &[f64]) -> Axis {
        Axis { coordinate, name: format!("{coordinate:?}"), values: values.to_vec(), climbs: false }
    }

    #[test]
    fn a_search_ends_where_no_axis_improves() {
        let axes = [axis(Coordinate::Scale, &[0.0, 0.2, 0.4, 0.6]), axis(Coordinate::Decay, &[1.0, 0.9, 0.8])];
        // The measured function has a ridge: the best decay depends on the scale.
        let measure = |s: &Settings| {
            Ok(2.0 - (s.weighting.scale - 0.4).powi(2) - (s.weighting.decay - 1.0 + s.weighting.scale / 4.0).powi(2))
        };
        let tuned = search(start(), &axes, measure).unwrap();
        assert_eq!(tuned.settings.weighting, Weighting { scale: 0.4, decay: 0.9 });
        assert_eq!(tuned.block_efficiency, 2.0 - f64::powi(0.9 - 1.0 + 0.1, 2));
        assert_eq!(tuned.curve.len(), 7, "the last pass over both axes");
    }

    #[test]
    fn a_climb_tries_the_first_value_and_the_way_up() {
        let climbing = Axis { climbs: true, ..axis(Coordinate::Scale, &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]) };
        let mut begin = start();
        begin.weighting.scale = 0.3;
        let tuned = search(begin, &[climbing], |s| Ok(2.0 - (s.weighting.scale - 0.5).abs())).unwrap();
        assert_eq!(tuned.settings.weighting.scale, 0.5);
        let tried: Vec<f64> = tuned.curve.iter().map(|trial| trial.value).collect();
        assert_eq!(tried, [0.0, 0.4, 0.5, 0.6], "the second round, from 0.5");
    }

    #[test]
    fn what_does_not_help_stays_off_and_ties_go_to_the_first_value() {
        let axes = [axis(Coordinate::Scale, &[0.0, 0.5]), axis(Coordinate::Gate, &[2.0, f64::INFINITY])];
        let tuned = search(start(), &axes, |s| Ok(if s.weighting.scale > 0.0 { 1.0 } else { 1.5 })).unwrap();
        assert_eq!((tuned.settings.weighting.scale, tuned.settings.gate, tuned.block_efficiency), (0.0, 2.0, 1.5));
    }

    #[test]
    fn shares_sum_to_one_and_the_others_keep_their_ratios() {
        let mut settings = start();
        Coordinate::Share(0).set(&mut settings, 0.2);
        assert_eq!(settings.shares, [0.2, 0.4, 0.4]);
        Coordinate::Share(0).set(&mut settings, 1.0);
        Coordinate::Share(1).set(&mut settings, 0.5);
        assert_eq!(settings.shares, [0.5, 0.5, 0.0]);
        settings.shares = vec![0.0, 1.0, 0.0];
        Coordinate::Share(1).set(&mut settings, 0.0);
        assert_eq!(settings.shares, [0.5, 0.0, 0.5]);
    }
}
