//! Makes columns of a finished trace. One teacher-forced pass over its tokens, batch by batch, makes all columns that
//! are missing.

use std::path::Path;

use super::column::{ColumnHeader, ROWS};
use super::estimate::FreeSpace;
use super::forced::{encode, teacher_forced};
use super::make::stop_if_interrupted;
use super::partial::{Partial, RowFile, Traced};
use super::{FinishedTraces, Trace, TraceDocument};
use crate::backbone::{Backbone, Feature};
use crate::error::Result;
use crate::progress::{self, Progress};
use crate::storage_type::StorageType;

/// A column that is to be made.
#[derive(Debug, Clone)]
pub struct ColumnPlan<'a> {
    /// The feature that the column holds.
    pub feature: Feature,
    /// The type of its numbers.
    pub dtype: StorageType,
    /// The folder of the finished column.
    pub folder: &'a Path,
    /// The hash of everything that the column depends on. Making resumes only what was made under the same hash.
    pub key: String,
}

impl ColumnPlan<'_> {
    /// Returns the description of the column, whose states have `width` numbers, of the tokens with the given hash.
    pub(super) fn header(&self, width: usize, tokens_hash: &str) -> ColumnHeader {
        ColumnHeader::new(self.feature, self.dtype, width, tokens_hash)
    }
}

/// Columns that are to be made.
#[derive(Clone, Copy)]
pub struct ColumnPlans<'a> {
    /// The columns.
    pub plans: &'a [ColumnPlan<'a>],
    /// What is called when a column is finished, with its number and with its folder, still under its temporary name, to put
    /// the mark of completeness into it.
    pub mark: &'a dyn Fn(usize, &Path) -> Result<()>,
}

impl ColumnPlans<'static> {
    /// No columns.
    pub const NONE: Self = Self { plans: &[], mark: &|_, _| Ok(()) };
}

/// Computes columns of `trace`, which must have been made by the same backbone. If an earlier process finished a part
/// of a column, making resumes after that. All columns share one forward pass for every batch of `batch` documents. Columns
/// that `finished` has are copied from there.
///
/// # Errors
/// Returns an error if the type of a column cannot hold a number, if the disk has no room for the next batch, or after
/// an interrupt. Finished batches are kept.
pub fn make_columns(
    backbone: &Backbone,
    trace: &Trace,
    ColumnPlans { plans: columns, mark }: ColumnPlans,
    (title, batch): (&str, usize),
    finished: Option<&FinishedTraces>,
    free: FreeSpace,
) -> Result<()> {
    let (width, order) = (backbone.model.config().hidden_size, trace.in_file_order());
    let header = |column: &ColumnPlan| column.header(width, trace.tokens_hash());
    let open = |column: &ColumnPlan| {
        let header = header(column);
        let rows = RowFile { name: ROWS, row_bytes: header.row_bytes() };
        Partial::open(column.folder, &column.key, &header, rows, order.len())
    };
    let mut partials: Vec<Partial> = columns.iter().map(open).collect::<Result<_>>()?;
    let least = |partials: &[Partial]| partials.iter().map(Partial::documents).min().unwrap_or(order.len());
    if least(&partials) > 0 {
        progress::say(format!("{title}: going on after {} documents", least(&partials)));
    }
    let costs = order.iter().map(|&number| trace.documents()[number].len() as f64);
    let mut bar = Progress::with_costs(title, least(&partials), costs);
    loop {
        let done = least(&partials);
        if done == order.len() {
            break;
        }
        // Columns of which an earlier process finished more wait until the others have caught up.
        let next = partials.iter().map(Partial::documents).filter(|&further| further > done).min();
        let numbers = &order[done..next.unwrap_or(order.len()).min(done + batch)];
        let documents: Vec<&TraceDocument> = numbers.iter().map(|&number| &trace.documents()[number]).collect();
        let mut behind: Vec<(&ColumnPlan, &mut Partial)> =
            columns.iter().zip(&mut partials).filter(|(_, partial)| partial.documents() == done).collect();
        stop_if_interrupted(behind[0].1)?;
        let needed = behind.iter().map(|(_, partial)| partial.bytes(documents.iter().copied())).sum();
        behind[0].1.require_room(needed, free)?;
        let (mut copied, mut features) = (Vec::new(), Vec::new());
        for (column, _) in &behind {
            let rows = |document: &&TraceDocument| match finished {
                Some(finished) => finished.rows(column.feature, &document.id),
                None => Ok(None),
            };
            let rows: Option<Vec<&[u8]>> = documents.iter().map(rows).collect::<Result<_>>()?;
            if rows.is_none() {
                features.push(column.feature);
            }
            copied.push(rows);
        }
        let texts: Vec<&[u32]> = documents.iter().map(|document| trace.tokens(document)).collect();
        let mut states = Vec::with_capacity(texts.len());
        if !features.is_empty() {
            for of_text in teacher_forced(&backbone.model, &texts, &features) {
                stop_if_interrupted(behind[0].1)?;
                states.push(of_text);
            }
        }
        for ((column, partial), copied) in behind.iter_mut().zip(copied) {
            let computed = features.iter().position(|feature| *feature == column.feature);
            let one = |(at, document): (usize, &&TraceDocument)| {
                let rows = match (&copied, computed) {
                    (Some(copied), _) => copied[at].to_vec(),
                    (None, place) => {
                        let place = place.expect("what is not copied is computed");
                        encode(&states[at][place], column.dtype, column.feature, &document.id)?
                    }
                };
                Ok(Traced { index: done + at, entry: (*document).clone(), rows })
            };
            partial.add(documents.iter().enumerate().map(one).collect::<Result<_>>()?)?;
        }
        bar.update(done + documents.len(), || "documents".into());
    }
    for (number, (column, partial)) in columns.iter().zip(partials).enumerate() {
        partial.commit(|data, _| {
            header(column).write(data)?;
            mark(number, data)
        })?;
    }
    let names: Vec<String> = columns.iter().map(|column| column.feature.to_string()).collect();
    bar.finish(&format!("{} of {} documents", names.join(", "), order.len()));
    Ok(())
}
