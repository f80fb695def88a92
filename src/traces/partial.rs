//! Unfinished traces and columns. Each is a folder `NAME.partial` next to the final one, which outlives the process.
//!
//! `plan.json` says what is being made. `data/` becomes the final folder and has one file of rows. `batches.jsonl` has
//! a line for each finished batch, with the entries of its documents. The line is written once the rows of the batch
//! are on the disk. So the lines tell how many rows are valid, and any rows after these are dropped. A process that
//! resumes finds only complete batches, or none.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TraceDocument;
use super::estimate::{FreeSpace, RESERVE, index_bytes, words};
use crate::error::{Error, Result, bail};
use crate::files;

/// A computed document.
pub(super) struct Traced {
    /// The number of the document in the plan.
    pub index: usize,
    /// The entry of the document. Its place in the file is set when the document is added.
    pub entry: TraceDocument,
    /// The encoded rows, one for every token.
    pub rows: Vec<u8>,
}

/// The name of the file of rows, and the size of a row.
#[derive(Clone, Copy)]
pub(super) struct RowFile {
    pub name: &'static str,
    pub row_bytes: usize,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct PlanFile {
    key: String,
    /// The description of what is made, as its index file will have it.
    header: Value,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Entry {
    /// The number of the document in the plan.
    index: usize,
    #[serde(flatten)]
    document: TraceDocument,
}

/// A trace or a column that is being made.
pub(super) struct Partial {
    folder: PathBuf,
    target: PathBuf,
    row_bytes: usize,
    file: File,
    journal: File,
    entries: Vec<Entry>,
    rows: usize,
    new_tokens: usize,
}

/// Returns the folder in which `target` is made.
fn folder_of(target: &Path) -> PathBuf {
    target.with_file_name(format!("{}.partial", target.file_name().unwrap_or_default().to_string_lossy()))
}

/// Removes what there is of an unfinished trace or column `target`.
pub fn discard(target: &Path) -> Result<()> {
    files::remove_folder(&folder_of(target))
}

/// Returns how many documents of the unfinished trace or column `target` are finished. Returns 0 unless it is being
/// made under `key`.
pub fn documents_done(target: &Path, key: &str) -> usize {
    let folder = folder_of(target);
    if !files::read_json::<PlanFile>(&folder.join("plan.json")).is_ok_and(|plan| plan.key == key) {
        return 0;
    }
    let journal = fs::read(folder.join("batches.jsonl")).unwrap_or_default();
    lines(&journal).map(|(_, batch)| batch.len()).sum()
}

/// Returns the complete lines of a journal, each as its length and its entries, up to the first one that is damaged or
/// cut off.
fn lines(journal: &[u8]) -> impl Iterator<Item = (usize, Vec<Entry>)> {
    let whole = journal.split_inclusive(|&byte| byte == b'\n').take_while(|line| line.ends_with(b"\n"));
    whole.map_while(|line| Some((line.len(), serde_json::from_slice(line).ok()?)))
}

impl Partial {
    /// Resumes making `target`, or starts if there is nothing of the same key and description. `documents` is the
    /// number of documents of the plan.
    pub fn open(target: &Path, key: &str, header: &impl Serialize, rows: RowFile, documents: usize) -> Result<Self> {
        let folder = folder_of(target);
        let header = serde_json::to_value(header).expect("headers are JSON");
        let plan = PlanFile { key: key.to_owned(), header };
        if !files::read_json::<PlanFile>(&folder.join("plan.json")).is_ok_and(|found| found == plan) {
            discard(target)?;
            files::write_json(&folder.join("plan.json"), &plan)?;
        }
        let data = folder.join("data");
        fs::create_dir_all(&data).map_err(|e| Error::io("create", &data, e))?;
        let mut partial = Self {
            file: files::open_own(&data.join(rows.name))?,
            row_bytes: rows.row_bytes,
            journal: files::open_own(&folder.join("batches.jsonl"))?,
            folder,
            target: target.to_owned(),
            entries: Vec::new(),
            rows: 0,
            new_tokens: 0,
        };
        partial.recover(documents, usize::MAX).map_err(|e| partial.failed(e))?;
        Ok(partial)
    }

    /// Drops the batches behind the last one of `leader`. Returns whether what is left has the same documents.
    pub fn follow(&mut self, leader: &Self) -> Result<bool> {
        let documents = self.entries.iter().map(|entry| entry.index + 1).max().unwrap_or(0);
        self.recover(documents, leader.entries.len()).map_err(|e| self.failed(e))?;
        Ok(self.entries == leader.entries)
    }

    /// Reads the batches whose lines and rows are complete, and cuts off the rest of both files: at most `limit` of the plan's
    /// `documents`.
    fn recover(&mut self, documents: usize, limit: usize) -> std::io::Result<()> {
        let journal = fs::read(self.folder.join("batches.jsonl"))?;
        let most = self.file.metadata()?.len() / self.row_bytes as u64;
        (self.rows, self.new_tokens) = (0, 0);
        self.entries.clear();
        let mut kept = 0;
        for (length, batch) in lines(&journal) {
            if self.entries.len() + batch.len() > limit {
                break;
            }
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
        cut(&mut self.file, (self.rows * self.row_bytes) as u64)?;
        Ok(())
    }

    /// Returns the folder of the unfinished work.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of a file that the finished folder will have.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join("data").join(name)
    }

    /// Returns the number of finished documents.
    pub fn documents(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of tokens in the continuations of the finished documents.
    pub fn new_tokens(&self) -> usize {
        self.new_tokens
    }

    /// Returns the number of the last finished document in the plan, or 0 if there is none.
    pub fn reached(&self) -> usize {
        self.entries.last().map_or(0, |entry| entry.index)
    }

    /// Returns how many documents of a window are finished. No later window may have been begun.
    pub fn documents_in(&self, window: &Range<usize>) -> usize {
        self.entries.iter().rev().take_while(|entry| window.contains(&entry.index)).count()
    }

    /// Returns an upper bound on the bytes that the documents of a batch take.
    pub fn bytes<'b>(&self, batch: impl Iterator<Item = &'b TraceDocument>) -> u64 {
        batch.map(|entry| (entry.len() * self.row_bytes) as u64 + index_bytes(entry)).sum()
    }

    /// Checks that the disk has room for `needed` more bytes.
    ///
    /// # Errors
    /// Returns an error if it does not have enough.
    pub fn require_room(&self, needed: u64, free: FreeSpace) -> Result<()> {
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

    /// Adds a batch. When this returns, the batch is on the disk.
    pub fn add(&mut self, batch: Vec<Traced>) -> Result<()> {
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        let mut rows = self.rows;
        for Traced { index, entry, rows: of_document } in batch {
            bytes.extend(of_document);
            let document = TraceDocument { first: rows, ..entry };
            rows += document.len();
            entries.push(Entry { index, document });
        }
        let mut line = serde_json::to_vec(&entries).expect("entries are JSON");
        line.push(b'\n');
        self.write(&bytes, &line).map_err(|e| self.failed(e))?;
        self.rows = rows;
        self.new_tokens += entries.iter().map(|entry| entry.document.continuation).sum::<usize>();
        self.entries.extend(entries);
        Ok(())
    }

    /// Appends the rows of a batch and then its line, and flushes each to the disk.
    fn write(&mut self, rows: &[u8], line: &[u8]) -> std::io::Result<()> {
        let put = |file: &mut File, bytes: &[u8]| file.write_all(bytes).and_then(|()| file.sync_data());
        put(&mut self.file, rows)?;
        put(&mut self.journal, line)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("write a trace in", &self.folder, error)
    }

    /// Calls `finish` with the folder of the rows and the documents in the order of the plan, so that it can add other
    /// files. Then moves the folder to its final place.
    pub fn commit(mut self, finish: impl FnOnce(&Path, Vec<TraceDocument>) -> Result<()>) -> Result<()> {
        let data = self.folder.join("data");
        self.entries.sort_by_key(|entry| entry.index);
        let documents = self.entries.into_iter().map(|entry| entry.document).collect();
        finish(&data, documents)?;
        // On Windows, a folder with open files cannot be renamed.
        drop((self.file, self.journal));
        files::replace_folder(&data, &self.target)?;
        discard(&self.target)
    }
}
