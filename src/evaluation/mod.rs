//! From traces to an evaluated set, and the analyses of it.
//!
//! An [`Evaluator`] makes an [`EvaluatedSet`] of a traced data set. The set contains the documents with their lattices
//! ([`Texts`]); for every variant, the settings that a [`search`] on dev chose and the walk over test
//! ([`VariantResult`]); and the live check of some documents ([`LiveCheck`]). Results are kept in [`Findings`], so that
//! an interrupted evaluation loses no finished variant. The [`analyses`] present the set in tables and figures.
//!
//! All this rests on smaller parts: [`ReplayText`] holds one traced document with its lattices. [`replay`] walks over
//! it with a drafter. [`Tally`] sums up walks. [`bootstrap`] computes confidence intervals. [`check_live`] decodes
//! documents for real and compares the result with the replay.

pub mod analyses;
mod axes;
pub mod bootstrap;
mod config;
mod evaluator;
mod findings;
mod growth;
mod live;
mod ranks;
mod records;
mod replay;
mod set;
mod tally;
mod temperatures;
mod texts;
mod tuning;
mod variant;

pub use axes::axes;
pub use config::{DrawnRule, Draws, EvaluationConfig, SamplingConfig, TuningConfig};
pub use evaluator::{Evaluator, TracedSplit};
pub use findings::{Findings, Known};
pub use live::{LiveCheck, LiveOutcome, LiveSpeed, NEAR_TIE, autoregressive_speed, check_live};
pub use ranks::rank_rates;
pub use records::write_steps;
pub use replay::{
    ReplayText, Route, Step, coverage, oracle_lengths, oracle_lengths_with, replay, replay_all, replay_oracle,
};
pub use set::{EvaluatedSet, EvaluatedVariant};
pub use tally::{Tally, block_efficiency};
pub use temperatures::slot_temperatures;
pub use texts::Texts;
pub use tuning::{Axis, Coordinate, Trial, Tuned, search};
pub use variant::VariantResult;

use crate::error::{Error, Result};
use crate::progress;

/// Returns an error once Ctrl-C was pressed.
fn stop_if_interrupted() -> Result<()> {
    if progress::interrupted() {
        return Err(Error::interrupted(
            "interrupted while evaluating. Every finished variant is kept; start the same command again to go on from there.",
        ));
    }
    Ok(())
}
