//! Which plots a data set gets, and in which colours: a variant keeps its colour from plot to plot.

use super::format;
use super::model::{BASELINE, BestPaths, Dataset, ORACLE, OraclePoint, Variant};
use super::svg::{Bar, BarChart, Chart, Colour, Lengths, LineChart, Reference, Row, Series, XAxis, YAxis};
use crate::evaluation::HeadQuality;

/// A plot with its words.
pub struct Figure {
    pub title: &'static str,
    pub caption: String,
    pub svg: String,
}

impl Figure {
    /// A plot whose drawing is called by its title and a few words that tell it from others of that title.
    pub fn new(title: &'static str, which: &str, caption: impl Into<String>, chart: &impl Chart) -> Self {
        Self { title, caption: caption.into(), svg: chart.svg(&format!("{title} {which}")) }
    }
}

/// The plots of a data set, in reading order; those without data are left out.
pub fn figures(set: &Dataset) -> Vec<Figure> {
    let mut figures = Vec::new();
    if !set.variants.is_empty() {
        figures.push(efficiency(set));
    }
    if set.variants.iter().any(|v| v.accept_rate_by_position.len() > 1) {
        figures.push(acceptance(set));
    }
    if set.variants.iter().any(|v| v.conditional_accept_rate_by_position.len() > 1) {
        figures.push(conditional_acceptance(set));
    }
    if set.heads.len() > 1 {
        figures.extend([accuracy(set), entropy(set), entropies(set), reliability(set)]);
    }
    figures.extend(by_step(set));
    if !set.oracle.is_empty() {
        figures.push(oracle(set));
    }
    if !set.best_paths.is_empty() {
        figures.extend([best_paths(set), best_paths_by_nodes(set)]);
    }
    if set.tuning.iter().any(|point| point.parameter == "lm_scale") {
        figures.push(tuning(set));
    }
    figures
}

const TOKENS_PER_CALL: &str = "tokens per backbone call";

fn on(set: &Dataset, title: &'static str, caption: impl Into<String>, chart: &impl Chart) -> Figure {
    Figure::new(title, &format!("on {}", set.name), caption, chart)
}

/// The baseline's grey, or the colour of the name's place among the variants, then the tuned.
fn colour(set: &Dataset, name: &str) -> Colour {
    let variants = set.variants.iter().map(|v| &v.name).filter(|n| *n != BASELINE);
    let mut names = variants.chain(set.tuning.iter().map(|p| &p.variant));
    if name == BASELINE { Colour::Baseline } else { Colour::Cycle(names.position(|n| n == name).unwrap_or(0)) }
}

fn efficiency(set: &Dataset) -> Figure {
    let row = |v: &Variant| Row {
        label: v.name.clone(),
        bars: vec![Bar { value: v.block_efficiency, interval: v.ci95, colour: colour(set, &v.name) }],
    };
    let chart = BarChart::new(Lengths::Efficiency(TOKENS_PER_CALL), set.variants.iter().map(row).collect())
        .references(vec![autoregressive()]);
    on(set, "Block efficiency by variant", "Whiskers are 95 % bootstrap intervals over groups of documents.", &chart)
}

/// One token a call.
pub fn autoregressive() -> Reference {
    Reference { label: "autoregressive".into(), value: 1.0, colour: Colour::Ink }
}

fn acceptance(set: &Dataset) -> Figure {
    let caption = "From position 2 on: position 1 is the backbone's own next token and always accepted.";
    let chart = by_position(set, "share of blocks that accept this position", |v| &v.accept_rate_by_position);
    on(set, "Acceptance by position", caption, &chart)
}

fn conditional_acceptance(set: &Dataset) -> Figure {
    let caption = "Of the blocks that accepted the position before, the share that accept this one.";
    let y = "share of blocks that accepted the one before";
    let chart = by_position(set, y, |v| &v.conditional_accept_rate_by_position);
    on(set, "Acceptance after acceptance", caption, &chart)
}

/// A rate of every variant from position 2 on.
fn by_position<'a>(set: &Dataset, y: &'a str, rates: fn(&Variant) -> &[f64]) -> LineChart<'a> {
    let series = |v: &Variant| {
        let points = rates(v).iter().enumerate().skip(1).map(|(j, &rate)| [j as f64 + 1.0, rate]);
        Series::new(&v.name, colour(set, &v.name), points)
    };
    LineChart::new(
        XAxis::Positions("position in the block"),
        YAxis::Shares(y),
        set.variants.iter().map(series).collect(),
    )
}

