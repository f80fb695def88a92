//! A trace in the making: a folder beside the final one that outlives the process, `NAME.partial`.
//!
//! `plan.json` says of what; `data/` is to become the trace; `batches.jsonl` has a line for each finished batch: the
//! entries of its documents. A batch's line is written once its data are on the disk, so the lines say what there is, and
//! whatever lies beyond them is dropped. Whoever comes back finds nothing, or some batches whole.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use serde::{Deserialize, Serialize};

use super::TraceDocument;
use super::estimate::{FreeSpace, RESERVE, index_bytes, words};
use super::format::Header;
use crate::config::StorageType;
use crate::error::{Error, Result, bail};
use crate::files;

/// A document, computed.
pub(super) struct Traced {
    /// Its number in the plan.
    pub index: usize,
    /// Its place in the file is given when it is added.
    pub entry: TraceDocument,
    pub tokens: Vec<u32>,
    /// `[tokens, d]`, or nothing.
    pub hidden: Vec<f32>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct PlanFile {
    key: String,
    trace: Header,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// The document's number in the plan.
    index: usize,
    #[serde(flatten)]
    document: TraceDocument,
}

pub(super) struct Partial {
    folder: PathBuf,
    target: PathBuf,
    header: Header,
    tokens: File,
    hidden: Option<File>,
    journal: File,
    entries: Vec<Entry>,
    rows: usize,
    new_tokens: usize,
}

/// Where the trace that is to become `target` is made.
fn folder_of(target: &Path) -> PathBuf {
    target.with_file_name(format!("{}.partial", target.file_name().unwrap_or_default().to_string_lossy()))
}

/// Removes what is left of making the trace in `target`.
pub fn discard(target: &Path) -> Result<()> {
    let folder = folder_of(target);
    match fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &folder, e)),
        _ => Ok(()),
    }
}

/// How many documents of the trace that is to become `target` are finished, if it is being made under `key`.
pub fn documents_done(target: &Path, key: &str) -> usize {
    let folder = folder_of(target);
    if !files::read_json::<PlanFile>(&folder.join("plan.json")).is_ok_and(|plan| plan.key == key) {
        return 0;
    }
    let journal = fs::read(folder.join("batches.jsonl")).unwrap_or_default();
    lines(&journal).map(|(_, batch)| batch.len()).sum()
}

/// The whole lines of a journal, each with its length, up to the first that is none.
fn lines(journal: &[u8]) -> impl Iterator<Item = (usize, Vec<Entry>)> {
    let whole = journal.split_inclusive(|&byte| byte == b'\n').take_while(|line| line.ends_with(b"\n"));
    whole.map_while(|line| Some((line.len(), serde_json::from_slice(line).ok()?)))
}

