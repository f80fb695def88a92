//! A column of a trace: one state of the backbone at every token. A folder of its own with `column.json` (what it is, and of
//! which tokens) and `rows.bin` (a row for every token of `tokens.bin`, little-endian). The folder appears whole.

use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::format::map;
use crate::backbone::Feature;
use crate::error::{Result, bail};
use crate::files;
use crate::storage_type::StorageType;

/// Version of the layout.
const SCHEMA: u32 = 1;

pub(super) const ROWS: &str = "rows.bin";

/// `column.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ColumnHeader {
    schema_version: u32,
    pub feature: Feature,
    dtype: StorageType,
    /// d
    pub width: usize,
    /// BLAKE3 of the trace's `tokens.bin`.
    tokens_hash: String,
}

impl ColumnHeader {
    pub fn new(feature: Feature, dtype: StorageType, width: usize, tokens_hash: &str) -> Self {
        Self { schema_version: SCHEMA, feature, dtype, width, tokens_hash: tokens_hash.to_owned() }
    }

    /// Bytes of the state of one token.
    pub fn row_bytes(&self) -> usize {
        self.width * self.dtype.bytes()
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_json(&folder.join("column.json"), self)
    }
}

/// A column, mapped into memory.
pub(super) struct Column {
    pub header: ColumnHeader,
    rows: Option<Mmap>,
}

impl Column {
    /// Opens the column in `folder` of the `rows` tokens whose file has the hash `tokens_hash`.
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

    /// Appends rows of the file to `out`, `[rows, d]`.
    pub fn decode(&self, rows: Range<usize>, out: &mut Vec<f32>) {
        let (size, map) = (self.header.row_bytes(), self.rows.as_ref().map_or(&[][..], |map| map));
        self.header.dtype.decode(&map[rows.start * size..rows.end * size], out);
    }
}