/// A line over the heads, of those that have the number.
fn by_head(set: &Dataset, label: &str, colour: Colour, value: impl Fn(&HeadQuality) -> Option<f64>) -> Series {
    Series::new(label, colour, set.heads.iter().filter_map(|head| Some([head.head as f64, value(head)?])))
}

fn accuracy(set: &Dataset) -> Figure {
    let top_k = format!("among the top {}", set.top_k);
    let series = vec![
        by_head(set, &top_k, Colour::Ink, |head| head.accuracy_top_k),
        by_head(set, "first choice", Colour::Accent, |head| head.accuracy),
    ];
    let chart = LineChart::new(XAxis::Positions("head"), YAxis::Shares("share of positions"), series);
    let caption = "At all positions, not only where blocks begin, and whatever the heads before said.";
    on(set, "Accuracy of the heads", caption, &chart)
}

fn entropy(set: &Dataset) -> Figure {
    let series = by_head(set, "mean entropy", Colour::Accent, |head| Some(head.entropy));
    let series = series.ringed(set.h_max.map(|h| h as f64));
    let chart = LineChart::new(XAxis::Positions("head"), YAxis::FromZero("nats"), vec![series]);
    let caption = "Mean over positions; the ringed head is the last of an unbroken rise from head 2 on, h_max.";
    on(set, "Entropy of the heads", caption, &chart)
}

fn entropies(set: &Dataset) -> Figure {
    let series = |(i, head): (usize, &HeadQuality)| {
        let points = head.entropy_histogram.iter().enumerate().map(|(bin, &share)| [bin as f64 / 2.0, share]);
        Series::new(format!("head {}", head.head), head_colour(i), points)
    };
    let series = set.heads.iter().enumerate().map(series).collect();
    let chart = LineChart::new(XAxis::Linear("entropy in nats, from"), YAxis::Shares("share of positions"), series);
    on(set, "Entropy by position", "A histogram for each head, in steps of half a nat.", &chart)
}

fn reliability(set: &Dataset) -> Figure {
    let series = |(i, head): (usize, &HeadQuality)| {
        let points = head.calibration.as_ref()?.bins.iter().map(|bin| [bin.predicted, bin.bin_accuracy]);
        Some(Series::new(format!("head {}", head.head), head_colour(i), points))
    };
    let right = Series::new("as often as said", Colour::Baseline, [[0.0, 0.0], [1.0, 1.0]]);
    let chart = LineChart::new(
        XAxis::Linear("predicted probability of the first choice"),
        YAxis::Shares("share of positions where it is right"),
        std::iter::once(right).chain(set.heads.iter().enumerate().filter_map(series)).collect(),
    );
    let caption = "Ten bins of equally many positions for each head; below the diagonal a head is too sure.";
    on(set, "Reliability of the heads", caption, &chart)
}

/// The backbone's, then one for each head.
fn head_colour(i: usize) -> Colour {
    if i == 0 { Colour::Ink } else { Colour::Cycle(i - 1) }
}

/// Lines over the training steps, besides plain decoding's and the oracle's.
const LINES: usize = 6;

/// The bands of many lines would hide each other: plain decoding, the oracle and the table's best variant have one.
fn by_step(set: &Dataset) -> Option<Figure> {
    let steps = set.by_step.as_ref()?;
    let names = steps.variants();
    let on_dev = |v: &&Variant| v.dev_block_efficiency.unwrap_or(f64::NEG_INFINITY);
    let mut others: Vec<&Variant> =
        set.decoders().filter(|v| v.name != BASELINE && names.contains(&&*v.name)).collect();
    others.sort_by(|a, b| on_dev(b).total_cmp(&on_dev(a)));
    let shown = others.iter().take(LINES).map(|v| v.name.as_str());
    let best = set.best().map(|v| v.name.as_str());
    let series = |name: &str| {
        let points = || steps.points.iter().filter(|point| point.variant == name);
        let colour = if name == ORACLE { Colour::Ink } else { colour(set, name) };
        let line = Series::new(name, colour, points().map(|point| [point.step as f64, point.block_efficiency]));
        let line = line.ringed(Some(steps.chosen_step as f64));
        let banded = [Some(BASELINE), Some(ORACLE), best].contains(&Some(name));
        if banded { line.within(points().map(|point| point.ci95).collect()) } else { line }
    };
    let series = [BASELINE].into_iter().chain(shown).chain([ORACLE]).map(series);
    let series = series.filter(|line| !line.points.is_empty()).collect();
    let chart = LineChart::new(XAxis::Linear("training step"), YAxis::Linear(TOKENS_PER_CALL), series);
    let caption = format!(
        "Plain decoding, the oracle and the {LINES} variants that are best on dev, with the heads of every checkpoint at the \
         settings that were chosen for step {}, which is ringed. Bands are 95 % bootstrap intervals.",
        format::count(steps.chosen_step)
    );
    Some(on(set, "Block efficiency by training step", caption, &chart))
}

