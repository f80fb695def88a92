//! A trace on disk: `trace.json` (what it is, and where every document lies), `tokens.bin` (u32), `hidden.bin` (rows of
//! hidden states), all little-endian. The folder appears whole.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::config::StorageType;
use crate::error::{Error, Result, bail};
use crate::files::{self, StagedDir};

/// Version of the layout.
const SCHEMA: u32 = 1;

/// What a trace belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// [`crate::backbone::Backbone::hash`]
    pub backbone: String,
    /// [`crate::text::Tokenizer::hash`]
    pub tokenizer: String,
}

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
        self.len() == 0
    }
}

#[derive(Serialize, Deserialize)]
struct Index {
    schema_version: u32,
    identity: Identity,
    width: usize,
    dtype: StorageType,
    documents: Vec<TraceDocument>,
}

/// A trace, mapped into memory.
pub struct Trace {
    index: Index,
    tokens: Vec<u32>,
    hidden: Option<Mmap>,
}

impl Trace {
    /// Opens the trace in `folder`.
    ///
    /// # Errors
    /// A file missing or of the wrong size; another backbone or tokenizer than `expected`; a newer layout.
    pub fn open(folder: &Path, expected: &Identity) -> Result<Self> {
        let index: Index = files::read_json(&folder.join("trace.json"))?;
        if index.schema_version != SCHEMA {
            bail!(
                "{}: the trace has layout {}, this program reads {SCHEMA}. Make it again with `draftsmith trace`.",
                folder.display(),
                index.schema_version
            );
        }
        for (what, found, wanted) in [
            ("backbone", &index.identity.backbone, &expected.backbone),
            ("tokenizer", &index.identity.tokenizer, &expected.tokenizer),
        ] {
            if found != wanted {
                bail!(
                    "{}: this trace was made with another {what} (its hash begins {:.12}, the configured one's {:.12}). Make it again with `draftsmith trace`, or set backbone.path to the model that made it.",
                    folder.display(),
                    found,
                    wanted
                );
            }
        }
        let rows: usize = index.documents.iter().map(TraceDocument::len).sum();
        let tokens = map(&folder.join("tokens.bin"), rows * 4)?;
        let tokens =
            tokens.iter().flat_map(|t| t.chunks_exact(4)).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let tokens = tokens.collect();
        let hidden = map(&folder.join("hidden.bin"), rows * index.width * index.dtype.bytes())?;
        Ok(Self { index, tokens, hidden })
    }

    /// The documents in the corpus's order.
    pub fn documents(&self) -> &[TraceDocument] {
        &self.index.documents
    }

    /// d, the width of a hidden state.
    pub fn width(&self) -> usize {
        self.index.width
    }

    /// The type in which hidden states were stored.
    pub fn dtype(&self) -> StorageType {
        self.index.dtype
    }

    /// Prompt and continuation of a document.
    pub fn tokens(&self, document: &TraceDocument) -> &[u32] {
        &self.tokens[document.first..document.first + document.len()]
    }

    /// The continuation of a document: the backbone's own greedy text.
    pub fn continuation(&self, document: &TraceDocument) -> &[u32] {
        &self.tokens(document)[document.prompt..]
    }

    /// Appends the hidden state after token `row` of the document (from 0, the prompt included) to `out`.
    pub fn hidden_row(&self, document: &TraceDocument, row: usize, out: &mut Vec<f32>) {
        let Some(map) = &self.hidden else { return };
        let size = self.width() * self.index.dtype.bytes();
        let start = (document.first + row) * size;
        self.index.dtype.decode(&map[start..start + size], out);
    }

    /// The hidden states after tokens `rows` of the document, `[rows, d]`.
    pub fn hidden(&self, document: &TraceDocument, rows: Range<usize>) -> Vec<f32> {
        let mut out = Vec::with_capacity(rows.len() * self.width());
        rows.for_each(|row| self.hidden_row(document, row, &mut out));
        out
    }
}

/// A file of exactly `size` bytes; none for an empty one, which cannot be mapped.
fn map(path: &Path, size: usize) -> Result<Option<Mmap>> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let found = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    if found != size as u64 {
        bail!(
            "{}: {found} bytes, but trace.json asks for {size}. The trace is damaged; delete the folder {} and make it again with `draftsmith trace`.",
            path.display(),
            path.parent().unwrap_or(path).display()
        );
    }
    if size == 0 {
        return Ok(None);
    }
    // SAFETY: traces are written once, aside, and renamed; nobody changes them in place.
    unsafe { Mmap::map(&file) }.map(Some).map_err(|e| Error::io("map", path, e))
}

