//! The analysis of the search for each variant's settings on dev.

use super::{Analysis, by_variant};
use crate::error::Result;
use crate::evaluation::{Coordinate, EvaluatedSet, EvaluatedVariant};
use crate::tables::{Family, Figure, Lines, Record, Section, Series, Table, XAxis, YAxis, record};

pub const ANALYSIS: Analysis =
    Analysis { id: "tuning", title: "Settings chosen on dev", definition: SettingsRow::DEFINITION, fill };

record! {
    /// The settings that dev chose, by variant; all null where the variant did not beat plain bpd on dev and drafts as it does.
    /// Test documents had no part in choosing them.
    struct SettingsRow in "settings", each "variant" {
        /// The weight of the rescorer, whose score a path receives as (1-a) times the head score plus a times the rescorer's.
        lm_scale: Option<f64> = "lm_scale" as TwoDecimals;
        /// Of each of a sum's terms, its share of lm_scale; shares sum to 1.
        share: Family<f64> = "share of {}" as TwoDecimals;
        /// The factor by which each slot counts less than the one before.
        decay: Option<f64> = "decay" as TwoDecimals;
        /// The number that scores are divided by before they become probabilities, where drafts are those of the longest expected
        /// accepted length.
        temperature: Option<f64> = "temperature" as TwoDecimals;
        /// The power of slot_temperature that head scores are divided by where paths are compared.
        slot_tempering: Option<f64> = "slot_tempering" as TwoDecimals;
        /// The factor that lookup_confidence is multiplied by; 0 where nothing is copied.
        lookup: Option<f64> = "lookup" as TwoDecimals;
        /// The candidates per slot that are looked at.
        top_k: Option<f64> = "top_k" as Count;
        /// The most that a candidate's score may be behind its slot's first; null for no bound.
        gate: Option<f64> = "gate" as TwoDecimals;
    }
}

record! {
    /// The last pass over every setting of every variant.
    struct TrialRow in "trials", each "variant" {
        /// The setting that was varied, the others held still at what was chosen so far.
        parameter: String = "setting" as Words;
        /// The value tried; null is infinity.
        value: Option<f64> = "value" as ThreeDigits;
        /// Block efficiency on dev with this value; test uses the highest.
        block_efficiency: f64 = "block efficiency on dev" as ThreeDecimals;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    if set.variants.iter().all(|variant| variant.axes.is_empty()) {
        return Ok(());
    }
    section.notes.push(format!("The whole settings, as decoding loads them, are in tuned/{}.json.", set.name));
    let mut trials = Vec::new();
    for variant in &set.variants {
        for trial in &variant.result.trials {
            let row = TrialRow {
                parameter: trial.parameter.clone(),
                value: Some(trial.value).filter(|value| value.is_finite()),
                block_efficiency: trial.block_efficiency,
            };
            trials.push((variant.name(), row));
        }
    }
    section.figures.extend(weights(set));
    section.tables.push(by_variant(set, |place| Ok(chosen(&set.variants[place])))?);
    section.tables.push(Table::of(trials).detail());
    Ok(())
}

/// Returns the settings that dev chose, as far as there was a choice.
fn chosen(variant: &EvaluatedVariant) -> SettingsRow {
    let EvaluatedVariant { prepared, axes, result, .. } = variant;
    let tried = |coordinate: Coordinate| {
        let tried = !result.switched_off && axes.iter().any(|axis| axis.coordinate == coordinate);
        tried.then(|| coordinate.get(&result.settings)).filter(|value| value.is_finite())
    };
    let terms = prepared.terms().iter().enumerate();
    SettingsRow {
        lm_scale: tried(Coordinate::Scale),
        share: terms.filter_map(|(term, (name, _))| Some((name.clone(), tried(Coordinate::Share(term))?))).collect(),
        decay: tried(Coordinate::Decay),
        temperature: tried(Coordinate::Temperature),
        slot_tempering: tried(Coordinate::Tempering),
        lookup: tried(Coordinate::LookupScale),
        top_k: tried(Coordinate::TopK),
        gate: tried(Coordinate::Gate),
    }
}

/// Draws the block efficiency on dev by the weight of the rescorer. Other settings are in the table of trials.
fn weights(set: &EvaluatedSet) -> Option<Figure> {
    let (mut series, leading) = (Vec::new(), set.leading());
    for (place, variant) in set.variants.iter().enumerate() {
        let Some(axis) = variant.axes.iter().find(|axis| axis.coordinate == Coordinate::Scale) else { continue };
        let of_weight = variant.result.trials.iter().filter(|trial| trial.parameter == axis.name);
        let mut points: Vec<[f64; 2]> = of_weight.map(|trial| [trial.value, trial.block_efficiency]).collect();
        points.sort_by(|a, b| a[0].total_cmp(&b[0]));
        let off = variant.result.switched_off;
        let chosen = if off { 0.0 } else { variant.result.settings.weighting.scale };
        let line = Series::new(variant.name(), set.colour(place), points).ringed(Some(chosen));
        series.push(line.hidden(!leading[place]));
    }
    let y = YAxis::Linear("tokens per backbone call, on dev".into());
    let caption = "The ringed weight is the one the test uses; test documents had no part in choosing it.";
    (!series.is_empty()).then(|| {
        Figure::new(
            "rescorer-weight",
            "Rescorer weight on dev",
            caption,
            Lines::new(XAxis::Linear("lm_scale".into()), y, series),
        )
    })
}
