//! Counts: how often every *window* of a text occurs. The counts of all orders follow from that.
//!
//! The window of a token is the token with up to n - 1 words before it, but no further back than the `<s>` of its
//! document. It is an n-gram of the highest order, or a shorter one that begins with `<s>`. The raw count of any n-gram
//! is the sum over the windows that end with it. Sorted in suffix order, the windows give the counts of all orders, raw
//! and Kneser-Ney, in one pass (as in Heafield et al. 2013, "Scalable modified Kneser-Ney language model estimation").
//! The counts of the parts of a text add up to the counts of the text.

mod counter;
mod file;
mod parquet;
mod partial;

use std::path::Path;

use bytemuck::{Pod, Zeroable};

pub use counter::Counter;
pub use partial::PartialCount;

use super::key::{Key, Packing};
use super::sort::{Memory, Merge, Reader, Record, Sorted, Stream};
use super::words::{BOS, EOS, MAX_ORDER, Vocabulary};
use crate::error::{Result, bail};
use file::{CountsFile, FileReader};

/// The largest count.
pub(super) const MOST: u64 = u64::MAX >> 1;

/// A window, and how often it occurs.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq)]
#[repr(C)]
pub(super) struct Window {
    /// The words in suffix order.
    pub(super) key: Key,
    pub(super) count: u64,
}

impl Record for Window {
    fn key(&self) -> Key {
        self.key
    }

    fn absorb(&mut self, other: &Self) -> bool {
        // A table of counts may hold anything, even more occurrences than fit.
        self.count = self.count.saturating_add(other.count).min(MOST);
        true
    }
}

/// The counts of a text: in memory, spilled to disk, or in one or several files.
pub struct Counts {
    order: usize,
    vocabulary: Vocabulary,
    windows: Windows,
}

enum Windows {
    Sorted(Sorted<Window>),
    Files(Vec<CountsFile>),
}

impl Counts {
    /// Opens the counts in `paths`, to be read as one.
    ///
    /// # Errors
    /// When a file is not a whole file of counts, or the files differ in order or vocabulary.
    pub fn open(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            files.push(CountsFile::open(path.as_ref())?);
        }
        let Some(first) = files.first() else { bail!("no file of counts was given. Name at least one.") };
        for other in &files[1..] {
            let differs = match () {
                () if other.order != first.order => format!("order {} and {}", first.order, other.order),
                () if other.vocabulary != first.vocabulary => "different tokenizers or special ids".to_owned(),
                () => continue,
            };
            bail!(
                "{} and {} cannot be added up: they were counted with {differs}. Count both alike.",
                first.path.display(),
                other.path.display()
            );
        }
        Ok(Self { order: first.order, vocabulary: first.vocabulary.clone(), windows: Windows::Files(files) })
    }

    /// Writes everything to one file. The same text gives the same bytes, however it was counted and merged.
    pub fn save(&self, path: &Path) -> Result<()> {
        file::save(self, path)
    }

    /// Returns the highest order.
    pub fn order(&self) -> usize {
        self.order
    }

    /// Returns the vocabulary of the text that was counted.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(super) fn packing(&self) -> Packing {
        Packing::new(self.order)
    }

    /// Returns a reader at the first window, in suffix order.
    pub(super) fn read(&self) -> Result<WindowReader<'_>> {
        Ok(match &self.windows {
            Windows::Sorted(sorted) => WindowReader::Sorted(sorted.read()?),
            Windows::Files(files) => {
                WindowReader::Files(Merge::new(files.iter().map(CountsFile::read).collect::<Result<_>>()?)?)
            }
        })
    }

    /// Calls `each(words in text order, count)` for every window, in suffix order. The words are token ids,
    /// [`Counts::BEGIN`] or [`Counts::END`].
    pub fn for_each(&self, mut each: impl FnMut(&[i64], u64) -> Result<()>) -> Result<()> {
        let packing = self.packing();
        let mut ids = Vec::new();
        let mut reader = self.read()?;
        while let Some(window) = reader.next()? {
            let length = packing.length(window.key, self.order);
            ids.clear();
            ids.extend(packing.words(window.key, length).rev().map(super::words::to_id));
            each(&ids, window.count)?;
        }
        Ok(())
    }

    /// The number that stands for `<s>` among token ids, in tables of counts.
    pub const BEGIN: i64 = super::words::BOS_ID;
    /// The number that stands for `</s>` among token ids, in tables of counts.
    pub const END: i64 = super::words::EOS_ID;
}

