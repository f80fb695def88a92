//! Counting that can be stopped at any moment. What fits in memory is one part; finished parts stay on disk until they
//! are merged into the result.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::sort::Memory;
use super::super::words::{Ending, Vocabulary};
use super::{Counter, Counts, Window};
use crate::error::{Error, Result};
use crate::files;

/// A count in progress, kept in `TARGET.parts`.
pub struct PartialCount {
    target: PathBuf,
    folder: PathBuf,
    progress: Saved,
    counter: Counter,
    memory: Memory,
    /// Documents added so far, those in earlier parts included.
    documents: u64,
    _held: Held,
}

/// The folder of the parts, locked by this process. It is removed at the end if it has no part in it.
struct Held {
    folder: PathBuf,
    _lock: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        let empty = fs::read_dir(&self.folder).is_ok_and(|entries| entries.count() == 1);
        if empty {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The contents of `progress.json`, which is replaced after every part.
#[derive(Serialize, Deserialize)]
struct Saved {
    /// A hash of what is counted, and how.
    key: String,
    parts: u64,
    documents: u64,
    tokens: u64,
}

impl PartialCount {
    /// Starts the count that will become the file `target`. If the `text` (any description of it), the order, the
    /// vocabulary and the memory are the same, an earlier count goes on; the parts of any other count are discarded.
    ///
    /// # Errors
    /// When another process works on the same target.
    pub fn open(target: &Path, text: &str, order: usize, vocabulary: Vocabulary, memory: &Memory) -> Result<Self> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".parts");
        let folder = target.with_file_name(name);
        let held = Held { _lock: files::lock(&folder)?, folder: folder.clone() };
        let key = files::hash_json(&(text, order, &vocabulary, memory.part(1)));
        let path = folder.join("progress.json");
        let progress = match files::read_json::<Saved>(&path) {
            Ok(saved) if saved.key == key => saved,
            _ => Saved { key, parts: 0, documents: 0, tokens: 0 },
        };
        let counter = Counter::new(order, vocabulary, memory)?;
        let memory = memory.clone();
        Ok(Self { target: target.to_owned(), folder, progress, counter, memory, documents: 0, _held: held })
    }

    /// Returns how many documents the finished parts hold. These need not be read again; if they are given to
    /// [`PartialCount::add`], it skips them.
    pub fn documents_done(&self) -> u64 {
        self.progress.documents
    }

    /// Returns the number of words counted so far, `</s>` included.
    pub fn tokens(&self) -> u64 {
        self.progress.tokens + self.counter.tokens()
    }

    /// Adds the next document.
    pub fn add(&mut self, tokens: &[u32], ending: Ending) -> Result<()> {
        self.documents += 1;
        if self.documents <= self.progress.documents {
            return Ok(());
        }
        self.counter.add(tokens, ending)?;
        // A part is as much as the counter can sort in memory.
        if self.counter.tokens() as usize >= self.memory.part(2) / size_of::<Window>() { self.save() } else { Ok(()) }
    }

    /// Writes what was counted since the last part to disk, as a part.
    pub fn save(&mut self) -> Result<()> {
        if self.counter.tokens() == 0 {
            return Ok(());
        }
        let (order, vocabulary) = (self.counter.order, self.counter.vocabulary.clone());
        let counter = std::mem::replace(&mut self.counter, Counter::new(order, vocabulary, &self.memory)?);
        let Saved { key, parts, tokens, .. } = &self.progress;
        let saved =
            Saved { key: key.clone(), parts: parts + 1, documents: self.documents, tokens: tokens + counter.tokens() };
        counter.finish()?.save(&self.part(*parts))?;
        files::write_json(&self.folder.join("progress.json"), &saved)?;
        self.progress = saved;
        Ok(())
    }

    /// Merges the parts into the target and removes them.
    pub fn finish(mut self) -> Result<Counts> {
        if self.progress.parts == 0 {
            self.counter.finish()?.save(&self.target)?;
        } else {
            self.save()?;
            let parts: Vec<PathBuf> = (0..self.progress.parts).map(|index| self.part(index)).collect();
            Counts::open(&parts)?.save(&self.target)?;
        }
        fs::remove_dir_all(&self.folder).map_err(|e| Error::io("remove", &self.folder, e))?;
        Counts::open(&[&self.target])
    }

    fn part(&self, index: u64) -> PathBuf {
        self.folder.join(format!("{index:06}.counts"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTS: u32 = 4_000;

    fn document(index: u32) -> Vec<u32> {
        (0..300).map(|at| (index.wrapping_mul(2_654_435_761) >> 20).wrapping_add(at * at) % 5_000).collect()
    }

    fn open(target: &Path, text: &str) -> PartialCount {
        PartialCount::open(
            target,
            text,
            3,
            Vocabulary::default(),
            &Memory::new(Memory::LEAST, target.parent().unwrap()),
        )
        .unwrap()
    }

    #[test]
    fn an_interrupted_count_goes_on_to_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, resumed) = (dir.path().join("whole"), dir.path().join("resumed"));
        let mut count = open(&whole, "text");
        (0..DOCUMENTS).for_each(|index| count.add(&document(index), Ending::Complete).unwrap());
        count.finish().unwrap();

        let mut count = open(&resumed, "text");
        (0..DOCUMENTS * 3 / 4).for_each(|index| count.add(&document(index), Ending::Complete).unwrap());
        drop(count);
        let mut count = open(&resumed, "text");
        let done = count.documents_done();
        assert!(done > 0 && done < u64::from(DOCUMENTS) * 3 / 4, "{done}: what is not in a part is lost");
        (0..DOCUMENTS).for_each(|index| count.add(&document(index), Ending::Complete).unwrap());
        assert_eq!(count.tokens(), u64::from(DOCUMENTS) * 301);
        count.finish().unwrap();
        assert_eq!(fs::read(&whole).unwrap(), fs::read(&resumed).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no parts are left");
    }

    #[test]
    fn a_count_that_fails_at_once_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut count = open(&dir.path().join("counts"), "text");
        assert!(count.add(&[u32::MAX], Ending::Complete).is_err());
        drop(count);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn parts_of_another_text_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("counts");
        let mut count = open(&target, "text");
        count.add(&[1, 2], Ending::Complete).unwrap();
        count.save().unwrap();
        drop(count);
        assert_eq!(open(&target, "text").documents_done(), 1);
        assert_eq!(open(&target, "another text").documents_done(), 0);
    }
}
