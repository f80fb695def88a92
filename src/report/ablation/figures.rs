//! The figures of an ablation: lines for the best variants over every axis of numbers, and bars over every other axis.

use super::model::{Ablated, AblatedSet, Axis, Setting, Summary};
use super::seeds::mean;
use crate::tables::{
    BASELINE, Bar, BarRow, Bars, Colour, Figure, LengthAxis, Lines, ORACLE, Reference, Series, XAxis, YAxis,
};

/// The number of lines in a drawing, without those of plain decoding and the oracle.
const LINES: usize = 6;

/// The largest number of settings whose bars are drawn side by side.
const SIDE_BY_SIDE: usize = 4;

/// Returns the figures: one of all variants if there are few settings, then one for each axis with several values, in
/// order.
pub fn figures(report: &Ablated, set: &AblatedSet) -> Vec<Figure> {
    let axes = report.setting_axes().enumerate().filter(|(_, axis)| axis.values.len() > 1);
    let of_axis = |(place, axis): (usize, &Axis)| match numbers(axis) {
        Some(numbers) => lines(set, place, axis, &numbers),
        None => bars(set, place, axis),
    };
    let few = (1..=SIDE_BY_SIDE).contains(&set.settings.len());
    few.then(|| variants(report, set)).into_iter().chain(axes.map(of_axis)).collect()
}

/// Draws a row for each variant, with a bar for each setting.
fn variants(report: &Ablated, set: &AblatedSet) -> Figure {
    let bar = |name: &str, (number, setting): (usize, &Setting)| {
        let Summary { block_efficiency, interval, .. } = setting.variant(name)?;
        Some(Bar { value: *block_efficiency, interval: *interval, colour: Colour::Cycle(number) })
    };
    let row = |name: &str| BarRow {
        label: name.to_owned(),
        bars: set.settings.iter().enumerate().filter_map(|setting| bar(name, setting)).collect(),
    };
    let words = set.settings.iter().map(|setting| report.words(setting)).enumerate();
    let keys = words.filter(|(_, words)| !words.is_empty()).map(|(number, words)| (words, Colour::Cycle(number)));
    let lengths = LengthAxis::Efficiency("tokens per backbone call, on test".into());
    let bars = Bars::new(lengths, set.variants().into_iter().map(row).collect())
        .references(vec![Reference::autoregressive()])
        .keys(keys.collect());
    let caption =
        "Means over seeds; whiskers are 95 % intervals over seeds, or over documents where there is one seed.";
    Figure::new("variants", "Every variant by setting", caption, bars)
}

/// Returns the values of an axis as numbers, if all of them are numbers in ascending order.
fn numbers(axis: &Axis) -> Option<Vec<f64>> {
    let numbers: Vec<f64> =
        axis.values.iter().map(|value| value.parse().ok().filter(|x: &f64| x.is_finite())).collect::<Option<_>>()?;
    numbers.is_sorted().then_some(numbers)
}

/// Returns the settings that have a given value on an axis.
fn having<'a>(set: &'a AblatedSet, place: usize, value: &'a str) -> impl Iterator<Item = &'a Setting> {
    set.settings.iter().filter(move |setting| setting.values[place] == value)
}

fn lines(set: &AblatedSet, place: usize, axis: &Axis, numbers: &[f64]) -> Figure {
    let over = |name: &str, value: &str, of: fn(&Summary) -> Option<f64>| -> Option<f64> {
        let found: Vec<f64> =
            having(set, place, value).filter_map(|setting| setting.variant(name).and_then(of)).collect();
        (!found.is_empty()).then(|| mean(&found))
    };
    let mut names: Vec<(f64, &str)> = Vec::new();
    for variant in set.settings.iter().flat_map(Setting::decoders).filter(|variant| variant.variant != BASELINE) {
        if !names.iter().any(|(_, name)| *name == variant.variant) {
            let on_dev: Vec<f64> = axis
                .values
                .iter()
                .filter_map(|value| over(&variant.variant, value, |v| v.dev_block_efficiency))
                .collect();
            names.push((if on_dev.is_empty() { f64::NEG_INFINITY } else { mean(&on_dev) }, &variant.variant));
        }
    }
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    let shown = names.into_iter().take(LINES).map(|(_, name)| name).enumerate();
    let shown = [(BASELINE, Colour::Baseline)]
        .into_iter()
        .chain(shown.map(|(i, name)| (name, Colour::Cycle(i))))
        .chain([(ORACLE, Colour::Ink)]);
    let series = shown.map(|(name, colour)| {
        let point = |(value, x): (&String, &f64)| Some([*x, over(name, value, |v| Some(v.block_efficiency))?]);
        Series::new(name, colour, axis.values.iter().zip(numbers).filter_map(point))
    });
    let doubling = numbers[0] >= 1.0 && numbers.iter().all(|x| x.log2().fract() == 0.0);
    let x = if doubling { XAxis::Log2(axis.key.clone()) } else { XAxis::Linear(axis.key.clone()) };
    let y = YAxis::Linear("tokens per backbone call, mean over settings".into());
    let lines = Lines::new(x, y, series.collect());
    let caption = format!(
        "By {}: means over all settings with that value, of plain decoding, the oracle and the {LINES} variants that are best on dev.",
        axis.key
    );
    Figure::new(&axis.key, &format!("Block efficiency by {}", axis.label), caption, lines)
}

fn bars(set: &AblatedSet, place: usize, axis: &Axis) -> Figure {
    let bar = |(number, value): (usize, &String)| {
        let best = having(set, place, value)
            .filter_map(Setting::best)
            .reduce(|best, variant| if variant.on_dev() > best.on_dev() { variant } else { best })?;
        let bar = Bar { value: best.block_efficiency, interval: best.interval, colour: Colour::Cycle(number) };
        Some(BarRow { label: format!("{value}: {}", best.variant), bars: vec![bar] })
    };
    let rows = axis.values.iter().enumerate().filter_map(bar).collect();
    let bars = Bars::new(LengthAxis::Efficiency("tokens per backbone call, on test".into()), rows)
        .references(vec![Reference::autoregressive()]);
    let caption =
        format!("For each value of {}: the setting and variant that are best on dev, with 95 % intervals.", axis.key);
    Figure::new(&axis.key, &format!("Best on dev by {}", axis.label), caption, bars)
}
