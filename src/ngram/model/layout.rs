//! The model file: a header and seven columns, little-endian, each column at a multiple of 64 bytes.
//!
//! ```text
//! "dsngrams"            8 bytes
//! version               u32
//! length of the header  u32
//! header                JSON
//! BLAKE3 of the above   32 bytes
//! backoffs              f32 or u8 per node                  log10
//! probs                 f32 or u8 per arc                   log10
//! words                 u16 or u32 per arc
//! leaves                u32 per arc of the highest order    the state after it
//! roots                 u32 per word                        its arc at the empty context, or 0
//! codebooks             2 x 256 f32                         of probs and backoffs, if these are u8
//! links                 [u32; 2] per node, and one more     the number of its first arc, and its suffix; in the last
//!                                                           entry the latter is the state after <s>
//! ```
//!
//! Probabilities are at most 1, so their logarithms have the sign bit set. A value without it marks an n-gram below the
//! highest order that is not worth a state, so that a query need not look further to find out.
//!
//! Nodes and arcs are numbered together: node 0 is the empty context, and then come the n-grams order by order, in the
//! order of their words. An n-gram below the highest order is both an arc that leads to a node and that node, a
//! context. So the arcs of a node are those from its first one up to the first one of the next node.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use bytemuck::Pod;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::super::words::{MAX_ORDER, UNK, Vocabulary};
use super::ROOT;
use crate::error::{Error, Result, bail};

const MAGIC: &[u8; 8] = b"dsngrams";
const VERSION: u32 = 1;
const ALIGN: u64 = 64;
/// Bytes before the header.
const BEFORE: usize = 16;

/// The names of the columns, in file order.
pub(super) const NAMES: [&str; 7] = ["backoffs", "probs", "words", "leaves", "roots", "codebooks", "links"];

/// The header of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) vocabulary: Vocabulary,
    /// The number of n-grams of every order, unigrams first.
    pub(super) sizes: Vec<u64>,
    /// Whether probabilities and weights are codes of one byte.
    pub(super) quantised: bool,
    /// Whether words have 32 bits instead of 16.
    pub(super) wide: bool,
    /// The length of `roots`.
    pub(super) roots: u64,
    /// The BLAKE3 of every column.
    pub(super) hashes: Vec<String>,
}

impl Header {
    /// Returns the number of nodes, the empty context included.
    pub(super) fn nodes(&self) -> u64 {
        1 + self.sizes[..self.sizes.len() - 1].iter().sum::<u64>()
    }

    /// Returns how many numbers nodes and arcs take together.
    pub(super) fn arcs(&self) -> u64 {
        1 + self.sizes.iter().sum::<u64>()
    }

    /// Returns the number of the first n-gram of every order.
    pub(super) fn bases(&self) -> Vec<u32> {
        self.sizes.iter().scan(1, |next, &size| Some(std::mem::replace(next, *next + size as u32))).collect()
    }

    /// Returns the length of every column in bytes.
    fn lengths(&self) -> [u64; 7] {
        let value = if self.quantised { 1 } else { 4 };
        [
            value * self.nodes(),
            value * self.arcs(),
            self.arcs() * if self.wide { 4 } else { 2 },
            4 * self.sizes.last().copied().unwrap_or(0),
            4 * self.roots,
            if self.quantised { 2048 } else { 0 },
            // Last, because it is never empty, so that the file ends where the last column does.
            8 * (self.nodes() + 1),
        ]
    }

    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a header serialises")
    }

    /// Returns where every column lies, and the length of the file. The header's length does not depend on the hashes.
    pub(super) fn layout(&self) -> ([Range<u64>; 7], u64) {
        let mut at = (BEFORE + self.text().len() + 32) as u64;
        let ranges = self.lengths().map(|length| {
            let start = at.next_multiple_of(ALIGN);
            at = start + length;
            start..at
        });
        (ranges, at)
    }

    /// Writes everything before the columns, once their hashes are known.
    pub(super) fn write(&self, out: &mut (impl Write + Seek)) -> io::Result<()> {
        let text = self.text();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text);
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&bytes)
    }

    /// Returns placeholders of the right length for the hashes, to compute a layout.
    pub(super) fn no_hashes() -> Vec<String> {
        vec!["0".repeat(64); NAMES.len()]
    }

    /// Returns whether the header makes sense.
    fn check(&self) -> bool {
        (1..=MAX_ORDER).contains(&self.sizes.len())
            && self.sizes.iter().try_fold(1u64, |sum, &size| sum.checked_add(size)).is_some_and(fits)
            && self.roots <= u64::from(u32::MAX)
            && self.hashes.len() == NAMES.len()
    }
}

