//! Sorting of more than fits in memory: sorted runs in a nameless temporary file, merged as they are read.
//!
//! What fits in its share of the memory never touches the disk. The result does not depend on the share: records with
//! equal keys do not occur, are folded into one, or are an error.

use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytemuck::Pod;
use rayon::prelude::*;

use super::key::Key;
use crate::error::{Error, Result};

/// A record that can be sorted: a key with some values.
pub(super) trait Record: Pod + Send + Sync {
    fn key(&self) -> Key;

    /// Adds the values of a record with the same key to this one, or returns false if both are to be kept.
    fn absorb(&mut self, _other: &Self) -> bool {
        false
    }
}

/// How much memory sorting may take, and where the rest goes.
#[derive(Clone, Debug)]
pub struct Memory {
    bytes: usize,
    folder: PathBuf,
}

impl Memory {
    /// The least memory that is worth sorting with, in bytes.
    pub const LEAST: usize = 16 << 20;

    /// Allows `bytes` in all (at least [`Memory::LEAST`]). What does not fit goes to temporary files in `folder`, which
    /// the system removes however the process ends.
    pub fn new(bytes: usize, folder: &Path) -> Self {
        Self { bytes: bytes.max(Self::LEAST), folder: folder.to_path_buf() }
    }

    /// Allows a gibibyte, and the system's temporary folder.
    pub fn usual() -> Self {
        Self::new(1 << 30, &std::env::temp_dir())
    }

    /// Returns the size of one of `parts` equal parts of the whole, in bytes.
    pub(super) fn part(&self, parts: usize) -> usize {
        self.bytes / parts
    }

    /// Makes a sorter that holds one of `parts` equal parts of the memory.
    pub(super) fn sorter<T: Record>(&self, parts: usize) -> Sorter<T> {
        let capacity = (self.part(parts) / size_of::<T>()).max(1024);
        Sorter { records: Vec::new(), capacity, folder: self.folder.clone(), runs: None }
    }
}

/// Bytes of a run that are read at a time.
const READ: usize = 1 << 18;

/// A sorter that takes records in any order.
pub(super) struct Sorter<T> {
    records: Vec<T>,
    capacity: usize,
    folder: PathBuf,
    runs: Option<Runs>,
}

/// Sorted runs, one after the other, in a file without a name.
struct Runs {
    file: Mutex<File>,
    folder: PathBuf,
    /// The number of records of each run.
    lengths: Vec<u64>,
}

impl Runs {
    fn failed(&self, doing: &str, error: io::Error) -> Error {
        Error::io(&format!("{doing} a temporary file in"), &self.folder, error)
    }
}

impl<T: Record> Sorter<T> {
    #[inline]
    pub(super) fn push(&mut self, record: T) -> Result<()> {
        if self.records.len() == self.records.capacity() {
            self.make_room()?;
        }
        self.records.push(record);
        Ok(())
    }

    /// Grows the buffer, or empties it once it has reached its share. It grows by less than double, so that the old and
    /// the new buffer together stay below the share.
    #[cold]
    fn make_room(&mut self) -> Result<()> {
        let length = self.records.len();
        if length >= self.capacity {
            // If many records fold into one, the buffer can take more for a while.
            self.tidy();
            if self.records.len() > self.capacity / 2 {
                self.spill()?;
            }
        } else {
            self.records.reserve_exact((length.max(1024) / 2).min(self.capacity - length).max(1));
        }
        Ok(())
    }

    /// Sorts the buffer and folds records with equal keys.
    fn tidy(&mut self) {
        self.records.par_sort_unstable_by_key(Record::key);
        let mut kept = 0;
        for at in 0..self.records.len() {
            let record = self.records[at];
            if kept > 0 && self.records[kept - 1].key() == record.key() && self.records[kept - 1].absorb(&record) {
                continue;
            }
            self.records[kept] = record;
            kept += 1;
        }
        self.records.truncate(kept);
    }

