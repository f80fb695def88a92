//! Counts on disk: the sorted windows, each stored as its difference from the one before, and a footer with a checksum.
//!
//! ```text
//! "dscounts"                 8 bytes
//! windows in suffix order    for each: the number of words shared with the window before (1 byte), the other words and
//!                            the count, both as LEB128; a window ends at n words or with <s>
//! footer                     JSON
//! length of the footer       u32, little-endian
//! "dscounts"
//! ```

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::key::{Key, Packing};
use super::super::sort::Stream;
use super::super::words::{BOS, EOS, Vocabulary};
use super::{Counts, Window, check_order};
use crate::error::{Error, Result, bail};
use crate::files;

const MAGIC: &[u8; 8] = b"dscounts";
const VERSION: u32 = 1;
/// A footer that is longer than this is damaged.
const LONGEST_FOOTER: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Footer {
    version: u32,
    order: usize,
    vocabulary: Vocabulary,
    windows: u64,
    /// The length of the windows in bytes, and their BLAKE3.
    bytes: u64,
    hash: String,
}

/// A file of counts whose footer has been read.
pub(super) struct CountsFile {
    pub(super) path: PathBuf,
    pub(super) order: usize,
    pub(super) vocabulary: Vocabulary,
    windows: u64,
    bytes: u64,
    hash: String,
}

impl CountsFile {
    /// Opens a file and reads its footer.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let footer = read_footer(path).map_err(|e| e.within(path.display()))?;
        let Footer { order, vocabulary, windows, bytes, hash, .. } = footer;
        Ok(Self { path: path.to_path_buf(), order, vocabulary, windows, bytes, hash })
    }

    /// Returns a reader at the first window.
    pub(super) fn read(&self) -> Result<FileReader> {
        let start = || {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
            Ok(file)
        };
        let file = start().map_err(|e| Error::io("read", &self.path, e))?;
        let hashed = Hashed { inner: file.take(self.bytes), hasher: Box::default() };
        Ok(FileReader {
            path: self.path.clone(),
            bytes: BufReader::with_capacity(1 << 18, hashed),
            packing: Packing::new(self.order),
            order: self.order,
            left: self.windows,
            expected: self.hash.clone(),
            key: Key::EMPTY,
        })
    }
}

fn read_footer(path: &Path) -> Result<Footer> {
    const CUT: &str = "this is not a whole file of counts: it was cut, or is something else. Count the text again.";
    let read = || -> io::Result<Option<Vec<u8>>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut head = [0; 8];
        let mut tail = [0; 12];
        if size < 28 {
            return Ok(None);
        }
        file.read_exact(&mut head)?;
        file.seek(SeekFrom::End(-12))?;
        file.read_exact(&mut tail)?;
        let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
        if head != *MAGIC || tail[4..] != *MAGIC || length > LONGEST_FOOTER.min(size - 20) {
            return Ok(None);
        }
        let mut text = vec![0; length as usize];
        file.seek(SeekFrom::Start(size - 12 - length))?;
        file.read_exact(&mut text)?;
        Ok(Some(text))
    };
    let Some(text) = read().map_err(|e| Error::io("read", path, e))? else { bail!("{CUT}") };
    let version = serde_json::from_slice::<serde_json::Value>(&text).ok().and_then(|v| v["version"].as_u64());
    match version {
        Some(version) if version > u64::from(VERSION) => {
            bail!("these counts have version {version}; this program reads {VERSION}. Use a newer one.")
        }
        _ => {}
    }
    let footer: Footer = serde_json::from_slice(&text).map_err(|_| Error::new(CUT))?;
    check_order(footer.order)?;
    Ok(footer)
}

/// Writes `counts` to `path`, whole or not at all.
pub(super) fn save(counts: &Counts, path: &Path) -> Result<()> {
    let mut reader = counts.read()?;
    let (packing, order) = (counts.packing(), counts.order);
    files::write_with(path, |out| {
        out.write_all(MAGIC)?;
        let mut hasher = blake3::Hasher::new();
        let (mut windows, mut bytes, mut before) = (0, 0, Key::EMPTY);
        let mut block = Vec::with_capacity(1 << 17);
        loop {
            let window = reader.next()?;
            if let Some(Window { key, count }) = window {
                let shared = packing.common(before, key, order - 1);
                let length = packing.length(key, order);
                block.push(shared as u8);
                (shared..length).for_each(|at| leb128(&mut block, u64::from(packing.word(key, at))));
                leb128(&mut block, count);
                (windows, before) = (windows + 1, key);
            }
            if window.is_none() || block.len() > 1 << 16 {
                hasher.update(&block);
                out.write_all(&block)?;
                bytes += block.len() as u64;
                block.clear();
            }
            if window.is_none() {
                break;
            }
        }
        let vocabulary = counts.vocabulary.clone();
        let hash = hasher.finalize().to_hex().to_string();
        let footer = serde_json::to_vec(&Footer { version: VERSION, order, vocabulary, windows, bytes, hash })?;
        out.write_all(&footer)?;
        out.write_all(&(footer.len() as u32).to_le_bytes())?;
        out.write_all(MAGIC)
    })
}

