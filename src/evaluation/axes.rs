//! The settings of a variant that are chosen on dev, and the values that are tried.

use super::TuningConfig;
use super::tuning::{Axis, Coordinate};
use crate::drafting::{PreparedVariant, Selection, SizedSelection};

/// Returns the axes along which a variant's settings are searched, on lattices with `top_k` candidates per slot. If a
/// rescorer reads the whole prefix, every trial runs a model. Then fewer axes are searched.
pub fn axes(variant: &PreparedVariant, top_k: usize, options: &TuningConfig) -> Vec<Axis> {
    // Reports show the whole curve over the rescorer's weight for single drafts, so all values of it are tried.
    let one_path = matches!(variant.selection(), SizedSelection::Paths(1) | SizedSelection::GreedyPath);
    let single = variant.searches() && one_path;
    let axis = |coordinate, name: &str, values| Axis {
        coordinate,
        name: name.into(),
        values,
        climbs: !(single && coordinate == Coordinate::Scale),
    };
    let mut axes = Vec::new();
    // A single draft chosen by head scores alone does not depend on the temperatures, so these are not searched.
    if variant.searches() && !variant.reads_prefix() && !variant.grows() && !options.slot_tempering.is_empty() {
        let powers = [&[0.0], &options.slot_tempering[..]].concat();
        axes.push(axis(Coordinate::Tempering, "slot_tempering", powers));
    }
    // The shares of a fixed shape are measured, and those of a graph or of a path that is widened are compared as they are.
    let selection = variant.variant.selection;
    let by_scores = !matches!(selection, Selection::FixedTree | Selection::WidenedPath | Selection::Graph);
    let compares_shares = selection.is_expected() || variant.grows();
    if variant.searches() && compares_shares && by_scores {
        axes.push(axis(Coordinate::Temperature, "temperature", options.temperatures.clone()));
    }
    if !variant.terms().is_empty() {
        axes.push(axis(Coordinate::Scale, "lm_scale", options.scales()));
        if variant.terms().len() > 1 {
            for (term, (name, _)) in variant.terms().iter().enumerate() {
                axes.push(axis(Coordinate::Share(term), &format!("share of {name}"), options.shares.clone()));
            }
        }
        if single && !variant.reads_prefix() {
            let decays = [&[1.0], &options.decays[..]].concat();
            axes.push(axis(Coordinate::Decay, "decay", decays));
            let fewer = |divisor: usize| (top_k / divisor).max(1) as f64;
            axes.push(axis(Coordinate::TopK, "top_k", vec![fewer(4), fewer(2), fewer(1)]));
            let gates = [&options.gates[..], &[f64::INFINITY]].concat();
            axes.push(axis(Coordinate::Gate, "gate", gates));
        }
    }
    if variant.variant.lookup {
        // This axis is last and starts without lookup, so that lookup is tried on top of what the variant without it
        // has found.
        axes.push(axis(Coordinate::LookupScale, "lookup", [&[0.0], &options.lookup[..]].concat()));
    }
    axes
}
