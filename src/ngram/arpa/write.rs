//! Writes a listing as ARPA text, sorted by words, so that the same n-grams give the same bytes.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use flate2::{Compression, write::GzEncoder};

use super::super::listing::Listing;
use super::super::words::spell;
use super::LOG_ZERO;
use crate::error::Result;
use crate::files;

/// Writes `listing` to `path`, whole or not at all; with gzip if the name ends in `.gz`.
pub fn save(listing: &Listing, path: &Path) -> Result<()> {
    files::write_with(path, |out| {
        if !files::is_gzip_name(path) {
            return write(listing, out);
        }
        let mut encoder = BufWriter::new(GzEncoder::new(out, Compression::default()));
        write(listing, &mut encoder)?;
        encoder.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        Ok(())
    })
}

/// Writes `listing` as ARPA text. `out` should be buffered.
pub fn write(listing: &Listing, mut out: impl Write) -> io::Result<()> {
    writeln!(out, "\\data\\")?;
    let order = listing.order();
    for (n, size) in (1..).zip(listing.sizes()) {
        writeln!(out, "ngram {n}={size}")?;
    }
    for n in 1..=order {
        writeln!(out, "\n\\{n}-grams:")?;
        let mut entries = listing.read(n)?;
        while let Some(entry) = entries.next()? {
            number(&mut out, entry.log10_prob)?;
            for (i, word) in listing.packing.words(entry.key, n).enumerate() {
                out.write_all(if i == 0 { b"\t" } else { b" " })?;
                out.write_all(spell(word).as_bytes())?;
            }
            if n < order {
                out.write_all(b"\t")?;
                number(&mut out, entry.log10_backoff)?;
            }
            out.write_all(b"\n")?;
        }
    }
    out.write_all(b"\n\\end\\\n")?;
    out.flush()
}

fn number(out: &mut impl Write, log10: f32) -> io::Result<()> {
    // Adding 0 takes the sign off a negative zero.
    write!(out, "{}", if log10 == f32::NEG_INFINITY { LOG_ZERO } else { log10 + 0.0 })
}
