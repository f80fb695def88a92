//! The analyses of an evaluated set, with one file for each.
//!
//! An [`Analysis`] has an id, a name, a definition and a function that fills a [`Section`] with tables and figures. To
//! add an analysis, write a new file here and add it to [`ANALYSES`]. Its numbers are the fields of a
//! [`record!`](crate::tables), and their doc comments are the definitions that every page shows. Results that take long
//! to compute go through [`Findings`](super::Findings), so that they survive an interruption.

mod acceptance;
mod along_the_text;
mod block_efficiency;
mod by_step;
mod cost;
mod dev;
mod efficiency_by_h_max;
mod examples;
pub(super) mod heads;
mod live;
mod loops;
pub(super) mod oracle;
mod overview;
mod p_best_curve;
mod reliability;
mod same_starts;
mod sampling;
mod timing;
mod tuning;

pub use block_efficiency::VariantRow;
pub use loops::loops;
pub use overview::OverviewRow;

use super::EvaluatedSet;
use crate::error::Result;
use crate::tables::{Dataset, Facts, Record, Section, Table};

/// An analysis of an evaluated set.
pub struct Analysis {
    /// The id, which no other analysis has.
    pub id: &'static str,
    /// The title on pages.
    pub title: &'static str,
    /// The definition, which is the doc comment of the main table: what is analysed, and how.
    pub definition: &'static str,
    /// The function that fills the section. Sections that stay empty are left out.
    pub fill: fn(&EvaluatedSet, &mut Section) -> Result<()>,
}

/// All analyses, in reading order.
pub const ANALYSES: &[Analysis] = &[
    block_efficiency::ANALYSIS,
    loops::ANALYSIS,
    acceptance::ANALYSIS,
    along_the_text::ANALYSIS,
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
    sampling::ANALYSIS,
    timing::ANALYSIS,
    dev::ANALYSIS,
];

/// Runs every analysis on an evaluated set.
///
/// # Errors
/// Returns an error if an analysis fails.
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

/// Analyses all data sets of a run together.
///
/// # Errors
/// Returns an error if the tables do not have the shape that this program writes.
pub fn across(datasets: &[Dataset]) -> Result<Vec<Section>> {
    Ok(overview::across(datasets)?.into_iter().chain(efficiency_by_h_max::across(datasets)?).collect())
}

/// The label of the axis that most figures share.
const TOKENS_PER_CALL: &str = "tokens per backbone call";

/// Makes a table of every variant that can decode. `row` makes the row of the variant with a given index.
fn by_variant<R: Record>(set: &EvaluatedSet, mut row: impl FnMut(usize) -> Result<R>) -> Result<Table> {
    let rows = set.variants.iter().enumerate().map(|(place, variant)| Ok((variant.name(), row(place)?)));
    Ok(Table::of(rows.collect::<Result<Vec<_>>>()?))
}
