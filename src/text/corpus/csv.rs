//! CSV and TSV with a heading, quoted as in RFC 4180 and Python's `csv`.

use std::path::Path;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::Value;

use super::records::{Each, RecordLocation, read_whole};
use crate::error::{Error, Result, bail};

/// Calls `each` with every row as an object of strings, and with the line on which the row begins.
///
/// # Errors
/// When there is no heading, two columns have the same name, a row has another length than the heading, or a quote is
/// never closed.
pub fn for_each_row(path: &Path, delimiter: u8, each: Each) -> Result<()> {
    let text = read_whole(path)?;
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let headings = reader.headers().map_err(|e| explain(&e, 1))?.clone();
    for (at, heading) in headings.iter().enumerate() {
        if headings.iter().take(at).any(|earlier| earlier == heading) {
            bail!("line 1: two columns are called `{heading}`; rename one of them.");
        }
    }
    let (mut row, mut line, mut counted) = (StringRecord::new(), 1, 0);
    loop {
        let start = reader.position().byte() as usize;
        let more = reader.read_record(&mut row);
        // The reader takes the previous row's line end and blank lines along with a row.
        let raw = text[start..reader.position().byte() as usize].trim_start_matches(['\r', '\n']);
        let begin = reader.position().byte() as usize - raw.len();
        line += text[counted..begin].matches('\n').count();
        counted = begin;
        // Every quote that opens is closed, and those inside are doubled. An odd number means that one is open and has
        // swallowed what follows. That is the mistake itself, so it is reported before the wrong number of fields that
        // it causes.
        if raw.matches('"').count() % 2 == 1 {
            bail!(
                "line {line}: the row that begins here has a quote that is never closed. Put a field with quotes in quotes, and double the quotes in it: \"5\"\" nails\"."
            );
        }
        if !more.map_err(|e| explain(&e, line))? {
            return Ok(());
        }
        let fields = headings.iter().zip(&row).map(|(name, value)| (name.to_owned(), Value::from(value)));
        each(RecordLocation::Line(line), &fields.collect())?;
    }
}

fn explain(error: &csv::Error, line: usize) -> Error {
    match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => Error::new(format!(
            "line {line}: {len} fields, but the heading has {expected_len}. Is a field with the separator in it not quoted?"
        )),
        _ => Error::new(format!("line {line} is not readable as CSV ({error}). Write it again with a CSV library.")),
    }
}
