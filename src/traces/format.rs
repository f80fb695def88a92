//! A trace's tokens on disk: `trace.json` (what it is, and where every document lies) and `tokens.bin` (u32, little-endian).
//! The folder appears whole; what is computed from the tokens lies in folders of its own.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::TraceText;
use super::column::Column;
use super::likely::{Likely, LikelyTokens};
use super::recomputed::Recomputed;
use super::states::States;
use crate::backbone::{Backbone, BackboneIdentity, Feature};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::storage_type::StorageType;

#[cfg(target_endian = "big")]
compile_error!("traces are mapped as they lie on the disk, little-endian");

/// Version of the layout.
const SCHEMA: u32 = 1;

/// One traced document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceDocument {
    /// The corpus's name for it.
    pub id: String,
    /// What splits and the bootstrap keep together.
    pub group: String,
    /// Where its tokens, and its rows of every column, begin.
    pub first: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the continuation, a final end-of-text included.
    pub continuation: usize,
    /// The most tokens the continuation could have had: `max_new`, or the room in the context.
    pub limit: usize,
}

impl TraceDocument {
    /// Prompt and continuation.
    pub fn len(&self) -> usize {
        self.prompt + self.continuation
    }

    /// Never: a prompt has at least one token.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// What a trace is, its documents apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    schema_version: u32,
    identity: BackboneIdentity,
    /// What follows the prompts.
    text: TraceText,
}

/// `trace.json` as it is written. It is read in parts, as serde would hold a second copy of what is beside a flattened one.
#[derive(Serialize)]
struct Index {
    #[serde(flatten)]
    header: Header,
    /// BLAKE3 of `tokens.bin`, which columns name.
    tokens_hash: String,
    /// In the corpus's order, which need not be that of the files.
    documents: Vec<TraceDocument>,
}

#[derive(Deserialize)]
struct Documents {
    tokens_hash: String,
    documents: Vec<TraceDocument>,
}

pub(super) const TOKENS: &str = "tokens.bin";

impl Header {
    pub fn new(identity: BackboneIdentity, text: TraceText) -> Self {
        Self { schema_version: SCHEMA, identity, text }
    }

    /// Writes `trace.json` beside the finished `tokens.bin`.
    pub fn write(&self, folder: &Path, documents: Vec<TraceDocument>) -> Result<()> {
        let tokens_hash = files::hash_file(&folder.join(TOKENS))?;
        files::write_json(&folder.join("trace.json"), &Index { header: self.clone(), tokens_hash, documents })
    }
}

/// A trace, mapped into memory, with the columns that it was given.
pub struct Trace {
    header: Header,
    tokens_hash: String,
    documents: Vec<TraceDocument>,
    tokens: Option<Mmap>,
    pub(super) states: States,
    likely: Option<LikelyTokens>,
}

impl Trace {
    /// Opens the trace in `folder`, without columns: [`Trace::with_column`] or [`Trace::recomputing`] gives it states.
    ///
    /// # Errors
    /// A file missing or of the wrong size; another backbone or tokenizer than `expected`; a newer layout.
    pub fn open(folder: &Path, expected: &BackboneIdentity) -> Result<Self> {
        let trace = Self::open_any(folder)?;
        let found = &trace.header.identity;
        trace.require(folder, "tokenizer", &found.tokenizer, &expected.tokenizer)?;
        trace.require(folder, "backbone", &found.backbone, &expected.backbone)?;
        Ok(trace)
    }

    /// Opens the trace in `folder`, whatever backbone made it with the tokenizer of this hash: for its tokens.
    pub fn open_tokens(folder: &Path, tokenizer: &str) -> Result<Self> {
        let trace = Self::open_any(folder)?;
        trace.require(folder, "tokenizer", &trace.header.identity.tokenizer, tokenizer)?;
        Ok(trace)
    }

    fn require(&self, folder: &Path, what: &str, found: &str, wanted: &str) -> Result<()> {
        if found != wanted {
            bail!(
                "{}: this trace was made with another {what} (its hash begins {found:.12}, the given one's {wanted:.12}). Make it again with `draftsmith trace`, or name the model that made it.",
                folder.display()
            );
        }
        Ok(())
    }

    fn open_any(folder: &Path) -> Result<Self> {
        let path = folder.join("trace.json");
        let header: Header = files::read_json(&path)?;
        if header.schema_version != SCHEMA {
            bail!(
                "{}: the trace has layout {}, this program reads {SCHEMA}. Make it again with `draftsmith trace`.",
                folder.display(),
                header.schema_version
            );
        }
        let Documents { tokens_hash, documents } = files::read_json(&path)?;
        let Some(rows) = rows(&documents) else {
            return Err(damaged(folder, "trace.json: a document lies outside of the files"));
        };
        let tokens = map(folder, TOKENS, rows.saturating_mul(4))?;
        Ok(Self { header, tokens_hash, documents, tokens, states: States::Columns(Vec::new()), likely: None })
    }