/// Returns whether this many nodes and arcs can be numbered.
pub(super) fn fits(arcs: u64) -> bool {
    arcs < u64::from(u32::MAX)
}

/// A writer of one column, piece by piece, in a file to which other columns are written at the same time.
pub(super) struct ColumnWriter {
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl ColumnWriter {
    pub(super) fn new(range: &Range<u64>) -> Self {
        Self { at: range.start, end: range.end, buffer: Vec::new(), hasher: blake3::Hasher::new() }
    }

    #[inline]
    pub(super) fn push(&mut self, value: impl Pod, out: &mut (impl Write + Seek)) -> io::Result<()> {
        self.buffer.extend_from_slice(bytemuck::bytes_of(&value));
        if self.buffer.len() >= 1 << 17 { self.flush(out) } else { Ok(()) }
    }

    fn flush(&mut self, out: &mut (impl Write + Seek)) -> io::Result<()> {
        out.seek(SeekFrom::Start(self.at))?;
        out.write_all(&self.buffer)?;
        self.hasher.update(&self.buffer);
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the column, which must be full, and returns its hash.
    pub(super) fn finish(mut self, out: &mut (impl Write + Seek)) -> io::Result<String> {
        self.flush(out)?;
        assert_eq!(self.at, self.end, "a column of a model is filled");
        Ok(self.hasher.finalize().to_hex().to_string())
    }
}

/// Maps a model file.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    // SAFETY: the file is only read. If another process shortened it meanwhile, this one would be killed, as with any
    // map; the program itself replaces files by renaming.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))
}

/// Reads the header and the columns of a mapped file.
pub(super) fn read(map: Mmap) -> Result<(Header, Columns)> {
    const OTHER: &str = "this is not an n-gram model file of this program. ARPA text is read where the name ends in .arpa or \
                         .arpa.gz; `ngram convert` makes one from the other.";
    const DAMAGED: &str = "the model file is damaged or was cut. Make it again.";
    if cfg!(target_endian = "big") {
        bail!("model files are little-endian, and this machine is not. Use ARPA text.");
    }
    if map.len() < BEFORE || map[..8] != *MAGIC {
        bail!("{OTHER}");
    }
    let number = |at: usize| u32::from_le_bytes([map[at], map[at + 1], map[at + 2], map[at + 3]]);
    if number(8) != VERSION {
        bail!(
            "the model file has version {}; this program reads {VERSION}. Make it again from counts or ARPA.",
            number(8)
        );
    }
    let end = BEFORE + number(12) as usize;
    let Some(stored) = map.get(end..end + 32) else { bail!("{DAMAGED}") };
    if blake3::hash(&map[..end]).as_bytes() != stored {
        bail!("{DAMAGED}");
    }
    let header: Header = serde_json::from_slice(&map[BEFORE..end]).map_err(|_| Error::new(DAMAGED))?;
    if !header.check() || header.layout().1 != map.len() as u64 {
        bail!("{DAMAGED}");
    }
    let columns = Columns::new(&header, map);
    Ok((header, columns))
}

/// Compares every column with its hash, and checks that a query, which trusts them, comes to an end in them.
pub(super) fn verify(header: &Header, columns: &Columns) -> Result<()> {
    for ((name, range), hash) in NAMES.iter().zip(header.layout().0).zip(&header.hashes) {
        let bytes = &columns.bytes()[range.start as usize..range.end as usize];
        if blake3::hash(bytes).to_hex().as_str() != hash {
            bail!("the column `{name}` of the model file is damaged. Make the file again.");
        }
    }
    if !columns.lead_on(header) {
        bail!("the model file leads from contexts to what is none. Make it again, from counts or ARPA.");
    }
    Ok(())
}

/// The columns of a mapped file, as ranges of its bytes.
pub(super) struct Columns {
    map: Mmap,
    links: Range<usize>,
    backoffs: Range<usize>,
    probs: Range<usize>,
    words: Range<usize>,
    leaves: Range<usize>,
    roots: Range<usize>,
    /// Empty unless `quantised`.
    codebooks: Range<usize>,
    quantised: bool,
    wide: bool,
}

impl Columns {
    fn new(header: &Header, map: Mmap) -> Self {
        let [backoffs, probs, words, leaves, roots, codebooks, links] =
            header.layout().0.map(|range| range.start as usize..range.end as usize);
        let (quantised, wide) = (header.quantised, header.wide);
        Self { map, links, backoffs, probs, words, leaves, roots, codebooks, quantised, wide }
    }

