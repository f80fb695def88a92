//! Reads one file of a table into windows.

use std::fs::File;
use std::path::Path;

use parquet::basic::{Compression, ConvertedType};
use parquet::column::reader::ColumnReader;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::super::super::words::{MAX_ORDER, Vocabulary};
use super::super::Collector;
use super::{COLUMNS, COUNT, IDS, ORDER, ORDER_KEY, READ, VOCABULARY_KEY, unreadable};
use crate::error::{Error, Result, bail};

/// One file of a table.
pub(super) struct Part<'a> {
    path: &'a Path,
    reader: SerializedFileReader<File>,
    /// Where each of [`COLUMNS`] is among the file's columns.
    columns: [usize; 3],
}

impl<'a> Part<'a> {
    /// Opens a file and finds its columns.
    pub(super) fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        let reader = SerializedFileReader::new(file).map_err(|e| unreadable(path, e))?;
        let mut columns = [0; 3];
        let schema = reader.metadata().file_metadata().schema_descr();
        for (column, (name, kind)) in columns.iter_mut().zip(COLUMNS) {
            *column = find(schema, name, kind).map_err(|e| e.within(path.display()))?;
        }
        for group in reader.metadata().row_groups() {
            for (&column, (name, _)) in columns.iter().zip(COLUMNS) {
                let compression = group.column(column).compression();
                if !matches!(compression, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_)) {
                    bail!(
                        "{}: column {name} is compressed with {compression}, but only snappy, gzip and uncompressed \
                         files are read. Write the table with snappy.",
                        path.display()
                    );
                }
            }
        }
        Ok(Self { path, reader, columns })
    }

    /// Returns what [`Counts::write_parquet`] noted under `key`.
    fn note(&self, key: &str) -> Option<&str> {
        let notes = self.reader.metadata().file_metadata().key_value_metadata()?;
        notes.iter().find(|note| note.key == key)?.value.as_deref()
    }

    /// Returns the vocabulary that [`Counts::write_parquet`] noted, if any.
    pub(super) fn vocabulary(&self) -> Result<Option<Vocabulary>> {
        let parsed = self.note(VOCABULARY_KEY).map(serde_json::from_str).transpose();
        parsed.map_err(|e| self.failed(format!("the metadata {VOCABULARY_KEY} is none ({e}). Write the table again.")))
    }

    /// Returns the highest order of a row or, if it is higher, the noted one, because a text can be too short for its
    /// order. Without any rows, the order is 0.
    pub(super) fn order(&self) -> Result<usize> {
        let (mut row, mut highest) = (0, 0);
        self.for_each_batch(&[ORDER], |[orders]| {
            for &order in &orders.values {
                row += 1;
                if !(1..=MAX_ORDER as i64).contains(&order) {
                    return Err(self.wrong(row, format!("order {order} is outside 1 to {MAX_ORDER}")));
                }
                highest = highest.max(order as usize);
            }
            Ok(())
        })?;
        let noted = self.note(ORDER_KEY).and_then(|order| order.parse().ok()).unwrap_or(0);
        Ok(if row == 0 { 0 } else { highest.max(noted) })
    }

    /// Adds all rows to `collector`.
    pub(super) fn collect(&self, collector: &mut Collector) -> Result<()> {
        let vocabulary = collector.vocabulary.clone();
        let mut row = 0;
        self.for_each_batch(&[ORDER, IDS, COUNT], |[orders, ids, counts]| {
            let mut at = 0;
            for (&order, &count) in orders.values.iter().zip(&counts.values) {
                row += 1;
                let start = at;
                at += 1;
                while ids.repetition.get(at).is_some_and(|&level| level > 0) {
                    at += 1;
                }
                let ids = &ids.values[start..at];
                if order != ids.len() as i64 {
                    return Err(self.wrong(row, format!("order is {order}, but there are {} ids", ids.len())));
                }
                let special = |id: u32| vocabulary.eos.contains(&id) || vocabulary.bos == Some(id);
                if let Some(id) = ids.iter().find(|&&id| u32::try_from(id).is_ok_and(special)) {
                    let why = format!("{id} is an end-of-text or beginning-of-text id; split documents at them first");
                    return Err(self.wrong(row, why));
                }
                let Ok(count) = u64::try_from(count) else {
                    return Err(self.wrong(row, format!("count {count} is negative")));
                };
                collector.add(ids, count).map_err(|e| e.within(format!("{}: row {row}", self.path.display())))?;
            }
            Ok(())
        })
    }

    /// Calls `each` with batches of rows of the columns in `wanted`, until there are no more rows.
    fn for_each_batch<const N: usize>(
        &self,
        wanted: &[usize; N],
        mut each: impl FnMut(&[Column; N]) -> Result<()>,
    ) -> Result<()> {
        let mut first = 1;
        for index in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(index).map_err(|e| unreadable(self.path, e))?;
            let mut columns = Vec::with_capacity(N);
            for &column in wanted {
                columns.push(Column::new(&*group, self.columns[column]).map_err(|e| unreadable(self.path, e))?);
            }
            let mut columns: [Column; N] = columns.try_into().unwrap_or_else(|_| unreachable!("N were pushed"));
            let mut left = group.metadata().num_rows().max(0) as usize;
            while left > 0 {
                let rows = left.min(READ);
                for (column, &wanted) in columns.iter_mut().zip(wanted) {
                    let read = column.read(rows).map_err(|e| unreadable(self.path, e))?;
                    if let Some(row) = column.null() {
                        let name = COLUMNS[wanted].0;
                        let or = if wanted == IDS { ", empty or with a null in it" } else { "" };
                        return Err(self.wrong(first + row, format!("{name} is null{or}")));
                    }
                    if read != rows {
                        return Err(unreadable(self.path, ParquetError::EOF("a column ends too early".to_owned())));
                    }
                }
                each(&columns)?;
                first += rows;
                left -= rows;
            }
        }
        Ok(())
    }

    fn wrong(&self, row: usize, what: String) -> Error {
        self.failed(format!("row {row}: {what}. Correct the program that made the table."))
    }

    fn failed(&self, what: String) -> Error {
        Error::new(what).within(self.path.display())
    }
}

