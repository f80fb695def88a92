//! The analyses of an evaluated set, one file each.
//!
//! An [`Analysis`] has an id, a name, a definition and a function that fills a [`Section`] with tables and figures. To add one: a
//! file here, and its line in [`ANALYSES`]. Its numbers are fields of a [`record!`](crate::tables), whose doc comments are the
//! definitions that every page shows. What takes long to compute goes through [`Findings`](super::Findings), so that it
//! outlives an interruption.

mod acceptance;
mod block_efficiency;
mod by_step;
mod cost;
mod dev;
mod efficiency_by_h_max;
mod examples;
pub(super) mod heads;
mod live;
pub(super) mod loops;
pub(super) mod oracle;
mod p_best_curve;
mod reliability;
mod same_starts;
mod timing;
mod tuning;

pub use block_efficiency::VariantRow;

use super::EvaluatedSet;
use crate::error::Result;
use crate::tables::{Dataset, Facts, Record, Section, Table};

/// Something that is said about an evaluated set.
pub struct Analysis {
    /// No other analysis has it.
    pub id: &'static str,
    /// What pages call it.
    pub title: &'static str,
    /// What is analysed, and how: the doc comment of its main table.
    pub definition: &'static str,
    /// Says it; a section that stays empty is left out.
    pub fill: fn(&EvaluatedSet, &mut Section) -> Result<()>,
}

/// All analyses, in reading order.
pub const ANALYSES: &[Analysis] = &[
    block_efficiency::ANALYSIS,
    loops::ANALYSIS,
    acceptance::ANALYSIS,
    same_starts::ANALYSIS,
    heads::ANALYSIS,
    reliability::ANALYSIS,
    by_step::ANALYSIS,
    oracle::ANALYSIS,
    p_best_curve::ANALYSIS,
    tuning::ANALYSIS,
    cost::ANALYSIS,
    examples::ANALYSIS,
    live::ANALYSIS,
    timing::ANALYSIS,
    dev::ANALYSIS,
];

/// Runs every analysis on an evaluated set.
///
/// # Errors
/// What an analysis fails with.
pub fn analyse(set: &EvaluatedSet) -> Result<Dataset> {
    let mut sections = Vec::new();
    for Analysis { id, title, definition, fill } in ANALYSES {
        let mut section = Section::new(id, title, definition);
        fill(set, &mut section)?;
        if !section.is_empty() {
            sections.push(section);
        }
    }
    let facts = Facts {
        documents: set.texts.texts.len() as u64,
        decoded_tokens: set.texts.tokens(),
        block_size: set.evaluator.block_size() as u64,
        top_k: set.evaluator.top_k as u64,
    };
    Ok(Dataset { name: set.name.clone(), split: "test".into(), facts, sections })
}

/// What is to be said about all data sets of a run together.
///
/// # Errors
/// Tables of another shape than this program writes.
pub fn across(datasets: &[Dataset]) -> Result<Vec<Section>> {
    Ok(efficiency_by_h_max::across(datasets)?.into_iter().collect())
}

/// What lies along the axis of most figures.
const TOKENS_PER_CALL: &str = "tokens per backbone call";

/// Lines besides plain decoding's and the oracle's, where a figure cannot show all variants.
const LINES: usize = 6;

/// A table of every variant that can decode: `row` is given its place.
fn by_variant<R: Record>(set: &EvaluatedSet, mut row: impl FnMut(usize) -> Result<R>) -> Result<Table> {
    let rows = set.variants.iter().enumerate().map(|(place, variant)| Ok((variant.name(), row(place)?)));
    Ok(Table::of(rows.collect::<Result<Vec<_>>>()?))
}
