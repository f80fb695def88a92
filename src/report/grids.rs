//! The tables besides the variants' one, shared by the page and Markdown so that they cannot disagree.

use super::model::{BySteps, Dataset, StepPoint};
use super::timing::{Timing, VariantTiming};
use super::{format, summary};
use crate::evaluation::{Cost, Example, Examples, HeadQuality, KV_CONTEXTS};

/// A table whose rows have a name and some numbers.
pub struct Grid {
    pub title: &'static str,
    /// What the rows are.
    pub rows_are: &'static str,
    /// A sentence above it.
    pub note: String,
    /// Each with the name of the definition it obeys.
    pub headings: Vec<(String, &'static str)>,
    pub rows: Vec<(String, Vec<GridCell>)>,
}

/// One number.
pub struct GridCell {
    pub text: String,
    /// What the page sorts by; negative infinity where there is nothing.
    pub order: f64,
}

impl GridCell {
    fn new(text: String, order: f64) -> Self {
        Self { text, order }
    }

    fn or_nothing(value: Option<f64>, text: impl FnOnce(f64) -> String) -> Self {
        value.map_or_else(|| Self::new("–".into(), f64::NEG_INFINITY), |value| Self::new(text(value), value))
    }
}

/// Those of a data set, in reading order; those without rows are left out.
pub fn grids(set: &Dataset) -> Vec<Grid> {
    let mut grids = Vec::new();
    if !set.heads.is_empty() {
        grids.push(heads(set));
    }
    grids.extend(set.by_step.as_ref().map(by_step));
    if !set.best_paths.is_empty() {
        grids.push(best_paths(set));
    }
    if set.variants.iter().any(|variant| variant.cost.is_some()) {
        grids.push(costs(set));
    }
    grids.extend(set.timing.as_ref().map(timing));
    // The page writes these documents out below.
    if let Some(examples) = &set.examples {
        grids.push(documents(examples));
    }
    grids
}

/// A row for each step, a column for each variant.
fn by_step(steps: &BySteps) -> Grid {
    let names = steps.variants();
    let row = |points: &[StepPoint]| {
        let chosen = if points[0].step == steps.chosen_step { " (chosen)" } else { "" };
        let cell = |point: &StepPoint| {
            let text = format!("{} {}", format::efficiency(point.block_efficiency), format::interval(point.ci95));
            GridCell::new(text, point.block_efficiency)
        };
        (format!("{}{chosen}", format::count(points[0].step)), points.iter().map(cell).collect())
    };
    Grid {
        title: "By training step",
        rows_are: "step",
        note:
            "Block efficiency with its 95 % interval with the heads of each checkpoint, at the settings and with the \
               rescorers of the chosen one."
                .into(),
        headings: names.iter().map(|name| ((*name).to_owned(), "by_step")).collect(),
        rows: steps.points.chunk_by(|a, b| a.step == b.step).map(row).collect(),
    }
}

/// Replay beside live decoding.
fn timing(timing: &Timing) -> Grid {
    let row = |variant: &VariantTiming| {
        let speed = |value| GridCell::or_nothing(value, |x| format::scaled(x, ""));
        let times = |value| GridCell::or_nothing(value, |x| format!("{}×", format::three_digits(x)));
        let alone = timing.autoregressive_tokens_per_s;
        let cells = vec![
            GridCell::new(if variant.neural { "yes" } else { "no" }.into(), f64::from(variant.neural)),
            GridCell::or_nothing(variant.replay_seconds, format::three_digits),
            speed(variant.replay_tokens_per_s),
            speed(variant.tokens_per_s),
            times(variant.tokens_per_s.zip(alone).map(|(live, alone)| live / alone)),
            times(variant.replay_over_live),
        ];
        (variant.name.clone(), cells)
    };
    Grid {
        title: "Timing",
        rows_are: "variant",
        note: summary::timing(timing),
        headings: vec![
            ("neural".into(), "neural"),
            ("replay (s)".into(), "replay_seconds"),
            ("replay, tokens/s".into(), "replay_tokens_per_s"),
            ("live, tokens/s".into(), "tokens_per_s"),
            ("live / autoregressive".into(), "autoregressive_tokens_per_s"),
            ("replay / live".into(), "replay_over_live"),
        ],
        rows: timing.variants.iter().map(row).collect(),
    }
}

/// A row for each variant, a column for each p.
fn best_paths(set: &Dataset) -> Grid {
    let mut counts: Vec<u64> = set.best_paths.iter().map(|point| point.paths).collect();
    counts.sort_unstable();
    counts.dedup();
    let mut rows: Vec<(String, Vec<GridCell>)> = Vec::new();
    for point in &set.best_paths {
        if rows.last().is_none_or(|(name, _)| *name != point.variant) {
            rows.push((
                point.variant.clone(),
                counts.iter().map(|_| GridCell::or_nothing(None, format::percent)).collect(),
            ));
        }
        let (efficiency, nodes) = (point.block_efficiency, format::fixed(point.verified_tokens_per_call, 0));
        let place = counts.iter().position(|&count| count == point.paths).expect("every count is a column");
        rows.last_mut().expect("a row was begun").1[place] =
            GridCell::new(format!("{} ({nodes})", format::efficiency(efficiency)), efficiency);
    }
    Grid {
        title: "Best paths",
        rows_are: "variant",
        note:
            "Block efficiency (nodes per call) with the p best paths, at the settings that dev chose for the table's p."
                .into(),
        headings: counts.iter().map(|count| (format!("p = {}", format::count(*count)), "best_paths")).collect(),
        rows,
    }
}

/// What a token costs: token by token, then with each variant.
fn costs(set: &Dataset) -> Grid {
    let of = |name: &str, cost: &Cost| {
        let flops = [cost.backbone_flops_per_token, cost.head_flops_per_token, cost.rescorer_flops_per_token];
        let amount = |value: f64, unit| GridCell::new(format::scaled(value, unit), value);
        let mut cells = vec![amount(cost.parameter_bytes, "B"), amount(cost.parameter_bytes_per_token, "B")];
        cells.extend(cost.kv_bytes_per_token.iter().map(|&bytes| amount(bytes, "B")));
        cells.extend(flops.iter().chain([&flops.iter().sum()]).map(|&flops| amount(flops, "")));
        (name.to_owned(), cells)
    };
    let plain = set.autoregressive_cost.iter().map(|cost| of("token by token", cost));
    let variants = set.variants.iter().filter_map(|variant| Some(of(&variant.name, variant.cost.as_ref()?)));
    let kv = KV_CONTEXTS
        .iter()
        .map(|&context| (format!("KV read at {}", format::count(context as u64)), "kv_bytes_per_token"));
    let mut headings =
        vec![("parameters".to_owned(), "parameter_bytes"), ("weights read".to_owned(), "parameter_bytes_per_token")];
    headings.extend(kv);
    headings.extend([
        ("FLOPs, backbone".into(), "backbone_flops_per_token"),
        ("heads".into(), "head_flops_per_token"),
        ("rescorer".into(), "rescorer_flops_per_token"),
        ("all".into(), "flops_per_token"),
    ]);
    Grid {
        title: "Cost",
        rows_are: "variant",
        note:
            "By the shapes of model, heads and rescorers and the measured nodes and tokens per call; all but the first \
               column for one accepted token."
                .into(),
        headings,
        rows: plain.chain(variants).collect(),
    }
}

fn documents(examples: &Examples) -> Grid {
    let row = |example: &Example| {
        let cells = vec![
            GridCell::new(format::efficiency(example.block_efficiency), example.block_efficiency),
            GridCell::new(format::count(example.tokens), example.tokens as f64),
            GridCell::new(format::count(example.calls), example.calls as f64),
        ];
        (example.document.clone(), cells)
    };
    Grid {
        title: "Best and worst documents",
        rows_are: "document",
        note: format!("By block efficiency with {}: the best first, then the worst.", examples.variant),
        headings: vec![
            ("block efficiency".into(), "block_efficiency"),
            ("tokens".into(), "tokens"),
            ("calls".into(), "calls"),
        ],
        rows: examples.best.iter().chain(&examples.worst).map(row).collect(),
    }
}

fn heads(set: &Dataset) -> Grid {
    let row = |head: &HeadQuality| {
        let share = |value| GridCell::or_nothing(value, format::percent);
        let cells = vec![
            GridCell::new(format::count(head.positions), head.positions as f64),
            share(head.accuracy),
            share(head.accuracy_top_k),
            GridCell::new(format::fixed(head.entropy, 2), head.entropy),
            share(head.calibration.as_ref().map(|calibration| calibration.ece)),
        ];
        (head.head.to_string(), cells)
    };
    let rises = set.h_max.map(|h| match h {
        _ if h == set.heads.len() as u64 => " From head 2 on, entropy rises to the last head.".to_owned(),
        h => format!(" From head 2 on, entropy rises up to head {h}."),
    });
    Grid {
        title: "Heads",
        rows_are: "head",
        note: format!(
            "At every position of the text that has a token for the head, whatever is drafted from it; head 1 is the \
             backbone.{}",
            rises.unwrap_or_default()
        ),
        headings: vec![
            ("positions".into(), "positions"),
            ("accuracy".into(), "accuracy"),
            (format!("in top {}", set.top_k), "accuracy_top_k"),
            ("entropy (nats)".into(), "entropy"),
            ("calibration error".into(), "ece"),
        ],
        rows: set.heads.iter().map(row).collect(),
    }
}
