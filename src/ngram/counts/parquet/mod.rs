//! Counts as a Parquet table, which other programs (Spark, DuckDB, pandas) can make and read.
//!
//! A row is a window: `order` (int), `ids` (list of bigint, in text order), `count` (bigint). The table is a folder of
//! files, as Spark writes one. Rows may come in any order and more than once: equal windows add up. `rows.rs` writes a
//! file, `part.rs` reads one.

mod part;
mod rows;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::super::sort::Memory;
use super::super::words::Vocabulary;
use super::{Collector, Counts};
use crate::error::{Error, Result, bail, guarded};
use crate::files::StagedDir;
use part::Part;
use rows::Rows;

const SCHEMA: &str = "message counts {
    required int32 order;
    required group ids (LIST) { repeated group list { required int64 element; } }
    required int64 count;
}";
/// The columns, with their types as errors call them.
const COLUMNS: [(&str, &str); 3] = [("order", "int"), ("ids", "array<bigint>"), ("count", "bigint")];
const ORDER: usize = 0;
const IDS: usize = 1;
const COUNT: usize = 2;
/// Keys of the file's metadata.
const ORDER_KEY: &str = "draftsmith.order";
const VOCABULARY_KEY: &str = "draftsmith.vocabulary";
/// Rows that are held at a time: a row group when writing, a part of one when reading.
const WRITE: usize = 1 << 19;
const READ: usize = 1 << 16;

impl Counts {
    /// Writes the folder `folder` with one Parquet file, whole or not at all. The same counts give the same bytes. A
    /// table is replaced.
    ///
    /// # Errors
    /// When the folder holds anything but a table, a count does not fit, or the file cannot be written.
    pub fn write_parquet(&self, folder: &Path) -> Result<()> {
        check_target(folder)?;
        let staged = StagedDir::new(folder)?;
        let path = staged.path().join("counts.parquet");
        let failed = |e: ParquetError| Error::io("write", folder.join("counts.parquet"), io_error(e));
        let vocabulary = serde_json::to_string(&self.vocabulary).expect("a vocabulary serialises");
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_key_value_metadata(Some(vec![
                KeyValue::new(ORDER_KEY.to_owned(), self.order.to_string()),
                KeyValue::new(VOCABULARY_KEY.to_owned(), vocabulary),
            ]))
            .build();
        let schema = Arc::new(parse_message_type(SCHEMA).expect("the schema is well-formed"));
        let file = File::create_new(&path).map_err(|e| failed(e.into()))?;
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).map_err(failed)?;
        let mut rows = Rows::default();
        self.for_each(|ids, count| {
            rows.push(ids, count)?;
            if rows.orders.len() == WRITE { rows.write(&mut writer).map_err(failed) } else { Ok(()) }
        })?;
        rows.write(&mut writer).map_err(failed)?;
        writer.into_inner().and_then(|file| Ok(file.sync_all()?)).map_err(failed)?;
        staged.commit()
    }

    /// Reads the counts in the Parquet files of `folder`, which may have any number of rows in any order. The counts
    /// have the highest order in the table. A default `vocabulary` gives way to the one that [`Counts::write_parquet`]
    /// noted.
    ///
    /// # Errors
    /// When the folder is not a table of counts, a row is not a window, or `vocabulary` is not the noted one. The error
    /// names the file and the row.
    pub fn read_parquet(folder: &Path, vocabulary: Vocabulary, memory: &Memory) -> Result<Self> {
        let paths = parts(folder)?;
        // Parts are opened twice instead of being kept open, because there may be thousands.
        let mut order = 0;
        let mut noted: Option<(PathBuf, Vocabulary)> = None;
        for path in &paths {
            let (highest, found) = reading(path, || {
                let part = Part::open(path)?;
                Ok((part.order()?, part.vocabulary()?))
            })?;
            order = order.max(highest);
            match (found, &noted) {
                (Some(found), Some((first, vocabulary))) if found != *vocabulary => bail!(
                    "{} and {} cannot be added up: they were counted with different tokenizers or special ids. Count \
                     both alike.",
                    first.display(),
                    path.display()
                ),
                (Some(found), None) => noted = Some((path.clone(), found)),
                _ => {}
            }
        }
        if order == 0 {
            bail!("{}: the table has no row. Check how it was made.", folder.display());
        }
        let vocabulary = match noted {
            Some((_, noted)) if vocabulary == Vocabulary::default() => noted,
            Some((path, noted)) if noted != vocabulary => bail!(
                "{}: the table was counted with {}, but {} was asked for. Leave the choice to the table, or count the \
                 text again.",
                path.display(),
                serde_json::to_string(&noted).expect("a vocabulary serialises"),
                serde_json::to_string(&vocabulary).expect("a vocabulary serialises")
            ),
            _ => vocabulary,
        };
        let mut collector = Collector::new(order, vocabulary, memory)?;
        for path in &paths {
            reading(path, || Part::open(path)?.collect(&mut collector))?;
        }
        collector.finish()
    }
}

/// Refuses to replace a folder that is not a table.
fn check_target(folder: &Path) -> Result<()> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("write the folder", folder, e)),
    };
    for entry in listing {
        let entry = entry.map_err(|e| Error::io("read", folder, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() || !(is_hidden(&name) || name.ends_with(".parquet")) {
            bail!("{} holds other things than a table ({name}). Name a new folder for the table.", folder.display());
        }
    }
    Ok(())
}

/// Returns whether a file is one that Spark and similar programs keep beside the parts.
fn is_hidden(name: &str) -> bool {
    name.starts_with(['_', '.'])
}

/// Returns the Parquet files of a table, sorted by name.
fn parts(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io("read the folder", folder, e))? {
        let entry = entry.map_err(|e| Error::io("read the folder", folder, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "_temporary" {
            bail!(
                "{}: the job that writes the table has not finished (there is a folder _temporary). Wait for it, or \
                 run it again.",
                folder.display()
            );
        }
        if name.ends_with(".parquet") && !is_hidden(&name) {
            paths.push(entry.path());
        }
    }
    if paths.is_empty() {
        bail!("{}: the folder has no .parquet file. Name the folder that holds the table's files.", folder.display());
    }
    paths.sort();
    Ok(paths)
}

/// Reads a file. For some damage to a file's metadata, the Parquet library panics.
fn reading<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    let damaged = || Err(unreadable(path, ParquetError::General("it is damaged".to_owned())));
    guarded(read).unwrap_or_else(damaged)
}

/// Returns the error of the operating system that stopped the Parquet library, if it was one.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        error => io::Error::other(error),
    }
}

fn unreadable(path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(_) => Error::io("read", path, io_error(error)),
        error => Error::new(format!(
            "{}: this is no whole Parquet file, or not one that this program reads ({error}). Write the table again.",
            path.display()
        )),
    }
}