impl Partial {
    /// Goes on with the trace of `documents` documents that is to become `target`, or starts it.
    pub fn open(target: &Path, key: &str, header: Header, documents: usize) -> Result<Self> {
        let folder = folder_of(target);
        let plan = PlanFile { key: key.to_owned(), trace: header };
        if !files::read_json::<PlanFile>(&folder.join("plan.json")).is_ok_and(|found| found == plan) {
            discard(target)?;
            files::write_json(&folder.join("plan.json"), &plan)?;
        }
        let data = folder.join("data");
        fs::create_dir_all(&data).map_err(|e| Error::io("create", &data, e))?;
        let open = |path: PathBuf| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            file.map_err(|e| Error::io("write", &path, e))
        };
        let mut partial = Self {
            tokens: open(data.join("tokens.bin"))?,
            hidden: plan.trace.dtype.map(|_| open(data.join("hidden.bin"))).transpose()?,
            journal: open(folder.join("batches.jsonl"))?,
            folder,
            target: target.to_owned(),
            header: plan.trace,
            entries: Vec::new(),
            rows: 0,
            new_tokens: 0,
        };
        partial.recover(documents).map_err(|e| partial.failed(e))?;
        Ok(partial)
    }

    /// Takes up the batches whose line and data are whole, and cuts off the rest.
    fn recover(&mut self, documents: usize) -> std::io::Result<()> {
        let journal = fs::read(self.folder.join("batches.jsonl"))?;
        let mut most = self.tokens.metadata()?.len() / 4;
        if let (Some(hidden), row @ 1..) = (&self.hidden, self.header.row_bytes()) {
            most = most.min(hidden.metadata()?.len() / row as u64);
        }
        let mut kept = 0;
        for (length, batch) in lines(&journal) {
            let fits = batch.iter().try_fold(self.rows, |rows, entry| {
                let follows = entry.document.first == rows && entry.index < documents;
                rows.checked_add(entry.document.prompt)?.checked_add(entry.document.continuation).filter(|_| follows)
            });
            match fits {
                Some(rows) if rows as u64 <= most => self.rows = rows,
                _ => break,
            }
            kept += length as u64;
            self.new_tokens += batch.iter().map(|entry| entry.document.continuation).sum::<usize>();
            self.entries.extend(batch);
        }
        let cut = |file: &mut File, length: u64| file.set_len(length).and_then(|()| file.seek(SeekFrom::Start(length)));
        cut(&mut self.journal, kept)?;
        cut(&mut self.tokens, self.rows as u64 * 4)?;
        if let Some(hidden) = &mut self.hidden {
            cut(hidden, (self.rows * self.header.row_bytes()) as u64)?;
        }
        Ok(())
    }

    /// Where it is made.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Documents finished.
    pub fn documents(&self) -> usize {
        self.entries.len()
    }

    /// Tokens of their continuations.
    pub fn new_tokens(&self) -> usize {
        self.new_tokens
    }

    /// The number of the last document finished.
    pub fn reached(&self) -> usize {
        self.entries.last().map_or(0, |entry| entry.index)
    }

    /// How many documents of a window, the last begun, are finished.
    pub fn documents_in(&self, window: &Range<usize>) -> usize {
        self.entries.iter().rev().take_while(|entry| window.contains(&entry.index)).count()
    }

    /// # Errors
    /// When the disk has no room for the longest texts that `batch` can become.
    pub fn require_room(&self, batch: impl Iterator<Item = TraceDocument>, free: FreeSpace) -> Result<()> {
        let row = (self.header.row_bytes() + 4) as u64;
        let needed: u64 = batch.map(|entry| entry.len() as u64 * row + index_bytes(&entry)).sum();
        let free = free(&self.folder).map_err(|e| Error::io("ask for the free space of", &self.folder, e))?;
        if free < needed.saturating_add(RESERVE) {
            bail!(
                "the disk is nearly full: the next documents take up to {}, and {} are kept free, but {} has only {} left. Free some space and start the same command again; it goes on after the {} documents that are finished.",
                words(needed),
                words(RESERVE),
                self.folder.display(),
                words(free),
                self.documents()
            );
        }
        Ok(())
    }

    /// Adds a batch; when this returns, it is on the disk.
    pub fn add(&mut self, batch: Vec<Traced>) -> Result<()> {
        let (mut tokens, mut hidden, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows = self.rows;
        for Traced { index, entry, tokens: text, hidden: states } in batch {
            if let Some(dtype) = self.header.dtype {
                if dtype == StorageType::Float16 && states.iter().any(|x| !f16::from_f32(*x).is_finite()) {
                    bail!(
                        "`{}`: a hidden state does not fit float16, whose largest number is 65,504. Set traces.dtype to \"bfloat16\" or \"float32\".",
                        entry.id
                    );
                }
                dtype.encode(&states, &mut hidden);
            }
            tokens.extend(text.iter().flat_map(|token| token.to_le_bytes()));
            entries.push(Entry { index, document: TraceDocument { first: rows, ..entry } });
            rows += text.len();
        }
        let mut line = serde_json::to_vec(&entries).expect("entries are JSON");
        line.push(b'\n');
        self.write(&tokens, &hidden, &line).map_err(|e| self.failed(e))?;
        self.rows = rows;
        self.new_tokens += entries.iter().map(|entry| entry.document.continuation).sum::<usize>();
        self.entries.extend(entries);
        Ok(())
    }

    fn write(&mut self, tokens: &[u8], hidden: &[u8], line: &[u8]) -> std::io::Result<()> {
        let put = |file: &mut File, bytes: &[u8]| file.write_all(bytes).and_then(|()| file.sync_data());
        put(&mut self.tokens, tokens)?;
        if let Some(file) = &mut self.hidden {
            put(file, hidden)?;
        }
        put(&mut self.journal, line)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("write a trace in", &self.folder, error)
    }

    /// Writes the index, lets `mark` add its own, and puts the trace in its place.
    pub fn commit(mut self, mark: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let data = self.folder.join("data");
        self.entries.sort_by_key(|entry| entry.index);
        let documents = self.entries.into_iter().map(|entry| entry.document).collect();
        self.header.write(&data, documents)?;
        mark(&data)?;
        // Windows renames no folder with open files.
        drop((self.tokens, self.hidden, self.journal));
        files::replace_folder(&data, &self.target)?;
        discard(&self.target)
    }
}
