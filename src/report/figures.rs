//! Which plots a data set gets, and in which colours: a variant keeps its colour from plot to plot.

use super::model::{BASELINE, BestPaths, Dataset};
use super::svg::{Bar, BarChart, Colour, LineChart, Reference, Series, XAxis, YAxis};
use crate::evaluation::HeadQuality;

/// A plot with its words.
pub struct Figure {
    pub title: &'static str,
    pub caption: String,
    pub svg: String,
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

/// The baseline's grey, or the colour of the name's place among the variants, then the tuned.
fn colour(set: &Dataset, name: &str) -> Colour {
    let variants = set.variants.iter().map(|v| &v.name).filter(|n| *n != BASELINE);
    let mut names = variants.chain(set.tuning.iter().map(|p| &p.variant));
    if name == BASELINE { Colour::Baseline } else { Colour::Cycle(names.position(|n| n == name).unwrap_or(0)) }
}

fn efficiency(set: &Dataset) -> Figure {
    let title = "Block efficiency by variant";
    let bar = |v: &super::Variant| Bar {
        label: v.name.clone(),
        value: v.block_efficiency,
        interval: v.ci95,
        colour: colour(set, &v.name),
    };
    let chart = BarChart {
        title: format!("{title} on {}", set.name),
        axis: "tokens per backbone call".into(),
        bars: set.variants.iter().map(bar).collect(),
        references: vec![Reference { label: "autoregressive".into(), value: 1.0, colour: Colour::Ink }],
    };
    let caption = "Whiskers are 95 % bootstrap intervals over groups of documents.".to_owned();
    Figure { title, caption, svg: chart.svg() }
}

fn acceptance(set: &Dataset) -> Figure {
    let title = "Acceptance by position";
    let caption = "From position 2 on: position 1 is the backbone's own next token and always accepted.".to_owned();
    let y_label = "share of blocks that accept this position";
    Figure { title, caption, svg: by_position(set, title, y_label, |v| &v.accept_rate_by_position) }
}

fn conditional_acceptance(set: &Dataset) -> Figure {
    let title = "Acceptance after acceptance";
    let caption = "Of the blocks that accepted the position before, the share that accept this one.".to_owned();
    let y_label = "share of blocks that accepted the one before";
    Figure { title, caption, svg: by_position(set, title, y_label, |v| &v.conditional_accept_rate_by_position) }
}

/// A rate of every variant from position 2 on.
fn by_position(set: &Dataset, title: &str, y_label: &str, rates: fn(&super::Variant) -> &[f64]) -> String {
    let series = |v: &super::Variant| Series {
        label: v.name.clone(),
        points: rates(v).iter().enumerate().skip(1).map(|(j, &rate)| [j as f64 + 1.0, rate]).collect(),
        colour: colour(set, &v.name),
        chosen: None,
    };
    let chart = LineChart {
        title: format!("{title} on {}", set.name),
        x: XAxis::Positions,
        x_label: "position in the block".into(),
        y: YAxis::Shares,
        y_label: y_label.into(),
        series: set.variants.iter().map(series).collect(),
        references: Vec::new(),
    };
    chart.svg()
}

/// A line over the heads, of those that have the number.
fn by_head(set: &Dataset, label: String, colour: Colour, value: impl Fn(&HeadQuality) -> Option<f64>) -> Series {
    let points = set.heads.iter().filter_map(|head| Some([head.head as f64, value(head)?])).collect();
    Series { label, points, colour, chosen: None }
}

fn accuracy(set: &Dataset) -> Figure {
    let title = "Accuracy of the heads";
    let chart = LineChart {
        title: format!("{title} on {}", set.name),
        x: XAxis::Positions,
        x_label: "head".into(),
        y: YAxis::Shares,
        y_label: "share of positions".into(),
        series: vec![
            by_head(set, format!("among the top {}", set.top_k), Colour::Ink, |head| head.accuracy_top_k),
            by_head(set, "first choice".into(), Colour::Accent, |head| head.accuracy),
        ],
        references: Vec::new(),
    };
    let caption = "At all positions, not only where blocks begin, and whatever the heads before said.".to_owned();
    Figure { title, caption, svg: chart.svg() }
}

fn entropy(set: &Dataset) -> Figure {
    let title = "Entropy of the heads";
    let mut series = by_head(set, "mean entropy".into(), Colour::Accent, |head| Some(head.entropy));
    series.chosen = set.h_max.map(|h| h as f64);
    let chart = LineChart {
        title: format!("{title} on {}", set.name),
        x: XAxis::Positions,
        x_label: "head".into(),
        y: YAxis::FromZero,
        y_label: "nats".into(),
        series: vec![series],
        references: Vec::new(),
    };
    let caption =
        "Mean over positions; the ringed head is the last of an unbroken rise from head 2 on, h_max.".to_owned();
    Figure { title, caption, svg: chart.svg() }
}

fn entropies(set: &Dataset) -> Figure {
    let title = "Entropy by position";
    let series = |(i, head): (usize, &HeadQuality)| Series {
        label: format!("head {}", head.head),
        points: head.entropy_histogram.iter().enumerate().map(|(bin, &share)| [bin as f64 / 2.0, share]).collect(),
        colour: head_colour(i),
        chosen: None,
    };
    let chart = LineChart {
        title: format!("{title} on {}", set.name),
        x: XAxis::Linear,
        x_label: "entropy in nats, from".into(),
        y: YAxis::Shares,
        y_label: "share of positions".into(),
        series: set.heads.iter().enumerate().map(series).collect(),
        references: Vec::new(),
    };
    let caption = "A histogram for each head, in steps of half a nat.".to_owned();
    Figure { title, caption, svg: chart.svg() }
}

fn reliability(set: &Dataset) -> Figure {
    let title = "Reliability of the heads";
    let series = |(i, head): (usize, &HeadQuality)| {
        let bins = &head.calibration.as_ref()?.bins;
        let points = bins.iter().map(|bin| [bin.predicted, bin.bin_accuracy]).collect();
        Some(Series { label: format!("head {}", head.head), points, colour: head_colour(i), chosen: None })
    };
    let right = Series {
        label: "as often as said".into(),
        points: vec![[0.0, 0.0], [1.0, 1.0]],
        colour: Colour::Baseline,
        chosen: None,
    };
    let chart = LineChart {
        title: format!("{title} on {}", set.name),
        x: XAxis::Linear,
        x_label: "predicted probability of the first choice".into(),
        y: YAxis::Shares,
        y_label: "share of positions where it is right".into(),
        series: std::iter::once(right).chain(set.heads.iter().enumerate().filter_map(series)).collect(),
        references: Vec::new(),
    };
    let caption = "Ten bins of equally many positions for each head; below the diagonal a head is too sure.".to_owned();
    Figure { title, caption, svg: chart.svg() }
}

/// The backbone's, then one for each head.
fn head_colour(i: usize) -> Colour {
    if i == 0 { Colour::Ink } else { Colour::Cycle(i - 1) }
}

fn oracle(set: &Dataset) -> Figure {
    let title = "Oracle by candidates per head";
    let series = |label: &str, colour, value: fn(&super::OraclePoint) -> f64| Series {
        label: label.into(),
        points: by_x(set.oracle.iter().map(|p| [p.top_k as f64, value(p)])),
        colour,
        chosen: None,
    };
    let best = set.best().filter(|v| v.name != BASELINE);
    let references = set.baseline().into_iter().chain(best);
    let chart = LineChart {
        title: format!("{title} on {}", set.name),
        x: XAxis::Log2,
        x_label: "candidates per head, k".into(),
        y: YAxis::Linear,
        y_label: "tokens per backbone call".into(),
        // Colours that no variant has.
        series: vec![
            series("fewest calls (dp)", Colour::Ink, |p| p.block_efficiency_dp),
            series("longest each step", Colour::Accent, |p| p.block_efficiency),
        ],
        references: references
            .map(|v| Reference { label: v.name.clone(), value: v.block_efficiency, colour: colour(set, &v.name) })
            .collect(),
    };
    let caption =
        format!("What a perfect choice from the top-k lattice would reach. The variants use k = {}.", set.top_k);
    Figure { title, caption, svg: chart.svg() }
}

fn best_paths(set: &Dataset) -> Figure {
    let title = "What more paths buy";
    let svg = best_path_lines(set, title, "paths, p", |point| point.paths as f64);
    let caption = "The p best paths on test, with the settings that dev chose for the table's p.".to_owned();
    Figure { title, caption, svg }
}

fn best_paths_by_nodes(set: &Dataset) -> Figure {
    let title = "What more nodes buy";
    let svg = best_path_lines(set, title, "draft nodes per call", |point| point.verified_tokens_per_call);
    let caption = "The same by what a call verifies, prefixes shared.".to_owned();
    Figure { title, caption, svg }
}

fn best_path_lines(set: &Dataset, title: &str, x_label: &str, x: fn(&BestPaths) -> f64) -> String {
    let mut names: Vec<&str> = set.best_paths.iter().map(|point| point.variant.as_str()).collect();
    names.dedup();
    let series = |name: &&str| Series {
        label: (*name).to_owned(),
        points: by_x(set.best_paths.iter().filter(|p| p.variant == **name).map(|p| [x(p), p.block_efficiency])),
        colour: colour(set, name),
        chosen: None,
    };
    let chart = LineChart {
        title: format!("{title} on {}", set.name),
        x: XAxis::Log2,
        x_label: x_label.into(),
        y: YAxis::Linear,
        y_label: "tokens per backbone call".into(),
        series: names.iter().map(series).collect(),
        references: Vec::new(),
    };
    chart.svg()
}

fn tuning(set: &Dataset) -> Figure {
    let title = "Rescorer weight on dev";
    let mut names: Vec<&str> = Vec::new();
    // Other settings are in the file.
    let scales = || set.tuning.iter().filter(|point| point.parameter == "lm_scale");
    for point in scales() {
        if !names.contains(&point.variant.as_str()) {
            names.push(&point.variant);
        }
    }
    let series = |name: &&str| Series {
        label: (*name).to_owned(),
        points: by_x(scales().filter(|p| p.variant == **name).map(|p| [p.value, p.block_efficiency])),
        colour: colour(set, name),
        chosen: set.variants.iter().find(|v| v.name == **name).and_then(|v| v.lm_scale),
    };
    let chart = LineChart {
        title: format!("{title} of {}", set.name),
        x: XAxis::Linear,
        x_label: "lm_scale".into(),
        y: YAxis::Linear,
        y_label: "tokens per backbone call, on dev".into(),
        series: names.iter().map(series).collect(),
        references: Vec::new(),
    };
    let caption = "The ringed weight is the one the test uses; test documents had no part in choosing it.".to_owned();
    Figure { title, caption, svg: chart.svg() }
}

fn by_x(points: impl Iterator<Item = [f64; 2]>) -> Vec<[f64; 2]> {
    let mut points: Vec<_> = points.collect();
    points.sort_by(|a, b| a[0].total_cmp(&b[0]));
    points
}
