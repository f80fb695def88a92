//! Compiles a listing into the columns of a model file. The work is streamed: only what sorting may take is held in
//! memory.

use std::io::{self, Cursor, Seek, Write};
use std::path::Path;

use bytemuck::{Pod, Zeroable};
use memmap2::{Mmap, MmapMut};

use super::super::key::{Key, Packing};
use super::super::listing::Listing;
use super::super::sort::{Memory, Record, Sorted, Sorter};
use super::super::words::BOS;
use super::ROOT;
use super::layout::{ColumnWriter, Header, fits};
use crate::error::{Error, Result, bail};
use crate::files;

/// Compiles the model in memory.
pub(super) fn in_memory(listing: &Listing) -> Result<Mmap> {
    let header = header(listing)?;
    let failed = |error| Error::io("make", "the n-gram model in memory", error);
    let mut map = MmapMut::map_anon(header.layout().1 as usize).map_err(failed)?;
    Compiler::new(listing, header).run(&mut Cursor::new(&mut map[..])).map_err(failed)?;
    map.make_read_only().map_err(failed)
}

/// Compiles the model to a file.
pub(super) fn to_file(listing: &Listing, path: &Path) -> Result<()> {
    let header = header(listing)?;
    files::write_with(path, |out| Compiler::new(listing, header).run(out))
}

/// `roots` is written unless it is larger than this many times the unigrams and a few more: the ids of tokenizers are
/// dense.
const SPARSE: u64 = 16;
const FEW: u64 = 1 << 16;

/// Returns the header of the model, with hashes that are still to be computed.
fn header(listing: &Listing) -> Result<Header> {
    let sizes = listing.sizes();
    let arcs = 1 + sizes.iter().sum::<u64>();
    if !fits(arcs) {
        bail!(
            "the model has {} n-grams, more than {} of which a model file can number. Prune it, or use a lower order.",
            arcs - 1,
            u32::MAX - 2
        );
    }
    let mut largest = 0;
    let mut unigrams = listing.read(1)?;
    while let Some(entry) = unigrams.next()? {
        largest = listing.packing.word(entry.key, 0);
    }
    let by_word = u64::from(largest) + 1;
    Ok(Header {
        vocabulary: listing.vocabulary.clone(),
        roots: if by_word <= SPARSE * sizes[0] + FEW { by_word } else { 0 },
        sizes,
        quantised: false,
        wide: largest > u32::from(u16::MAX),
        hashes: Header::no_hashes(),
    })
}

/// An n-gram and the state after it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Target {
    /// The words in text order.
    key: Key,
    state: u64,
}

impl Record for Target {
    fn key(&self) -> Key {
        self.key
    }
}

/// An n-gram, rotated so that the suffix that is looked for comes first.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct Rotated(Key);

impl Record for Rotated {
    fn key(&self) -> Key {
        self.0
    }
}

/// The columns that are being written.
struct Written {
    links: ColumnWriter,
    backoffs: ColumnWriter,
    probs: ColumnWriter,
    words: ColumnWriter,
    leaves: ColumnWriter,
    roots: ColumnWriter,
    codebooks: ColumnWriter,
    /// The state after `<s>`.
    begin: u32,
}

impl Written {
    /// Writes the probability and the word of an arc.
    fn arc(&mut self, header: &Header, log10_prob: f32, word: u32, out: &mut (impl Write + Seek)) -> io::Result<()> {
        self.probs.push(log10_prob, out)?;
        if header.wide { self.words.push(word, out) } else { self.words.push(word as u16, out) }
    }

    /// Ends all columns and returns their hashes.
    fn finish(self, out: &mut (impl Write + Seek)) -> io::Result<Vec<String>> {
        let Self { links, backoffs, probs, words, leaves, roots, codebooks, .. } = self;
        [backoffs, probs, words, leaves, roots, codebooks, links].into_iter().map(|column| column.finish(out)).collect()
    }
}

/// The compilation of one listing.
struct Compiler<'a> {
    listing: &'a Listing,
    packing: Packing,
    memory: &'a Memory,
    header: Header,
    /// The states after the n-grams of every order done so far.
    targets: Vec<Sorted<Target>>,
}

impl<'a> Compiler<'a> {
    fn new(listing: &'a Listing, header: Header) -> Self {
        Self { listing, packing: listing.packing, memory: &listing.memory, header, targets: Vec::new() }
    }

    /// Makes a sorter with its part of the memory. The listing holds at most half; besides it there are the targets of
    /// every order, the suffixes of one, and the n-grams that are being rotated.
    fn sorter<T: Record>(&self) -> Sorter<T> {
        self.memory.sorter(2 * (self.listing.order() + 4))
    }