    /// Opens the column in `folder` as well.
    ///
    /// # Errors
    /// A file missing or of the wrong size; a column of other tokens; a newer layout.
    pub fn with_column(mut self, folder: &Path) -> Result<Self> {
        let column = Column::open(folder, self.rows(), &self.tokens_hash)?;
        match &mut self.states {
            States::Columns(columns) => columns.push(column),
            recomputed => *recomputed = States::Columns(vec![column]),
        }
        Ok(self)
    }

    /// Has the backbone compute the states called `features` whenever they are read, rounded to `dtype` as a column stores
    /// them. On the CPU they are the same bits. The documents read last are kept, up to 256 MB; else every reading costs a
    /// forward over its documents.
    pub fn recomputing(self, backbone: Arc<Backbone>, features: &[Feature], dtype: StorageType) -> Self {
        Self { states: States::Recomputed(Recomputed::new(backbone, features, dtype)), ..self }
    }

    /// BLAKE3 of the tokens.
    pub(super) fn tokens_hash(&self) -> &str {
        &self.tokens_hash
    }

    /// The documents in the corpus's order.
    pub fn documents(&self) -> &[TraceDocument] {
        &self.documents
    }

    /// What follows the prompts.
    pub fn text(&self) -> TraceText {
        self.header.text
    }

    /// Prompt and continuation of a document.
    pub fn tokens(&self, document: &TraceDocument) -> &[u32] {
        // A map begins at a page, and its size was checked: it is a slice of whole tokens.
        let tokens: &[u32] = self.tokens.as_ref().map_or(&[], |map| bytemuck::cast_slice(map));
        &tokens[document.first..document.first + document.len()]
    }

    /// What follows the prompt of a document.
    pub fn continuation(&self, document: &TraceDocument) -> &[u32] {
        &self.tokens(document)[document.prompt..]
    }

    /// Tokens of all documents.
    pub(super) fn rows(&self) -> usize {
        self.documents.iter().map(TraceDocument::len).sum()
    }

    /// The numbers of the documents, in the order of the files.
    pub(super) fn in_file_order(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.documents.len()).collect();
        numbers.sort_by_key(|&number| self.documents[number].first);
        numbers
    }

    /// Opens the `count` likeliest tokens in `folder` as well, which [`make_likely`](super::make_likely) computed.
    ///
    /// # Errors
    /// A file missing or of the wrong size.
    pub fn with_likely(self, folder: &Path, count: usize) -> Result<Self> {
        let likely = LikelyTokens::open(folder, self.rows(), count)?;
        Ok(Self { likely: Some(likely), ..self })
    }

    /// The backbone's likeliest tokens after token `row` of the document.
    ///
    /// # Panics
    /// On a trace without them.
    pub fn likely(&self, document: &TraceDocument, row: usize) -> &[Likely] {
        self.likely
            .as_ref()
            .expect("whoever needs probabilities opens the trace with them")
            .of_row(document.first + row)
    }
}

/// Rows that documents take; none when they overlap, leave a gap, or are beyond all numbers.
fn rows(documents: &[TraceDocument]) -> Option<u64> {
    let size =
        |document: &TraceDocument| document.prompt.checked_add(document.continuation).filter(|_| document.prompt > 0);
    let mut places: Vec<_> = documents.iter().map(|document| (document.first, size(document))).collect();
    places.sort_unstable();
    let rows = places.iter().try_fold(0usize, |end, &(first, size)| end.checked_add(size?).filter(|_| first == end));
    rows.map(|rows| rows as u64)
}

fn damaged(folder: &Path, what: &str) -> Error {
    Error::new(format!(
        "{}/{what}. The trace is damaged; delete the folder {0} and make it again with `draftsmith trace`.",
        folder.display()
    ))
}

/// A file of exactly `size` bytes; none for an empty one, which cannot be mapped.
pub(super) fn map(folder: &Path, name: &str, size: u64) -> Result<Option<Mmap>> {
    let path = folder.join(name);
    let file = File::open(&path).map_err(|e| Error::io("read", &path, e))?;
    let found = file.metadata().map_err(|e| Error::io("read", &path, e))?.len();
    if found != size {
        return Err(damaged(folder, &format!("{name}: {found} bytes, but trace.json asks for {size}")));
    }
    if size == 0 {
        return Ok(None);
    }
    // SAFETY: traces are written once, aside, and renamed; nobody changes them in place.
    unsafe { Mmap::map(&file) }.map(Some).map_err(|e| Error::io("map", &path, e))
}

