//! A table to ARPA text, in the order of the table: the same table gives the same bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use flate2::{Compression, write::GzEncoder};

use super::super::table::Table;
use super::super::words::spell;
use super::{LOG_ZERO, is_gzip_name};
use crate::error::{Error, Result};

/// Writes `table` to `path`: aside first, then renamed, so that `path` is never a part of a file.
pub fn save(table: &Table, path: &Path) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".aside-{}", std::process::id()));
    let aside = path.with_file_name(name);
    let write_aside = || -> io::Result<()> {
        let mut out = BufWriter::new(File::create(&aside)?);
        if is_gzip_name(path) {
            let mut encoder = BufWriter::new(GzEncoder::new(out, Compression::default()));
            write(table, &mut encoder)?;
            out = encoder.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        } else {
            write(table, &mut out)?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&aside, path)
    };
    write_aside().map_err(|error| {
        // What is left of the file is useless; that it may be absent is no second error.
        let _ = fs::remove_file(&aside);
        Error::io("write", path, error)
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