/// Appends a number as LEB128.
fn leb128(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A reader that hashes what is read through it.
struct Hashed<R> {
    inner: R,
    /// In a box, because merging moves readers about.
    hasher: Box<blake3::Hasher>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// A reader of the windows of a file. It finds any damage at the end of the file at the latest.
pub(in super::super) struct FileReader {
    path: PathBuf,
    bytes: BufReader<Hashed<io::Take<File>>>,
    packing: Packing,
    order: usize,
    left: u64,
    expected: String,
    key: Key,
}

impl FileReader {
    /// Reads the next window.
    fn window(&mut self) -> Result<Window> {
        let shared = usize::from(self.byte()?);
        if shared >= self.order || shared > self.packing.length(self.key, self.order) {
            return Err(self.damaged());
        }
        let mut key = self.packing.prefix(self.key, shared);
        for at in shared..self.order {
            let word = self.number()?;
            // In suffix order the last word of the text comes first. It is not <s>, and no other one is </s>.
            let out_of_place = if at == 0 { BOS } else { EOS };
            if word == 0 || word > u64::from(self.packing.largest()) || word == u64::from(out_of_place) {
                return Err(self.damaged());
            }
            key = self.packing.append(key, at, word as u32);
            if word == u64::from(BOS) {
                break;
            }
        }
        let count = self.number()?;
        if count == 0 || key <= self.key {
            return Err(self.damaged());
        }
        self.key = key;
        Ok(Window { key, count })
    }

    #[inline]
    /// Reads a number in LEB128.
    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.damaged())
    }

    #[inline]
    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        match self.bytes.read_exact(&mut byte) {
            Ok(()) => Ok(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.damaged()),
            Err(error) => Err(Error::io("read", &self.path, error)),
        }
    }

    fn damaged(&self) -> Error {
        Error::new(format!("{}: the file of counts is damaged. Count the text again.", self.path.display()))
    }
}

impl Stream for FileReader {
    type Item = Window;

    fn next(&mut self) -> Result<Option<Window>> {
        if self.left > 0 {
            self.left -= 1;
            return self.window().map(Some);
        }
        let rest = io::copy(&mut self.bytes, &mut io::sink()).map_err(|e| Error::io("read", &self.path, e))?;
        let hash = self.bytes.get_ref().hasher.finalize().to_hex();
        if rest > 0 || hash.as_str() != self.expected { Err(self.damaged()) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Counter, Ending, Memory};
    use super::*;
    use proptest::prelude::*;

    fn counted(order: usize, documents: &[Vec<u32>]) -> Counts {
        let mut counter = Counter::new(order, Vocabulary::default(), &Memory::usual()).unwrap();
        counter.add(&[1], Ending::Complete).unwrap();
        documents.iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
        counter.finish().unwrap()
    }

    fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(prop_oneof![0u32..5, 0u32..200_000], 0..12), 0..8)
    }

    fn bytes(counts: &Counts, path: &Path) -> Vec<u8> {
        counts.save(path).unwrap();
        std::fs::read(path).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// However a text is cut into parts, and in whatever order they are merged, the bytes are those of the whole.
        #[test]
        fn parts_merge_to_the_bytes_of_the_whole(order in 1usize..=6, a in documents(), b in documents(), c in documents()) {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            for (name, part) in [("a", &a), ("b", &b), ("c", &c)] {
                counted(order, part).save(&path(name)).unwrap();
            }
            Counts::open(&[path("b"), path("a")]).unwrap().save(&path("ba")).unwrap();
            let left = bytes(&Counts::open(&[path("ba"), path("c")]).unwrap(), &path("left"));
            Counts::open(&[path("c"), path("b")]).unwrap().save(&path("cb")).unwrap();
            let right = bytes(&Counts::open(&[path("a"), path("cb")]).unwrap(), &path("right"));
            // Each part has its own document `1`.
            let whole = counted(order, &[a, b, c, vec![vec![1], vec![1]]].concat());
            prop_assert_eq!(&left, &right);
            prop_assert_eq!(&left, &bytes(&whole, &path("whole")));
            prop_assert_eq!(&left, &bytes(&Counts::open(&[path("whole")]).unwrap(), &path("again")));
        }

        #[test]
        fn damage_is_an_error_or_changes_nothing(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("counts");
            let mut text = bytes(&counted(3, &[vec![5, 6, 7, 5, 6], vec![200_000, 5]]), &path);
            let at = at.index(text.len());
            let original = text.clone();
            if cut { text.truncate(at) } else { text[at] = byte }
            std::fs::write(&path, &text).unwrap();
            let read = || -> Result<u64> {
                let counts = Counts::open(&[&path])?;
                let mut sum = 0;
                counts.for_each(|_, count| {
                    sum += count;
                    Ok(())
                })?;
                Ok(sum)
            };
            match read() {
                // The checksum covers the windows; a changed vocabulary in the footer is only another vocabulary.
                Ok(sum) => prop_assert!(sum == 11 && (text == original || at > original.len() - 250)),
                Err(error) => prop_assert!(error.to_string().contains("counts"), "{error}"),
            }
        }
    }

    #[test]
    fn counts_of_another_order_or_vocabulary_do_not_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        counted(2, &[]).save(&paths[0]).unwrap();
        counted(3, &[]).save(&paths[1]).unwrap();
        let message = Counts::open(&paths).err().unwrap().to_string();
        assert!(message.contains("order 2 and 3") && message.contains(&paths[0].display().to_string()), "{message}");
    }
}
