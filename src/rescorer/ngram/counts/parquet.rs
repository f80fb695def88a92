//! Counts as a Parquet table, the form in which other programs (Spark, DuckDB, pandas) make them or take them.
//!
//! One row a window: `order` (int), `ids` (list of bigint, in text order), `count` (bigint). The table is a folder of
//! files, as Spark writes one. Rows may come in any order and more than once: equal windows add up.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType};
use parquet::column::reader::ColumnReader;
use parquet::data_type::{Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::super::sort::Memory;
use super::super::words::{MAX_ORDER, Vocabulary};
use super::{Collector, Counts};
use crate::error::{Error, Result, bail};
use crate::files::StagedDir;

const SCHEMA: &str = "message counts {
    required int32 order;
    required group ids (LIST) { repeated group list { required int64 element; } }
    required int64 count;
}";
/// The columns, and what they are called in an error.
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
    /// Writes the folder `folder` with one Parquet file, whole or not at all; the same counts give the same bytes.
    /// Replaces a table, but no folder with anything else in it.
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

    /// The counts in the Parquet files of `folder`, in any number and order of rows. The highest order in the table is
    /// the counts' order. A default `vocabulary` gives way to the one that [`Counts::write_parquet`] noted.
    ///
    /// # Errors
    /// What is no table of counts, a row that is no window, another vocabulary than the noted one; with the file and
    /// the row.
    pub fn read_parquet(folder: &Path, vocabulary: Vocabulary, memory: &Memory) -> Result<Self> {
        let paths = parts(folder)?;
        // Parts are opened twice, not kept open: there may be thousands.
        let mut order = 0;
        let mut noted: Option<(PathBuf, Vocabulary)> = None;
        for path in &paths {
            let (highest, found) = guarded(path, || {
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
            guarded(path, || Part::open(path)?.collect(&mut collector))?;
        }
        collector.finish()
    }
}

/// Refuses to replace what is no table.
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

/// What Spark and its like keep beside the parts.
fn is_hidden(name: &str) -> bool {
    name.starts_with(['_', '.'])
}

/// The Parquet files of a table, by name.
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

/// The rows of a row group to be.
#[derive(Default)]
struct Rows {
    orders: Vec<i32>,
    ids: Vec<i64>,
    counts: Vec<i64>,
}

impl Rows {
    fn push(&mut self, ids: &[i64], count: u64) -> Result<()> {
        let Ok(count) = i64::try_from(count) else {
            bail!("the window {ids:?} occurs {count} times, more than a table holds. Write a file of counts instead.")
        };
        self.orders.push(ids.len() as i32);
        self.ids.extend(ids);
        self.counts.push(count);
        Ok(())
    }

    /// Moves the rows to the file as one group.
    fn write(&mut self, writer: &mut SerializedFileWriter<File>) -> Result<(), ParquetError> {
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
                        // A list has its first element at repetition level 0 and the others at 1.
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

/// One file of a table.
struct Part<'a> {
    path: &'a Path,
    reader: SerializedFileReader<File>,
    /// Where each of [`COLUMNS`] is among the file's.
    columns: [usize; 3],
}

impl<'a> Part<'a> {
    fn open(path: &'a Path) -> Result<Self> {
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

    /// What [`Counts::write_parquet`] noted under `key`.
    fn note(&self, key: &str) -> Option<&str> {
        let notes = self.reader.metadata().file_metadata().key_value_metadata()?;
        notes.iter().find(|note| note.key == key)?.value.as_deref()
    }

    fn vocabulary(&self) -> Result<Option<Vocabulary>> {
        let parsed = self.note(VOCABULARY_KEY).map(serde_json::from_str).transpose();
        parsed.map_err(|e| self.failed(format!("the metadata {VOCABULARY_KEY} is none ({e}). Write the table again.")))
    }

    /// The highest order of a row or, if it is higher, the noted one (a text can be too short for its order); 0 where
    /// there is no row.
    fn order(&self) -> Result<usize> {
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

    fn collect(&self, collector: &mut Collector) -> Result<()> {
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

    /// Calls `each` for the next rows of the columns in `wanted`, until there are none.
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

/// Where the column `name` is.
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

/// Signed integers, in a list for the ids, whatever the list's inner names.
fn fits(column: &ColumnDescriptor, name: &str) -> bool {
    use ConvertedType::{INT_8, INT_16, INT_32, INT_64, NONE};
    use parquet::basic::Type::{INT32, INT64};
    let list = name == COLUMNS[IDS].0;
    matches!(column.physical_type(), INT32 | INT64)
        && matches!(column.converted_type(), NONE | INT_8 | INT_16 | INT_32 | INT_64)
        && column.max_rep_level() == i16::from(list)
        && (list || column.path().parts().len() == 1)
}

/// The rows of a column at hand.
struct Column {
    reader: ColumnReader,
    /// The definition level of a value that is there.
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

    /// Reads the next rows, up to `rows`, and says how many there were.
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

    /// The first of the rows in which something is missing.
    fn null(&self) -> Option<usize> {
        let at = self.definition.iter().position(|&level| level < self.defined)?;
        Some(match self.repetition.get(..=at) {
            Some(levels) => levels.iter().filter(|&&level| level == 0).count() - 1,
            None => at,
        })
    }
}

/// Makes an error of a panic: damage to a file's metadata is one to the Parquet library, here and there.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    let damaged = |_| Err(unreadable(path, ParquetError::General("it is damaged".to_owned())));
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(damaged)
}

/// The error of the operating system that stopped the Parquet library, if it was one.
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

#[cfg(test)]
mod tests {
    use super::super::super::{Counter, Ending};
    use super::*;
    use parquet::column::writer::ColumnWriter;
    use proptest::prelude::*;

    fn counted(order: usize, vocabulary: Vocabulary, documents: &[Vec<u32>]) -> Counts {
        let mut counter = Counter::new(order, vocabulary, &Memory::usual()).unwrap();
        counter.add(&[1], Ending::Complete).unwrap();
        documents.iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
        counter.finish().unwrap()
    }

    fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(prop_oneof![0u32..5, 0u32..200_000], 0..12), 0..8)
    }

    fn listing(counts: &Counts) -> Vec<(Vec<i64>, u64)> {
        let mut rows = Vec::new();
        let each = |ids: &[i64], count| {
            rows.push((ids.to_vec(), count));
            Ok(())
        };
        counts.for_each(each).unwrap();
        rows
    }

    /// The bytes of the file of counts.
    fn bytes(counts: &Counts) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        counts.save(&dir.path().join("counts")).unwrap();
        fs::read(dir.path().join("counts")).unwrap()
    }

    fn read(folder: &Path) -> Result<Counts> {
        Counts::read_parquet(folder, Vocabulary::default(), &Memory::usual())
    }

    fn message(folder: &Path) -> String {
        read(folder).err().expect("it is refused").to_string()
    }

    /// The values of a column with their levels; where there are none of these, every value is a row.
    #[derive(Default)]
    struct Values {
        values: Vec<i64>,
        definition: Vec<i16>,
        repetition: Vec<i16>,
    }

    impl From<&[i64]> for Values {
        fn from(values: &[i64]) -> Self {
            Self { values: values.to_vec(), ..Self::default() }
        }
    }

    impl Values {
        /// Lists none of which is empty; `defined` is the definition level of a value.
        fn lists(lists: &[Vec<i64>], defined: i16) -> Self {
            let values = lists.concat();
            let repetition = lists.iter().flat_map(|list| (0..list.len()).map(|at| i16::from(at > 0))).collect();
            Self { definition: vec![defined; values.len()], values, repetition }
        }
    }

    /// A file as another program might write it.
    fn foreign(path: &Path, fields: &str, columns: &[Values], note: Option<(&str, &str)>) {
        let schema = Arc::new(parse_message_type(&format!("message schema {{ {fields} }}")).unwrap());
        let described = SchemaDescriptor::new(schema.clone());
        let note = note.map(|(key, value)| vec![KeyValue::new(key.to_owned(), value.to_owned())]);
        let properties = Arc::new(WriterProperties::builder().set_key_value_metadata(note).build());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for (at, Values { values, definition, repetition }) in columns.iter().enumerate() {
            let mut column = group.next_column().unwrap().unwrap();
            let definition = (described.column(at).max_def_level() > 0).then_some(&definition[..]);
            let repetition = (described.column(at).max_rep_level() > 0).then_some(&repetition[..]);
            match column.untyped() {
                ColumnWriter::Int32ColumnWriter(column) => {
                    let narrow: Vec<i32> = values.iter().map(|&value| value as i32).collect();
                    column.write_batch(&narrow, definition, repetition).unwrap();
                }
                ColumnWriter::Int64ColumnWriter(column) => {
                    column.write_batch(values, definition, repetition).unwrap();
                }
                ColumnWriter::DoubleColumnWriter(column) => {
                    let wide: Vec<f64> = values.iter().map(|&value| value as f64).collect();
                    column.write_batch(&wide, definition, repetition).unwrap();
                }
                _ => unreachable!("no other type is written here"),
            }
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    }

    /// Schemas that are read, with the definition levels of a value in each column.
    const FORMS: [(&str, [i16; 3]); 4] = [
        (
            "required int32 order; optional group ids (LIST) { repeated group list { optional int64 element; } }
             required int64 count;",
            [0, 3, 0],
        ),
        (
            "optional int64 order; required group ids (LIST) { repeated group list { optional int32 item; } }
             optional int32 count;",
            [1, 2, 1],
        ),
        (
            "optional int32 order; optional group ids (LIST) { repeated int64 array; } optional int64 count;
             optional int64 more;",
            [1, 2, 1],
        ),
        (
            "required int32 order (INTEGER(8,true)); optional group ids (LIST) { repeated group bag { required int64
             array_element (INTEGER(64,true)); } } required int64 count;",
            [0, 2, 0],
        ),
    ];

    fn foreign_rows(path: &Path, form: usize, rows: &[(Vec<i64>, u64)]) {
        let (fields, defined) = FORMS[form];
        let flat =
            |values: Vec<i64>, defined| Values { definition: vec![defined; values.len()], values, ..Values::default() };
        let lists: Vec<Vec<i64>> = rows.iter().map(|(ids, _)| ids.clone()).collect();
        let mut columns = vec![
            flat(rows.iter().map(|(ids, _)| ids.len() as i64).collect(), defined[0]),
            Values::lists(&lists, defined[1]),
            flat(rows.iter().map(|&(_, count)| count as i64).collect(), defined[2]),
        ];
        if fields.contains("more") {
            columns.push(Values { definition: vec![0; rows.len()], ..Values::default() });
        }
        foreign(path, fields, &columns, None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_table_keeps_the_counts(order in 1usize..=6, documents in documents()) {
            let dir = tempfile::tempdir().unwrap();
            let vocabulary = Vocabulary { eos: vec![2], size: Some(200_000), ..Vocabulary::default() };
            let counts = counted(order, vocabulary.clone(), &documents);
            let folder = dir.path().join("table");
            let mut written = Vec::new();
            for _ in 0..2 {
                counts.write_parquet(&folder).unwrap();
                written.push(fs::read(folder.join("counts.parquet")).unwrap());
            }
            prop_assert!(written[0] == written[1]);
            let again = read(&folder).unwrap();
            prop_assert!(bytes(&again) == bytes(&counts));
            let given = Counts::read_parquet(&folder, vocabulary, &Memory::usual()).unwrap();
            prop_assert!(bytes(&given) == bytes(&counts));
        }

        /// As other programs write: several files, rows in any order, equal windows more than once, other types.
        #[test]
        fn rows_of_several_files_add_up(
            order in 1usize..=6,
            documents in documents(),
            forms in prop::collection::vec(0..FORMS.len(), 1..5),
            places in prop::collection::vec(any::<prop::sample::Index>(), 32),
        ) {
            let dir = tempfile::tempdir().unwrap();
            // A text as long as its order, and one window more often than once.
            let documents = [documents, vec![vec![7; 8]; 3]].concat();
            let counts = counted(order, Vocabulary::default(), &documents);
            let mut parts = vec![Vec::new(); forms.len()];
            let mut places = places.iter().cycle();
            for (ids, mut count) in listing(&counts) {
                while count > 0 {
                    let some = 1 + places.next().unwrap().index(count as usize) as u64;
                    let part = &mut parts[places.next().unwrap().index(forms.len())];
                    let at = places.next().unwrap().index(part.len() + 1);
                    part.insert(at, (ids.clone(), some));
                    count -= some;
                }
            }
            for (number, (part, &form)) in parts.iter().zip(&forms).enumerate() {
                foreign_rows(&dir.path().join(format!("part-{number}.snappy.parquet")), form, part);
            }
            fs::write(dir.path().join("_SUCCESS"), "").unwrap();
            fs::write(dir.path().join(".part-0.snappy.parquet.crc"), "crc").unwrap();
            prop_assert!(bytes(&read(dir.path()).unwrap()) == bytes(&counts));
        }

        #[test]
        fn damage_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let dir = tempfile::tempdir().unwrap();
            let counts = counted(3, Vocabulary::default(), &[vec![5, 6, 7, 5, 6], vec![200_000, 5]]);
            counts.write_parquet(dir.path()).unwrap();
            let path = dir.path().join("counts.parquet");
            let mut text = fs::read(&path).unwrap();
            let at = at.index(text.len());
            if cut { text.truncate(at) } else { text[at] = byte }
            fs::write(&path, &text).unwrap();
            if let Err(error) = read(dir.path()) {
                prop_assert!(error.to_string().contains("counts.parquet"), "{error}");
            }
        }
    }

    #[test]
    fn the_table_has_the_rows_that_for_each_tells() {
        let dir = tempfile::tempdir().unwrap();
        let counts = counted(3, Vocabulary::default(), &[vec![5, 6, 7, 5, 6], vec![6]]);
        counts.write_parquet(dir.path()).unwrap();
        let reader = SerializedFileReader::new(File::open(dir.path().join("counts.parquet")).unwrap()).unwrap();
        let rows: Vec<String> = reader.into_iter().map(|row| row.unwrap().to_string()).collect();
        let expected = listing(&counts)
            .into_iter()
            .map(|(ids, count)| format!("{{order: {}, ids: {ids:?}, count: {count}}}", ids.len()));
        assert_eq!(rows, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_text_too_short_for_its_order_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let counts = counted(5, Vocabulary::default(), &[]);
        counts.write_parquet(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap().order(), 5);
    }

    #[test]
    fn the_vocabulary_must_be_the_noted_one() {
        let dir = tempfile::tempdir().unwrap();
        let of = |eos| Vocabulary { eos: vec![eos], ..Vocabulary::default() };
        counted(2, of(9), &[]).write_parquet(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap().vocabulary(), &of(9));
        let refused = Counts::read_parquet(dir.path(), of(8), &Memory::usual()).err().unwrap().to_string();
        assert!(refused.contains("\"eos\":[9]") && refused.contains("\"eos\":[8]"), "{refused}");
        // Beside a file that says nothing the noted one holds; beside another note nothing does.
        foreign_rows(&dir.path().join("z.parquet"), 0, &[(vec![3, 4], 1)]);
        assert_eq!(read(dir.path()).unwrap().vocabulary(), &of(9));
        let other = tempfile::tempdir().unwrap();
        counted(2, of(8), &[]).write_parquet(other.path()).unwrap();
        fs::copy(other.path().join("counts.parquet"), dir.path().join("other.parquet")).unwrap();
        let refused = message(dir.path());
        assert!(refused.contains("other.parquet") && refused.contains("cannot be added up"), "{refused}");
    }

    #[test]
    fn special_ids_in_the_table_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        foreign_rows(&dir.path().join("a.parquet"), 0, &[(vec![3, 4], 1), (vec![3, 0], 1)]);
        for vocabulary in
            [Vocabulary { eos: vec![0], ..Vocabulary::default() }, Vocabulary { bos: Some(0), ..Vocabulary::default() }]
        {
            let refused = Counts::read_parquet(dir.path(), vocabulary, &Memory::usual()).err().unwrap().to_string();
            assert!(refused.contains("a.parquet: row 2: 0 is an end-of-text"), "{refused}");
        }
        assert!(read(dir.path()).is_ok());
    }

    #[test]
    fn bad_rows_are_named() {
        let fields = FORMS[1].0;
        let refused = |orders: Values, ids: Values, counts: Values| {
            let dir = tempfile::tempdir().unwrap();
            foreign(&dir.path().join("bad.parquet"), fields, &[orders, ids, counts], None);
            let message = message(dir.path());
            assert!(message.contains("bad.parquet: row 2"), "{message}");
            message
        };
        let flat = |values: [i64; 2]| Values { values: values.to_vec(), definition: vec![1; 2], ..Values::default() };
        let null = || Values { values: vec![1], definition: vec![1, 0], ..Values::default() };
        let lists = |second: &[i64]| Values::lists(&[vec![-1, 5], second.to_vec()], 2);
        let good = || (flat([2, 2]), lists(&[5, -2]), flat([1, 1]));
        assert!(refused(null(), good().1, good().2).contains("order is null"));
        assert!(refused(good().0, good().1, null()).contains("count is null"));
        let element = Values { values: vec![-1, 5, 6], definition: vec![2, 2, 2, 1], repetition: vec![0, 1, 0, 1] };
        assert!(refused(good().0, element, good().2).contains("ids is null, empty or with a null"));
        let empty = Values { values: vec![-1, 5], definition: vec![2, 2, 0], repetition: vec![0, 1, 0] };
        assert!(refused(good().0, empty, good().2).contains("ids is null, empty or with a null"));
        assert!(refused(flat([2, 3]), good().1, good().2).contains("order is 3, but there are 2 ids"));
        assert!(refused(flat([2, 7]), good().1, good().2).contains("order 7 is outside 1 to 6"));
        assert!(refused(good().0, good().1, flat([1, -4])).contains("count -4 is negative"));
        assert!(refused(good().0, good().1, flat([1, 0])).contains("counts nothing"));
        assert!(refused(good().0, lists(&[5, -1]), good().2).contains("can only come first"));
        assert!(refused(flat([2, 1]), lists(&[5]), good().2).contains("neither of order 2 nor a shorter one"));
    }

    #[test]
    fn folders_that_are_no_tables_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        assert!(message(&dir.path().join("none")).contains("cannot read the folder"));
        fs::write(dir.path().join("_SUCCESS"), "").unwrap();
        assert!(message(dir.path()).contains("has no .parquet file"));
        fs::write(&path, "no table").unwrap();
        assert!(message(dir.path()).contains("a.parquet: this is no whole Parquet file"));
        let ids = "required group ids (LIST) { repeated group list { required int64 element; } }";
        let list = || Values::lists(&[vec![-1, 5]], 1);
        let refused = |fields: &str, columns: &[Values]| {
            foreign(&path, fields, columns, None);
            message(dir.path())
        };
        let flat = |value: i64| Values::from(&[value][..]);
        let missing = refused(&format!("required int32 n; {ids} required int64 count;"), &[flat(2), list(), flat(1)]);
        assert!(
            missing.contains("no column order (only n, ids, count)") && missing.contains("count bigint"),
            "{missing}"
        );
        for kind in ["double count", "int32 count (DATE)", "int64 count (INTEGER(64,false))"] {
            let wrong = refused(&format!("required int32 order; {ids} required {kind};"), &[flat(2), list(), flat(1)]);
            assert!(wrong.contains("column count is no bigint but"), "{wrong}");
        }
        let wrong =
            refused("required int32 order; required int64 ids; required int64 count;", &[flat(2), flat(5), flat(1)]);
        assert!(wrong.contains("column ids is no array<bigint> but `REQUIRED INT64 ids;`"), "{wrong}");
        let fields = format!("required int32 order; {ids} required int64 count;");
        assert!(refused(&fields, &[flat(0), list(), flat(1)]).contains("row 1: order 0 is outside"));
        let none = [Values::default(), Values::default(), Values::default()];
        assert!(refused(&fields, &none).contains("the table has no row"));
        foreign(&path, &fields, &[flat(2), list(), flat(1)], Some((VOCABULARY_KEY, "{\"eos\": 3}")));
        assert!(message(dir.path()).contains("a.parquet: the metadata draftsmith.vocabulary is none"));
        fs::create_dir(dir.path().join("_temporary")).unwrap();
        assert!(message(dir.path()).contains("has not finished"));
    }

    #[test]
    fn only_a_table_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let counts = counted(2, Vocabulary::default(), &[]);
        let folder = dir.path().join("table");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("part-0.parquet"), "old").unwrap();
        fs::write(folder.join("_SUCCESS"), "").unwrap();
        counts.write_parquet(&folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::write(folder.join("thesis.tex"), "").unwrap();
        let refused = counts.write_parquet(&folder).unwrap_err().to_string();
        assert!(refused.contains("thesis.tex"), "{refused}");
        assert!(counts.write_parquet(&folder.join("thesis.tex")).is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-written stays");
    }
}