    /// Moves the tidy buffer to disk as a run.
    fn spill(&mut self) -> Result<()> {
        if self.runs.is_none() {
            let file = tempfile::tempfile_in(&self.folder)
                .map_err(|e| Error::io("create a temporary file in", &self.folder, e))?;
            self.runs = Some(Runs { file: Mutex::new(file), folder: self.folder.clone(), lengths: Vec::new() });
        }
        let runs = self.runs.as_mut().expect("made above");
        let file = runs.file.get_mut().expect("no holder panics");
        let written = file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(bytemuck::cast_slice(&self.records)));
        written.map_err(|e| runs.failed("write", e))?;
        runs.lengths.push(self.records.len() as u64);
        self.records.clear();
        Ok(())
    }

    /// Returns all records in the order of their keys.
    pub(super) fn finish(mut self) -> Result<Sorted<T>> {
        self.tidy();
        if self.runs.is_some() && !self.records.is_empty() {
            self.spill()?;
        }
        if self.runs.is_some() {
            self.records = Vec::new();
        }
        Ok(Sorted { records: self.records, runs: self.runs })
    }
}

/// Records in the order of their keys, which can be read any number of times.
pub(super) struct Sorted<T> {
    records: Vec<T>,
    runs: Option<Runs>,
}

impl<T: Record> Sorted<T> {
    /// Returns a reader at the first record.
    pub(super) fn read(&self) -> Result<Reader<'_, T>> {
        let mut streams = vec![Run::memory(&self.records)];
        if let Some(runs) = &self.runs {
            let mut at = 0;
            for &length in &runs.lengths {
                let end = at + length * size_of::<T>() as u64;
                streams.push(Run { memory: [].iter(), runs: Some(runs), at, end, buffer: Vec::new(), next: 0 });
                at = end;
            }
        }
        Merge::new(streams)
    }
}

/// A reader of sorted records.
pub(super) type Reader<'a, T> = Merge<Run<'a, T>>;

/// A source of records in the order of their keys.
pub(super) trait Stream {
    type Item: Record;

    /// Returns the next record; none at the end.
    fn next(&mut self) -> Result<Option<Self::Item>>;
}

/// Streams merged into one, in the order of the keys. Records with equal keys are folded if their type folds.
pub(super) struct Merge<S: Stream> {
    current: Option<S::Item>,
    /// The stream that `current` came from; the others wait in the heap.
    open: Option<S>,
    waiting: BinaryHeap<Waiting<S>>,
}

impl<S: Stream> Merge<S> {
    /// Returns a reader at the first record of all `streams`.
    pub(super) fn new(streams: Vec<S>) -> Result<Self> {
        let mut waiting = BinaryHeap::with_capacity(streams.len());
        for mut stream in streams {
            if let Some(record) = stream.next()? {
                waiting.push(Waiting { record, stream });
            }
        }
        let mut merge = Self { current: None, open: None, waiting };
        if let Some(Waiting { record, stream }) = merge.waiting.pop() {
            (merge.current, merge.open) = (Some(record), Some(stream));
            merge.fold()?;
        }
        Ok(merge)
    }

    /// Returns the current record; none at the end.
    #[inline]
    pub(super) fn peek(&self) -> Option<&S::Item> {
        self.current.as_ref()
    }

    /// Moves to the next record.
    #[inline]
    pub(super) fn advance(&mut self) -> Result<()> {
        self.current = match &mut self.open {
            Some(stream) => stream.next()?,
            None => return Ok(()),
        };
        if self.waiting.is_empty() { Ok(()) } else { self.choose() }
    }

    /// Makes the smallest of `current` and the waiting records the current one.
    fn choose(&mut self) -> Result<()> {
        match &mut self.current {
            Some(record) => {
                let mut first = self.waiting.peek_mut().expect("not empty");
                if first.record.key() < record.key() {
                    std::mem::swap(&mut first.record, record);
                    std::mem::swap(&mut first.stream, self.open.as_mut().expect("it gave `current`"));
                }
            }
            None => {
                let Waiting { record, stream } = self.waiting.pop().expect("not empty");
                (self.current, self.open) = (Some(record), Some(stream));
            }
        }
        self.fold()
    }