    /// Returns the numbers of a column.
    #[inline]
    fn column<T: Pod>(&self, range: &Range<usize>) -> &[T] {
        bytemuck::cast_slice(&self.map[range.clone()])
    }

    #[inline]
    fn links(&self) -> &[[u32; 2]] {
        self.column(&self.links)
    }

    #[inline]
    fn values(&self, range: &Range<usize>, codebook: usize) -> Values<'_> {
        if self.quantised {
            Values::Codes(self.column(range), &self.column(&self.codebooks)[256 * codebook..][..256])
        } else {
            Values::Floats(self.column(range))
        }
    }

    /// Returns the back-off weights of the nodes.
    #[inline]
    pub(super) fn backoffs(&self) -> Values<'_> {
        self.values(&self.backoffs, 1)
    }

    /// Returns the probabilities on the arcs, whose sign has a meaning of its own (see the top of this file).
    #[inline]
    pub(super) fn probs(&self) -> Values<'_> {
        self.values(&self.probs, 0)
    }

    /// Returns the words of the arcs.
    #[inline]
    pub(super) fn words(&self) -> Words<'_> {
        if self.wide { Words::Wide(self.column(&self.words)) } else { Words::Narrow(self.column(&self.words)) }
    }

    /// Returns the states after the arcs of the highest order.
    #[inline]
    pub(super) fn leaves(&self) -> &[u32] {
        self.column(&self.leaves)
    }

    /// Returns for each word its arc at the empty context, or 0.
    #[inline]
    pub(super) fn roots(&self) -> &[u32] {
        self.column(&self.roots)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Returns the number of nodes.
    #[inline]
    pub(super) fn nodes(&self) -> u32 {
        self.links().len() as u32 - 1
    }

    /// Returns the state after `<s>`.
    pub(super) fn begin(&self) -> u32 {
        self.links().last().map_or(0, |last| last[1])
    }

    /// Returns the arcs of a node.
    #[inline]
    pub(super) fn arcs(&self, node: u32) -> Range<u32> {
        let (links, node) = (self.links(), node as usize);
        links[node][0]..links[node + 1][0]
    }

    /// Returns whether every number leads to an arc or a node that is there, and from a context only to shorter ones, the last of
    /// which has `<unk>`. The numbers themselves may be any.
    fn lead_on(&self, header: &Header) -> bool {
        let (links, nodes, arcs, bases) = (self.links(), self.nodes(), header.arcs() as u32, header.bases());
        let ends = bases[1..].iter().copied().chain([arcs]);
        // The arcs of the contexts of each order are the n-grams of the next one, in their order.
        let starts_at = |node: u32, arc: u32| links[node as usize][0] == arc;
        let in_order = links.is_sorted_by_key(|link| link[0])
            && starts_at(ROOT, 1)
            && bases.iter().zip(ends).all(|(&base, end)| starts_at(base, end));
        let to_shorter = bases.windows(2).all(|base| (base[0]..base[1]).all(|node| self.suffix(node) < base[0]));
        let there = |numbers: &[u32], most: u32| numbers.iter().all(|&number| number < most);
        in_order
            && to_shorter
            && self.begin() < nodes
            && there(self.leaves(), nodes)
            && there(self.roots(), arcs)
            && match self.roots().first() {
                Some(&arc) => arc != ROOT,
                None => self.words().find(self.arcs(ROOT), UNK).is_some(),
            }
    }

    /// Returns the longest proper suffix of a node that is worth a state.
    #[inline]
    pub(super) fn suffix(&self, node: u32) -> u32 {
        self.links()[node as usize][1]
    }
}

