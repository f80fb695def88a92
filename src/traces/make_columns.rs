//! Making the columns of a finished trace: one teacher-forced pass over its tokens for all that are missing, batch by batch.

use std::path::Path;

use super::column::{ColumnHeader, ROWS};
use super::estimate::FreeSpace;
use super::forced::{encode, teacher_forced};
use super::make::stop_if_interrupted;
use super::partial::{Partial, RowFile, Traced};
use super::{Trace, TraceDocument};
use crate::backbone::{Backbone, Feature};
use crate::error::Result;
use crate::progress::{self, Progress};
use crate::storage_type::StorageType;

/// A column to make.
#[derive(Debug, Clone)]
pub struct ColumnPlan<'a> {
    /// The state that it holds.
    pub feature: Feature,
    /// Type of its numbers.
    pub dtype: StorageType,
    /// The folder that it is to become.
    pub folder: &'a Path,
    /// Hash of everything it depends on: only what was made under the same one is gone on with.
    pub key: String,
}

/// Computes columns of `trace`, which the same backbone made, going on with what an earlier process finished of each. They
/// take one forward together for every batch of `batch` documents. `mark` puts into the folder of a column, which is given
/// by its number in `columns`, what says that it is whole, just before it takes its place.
///
/// # Errors
/// A number that a column's type cannot hold; a disk that will not hold the next batch; Ctrl-C. What is finished is kept.
pub fn make_columns(
    backbone: &Backbone,
    trace: &Trace,
    columns: &[ColumnPlan],
    (title, batch): (&str, usize),
    free: FreeSpace,
    mark: &dyn Fn(usize, &Path) -> Result<()>,
) -> Result<()> {
    let (width, order) = (backbone.model.config().hidden_size, trace.in_file_order());
    let header = |column: &ColumnPlan| ColumnHeader::new(column.feature, column.dtype, width, trace.tokens_hash());
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
    let mut bar = Progress::starting_at(title, least(&partials), order.len());
    loop {
        let done = least(&partials);
        if done == order.len() {
            break;
        }
        // Columns that an earlier process brought further wait until the others have come as far.
        let next = partials.iter().map(Partial::documents).filter(|&further| further > done).min();
        let numbers = &order[done..next.unwrap_or(order.len()).min(done + batch)];
        let documents: Vec<&TraceDocument> = numbers.iter().map(|&number| &trace.documents()[number]).collect();
        let mut behind: Vec<(&ColumnPlan, &mut Partial)> =
            columns.iter().zip(&mut partials).filter(|(_, partial)| partial.documents() == done).collect();
        stop_if_interrupted(behind[0].1)?;
        let needed = behind.iter().map(|(_, partial)| partial.bytes(documents.iter().copied())).sum();
        behind[0].1.require_room(needed, free)?;
        let features: Vec<Feature> = behind.iter().map(|(column, _)| column.feature).collect();
        let texts: Vec<&[u32]> = documents.iter().map(|document| trace.tokens(document)).collect();
        let states = teacher_forced(&backbone.model, &texts, &features);
        for (place, (column, partial)) in behind.iter_mut().enumerate() {
            let one = |(at, (document, states)): (usize, (&&TraceDocument, &Vec<Vec<f32>>))| {
                let rows = encode(&states[place], column.dtype, column.feature, &document.id)?;
                Ok(Traced { index: done + at, entry: (*document).clone(), rows })
            };
            partial.add(documents.iter().zip(&states).enumerate().map(one).collect::<Result<_>>()?)?;
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
