//! A column of a trace, which holds one feature, a state of the backbone, at every token.
//!
//! A column is a folder of its own. `column.json` describes it and names the tokens that it belongs to. `rows.bin` has
//! a row for every token of `tokens.bin`, little-endian. The folder gets its name only when it is complete.

use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::format::map;
use crate::backbone::Feature;
use crate::error::{Result, bail};
use crate::files;
use crate::storage_type::StorageType;

/// The version of the layout.
const SCHEMA: u32 = 1;

pub(super) const ROWS: &str = "rows.bin";

/// The contents of `column.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ColumnHeader {
    schema_version: u32,
    pub feature: Feature,
    dtype: StorageType,
    /// The width d of a state.
    pub width: usize,
    /// The BLAKE3 hash of the trace's `tokens.bin`.
    tokens_hash: String,
}

impl ColumnHeader {
    pub fn new(feature: Feature, dtype: StorageType, width: usize, tokens_hash: &str) -> Self {
        Self { schema_version: SCHEMA, feature, dtype, width, tokens_hash: tokens_hash.to_owned() }
    }

    /// Returns the number of bytes of a row.
    pub fn row_bytes(&self) -> usize {
        // A damaged width then asks for more than any file has.
        self.width.saturating_mul(self.dtype.bytes())
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_json(&folder.join("column.json"), self)
    }
}

/// A column that is mapped into memory.
pub(super) struct Column {
    pub header: ColumnHeader,
    rows: Option<Mmap>,
}

impl Column {
    /// Opens the column in `folder`, which must have `rows` rows and belong to the tokens with the hash `tokens_hash`.
    ///
    /// # Errors
    /// Returns an error if a file is missing or has the wrong size, or if the column has another layout or belongs to
    /// other tokens.
    pub fn open(folder: &Path, rows: usize, tokens_hash: &str) -> Result<Self> {
        let header: ColumnHeader = files::read_json(&folder.join("column.json"))?;
        if header.schema_version != SCHEMA {
            bail!(
                "{}: the column has layout {}, this program reads {SCHEMA}. Make it again with `draftsmith trace`.",
                folder.display(),
                header.schema_version
            );
        }
        if header.tokens_hash != tokens_hash {
            bail!(
                "{}: this column was computed from other tokens than the trace's (their hash begins {:.12}, the trace's {tokens_hash:.12}). Make it again with `draftsmith trace`.",
                folder.display(),
                header.tokens_hash
            );
        }
        let rows = map(folder, ROWS, (rows as u64).saturating_mul(header.row_bytes() as u64))?;
        Ok(Self { header, rows })
    }

    /// Appends the given rows to `out`, `[rows, d]`.
    pub fn decode(&self, rows: Range<usize>, out: &mut Vec<f32>) {
        self.header.dtype.decode(self.encoded(rows), out);
    }

    /// Returns the given rows as they lie in the file.
    pub fn encoded(&self, rows: Range<usize>) -> &[u8] {
        let (size, map) = (self.header.row_bytes(), self.rows.as_ref().map_or(&[][..], |map| map));
        &map[rows.start * size..rows.end * size]
    }
}