/// A column of log10 values.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    Floats(&'a [f32]),
    /// Codes and what they stand for.
    Codes(&'a [u8], &'a [f32]),
}

impl Values<'_> {
    #[inline]
    pub(super) fn get(self, index: usize) -> f32 {
        match self {
            Self::Floats(values) => values[index],
            Self::Codes(codes, book) => book[usize::from(codes[index])],
        }
    }

    pub(super) fn len(self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Codes(codes, _) => codes.len(),
        }
    }
}

/// A column of words, ascending among the arcs of a node.
#[derive(Clone, Copy)]
pub(super) enum Words<'a> {
    Narrow(&'a [u16]),
    Wide(&'a [u32]),
}

impl Words<'_> {
    #[inline]
    pub(super) fn get(self, index: usize) -> u32 {
        match self {
            Self::Narrow(words) => u32::from(words[index]),
            Self::Wide(words) => words[index],
        }
    }

    /// Returns the arc with `word`.
    #[inline]
    pub(super) fn find(self, arcs: Range<u32>, word: u32) -> Option<u32> {
        let range = arcs.start as usize..arcs.end as usize;
        let place = match self {
            Self::Narrow(words) => position(&words[range], word),
            Self::Wide(words) => position(&words[range], word),
        };
        place.map(|place| arcs.start + place as u32)
    }

    /// Calls `found` with the index and the arc of each word of `sought` that is there.
    #[inline]
    pub(super) fn find_all(self, arcs: Range<u32>, sought: &[u32], found: impl FnMut(usize, u32)) {
        let range = arcs.start as usize..arcs.end as usize;
        match self {
            Self::Narrow(words) => search(&words[range], arcs.start, sought, found),
            Self::Wide(words) => search(&words[range], arcs.start, sought, found),
        }
    }

    /// Calls `each` with every arc and its word.
    #[inline]
    pub(super) fn each(self, arcs: Range<u32>, mut each: impl FnMut(u32, u32)) {
        let range = arcs.start as usize..arcs.end as usize;
        match self {
            Self::Narrow(words) => arcs.zip(&words[range]).for_each(|(arc, &word)| each(arc, u32::from(word))),
            Self::Wide(words) => arcs.zip(&words[range]).for_each(|(arc, &word)| each(arc, word)),
        }
    }
}

/// Returns the position of `word` among the sorted `words`. The last few are compared one by one, which branch
/// prediction handles well.
#[inline]
fn position<W: Copy + Into<u32>>(words: &[W], word: u32) -> Option<usize> {
    let (mut rest, mut first) = (words, 0);
    while rest.len() > 8 {
        let half = rest.len() / 2;
        // Both halves are equally likely, so this selects values instead of branching.
        let right = rest[half].into() <= word;
        first += if right { half } else { 0 };
        rest = if right { &rest[half..] } else { &rest[..half] };
    }
    rest.iter().position(|&other| other.into() == word).map(|place| first + place)
}

/// Searches for all of `sought` among the sorted `words` by binary search in step, so that the processor can wait for
/// many memory reads at once. Calls `found` with the index of each in `sought` that is there, and its position in
/// `words`, counted from `first`.
#[inline]
fn search<W: Copy + Into<u32>>(words: &[W], first: u32, sought: &[u32], mut found: impl FnMut(usize, u32)) {
    const IN_STEP: usize = 16;
    if words.is_empty() {
        return;
    }
    for (part, sought) in sought.chunks(IN_STEP).enumerate() {
        let (mut places, mut size) = ([0u32; IN_STEP], words.len());
        while size > 1 {
            let half = size / 2;
            for (place, &word) in places.iter_mut().zip(sought) {
                let middle = *place as usize + half;
                *place = if words[middle].into() <= word { middle as u32 } else { *place };
            }
            size -= half;
        }
        for (at, (&place, &word)) in places.iter().zip(sought).enumerate() {
            if words[place as usize].into() == word {
                found(part * IN_STEP + at, first + place);
            }
        }
    }
}
