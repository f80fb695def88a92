//! A trace on disk: `trace.json` (what it is, and where every document lies), `tokens.bin` (u32) and, unless it is tokens
//! only, `hidden.bin` (rows of hidden states), all little-endian. The folder appears whole.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::likely::{Likely, LikelyTokens};
use crate::backbone::BackboneIdentity;
use crate::config::{StorageType, TraceText};
use crate::error::{Error, Result, bail};
use crate::files;

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
    /// Where its tokens, and its rows of hidden states, begin.
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
    width: usize,
    /// None for tokens only.
    pub dtype: Option<StorageType>,
}

/// `trace.json` as it is written. It is read in parts, as serde would hold a second copy of what is beside a flattened one.
#[derive(Serialize)]
struct Index {
    #[serde(flatten)]
    header: Header,
    /// In the corpus's order, which need not be that of the files.
    documents: Vec<TraceDocument>,
}

#[derive(Deserialize)]
struct Documents {
    documents: Vec<TraceDocument>,
}

impl Header {
    pub fn new(identity: BackboneIdentity, text: TraceText, width: usize, dtype: Option<StorageType>) -> Self {
        Self { schema_version: SCHEMA, identity, text, width, dtype }
    }

    /// Bytes of the hidden state of a token.
    pub fn row_bytes(&self) -> usize {
        self.dtype.map_or(0, |dtype| self.width * dtype.bytes())
    }

    /// Writes `trace.json`.
    pub fn write(&self, folder: &Path, documents: Vec<TraceDocument>) -> Result<()> {
        files::write_json(&folder.join("trace.json"), &Index { header: self.clone(), documents })
    }
}

/// A trace, mapped into memory.
pub struct Trace {
    header: Header,
    documents: Vec<TraceDocument>,
    tokens: Option<Mmap>,
    hidden: Option<Mmap>,
    likely: Option<LikelyTokens>,
}

impl Trace {
    /// Opens the trace in `folder`.
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
        let Documents { documents } = files::read_json(&path)?;
        let Some(rows) = rows(&documents) else {
            return Err(damaged(folder, "trace.json: a document lies outside of the files"));
        };
        let tokens = map(folder, "tokens.bin", rows.saturating_mul(4))?;
        let hidden = match header.dtype {
            Some(_) => map(folder, "hidden.bin", rows.saturating_mul(header.row_bytes() as u64))?,
            None => None,
        };
        Ok(Self { header, documents, tokens, hidden, likely: None })
    }

    /// The documents in the corpus's order.
    pub fn documents(&self) -> &[TraceDocument] {
        &self.documents
    }

    /// d, the width of a hidden state.
    pub fn width(&self) -> usize {
        self.header.width
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

    /// Appends the hidden state after token `row` of the document (from 0, the prompt included) to `out`.
    pub fn hidden_row(&self, document: &TraceDocument, row: usize, out: &mut Vec<f32>) {
        let row = document.first + row;
        self.decode(row..row + 1, out);
    }

    /// Tokens of all documents.
    pub(super) fn rows(&self) -> usize {
        self.documents.iter().map(TraceDocument::len).sum()
    }

    /// The hidden states of rows of the file, `[rows, d]`.
    pub(super) fn hidden_rows(&self, rows: Range<usize>) -> Vec<f32> {
        let mut out = Vec::with_capacity(rows.len() * self.width());
        self.decode(rows, &mut out);
        out
    }

    fn decode(&self, rows: Range<usize>, out: &mut Vec<f32>) {
        let (Some(map), Some(dtype)) = (&self.hidden, self.header.dtype) else {
            panic!("whoever needs hidden states refuses a trace of tokens only")
        };
        let size = self.header.row_bytes();
        dtype.decode(&map[rows.start * size..rows.end * size], out);
    }

    /// The same trace with what `with_likely` mapped.
    pub(super) fn and_likely(self, likely: LikelyTokens) -> Self {
        Self { likely: Some(likely), ..self }
    }

    /// The backbone's likeliest tokens after token `row` of the document, as [`with_likely`](super::with_likely) computed
    /// them.
    ///
    /// # Panics
    /// On a trace without them.
    pub fn likely(&self, document: &TraceDocument, row: usize) -> &[Likely] {
        self.likely
            .as_ref()
            .expect("whoever needs probabilities opens the trace with them")
            .of_row(document.first + row)
    }

    /// The hidden states after tokens `rows` of the document, `[rows, d]`.
    pub fn hidden(&self, document: &TraceDocument, rows: Range<usize>) -> Vec<f32> {
        self.hidden_rows(document.first + rows.start..document.first + rows.end)
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
    use super::*;

    fn identity(backbone: &str) -> BackboneIdentity {
        BackboneIdentity { backbone: backbone.into(), tokenizer: "t".into() }
    }

    /// Two documents, the second one first in the files.
    fn write(folder: &Path, dtype: Option<StorageType>) {
        let entry = |name: &str, first, continuation| TraceDocument {
            id: name.into(),
            group: name.into(),
            first,
            prompt: 1,
            continuation,
            limit: 5,
        };
        let tokens = [9u32, 8, 1, 2, 3];
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("tokens.bin"), tokens.map(u32::to_le_bytes).concat()).unwrap();
        if let Some(dtype) = dtype {
            let (hidden, mut bytes) = (tokens.map(|t| [t as f32, 1.0 / 3.0]).concat(), Vec::new());
            dtype.encode(&hidden, &mut bytes);
            std::fs::write(folder.join("hidden.bin"), bytes).unwrap();
        }
        Header::new(identity("b"), TraceText::Greedy, 2, dtype)
            .write(folder, vec![entry("x", 2, 2), entry("y", 0, 1)])
            .unwrap();
    }

    #[test]
    fn what_was_written_is_read_in_every_type() {
        for dtype in [StorageType::Float32, StorageType::Float16, StorageType::Bfloat16] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("trace");
            write(&folder, Some(dtype));
            let trace = Trace::open(&folder, &identity("b")).unwrap();
            let last = &trace.documents()[1];
            assert_eq!(trace.tokens(&trace.documents()[0]), [1, 2, 3]);
            assert_eq!((trace.tokens(last), trace.continuation(last)), (&[9, 8][..], &[8][..]));
            let mut third = [1.0 / 3.0];
            dtype.round(&mut third);
            assert_eq!(trace.hidden(last, 1..2), [8.0, third[0]]);
        }
    }

    #[test]
    fn another_backbone_and_a_damaged_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trace");
        write(&folder, Some(StorageType::Float32));
        let error = Trace::open(&folder, &identity("other")).err().unwrap().to_string();
        assert!(error.contains("another backbone"), "{error}");
        let index = std::fs::read_to_string(folder.join("trace.json")).unwrap();
        for (from, to) in [("\"first\": 2", "\"first\": 3"), ("\"prompt\": 1", "\"prompt\": 18446744073709551615")] {
            std::fs::write(folder.join("trace.json"), index.replacen(from, to, 1)).unwrap();
            let error = Trace::open(&folder, &identity("b")).err().unwrap().to_string();
            assert!(error.contains("trace.json: a document lies outside"), "{error}");
        }
        std::fs::write(folder.join("trace.json"), index).unwrap();
        std::fs::write(folder.join("hidden.bin"), [0; 7]).unwrap();
        let error = Trace::open(&folder, &identity("b")).err().unwrap().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn tokens_only_have_no_hidden_states() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), None);
        let trace = Trace::open(dir.path(), &identity("b")).unwrap();
        assert_eq!(trace.continuation(&trace.documents()[0]), [2, 3]);
    }
}
