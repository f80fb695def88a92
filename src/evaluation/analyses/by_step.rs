//! The analysis of block efficiency during the training of the heads, by a replay with every checkpoint.

use std::path::Path;

use super::oracle::oracle_walks;
use super::{Analysis, TOKENS_PER_CALL};
use crate::error::Result;
use crate::evaluation::bootstrap::Counts;
use crate::evaluation::{EvaluatedSet, EvaluatedVariant, Tally, Texts, block_efficiency, stop_if_interrupted};
use crate::files::StagedDir;
use crate::heads::{StoredCandidates, load_again};
use crate::progress;
use crate::tables::{
    BASELINE, Colour, Estimate, Family, Figure, Lines, ORACLE, Record, Section, Series, Table, XAxis, YAxis, format,
    record,
};

pub const ANALYSIS: Analysis =
    Analysis { id: "by-step", title: "By training step", definition: StepRow::DEFINITION, fill };

record! {
    /// Block efficiency on the evaluated split with the heads of each checkpoint, for plain bpd, the oracle and every variant that
    /// reads the heads and runs no neural model, at the settings and with the rescorers of the chosen step.
    struct StepRow in "by-step", each "training step" {
        /// True for the optimizer steps after which dev chose the heads that every other number is about.
        chosen: bool = "chosen" as Words;
        /// The variant's decoded tokens divided by its backbone calls with the heads after so many optimizer steps, and the 2.5 %
        /// and 97.5 % quantiles of it under a bootstrap that resamples whole groups of documents.
        block_efficiency: Family<Estimate> = "{}" as ThreeDecimals;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let Some((folder, checkpoints)) = &set.evaluator.checkpoints else { return Ok(()) };
    let followed: Vec<usize> = (0..set.variants.len()).filter(|&place| is_followed(&set.variants[place])).collect();
    let keys: Vec<&str> = followed.iter().map(|&place| &*set.variants[place].key).collect();
    let names = followed.iter().map(|&place| set.variants[place].name()).chain([ORACLE.to_owned()]);
    let (names, findings, mut rows): (Vec<String>, _, _) = (names.collect(), set.evaluator.findings, Vec::new());
    for (step, weights) in &checkpoints.weights {
        stop_if_interrupted()?;
        let key = findings.key("by-step", &(set.test.key, set.evaluator.heads_key, step, &keys));
        let found = findings.find(&key, || replayed(set, &followed, *step, folder, weights))?;
        let estimates = names.iter().zip(&*found).map(|(name, documents)| {
            let (value, interval) = (block_efficiency(documents), set.intervals(documents, documents)?.ratio);
            Ok((name.clone(), Estimate { value, interval }))
        });
        rows.push((
            *step,
            StepRow { chosen: *step == checkpoints.best, block_efficiency: estimates.collect::<Result<_>>()? },
        ));
    }
    section.figures.push(figure(set, &followed, checkpoints.best, &rows));
    section.tables.push(Table::of(rows.into_iter().map(|(step, row)| (step.to_string(), row))));
    Ok(())
}

/// Returns whether a variant is replayed with every checkpoint: it must read the heads and run no language model.
fn is_followed(variant: &EvaluatedVariant) -> bool {
    variant.prepared.variant.reads_heads() && !variant.runs_language_model()
}

/// Returns the counts of every test document with the weights of a checkpoint. They are given for the variants at
/// `places`, with the settings that were chosen for the best heads, and last for the oracle.
fn replayed(
    set: &EvaluatedSet,
    places: &[usize],
    step: usize,
    folder: &Path,
    weights: &Path,
) -> Result<Vec<Vec<Counts>>> {
    let (evaluator, trace) = (set.evaluator, set.test.trace);
    let (top_k, backbone) = (evaluator.top_k, evaluator.backbone);
    // These candidates take as much space as those of the best heads and are needed only once, so their folder is
    // removed afterwards.
    let candidates = StagedDir::new(&evaluator.scratch.join("candidates"))?;
    let title = format!("candidates {} test at step {step}", set.name);
    let heads = load_again(folder, weights, backbone)?.with_weights(evaluator.heads.weights());
    let reads_states = |&place: &usize| set.variants[place].rescorers_with_a_say().any(|one| one.reads_states());
    let states = places.iter().any(reads_states).then_some(evaluator.dtype);
    StoredCandidates::make(trace, (&heads, &backbone.model), (top_k, states), candidates.path(), &title)?;
    let stored = StoredCandidates::open(candidates.path(), trace)?;
    let texts = Texts::new(trace, &stored, (&heads, backbone), top_k, &evaluator.stops())?;
    let mut tallies = Vec::new();
    for EvaluatedVariant { prepared, result, .. } in places.iter().map(|&place| &set.variants[place]) {
        tallies.push(Tally::of(&texts.walk(prepared.variant.stop, &*prepared.drafter(&result.settings))?));
    }
    let plain = tallies[0].block_efficiency();
    progress::say(format!("evaluate {} at step {step}: {BASELINE} {plain:.3}", set.name));
    tallies.push(Tally::of(&oracle_walks(&texts, top_k)));
    Ok(tallies.into_iter().map(|tally| tally.documents).collect())
}

/// Draws the lines. Too many bands would hide each other, so only plain decoding, the oracle and the variant that is best
/// on dev have one.
fn figure(set: &EvaluatedSet, followed: &[usize], chosen: usize, rows: &[(usize, StepRow)]) -> Figure {
    let (best, oracle, leading) = (set.best(), set.variants.len(), set.leading());
    let series = |(column, place): (usize, usize)| {
        let estimates = || rows.iter().map(move |(step, row)| (*step as f64, &row.block_efficiency.0[column]));
        let name = &rows[0].1.block_efficiency.0[column].0;
        let colour = if place == oracle { Colour::Ink } else { set.colour(place) };
        let line = Series::new(name, colour, estimates().map(|(step, (_, estimate))| [step, estimate.value]));
        let line = line.ringed(Some(chosen as f64)).hidden(!leading[place]);
        let banded = [0, best, oracle].contains(&place);
        if banded { line.within(estimates().map(|(_, (_, estimate))| estimate.interval).collect()) } else { line }
    };
    let places = followed.iter().copied().chain([oracle]).enumerate().filter(|_| !rows.is_empty());
    let x = XAxis::Linear("training step".into());
    let lines = Lines::new(x, YAxis::Linear(TOKENS_PER_CALL.into()), places.map(series).collect());
    let caption = format!(
        "With the heads of every checkpoint at the settings that were chosen for step {}, which is ringed. Bands are 95 % \
         bootstrap intervals.",
        format::count(chosen as u64)
    );
    Figure::new("by-step", "Block efficiency by training step", caption, lines)
}