/// Returns the position of the column `name`.
fn find(schema: &SchemaDescriptor, name: &str, kind: &str) -> Result<usize> {
    let needed = || COLUMNS.map(|(name, kind)| format!("{name} {kind}")).join(", ");
    let found: Vec<usize> =
        (0..schema.num_columns()).filter(|&at| schema.column(at).path().parts()[0] == name).collect();
    match found[..] {
        [at] if fits(&schema.column(at), name) => Ok(at),
        [] => {
            let names: Vec<&str> = schema.root_schema().get_fields().iter().map(|field| field.name()).collect();
            bail!("there is no column {name} (only {}). A table of counts has {}.", names.join(", "), needed())
        }
        _ => {
            let field = schema.root_schema().get_fields().iter().find(|field| field.name() == name);
            let mut found = Vec::new();
            field.iter().for_each(|field| parquet::schema::printer::print_schema(&mut found, field));
            let found = String::from_utf8_lossy(&found).split_whitespace().collect::<Vec<_>>().join(" ");
            bail!("column {name} is no {kind} but `{found}`. A table of counts has {}.", needed())
        }
    }
}

/// Returns whether a column holds signed integers, in a list for the ids. The list's inner names do not matter.
fn fits(column: &ColumnDescriptor, name: &str) -> bool {
    use ConvertedType::{INT_8, INT_16, INT_32, INT_64, NONE};
    use parquet::basic::Type::{INT32, INT64};
    let list = name == COLUMNS[IDS].0;
    matches!(column.physical_type(), INT32 | INT64)
        && matches!(column.converted_type(), NONE | INT_8 | INT_16 | INT_32 | INT_64)
        && column.max_rep_level() == i16::from(list)
        && (list || column.path().parts().len() == 1)
}

/// A column, and the rows of it that were read last.
struct Column {
    reader: ColumnReader,
    /// The definition level of a value that is not null.
    defined: i16,
    definition: Vec<i16>,
    repetition: Vec<i16>,
    values: Vec<i64>,
    narrow: Vec<i32>,
}

impl Column {
    fn new(group: &dyn RowGroupReader, column: usize) -> Result<Self, ParquetError> {
        let defined = group.metadata().column(column).column_descr().max_def_level();
        let reader = group.get_column_reader(column)?;
        Ok(Self {
            reader,
            defined,
            definition: Vec::new(),
            repetition: Vec::new(),
            values: Vec::new(),
            narrow: Vec::new(),
        })
    }

    /// Reads up to `rows` further rows, and returns how many there were.
    fn read(&mut self, rows: usize) -> Result<usize, ParquetError> {
        let Self { reader, definition, repetition, values, narrow, .. } = self;
        definition.clear();
        repetition.clear();
        values.clear();
        narrow.clear();
        let (read, ..) = match reader {
            ColumnReader::Int32ColumnReader(reader) => {
                let read = reader.read_records(rows, Some(definition), Some(repetition), narrow)?;
                values.extend(narrow.iter().map(|&value| i64::from(value)));
                read
            }
            ColumnReader::Int64ColumnReader(reader) => {
                reader.read_records(rows, Some(definition), Some(repetition), values)?
            }
            _ => return Err(ParquetError::General("the file and its schema differ".to_owned())),
        };
        Ok(read)
    }

    /// Returns the first of the rows in which something is missing.
    fn null(&self) -> Option<usize> {
        let at = self.definition.iter().position(|&level| level < self.defined)?;
        Some(match self.repetition.get(..=at) {
            Some(levels) => levels.iter().filter(|&&level| level == 0).count() - 1,
            None => at,
        })
    }
}
