//! The analysis of what more drafts gain: block efficiency by the number of best paths, from a replay.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{Analysis, TOKENS_PER_CALL};
use crate::drafting::{Decision, Drafter, TightestMargin};
use crate::error::Result;
use crate::evaluation::{EvaluatedSet, EvaluatedVariant, ReplayText, Step, Tally};
use crate::lattice::{Lattice, try_walk};
use crate::tables::{Family, Figure, Lines, Record, Section, Series, Table, XAxis, YAxis, record};

pub const ANALYSIS: Analysis =
    Analysis { id: "p-best-curve", title: "Best paths", definition: CurveRow::DEFINITION, fill };

record! {
    /// What more paths buy each pbest- variant that was not switched off: its drafts are the p best paths under the settings that
    /// dev chose for the table's p (and plain bpd's draft besides, where drafting.include_top1 is on and p is above 1).
    struct CurveRow in "p-best-curve", each "variant" {
        /// Decoded tokens divided by backbone calls on the evaluated split, with the p best paths that are verified together.
        block_efficiency: Family<f64> = "p = {}" as ThreeDecimals;
        /// The mean number of draft nodes in a verification forward, with the p best paths; a prefix that several of them share
        /// counts once.
        verified_tokens_per_call: Family<f64> = "nodes, p = {}" as OneDecimal;
    }
}

/// The number of paths, the block efficiency with them, and the nodes per call.
type Point = (usize, f64, f64);

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let mut curves = Vec::new();
    for (place, variant) in set.variants.iter().enumerate() {
        if let Some(curve) = measure(set, variant)? {
            let mut points = (*curve).clone();
            points.sort_by_key(|(paths, ..)| *paths);
            curves.push((place, variant.name(), points));
        }
    }
    if curves.is_empty() {
        return Ok(());
    }
    let leading = set.leading();
    let lines = |words: &str, x: fn(&Point) -> f64| {
        let series = |(place, name, points): &(usize, String, Vec<Point>)| {
            let mut points: Vec<[f64; 2]> = points.iter().map(|point| [x(point), point.1]).collect();
            points.sort_by(|a, b| a[0].total_cmp(&b[0]));
            Series::new(name, set.colour(*place), points).hidden(!leading[*place])
        };
        let x = XAxis::Log2(words.into());
        Lines::new(x, YAxis::Linear(TOKENS_PER_CALL.into()), curves.iter().map(series).collect())
    };
    section.figures.push(Figure::new(
        "p-best-curve",
        "What more paths buy",
        "The p best paths on test, with the settings that dev chose for the table's p.",
        lines("paths, p", |(paths, ..)| *paths as f64),
    ));
    section.figures.push(Figure::new(
        "p-best-curve-by-nodes",
        "What more nodes buy",
        "The same by what a call verifies, prefixes shared.",
        lines("draft nodes per call", |(.., nodes)| *nodes),
    ));
    let row = |points: &[Point]| {
        let family =
            |value: fn(&Point) -> f64| points.iter().map(|point| (point.0.to_string(), value(point))).collect();
        CurveRow { block_efficiency: family(|point| point.1), verified_tokens_per_call: family(|point| point.2) }
    };
    section.tables.push(Table::of(curves.iter().map(|(_, name, points)| (name.clone(), row(points)))));
    Ok(())
}

/// Measures the curve of a variant that drafts the p best paths. Returns none for other variants, and if the options
/// name no p.
fn measure(set: &EvaluatedSet, variant: &EvaluatedVariant) -> Result<Option<Arc<Vec<Point>>>> {
    let (counts, include_top1) = (&set.evaluator.options.curve_paths, set.evaluator.include_top1);
    let Some(&most) = counts.iter().max() else { return Ok(None) };
    let EvaluatedVariant { prepared, result, key, .. } = variant;
    let Some(drafter) = prepared.best_paths(most, &result.settings) else { return Ok(None) };
    let findings = set.evaluator.findings;
    let curve = findings.find(&findings.key("p-best-curve", &(key, counts)), || {
        let of_text = |text: &ReplayText, lattices: &[Lattice]| replay(text, lattices, &*drafter, counts, include_top1);
        let mut tallies = vec![Tally::default(); counts.len()];
        for walks in set.texts.of_each(prepared.variant.stop, of_text)? {
            tallies.iter_mut().zip(&walks).for_each(|(tally, steps)| tally.add(steps));
        }
        let point = |(&paths, tally): (&usize, &Tally)| (paths, tally.block_efficiency(), tally.verified().0);
        Ok(counts.iter().zip(&tallies).map(point).collect())
    });
    curve.map(Some)
}

/// Walks over a text once for each of `counts`, with that many of the best paths. `drafter` returns the largest number
/// of paths; the first of them are the paths of smaller counts, so each start is searched only once. If `include_top1`
/// is set, plain decoding's draft is added to several paths that lack it.
fn replay(
    text: &ReplayText,
    lattices: &[Lattice],
    drafter: &dyn Drafter,
    counts: &[usize],
    include_top1: bool,
) -> Result<Vec<Vec<Step>>> {
    let mut session = drafter.session();
    let mut found: HashMap<usize, Vec<Vec<u32>>> = HashMap::new();
    let mut walk = |count: usize| {
        try_walk(text.continuation().len(), |start| {
            let lattice = &lattices[start];
            let paths = match found.entry(start) {
                Entry::Occupied(earlier) => earlier.into_mut(),
                Entry::Vacant(place) => {
                    let drafts = session.drafts(&text.tokens, &[text.block_context(start, lattice)])?.remove(0);
                    place.insert(drafts.paths)
                }
            };
            let best = &paths[..count.min(paths.len())];
            let top1 = lattice.top1();
            let added = (include_top1 && count > 1 && !best.contains(&top1)).then_some(&top1);
            let paths: Vec<&[u32]> = best.iter().chain(added).map(Vec::as_slice).collect();
            let tightest = TightestMargin::new(Decision::Draft, f64::INFINITY);
            let step = Step::new(text, start, lattice, &paths, tightest);
            Ok((step.accepted, step))
        })
    };
    counts.iter().map(|&count| walk(count)).collect()
}
