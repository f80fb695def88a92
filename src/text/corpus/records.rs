//! Records of a corpus, one object for each document, from JSON lines, CSV or Parquet.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use super::{csv, parquet};
use crate::error::{Error, Result};
use crate::files;

/// Where in its file a record begins, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordLocation {
    /// A line of text.
    Line(usize),
    /// A row of a table.
    Row(usize),
}

impl fmt::Display for RecordLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Row(number) => write!(f, "row {number}"),
        }
    }
}

/// The format of a corpus, which its file's name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Plain text in paragraphs: `.txt`.
    Paragraphs,
    /// A table with this byte between fields: `.csv` or `.tsv`.
    Separated(u8),
    /// A table: `.parquet`.
    Parquet,
    /// An object on each line: any other name.
    JsonLines,
}

impl Format {
    /// Returns the format of a file, by the extension before a final `.gz`.
    pub fn of(path: &Path) -> Self {
        let inner = if files::is_gzip_name(path) { path.file_stem().map_or(path, Path::new) } else { path };
        let extension = inner.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("txt") => Self::Paragraphs,
            Some("csv") => Self::Separated(b','),
            Some("tsv") => Self::Separated(b'\t'),
            Some("parquet") => Self::Parquet,
            _ => Self::JsonLines,
        }
    }
}

/// A function that is called with every record.
pub type Each<'a> = &'a mut dyn FnMut(RecordLocation, &Map<String, Value>) -> Result<()>;

/// A column that a corpus reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The field as the configuration names it; dots lead into a column's objects and lists.
    pub field: String,
    /// The column to read if none is called `field`.
    pub outer: String,
    /// Whether a corpus without the column is an error.
    pub needed: bool,
}

/// Calls `each(location, record)` for every record, in the file's order. Of tables, only `columns` are read.
///
/// # Errors
/// The first error of the file or of `each`, with the file and the location.
pub fn for_each_record(
    path: &Path,
    columns: &[Column],
    mut each: impl FnMut(RecordLocation, &Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let mut each =
        |location: RecordLocation, record: &Map<String, Value>| each(location, record).map_err(|e| e.within(location));
    let each: Each = &mut each;
    let read = match Format::of(path) {
        Format::Separated(delimiter) => csv::for_each_row(path, delimiter, each),
        Format::Parquet => parquet::for_each_row(path, columns, each),
        Format::JsonLines => for_each_object(path, each),
        Format::Paragraphs => unreachable!("plain text has no records"),
    };
    read.map_err(|e| e.within(path.display()))
}

/// Calls `each` with the object on every line that is not blank.
fn for_each_object(path: &Path, each: Each) -> Result<()> {
    let (mut text, mut line) = (files::open_text(path)?, Vec::new());
    for number in 1.. {
        line.clear();
        if text.read_until(b'\n', &mut line).map_err(|e| Error::io("read", path, e))? == 0 {
            break;
        }
        let location = RecordLocation::Line(number);
        let Ok(line) = std::str::from_utf8(&line) else { return Err(not_text(number)) };
        if line.trim().is_empty() {
            continue;
        }
        let line = line.strip_prefix(MARK).unwrap_or(line);
        let record: Map<String, Value> =
            serde_json::from_str(line).map_err(|e| object_error(number, line, &e).within(location))?;
        each(location, &record)?;
    }
    Ok(())
}

/// The byte order mark, which some editors put at the beginning of UTF-8 text.
const MARK: char = '\u{feff}';

fn not_text(line: usize) -> Error {
    Error::new(format!(
        "line {line} is not UTF-8 text. Convert the file to UTF-8; files of other formats are told by their names: .parquet, .gz."
    ))
}

fn object_error(number: usize, line: &str, error: &serde_json::Error) -> Error {
    if number == 1 && line.trim_start().starts_with('[') {
        return Error::new("this is one JSON list, not an object a line. Convert it: jq -c '.[]' FILE > FILE.jsonl");
    }
    Error::new(format!(
        "not a JSON object ({error}). Every line must be one object such as {{\"prompt\": \"...\"}}; mend or delete the line, or, if the file is of another format, let its name say so (.csv, .tsv, .parquet, .txt)."
    ))
}

/// Reads the whole file as text, decompressed if its name ends in `.gz`.
pub fn read_whole(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    files::open_text(path)?.read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix(MARK).map(str::to_owned).unwrap_or(text)),
        Err(e) => {
            let whole = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            Err(not_text(1 + whole.iter().filter(|&&byte| byte == b'\n').count()))
        }
    }
}