fn oracle(set: &Dataset) -> Figure {
    // Colours that no variant has.
    let series = |label: &str, colour, value: fn(&OraclePoint) -> f64| {
        Series::new(label, colour, by_x(set.oracle.iter().map(|p| [p.top_k as f64, value(p)])))
    };
    let series = vec![
        series("fewest calls (dp)", Colour::Ink, |p| p.block_efficiency_dp),
        series("longest each step", Colour::Accent, |p| p.block_efficiency),
    ];
    let best = set.best().filter(|v| v.name != BASELINE);
    let reference =
        |v: &Variant| Reference { label: v.name.clone(), value: v.block_efficiency, colour: colour(set, &v.name) };
    let chart = LineChart::new(XAxis::Log2("candidates per head, k"), YAxis::Linear(TOKENS_PER_CALL), series)
        .references(set.baseline().into_iter().chain(best).map(reference).collect());
    let caption =
        format!("What a perfect choice from the top-k lattice would reach. The variants use k = {}.", set.top_k);
    on(set, "Oracle by candidates per head", caption, &chart)
}

fn best_paths(set: &Dataset) -> Figure {
    let caption = "The p best paths on test, with the settings that dev chose for the table's p.";
    on(set, "What more paths buy", caption, &best_path_lines(set, "paths, p", |point| point.paths as f64))
}

fn best_paths_by_nodes(set: &Dataset) -> Figure {
    let chart = best_path_lines(set, "draft nodes per call", |point| point.verified_tokens_per_call);
    on(set, "What more nodes buy", "The same by what a call verifies, prefixes shared.", &chart)
}

fn best_path_lines<'a>(set: &Dataset, x_label: &'a str, x: fn(&BestPaths) -> f64) -> LineChart<'a> {
    let mut names: Vec<&str> = set.best_paths.iter().map(|point| point.variant.as_str()).collect();
    names.dedup();
    let series = |name: &&str| {
        let points = set.best_paths.iter().filter(|p| p.variant == **name).map(|p| [x(p), p.block_efficiency]);
        Series::new(*name, colour(set, name), by_x(points))
    };
    LineChart::new(XAxis::Log2(x_label), YAxis::Linear(TOKENS_PER_CALL), names.iter().map(series).collect())
}

fn tuning(set: &Dataset) -> Figure {
    let mut names: Vec<&str> = Vec::new();
    // Other settings are in the file.
    let scales = || set.tuning.iter().filter(|point| point.parameter == "lm_scale");
    for point in scales() {
        if !names.contains(&point.variant.as_str()) {
            names.push(&point.variant);
        }
    }
    let series = |name: &&str| {
        let points = scales().filter(|p| p.variant == **name).map(|p| [p.value, p.block_efficiency]);
        let chosen = set.variants.iter().find(|v| v.name == **name).and_then(|v| v.lm_scale);
        Series::new(*name, colour(set, name), by_x(points)).ringed(chosen)
    };
    let y = YAxis::Linear("tokens per backbone call, on dev");
    let chart = LineChart::new(XAxis::Linear("lm_scale"), y, names.iter().map(series).collect());
    let caption = "The ringed weight is the one the test uses; test documents had no part in choosing it.";
    Figure::new("Rescorer weight on dev", &format!("of {}", set.name), caption, &chart)
}

fn by_x(points: impl Iterator<Item = [f64; 2]>) -> Vec<[f64; 2]> {
    let mut points: Vec<_> = points.collect();
    points.sort_by(|a, b| a[0].total_cmp(&b[0]));
    points
}