    /// Folds the waiting records with the key of `current` into it.
    fn fold(&mut self) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        while let Some(mut first) = self.waiting.peek_mut() {
            if first.record.key() != current.key() {
                break;
            }
            if !current.absorb(&first.record) {
                break;
            }
            match first.stream.next()? {
                Some(record) => first.record = record,
                None => drop(PeekMut::pop(first)),
            }
        }
        Ok(())
    }

    /// Returns the current record, and moves to the next.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<S::Item>> {
        let current = self.current;
        if current.is_some() {
            self.advance()?;
        }
        Ok(current)
    }
}

/// A stream whose next record has been taken out.
struct Waiting<S: Stream> {
    record: S::Item,
    stream: S,
}

/// The records in memory, or a run on disk.
pub(super) struct Run<'a, T> {
    memory: std::slice::Iter<'a, T>,
    runs: Option<&'a Runs>,
    at: u64,
    end: u64,
    buffer: Vec<T>,
    next: usize,
}

impl<'a, T: Record> Run<'a, T> {
    fn memory(records: &'a [T]) -> Self {
        Self { memory: records.iter(), runs: None, at: 0, end: 0, buffer: Vec::new(), next: 0 }
    }

    /// Reads the next records of the run into the buffer; returns false at its end.
    fn fill(&mut self) -> Result<bool> {
        let left = (self.end - self.at) as usize / size_of::<T>();
        let Some(runs) = self.runs.filter(|_| left > 0) else { return Ok(false) };
        self.buffer.resize(left.min(READ / size_of::<T>()), T::zeroed());
        let bytes = bytemuck::cast_slice_mut(&mut self.buffer);
        let mut file = runs.file.lock().expect("no holder panics");
        let read = file.seek(SeekFrom::Start(self.at)).and_then(|_| file.read_exact(bytes));
        read.map_err(|e| runs.failed("read", e))?;
        self.at += bytes.len() as u64;
        self.next = 0;
        Ok(true)
    }
}

impl<T: Record> Stream for Run<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Result<Option<T>> {
        if self.runs.is_none() {
            return Ok(self.memory.next().copied());
        }
        if self.next == self.buffer.len() && !self.fill()? {
            return Ok(None);
        }
        self.next += 1;
        Ok(Some(self.buffer[self.next - 1]))
    }
}

// Reversed, so that the heap's largest element has the smallest key.
impl<S: Stream> Ord for Waiting<S> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.record.key().cmp(&self.record.key())
    }
}

impl<S: Stream> PartialOrd for Waiting<S> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<S: Stream> PartialEq for Waiting<S> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<S: Stream> Eq for Waiting<S> {}

#[cfg(test)]
mod tests {
    use super::super::key::Packing;
    use super::*;
    use bytemuck::Zeroable;
    use std::collections::BTreeMap;

    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Tally {
        key: Key,
        count: u64,
    }

    impl Record for Tally {
        fn key(&self) -> Key {
            self.key
        }

        fn absorb(&mut self, other: &Self) -> bool {
            self.count += other.count;
            true
        }
    }

    #[test]
    fn spilled_runs_read_as_memory_does() {
        let packing = Packing::new(2);
        for capacity in [1, 7, 100, 1_000_000] {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter { records: Vec::new(), capacity, folder: folder.path().to_path_buf(), runs: None };
            let mut expected = BTreeMap::new();
            for i in 0..5_000u32 {
                let words = [i.wrapping_mul(2_654_435_761) >> 25, i % 7];
                sorter.push(Tally { key: packing.pack(words), count: u64::from(i) }).unwrap();
                *expected.entry(words.to_vec()).or_insert(0) += u64::from(i);
            }
            let sorted = sorter.finish().unwrap();
            assert_eq!(sorted.runs.is_some(), capacity <= 100);
            for _ in 0..2 {
                let mut reader = sorted.read().unwrap();
                let mut found = BTreeMap::new();
                while let Some(tally) = reader.next().unwrap() {
                    assert!(
                        found
                            .last_key_value()
                            .is_none_or(|(last, _)| *last < packing.words(tally.key, 2).collect::<Vec<_>>())
                    );
                    found.insert(packing.words(tally.key, 2).collect::<Vec<_>>(), tally.count);
                }
                assert_eq!(found, expected);
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
        }
    }
}
