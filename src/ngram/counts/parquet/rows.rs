//! Writes the rows of a table to a file.

use std::fs::File;

use parquet::data_type::{Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use super::{COUNT, ORDER, READ};
use crate::error::{Result, bail};

/// The rows of a row group that is being collected.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) orders: Vec<i32>,
    ids: Vec<i64>,
    counts: Vec<i64>,
}

impl Rows {
    /// Adds a row.
    pub(super) fn push(&mut self, ids: &[i64], count: u64) -> Result<()> {
        let Ok(count) = i64::try_from(count) else {
            bail!("the window {ids:?} occurs {count} times, more than a table holds. Write a file of counts instead.")
        };
        self.orders.push(ids.len() as i32);
        self.ids.extend(ids);
        self.counts.push(count);
        Ok(())
    }

    /// Moves the rows to the file as one row group.
    pub(super) fn write(&mut self, writer: &mut SerializedFileWriter<File>) -> Result<(), ParquetError> {
        if self.orders.is_empty() {
            return Ok(());
        }
        let mut group = writer.next_row_group()?;
        let mut index = 0;
        while let Some(mut column) = group.next_column()? {
            match index {
                ORDER => drop(column.typed::<Int32Type>().write_batch(&self.orders, None, None)?),
                COUNT => drop(column.typed::<Int64Type>().write_batch(&self.counts, None, None)?),
                _ => {
                    let mut at = 0;
                    for orders in self.orders.chunks(READ) {
                        // A list's first element has repetition level 0, and the others have 1.
                        let repetition: Vec<i16> =
                            orders.iter().flat_map(|&order| (0..order).map(|at| i16::from(at > 0))).collect();
                        let ids = &self.ids[at..at + repetition.len()];
                        let definition = vec![1; ids.len()];
                        column.typed::<Int64Type>().write_batch(ids, Some(&definition), Some(&repetition))?;
                        at += ids.len();
                    }
                }
            }
            column.close()?;
            index += 1;
        }
        group.close()?;
        self.orders.clear();
        self.ids.clear();
        self.counts.clear();
        Ok(())
    }
}
