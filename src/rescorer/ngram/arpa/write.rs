//! A table to ARPA text, in the order of the table: the same table gives the same bytes.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use flate2::{Compression, write::GzEncoder};

use super::super::table::Table;
use super::super::words::spell;
use super::{LOG_ZERO, is_gzip_name};
use crate::error::Result;
use crate::files;

/// Writes `table` to `path`, whole or not at all.
pub fn save(table: &Table, path: &Path) -> Result<()> {
    files::write_with(path, |out| {
        if !is_gzip_name(path) {
            return write(table, out);
        }
        let mut encoder = BufWriter::new(GzEncoder::new(out, Compression::default()));
        write(table, &mut encoder)?;
        encoder.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        Ok(())
    })
}

/// Writes `table` as ARPA text. `out` should be buffered.
pub fn write(table: &Table, mut out: impl Write) -> io::Result<()> {
    writeln!(out, "\\data\\")?;
    for (n, size) in (1..).zip(table.sizes()) {
        writeln!(out, "ngram {n}={size}")?;
    }
    for (n, grams) in (1..).zip(&table.grams) {
        writeln!(out, "\n\\{n}-grams:")?;
        for (index, &prob) in grams.log10_prob.iter().enumerate() {
            number(&mut out, prob)?;
            for (i, word) in table.words(n, index).into_iter().enumerate() {
                write!(out, "{}{}", if i == 0 { '\t' } else { ' ' }, spell(word))?;
            }
            if let Some(&backoff) = grams.log10_backoff.get(index) {
                out.write_all(b"\t")?;
                number(&mut out, backoff)?;
            }
            out.write_all(b"\n")?;
        }
    }
    out.write_all(b"\n\\end\\\n")?;
    out.flush()
}

fn number(out: &mut impl Write, log10: f32) -> io::Result<()> {
    write!(out, "{}", if log10 == f32::NEG_INFINITY { LOG_ZERO } else { log10 })
}
