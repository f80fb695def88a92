//! The tokens of a trace on disk. `trace.json` describes the trace and tells where each document lies, and `tokens.bin`
//! has the tokens as u32, little-endian.
//!
//! The folder gets its name only when it is complete. What is computed from the tokens lies in folders of its own.

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

/// The version of the layout.
const SCHEMA: u32 = 1;

/// A traced document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceDocument {
    /// The name that the corpus gives the document.
    pub id: String,
    /// The group of the document. Splits and the bootstrap keep the documents of a group together.
    pub group: String,
    /// The index of its first token in `tokens.bin`, and of its first row in every column.
    pub first: usize,
    /// The number of tokens of the prompt.
    pub prompt: usize,
    /// The number of tokens of the continuation, including a final end-of-text token.
    pub continuation: usize,
    /// The largest number of tokens that the continuation could have had: `max_new`, or the room in the context if that
    /// is less.
    pub limit: usize,
}

impl TraceDocument {
    /// Returns the number of tokens, the prompt and the continuation taken together.
    pub fn len(&self) -> usize {
        self.prompt + self.continuation
    }

    /// Returns false, because a prompt has at least one token.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// The description of a trace, without its documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    schema_version: u32,
    identity: BackboneIdentity,
    /// The kind of text that follows the prompts.
    text: TraceText,
}

/// The contents of `trace.json`, for writing. The file is read in two parts, because serde would hold a second copy of
/// the fields next to a flattened one.
#[derive(Serialize)]
struct Index {
    #[serde(flatten)]
    header: Header,
    /// The BLAKE3 hash of `tokens.bin`, by which columns name the tokens that they belong to.
    tokens_hash: String,
    /// The documents in the order of the corpus, which may differ from their order in the files.
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

    /// Writes `trace.json` into `folder`, where `tokens.bin` is finished.
    pub fn write(&self, folder: &Path, documents: Vec<TraceDocument>) -> Result<()> {
        let tokens_hash = files::hash_file(&folder.join(TOKENS))?;
        files::write_json(&folder.join("trace.json"), &Index { header: self.clone(), tokens_hash, documents })
    }
}

/// A trace that is mapped into memory, with the columns that were opened.
pub struct Trace {
    header: Header,
    tokens_hash: String,
    documents: Vec<TraceDocument>,
    tokens: Option<Mmap>,
    pub(super) states: States,
    likely: Option<LikelyTokens>,
}

impl Trace {
    /// Opens the trace in `folder` without columns. To read states, call [`Trace::with_column`] or
    /// [`Trace::recomputing`].
    ///
    /// # Errors
    /// Returns an error if a file is missing or has the wrong size, if the trace was made with another backbone or
    /// tokenizer than `expected`, or if it has another layout.
    pub fn open(folder: &Path, expected: &BackboneIdentity) -> Result<Self> {
        let trace = Self::open_any(folder)?;
        let found = &trace.header.identity;
        trace.require(folder, "tokenizer", &found.tokenizer, &expected.tokenizer)?;
        trace.require(folder, "backbone", &found.backbone, &expected.backbone)?;
        Ok(trace)
    }

    /// Opens the trace in `folder` for its tokens. Any backbone may have made it, as long as its tokenizer has the
    /// given hash.
    ///
    /// # Errors
    /// Returns an error if a file is missing or has the wrong size, if the trace was made with another tokenizer, or if
    /// it has another layout.
    pub fn open_tokens(folder: &Path, tokenizer: &str) -> Result<Self> {
        let trace = Self::open_any(folder)?;
        trace.require(folder, "tokenizer", &trace.header.identity.tokenizer, tokenizer)?;
        Ok(trace)
    }