#[cfg(test)]
mod tests {
    use super::super::column::{ColumnHeader, ROWS};
    use super::super::{Place, states_at};
    use super::*;

    fn identity(backbone: &str) -> BackboneIdentity {
        BackboneIdentity { backbone: backbone.into(), tokenizer: "t".into() }
    }

    /// Two documents, the second one first in the files, and a column.
    fn write(folder: &Path, dtype: StorageType) {
        let entry = |name: &str, first, continuation| TraceDocument {
            id: name.into(),
            group: name.into(),
            first,
            prompt: 1,
            continuation,
            limit: 5,
        };
        let tokens = [9u32, 8, 1, 2, 3];
        std::fs::create_dir_all(folder.join("last")).unwrap();
        std::fs::write(folder.join(TOKENS), tokens.map(u32::to_le_bytes).concat()).unwrap();
        let (states, mut bytes) = (tokens.map(|t| [t as f32, 1.0 / 3.0]).concat(), Vec::new());
        dtype.encode(&states, &mut bytes);
        std::fs::write(folder.join("last").join(ROWS), bytes).unwrap();
        Header::new(identity("b"), TraceText::Greedy).write(folder, vec![entry("x", 2, 2), entry("y", 0, 1)]).unwrap();
        let trace = Trace::open(folder, &identity("b")).unwrap();
        ColumnHeader::new(Feature::Last, dtype, 2, trace.tokens_hash()).write(&folder.join("last")).unwrap();
    }

    fn open(folder: &Path) -> Result<Trace> {
        Trace::open(folder, &identity("b"))?.with_column(&folder.join("last"))
    }

    #[test]
    fn what_was_written_is_read_in_every_type() {
        for dtype in [StorageType::Float32, StorageType::Float16, StorageType::Bfloat16] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("trace");
            write(&folder, dtype);
            let trace = open(&folder).unwrap();
            let last = &trace.documents()[1];
            assert_eq!(trace.tokens(&trace.documents()[0]), [1, 2, 3]);
            assert_eq!((trace.tokens(last), trace.continuation(last)), (&[9, 8][..], &[8][..]));
            let mut third = [1.0 / 3.0];
            dtype.round(&mut third);
            assert_eq!(trace.states(1, 1..2, &[Feature::Last]).unwrap().get(Feature::Last), [8.0, third[0]]);
            // Of two traces, in the order of the places.
            let place = |trace, document, row| Place { trace, document, row };
            let places = [place(1, 0, 2), place(0, 1, 0), place(1, 0, 0)];
            let found = states_at(&[&trace, &trace], &places, &[Feature::Last]).unwrap();
            assert_eq!(found.get(Feature::Last), [3.0, third[0], 9.0, third[0], 1.0, third[0]]);
            assert_eq!(found.row(1).get(Feature::Last), [9.0, third[0]]);
        }
    }

    #[test]
    fn another_backbone_and_a_damaged_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trace");
        write(&folder, StorageType::Float32);
        let error = Trace::open(&folder, &identity("other")).err().unwrap().to_string();
        assert!(error.contains("another backbone"), "{error}");
        let index = std::fs::read_to_string(folder.join("trace.json")).unwrap();
        for (from, to) in [("\"first\": 2", "\"first\": 3"), ("\"prompt\": 1", "\"prompt\": 18446744073709551615")] {
            std::fs::write(folder.join("trace.json"), index.replacen(from, to, 1)).unwrap();
            let error = open(&folder).err().unwrap().to_string();
            assert!(error.contains("trace.json: a document lies outside"), "{error}");
        }
        std::fs::write(folder.join("trace.json"), index).unwrap();
        std::fs::write(folder.join("last").join(ROWS), [0; 7]).unwrap();
        let error = open(&folder).err().unwrap().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn a_column_belongs_to_its_tokens() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), StorageType::Float16);
        let trace = Trace::open(dir.path(), &identity("b")).unwrap();
        let error = trace.states(0, 0..1, &[Feature::Layer(3)]).unwrap_err().to_string();
        assert!(error.contains("no column `layer-3`; it has none"), "{error}");
        ColumnHeader::new(Feature::Last, StorageType::Float16, 2, "0123").write(&dir.path().join("last")).unwrap();
        let error = trace.with_column(&dir.path().join("last")).err().unwrap().to_string();
        assert!(error.contains("other tokens than the trace's"), "{error}");
    }
}