/// Writes a trace document by document.
pub(super) struct TraceWriter {
    staged: StagedDir,
    index: Index,
    tokens: BufWriter<File>,
    hidden: BufWriter<File>,
    rows: usize,
}

impl TraceWriter {
    pub(super) fn new(folder: &Path, identity: Identity, width: usize, dtype: StorageType) -> Result<Self> {
        let staged = StagedDir::new(folder)?;
        let create = |name: &str| -> Result<BufWriter<File>> {
            let path = staged.path().join(name);
            File::create(&path).map(BufWriter::new).map_err(|e| Error::io("write", &path, e))
        };
        let (tokens, hidden) = (create("tokens.bin")?, create("hidden.bin")?);
        let index = Index { schema_version: SCHEMA, identity, width, dtype, documents: Vec::new() };
        Ok(Self { staged, index, tokens, hidden, rows: 0 })
    }

    /// Adds a document: its tokens and `[tokens, d]` hidden states. `document.first` is set here.
    pub(super) fn add(&mut self, document: TraceDocument, tokens: &[u32], hidden: &[f32]) -> Result<()> {
        let dtype = self.index.dtype;
        if dtype == StorageType::Float16 && hidden.iter().any(|x| !f16::from_f32(*x).is_finite()) {
            bail!(
                "`{}`: a hidden state does not fit float16, whose largest number is 65,504. Set traces.dtype to \"bfloat16\" or \"float32\".",
                document.id
            );
        }
        let mut bytes = Vec::with_capacity(hidden.len() * dtype.bytes());
        dtype.encode(hidden, &mut bytes);
        let write = |tokens_file: &mut BufWriter<File>, hidden_file: &mut BufWriter<File>| -> std::io::Result<()> {
            tokens.iter().try_for_each(|t| tokens_file.write_all(&t.to_le_bytes()))?;
            hidden_file.write_all(&bytes)
        };
        write(&mut self.tokens, &mut self.hidden).map_err(|e| self.failed(e))?;
        self.index.documents.push(TraceDocument { first: self.rows, ..document });
        self.rows += tokens.len();
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("write a trace in", PathBuf::from(self.staged.path()), error)
    }

    pub(super) fn commit(mut self) -> Result<()> {
        let mut flush = || -> std::io::Result<()> {
            for file in [&mut self.tokens, &mut self.hidden] {
                file.flush()?;
                file.get_ref().sync_all()?;
            }
            Ok(())
        };
        flush().map_err(|e| self.failed(e))?;
        files::write_json(&self.staged.path().join("trace.json"), &self.index)?;
        self.staged.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(backbone: &str) -> Identity {
        Identity { backbone: backbone.into(), tokenizer: "t".into() }
    }

    fn write(folder: &Path, dtype: StorageType) {
        let mut writer = TraceWriter::new(folder, identity("b"), 2, dtype).unwrap();
        for (name, tokens) in [("x", vec![1u32, 2, 3]), ("y", vec![9, 8])] {
            let document = TraceDocument {
                id: name.into(),
                group: name.into(),
                first: 0,
                prompt: 1,
                continuation: tokens.len() - 1,
                limit: 5,
            };
            let hidden: Vec<f32> = tokens.iter().flat_map(|&t| [t as f32, 1.0 / 3.0]).collect();
            writer.add(document, &tokens, &hidden).unwrap();
        }
        writer.commit().unwrap();
    }

    #[test]
    fn what_was_written_is_read_in_every_type() {
        for dtype in [StorageType::Float32, StorageType::Float16, StorageType::Bfloat16] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("trace");
            write(&folder, dtype);
            let trace = Trace::open(&folder, &identity("b")).unwrap();
            let last = &trace.documents()[1];
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
        write(&folder, StorageType::Float32);
        let error = Trace::open(&folder, &identity("other")).err().unwrap().to_string();
        assert!(error.contains("another backbone"), "{error}");
        std::fs::write(folder.join("hidden.bin"), [0; 7]).unwrap();
        let error = Trace::open(&folder, &identity("b")).err().unwrap().to_string();
        assert!(error.contains("damaged"), "{error}");
    }
}