    /// Checks that every token is below the number of a model's tokens. `folder` is that of the trace, for messages.
    ///
    /// # Errors
    /// Returns an error if a token is not.
    pub fn require_vocabulary(self, folder: &Path, tokens: usize) -> Result<Self> {
        let beyond = |document: &&TraceDocument| self.tokens(document).iter().any(|&token| token as usize >= tokens);
        match self.documents.iter().find(beyond) {
            None => Ok(self),
            Some(document) => Err(damaged(
                folder,
                &format!("{TOKENS}: a token of the document `{}` is not among the model's {tokens}", document.id),
            )),
        }
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
    /// Returns an error if a file is missing or has the wrong size, or if the column belongs to other tokens or has
    /// another layout.
    pub fn with_column(mut self, folder: &Path) -> Result<Self> {
        let column = Column::open(folder, self.rows(), &self.tokens_hash)?;
        match &mut self.states {
            States::Columns(columns) => columns.push(column),
            recomputed => *recomputed = States::Columns(vec![column]),
        }
        Ok(self)
    }

    /// Lets the backbone compute the states of the given features whenever they are read. They are rounded to `dtype`,
    /// as a column stores them, and on the CPU they equal those of a column to the bit.
    ///
    /// Up to 256 MiB of states are kept, those of the documents that were read last. Otherwise each reading takes a
    /// forward pass over its documents.
    pub fn recomputing(self, backbone: Arc<Backbone>, features: &[Feature], dtype: StorageType) -> Self {
        Self { states: States::Recomputed(Recomputed::new(backbone, features, dtype)), ..self }
    }

    /// Returns the BLAKE3 hash of the tokens.
    pub(super) fn tokens_hash(&self) -> &str {
        &self.tokens_hash
    }

    /// Returns the documents in the order of the corpus.
    pub fn documents(&self) -> &[TraceDocument] {
        &self.documents
    }

    /// Returns the kind of text that follows the prompts.
    pub fn text(&self) -> TraceText {
        self.header.text
    }

    /// Returns the tokens of a document, its prompt and its continuation.
    pub fn tokens(&self, document: &TraceDocument) -> &[u32] {
        // A map begins at the start of a page, and its size was checked, so the cast to a slice of tokens cannot fail.
        let tokens: &[u32] = self.tokens.as_ref().map_or(&[], |map| bytemuck::cast_slice(map));
        &tokens[document.first..document.first + document.len()]
    }

    /// Returns the rows of a document in the column of a feature, as they lie in the file, or none if that is not open.
    pub(super) fn encoded_rows(&self, feature: Feature, document: &TraceDocument) -> Option<&[u8]> {
        let States::Columns(columns) = &self.states else { return None };
        let column = columns.iter().find(|column| column.header.feature == feature)?;
        Some(column.encoded(document.first..document.first + document.len()))
    }

    /// Returns the tokens that follow the prompt of a document.
    pub fn continuation(&self, document: &TraceDocument) -> &[u32] {
        &self.tokens(document)[document.prompt..]
    }

    /// Returns the number of tokens of all documents.
    pub(super) fn rows(&self) -> usize {
        self.documents.iter().map(TraceDocument::len).sum()
    }

    /// Returns the numbers of the documents, in the order of the files.
    pub(super) fn in_file_order(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.documents.len()).collect();
        numbers.sort_by_key(|&number| self.documents[number].first);
        numbers
    }

    /// Opens the `count` likeliest tokens in `folder` as well, which [`make_likely`](super::make_likely) computed.
    ///
    /// # Errors
    /// Returns an error if a file is missing or has the wrong size.
    pub fn with_likely(self, folder: &Path, count: usize) -> Result<Self> {
        let likely = LikelyTokens::open(folder, self.rows(), count)?;
        Ok(Self { likely: Some(likely), ..self })
    }

    /// Returns the backbone's likeliest tokens at every row of the document, or none if the trace was opened without them.
    pub(super) fn likely_of(&self, document: &TraceDocument) -> Option<&[Likely]> {
        self.likely.as_ref().map(|likely| likely.of_rows(document.first..document.first + document.len()))
    }

    /// Returns the backbone's likeliest tokens after token `row` of the document, or none if the trace was opened without
    /// them.
    pub fn likely(&self, document: &TraceDocument, row: usize) -> Option<&[Likely]> {
        self.likely.as_ref().map(|likely| likely.of_rows(document.first + row..document.first + row + 1))
    }
}

/// Returns the number of rows of the documents. Returns none if they overlap or leave a gap, if a prompt is empty, or
/// if the number is too large to represent.
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

/// Maps the file `name` in `folder`, which must have exactly `size` bytes. Returns none if that is 0, because an empty
/// file cannot be mapped.
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
    // SAFETY: a trace is written under a temporary name and then renamed. After that, nothing changes it in place.
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

    /// Writes two documents, of which the second one comes first in the files, and a column.
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
            // Places in two traces are read in the order in which they are given.
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
        // Two bytes for each of 2^63 numbers would be none.
        let trace = Trace::open(dir.path(), &identity("b")).unwrap();
        let wide = ColumnHeader::new(Feature::Last, StorageType::Float16, 1 << 63, trace.tokens_hash());
        wide.write(&dir.path().join("last")).unwrap();
        std::fs::write(dir.path().join("last").join(ROWS), "").unwrap();
        let error = trace.with_column(&dir.path().join("last")).err().unwrap().to_string();
        assert!(error.contains("0 bytes, but"), "{error}");
    }
}