/// A reader of windows in suffix order, wherever they are kept.
pub(super) enum WindowReader<'a> {
    Sorted(Reader<'a, Window>),
    Files(Merge<FileReader>),
}

impl Stream for WindowReader<'_> {
    type Item = Window;

    #[inline]
    fn next(&mut self) -> Result<Option<Window>> {
        match self {
            Self::Sorted(reader) => reader.next(),
            Self::Files(merge) => merge.next(),
        }
    }
}

fn check_order(order: usize) -> Result<()> {
    if !(1..=MAX_ORDER).contains(&order) {
        bail!("n-gram order {order} is outside 1 to {MAX_ORDER}. Choose an order in this range (4 is usual).");
    }
    Ok(())
}

/// A collector of windows that were counted elsewhere, in any order. Equal ones add up.
pub struct Collector {
    order: usize,
    vocabulary: Vocabulary,
    packing: Packing,
    sorter: super::sort::Sorter<Window>,
}

impl Collector {
    /// Makes a collector of windows up to `order`, 1 to [`MAX_ORDER`].
    ///
    /// # Errors
    /// When `order` is out of range.
    pub fn new(order: usize, vocabulary: Vocabulary, memory: &Memory) -> Result<Self> {
        check_order(order)?;
        Ok(Self { order, vocabulary, packing: Packing::new(order), sorter: memory.sorter(2) })
    }

    /// Adds one window, with its `ids` in text order as [`Counts::for_each`] passes them.
    ///
    /// # Errors
    /// When it is not a window: it is shorter than the order and does not begin with `<s>`, it has `<s>` elsewhere, an
    /// id is outside the vocabulary, or the count is 0.
    pub fn add(&mut self, ids: &[i64], count: u64) -> Result<()> {
        let window = || format!("the window {ids:?} with count {count}");
        if count == 0 {
            bail!("{} counts nothing; leave such rows out.", window());
        }
        let begins = ids.first() == Some(&Counts::BEGIN);
        if ids.is_empty() || ids.len() > self.order || (begins && ids.len() == 1) || (!begins && ids.len() < self.order)
        {
            bail!(
                "{} is neither of order {} nor a shorter one that begins with <s> ({}) and goes on.",
                window(),
                self.order,
                Counts::BEGIN
            );
        }
        let mut words = [0; MAX_ORDER];
        for (at, &id) in ids.iter().enumerate() {
            let word = super::words::of_id(id).filter(|&word| word <= self.packing.largest());
            let inside = self.vocabulary.size.is_none_or(|size| id < size as i64);
            let in_place = |word: &u32| (*word != BOS || at == 0) && (*word != EOS || at + 1 == ids.len());
            match word.filter(in_place).filter(|_| inside) {
                Some(word) => words[ids.len() - 1 - at] = word,
                None => bail!(
                    "{}: {id} at place {at} is no token id of this vocabulary; <s> ({}) can only come first, </s> ({}) last.",
                    window(),
                    Counts::BEGIN,
                    Counts::END
                ),
            }
        }
        self.sorter.push(Window { key: self.packing.pack(words[..ids.len()].iter().copied()), count })
    }

    /// Returns the counts of everything added.
    pub fn finish(self) -> Result<Counts> {
        let Self { order, vocabulary, sorter, .. } = self;
        Ok(Counts { order, vocabulary, windows: Windows::Sorted(sorter.finish()?) })
    }
}