    /// Writes the whole file.
    fn run(mut self, out: &mut (impl Write + Seek)) -> io::Result<()> {
        let ranges = self.header.layout().0;
        let bases = self.header.bases();
        let [backoffs, probs, words, leaves, roots, codebooks, links] = ranges.each_ref().map(ColumnWriter::new);
        let mut columns = Written { links, backoffs, probs, words, leaves, roots, codebooks, begin: ROOT };
        columns.links.push([1, ROOT], out)?;
        columns.backoffs.push(0f32, out)?;
        columns.arc(&self.header, 0.0, 0, out)?;
        for n in 1..=self.listing.order() {
            let targets = self.order(n, &bases, &mut columns, out)?;
            self.targets.push(targets);
        }
        columns.links.push([self.header.arcs() as u32, columns.begin], out)?;
        self.header.hashes = columns.finish(out)?;
        self.header.write(out)
    }

    /// Writes the n-grams of order `n`, and returns the state after each.
    fn order(
        &self,
        n: usize,
        bases: &[u32],
        columns: &mut Written,
        out: &mut (impl Write + Seek),
    ) -> io::Result<Sorted<Target>> {
        let suffixes = self.suffixes(n)?;
        let mut suffixes = suffixes.as_ref().map(Sorted::read).transpose()?;
        let mut longer = if n < self.listing.order() { Some(self.listing.read(n + 1)?) } else { None };
        let mut targets = self.sorter();
        let mut entries = self.listing.read(n)?;
        let mut first = bases.get(n).copied().unwrap_or(0);
        let mut rooted = 0;
        for number in bases[n - 1].. {
            let Some(entry) = entries.next()? else { break };
            let suffix = match &mut suffixes {
                None => ROOT,
                Some(suffixes) => suffixes.next()?.expect("every n-gram has a suffix").state as u32,
            };
            let word = self.packing.word(entry.key, n - 1);
            let mut worth = true;
            match &mut longer {
                None => columns.leaves.push(suffix, out)?,
                Some(longer) => {
                    columns.links.push([first, suffix], out)?;
                    columns.backoffs.push(entry.log10_backoff, out)?;
                    let start = first;
                    while let Some(gram) = longer.peek()
                        && self.packing.prefix(gram.key, n) == entry.key
                    {
                        first += 1;
                        longer.advance()?;
                    }
                    worth = first > start || entry.log10_backoff != 0.0;
                    let state = if worth { number } else { suffix };
                    if n == 1 && word == BOS {
                        columns.begin = state;
                    }
                    targets.push(Target { key: entry.key, state: u64::from(state) })?;
                }
            }
            let stored = if worth { -entry.log10_prob.abs() } else { entry.log10_prob.abs() };
            columns.arc(&self.header, stored, word, out)?;
            if n == 1 && self.header.roots > 0 {
                for _ in rooted..word {
                    columns.roots.push(ROOT, out)?;
                }
                columns.roots.push(number, out)?;
                rooted = word + 1;
            }
        }
        assert!(longer.is_none_or(|longer| longer.peek().is_none()), "every context is listed");
        Ok(targets.finish()?)
    }

    /// Returns the state of the longest listed proper suffix of every n-gram of order `n`, in the order of the n-grams.
    /// Unigrams, whose suffix is empty, need none.
    fn suffixes(&self, n: usize) -> Result<Option<Sorted<Target>>> {
        if n == 1 {
            return Ok(None);
        }
        let mut found = self.sorter();
        let mut looking = self.sorter();
        let mut entries = self.listing.read(n)?;
        while let Some(entry) = entries.next()? {
            looking.push(Rotated(self.packing.rotate(entry.key, n)))?;
        }
        // The suffix that is one word shorter is nearly always listed; models pruned by other programs may lack some.
        for length in (1..n).rev() {
            let rotated = looking.finish()?;
            looking = self.sorter();
            let (mut rotated, mut targets) = (rotated.read()?, self.targets[length - 1].read()?);
            while let Some(Rotated(key)) = rotated.next()? {
                let suffix = self.packing.prefix(key, length);
                while targets.peek().is_some_and(|target| target.key < suffix) {
                    targets.advance()?;
                }
                match targets.peek() {
                    Some(target) if target.key == suffix => {
                        let whole = (0..length).fold(key, |key, _| self.packing.rotate(key, n));
                        found.push(Target { key: whole, state: target.state })?;
                    }
                    _ => looking.push(Rotated(self.packing.rotate(key, n)))?,
                }
            }
        }
        let rest = looking.finish()?;
        let mut rest = rest.read()?;
        while let Some(Rotated(key)) = rest.next()? {
            found.push(Target { key, state: u64::from(ROOT) })?;
        }
        found.finish().map(Some)
    }
}
