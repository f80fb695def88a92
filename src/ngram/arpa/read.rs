//! Reads ARPA text into a listing, with errors that say what the file really is and where it goes wrong.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Read};
use std::path::Path;

use bytemuck::{Pod, Zeroable};

use super::super::key::{Key, Packing};
use super::super::listing::{Entry, List, Listing};
use super::super::sort::{Memory, Record, Sorter};
use super::super::words::{BOS, EOS, MAX_ORDER, UNK, Vocabulary, marker, of_token, spell};
use super::LOG_ZERO;
use crate::error::{Error, Result, bail};
use crate::files;

/// A line that is longer than this is not ARPA.
const LONGEST_LINE: u64 = 1 << 16;

/// Reads a model over token ids; `vocabulary` tells which ids stand for `</s>` and `<s>`.
///
/// # Errors
/// When the file cannot be read or is not a whole ARPA file. The error names the mistake and its line.
pub fn read(path: &Path, vocabulary: Vocabulary, memory: &Memory) -> Result<Listing> {
    parse(&mut *files::open_text(path)?, vocabulary, memory).map_err(|error| error.within(path.display()))
}

/// Reads a model over any words. In the second value, `table[id]` is the word that token `id` of the model stands for.
///
/// # Errors
/// As for [`read`].
pub fn read_words(path: &Path, memory: &Memory) -> Result<(Listing, Vec<String>)> {
    parse_words(&mut *files::open_text(path)?, memory).map_err(|error| error.within(path.display()))
}

/// Returns the number of n-grams of every order that the head of a file states, without reading the rest.
///
/// # Errors
/// When the file cannot be read or does not begin as ARPA text does.
pub fn sizes(path: &Path) -> Result<Vec<u64>> {
    let mut lines = Lines::new(files::open_text(path)?);
    lines.check_kind().and_then(|()| lines.header()).map_err(|error| error.within(path.display()))
}

/// Does the same as [`read`] with the text of a file.
pub fn parse(text: impl BufRead, vocabulary: Vocabulary, memory: &Memory) -> Result<Listing> {
    Ok(Parser { lines: Lines::new(text), words: Words::Ids, memory }.listing(vocabulary)?.0)
}

/// Does the same as [`read_words`] with the text of a file.
pub fn parse_words(text: impl BufRead, memory: &Memory) -> Result<(Listing, Vec<String>)> {
    let words = Words::Listed { words: Vec::new(), ids: HashMap::new() };
    Parser { lines: Lines::new(text), words, memory }.listing(Vocabulary::default())
}

/// The lines of a text, with the number of the current one.
struct Lines<R> {
    text: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(text: R) -> Self {
        Self { text, line: Vec::new(), number: 0 }
    }

    /// Fails if the text begins as some other kind of file does.
    fn check_kind(&mut self) -> Result<()> {
        let head = self.text.fill_buf().map_err(unreadable)?;
        let kinds: [(&[u8], &str); 12] = [
            (b"\x1f\x8b", "this is gzip-compressed, but its name does not end in .gz. Rename it to end in .gz."),
            (b"BZh", "this is bzip2-compressed. Decompress it with bunzip2."),
            (b"\xfd7zXZ", "this is xz-compressed. Decompress it with unxz."),
            (b"\x28\xb5\x2f\xfd", "this is zstd-compressed. Decompress it with unzstd."),
            (b"mmap lm http", "this is a KenLM binary file, not ARPA text. Give the ARPA file it was built from."),
            (b"blmt", "this is an IRSTLM binary file. Convert it with `compile-lm --text=yes`."),
            (b"Qblmt", "this is an IRSTLM binary file. Convert it with `compile-lm --text=yes`."),
            (b"iARPA", "this is IRSTLM's iARPA dialect. Convert it with `compile-lm --text=yes`."),
            (b"qARPA", "this is IRSTLM's quantised qARPA dialect. Convert it with `compile-lm --text=yes`."),
            (b"\xef\xbb\xbf", "this begins with a UTF-8 byte order mark. Remove its first three bytes."),
            (b"\xff\xfe", "this is UTF-16 text. Convert it to UTF-8."),
            (b"\xfe\xff", "this is UTF-16 text. Convert it to UTF-8."),
        ];
        match kinds.into_iter().find(|(magic, _)| head.starts_with(magic)) {
            Some((_, what)) => Err(Error::new(what)),
            None => Ok(()),
        }
    }

    /// Returns the next line without its end, or `None` at the end of the text.
    fn next(&mut self) -> Result<Option<&str>> {
        self.line.clear();
        let read = (&mut self.text).take(LONGEST_LINE).read_until(b'\n', &mut self.line).map_err(unreadable)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.line.contains(&0) {
            bail!("this is a binary file, not ARPA text. Give an ARPA file.");
        }
        if read as u64 == LONGEST_LINE {
            bail!("the line is longer than {LONGEST_LINE} bytes: this is not ARPA text. Give an ARPA file.");
        }
        match std::str::from_utf8(&self.line) {
            Ok(line) => Ok(Some(line.trim_end_matches(['\n', '\r']))),
            Err(_) => bail!("the line is not UTF-8 text. Convert the file to UTF-8, or give an ARPA file."),
        }
    }

    /// Returns the next line that is not blank, or `None` at the end of the text.
    fn next_filled(&mut self) -> Result<Option<&str>> {
        while let Some(line) = self.next()? {
            if !line.trim().is_empty() {
                // Borrowed anew, because the loop's borrow cannot outlive it.
                return Ok(std::str::from_utf8(&self.line).ok().map(str::trim));
            }
        }
        Ok(None)
    }

    /// Reads `\data\` and the number of n-grams of every order.
    fn header(&mut self) -> Result<Vec<u64>> {
        match self.next_filled()? {
            Some("\\data\\") => {}
            Some(line) => bail!("an ARPA file begins with \\data\\, but this begins with `{}`.", shorten(line)),
            None => bail!("the file is empty. Give an ARPA file."),
        }
        let mut counts = Vec::new();
        while let Some(line) = self.next()? {
            if line.trim().is_empty() {
                break;
            }
            let n = counts.len() + 1;
            let count = line
                .strip_prefix("ngram ")
                .and_then(|rest| rest.split_once('='))
                .filter(|(order, _)| order.trim().parse() == Ok(n))
                .and_then(|(_, count)| count.trim().parse::<u32>().ok());
            match count {
                Some(count) if n <= MAX_ORDER => counts.push(u64::from(count)),
                Some(_) => bail!("the model's order is more than {MAX_ORDER}, the highest that is read."),
                None => bail!("`ngram {n}=COUNT` or a blank line should stand here, not `{}`. {REMAKE}", shorten(line)),
            }
        }
        if counts.is_empty() {
            bail!("no `ngram 1=COUNT` follows \\data\\. {REMAKE}");
        }
        if counts.iter().sum::<u64>() >= u64::from(u32::MAX) {
            bail!("the model has more than {} n-grams, the most that are read.", u32::MAX);
        }
        Ok(counts)
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(format!("the text cannot be read: {error}. The file may be damaged or cut; make it again."))
}

/// What the words of the text are.
enum Words {
    /// Decimal token ids.
    Ids,
    /// Any words. Their ids are their positions among the unigrams.
    Listed { words: Vec<String>, ids: HashMap<String, u32> },
}

impl Words {
    /// Returns the word that `text` spells in an n-gram of order `order`.
    fn word(&mut self, text: &str, order: usize) -> Result<u32> {
        if let Some(marker) = marker(text) {
            return Ok(marker);
        }
        match self {
            Self::Ids => match text.parse().ok().and_then(of_token) {
                Some(word) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(word),
                _ => bail!(
                    "the word `{text}` is not a token id. This model is over words, not over the ids of a tokenizer; \
                     estimate one from token ids."
                ),
            },
            Self::Listed { words, ids } => match ids.get(text) {
                Some(&word) => Ok(word),
                None if order > 1 => bail!("the word `{text}` is not among the unigrams. {REMAKE}"),
                None => {
                    let Some(word) = u32::try_from(words.len()).ok().and_then(of_token) else {
                        bail!("there are too many words. {REMAKE}");
                    };
                    words.push(text.to_string());
                    ids.insert(text.to_string(), word);
                    Ok(word)
                }
            },
        }
    }
}

impl Words {
    /// Returns the word as it stands in the text.
    fn spell(&self, word: u32) -> String {
        match self {
            Self::Listed { words, .. } if word > EOS => words[(word - EOS - 1) as usize].clone(),
            _ => spell(word),
        }
    }
}

/// Parts of the memory: one for the list of every order, and one each for two sorters of one order.
const PARTS: usize = MAX_ORDER + 2;

const REMAKE: &str = "The file is damaged or was made by a faulty tool; make it again.";

/// An n-gram and the number of its line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Numbered {
    entry: Entry,
    line: u64,
}

impl Record for Numbered {
    fn key(&self) -> Key {
        self.entry.key
    }
}

/// The reader of one text.
struct Parser<'a, R> {
    lines: Lines<R>,
    words: Words,
    memory: &'a Memory,
}

impl<R: BufRead> Parser<'_, R> {
    /// Reads the whole text; an error names the line.
    fn listing(mut self, vocabulary: Vocabulary) -> Result<(Listing, Vec<String>)> {
        let (packing, orders) = self.orders().map_err(|error| match self.lines.number {
            0 => error,
            number => error.within(format!("line {number}")),
        })?;
        let words = match self.words {
            Words::Ids => Vec::new(),
            Words::Listed { words, .. } => words,
        };
        Ok((Listing { vocabulary, packing, memory: self.memory.clone(), orders }, words))
    }

    /// Reads the n-grams of all orders.
    fn orders(&mut self) -> Result<(Packing, Vec<List>)> {
        self.lines.check_kind()?;
        let counts = self.lines.header()?;
        let packing = Packing::new(counts.len());
        let mut unigrams = HashSet::new();
        let mut orders: Vec<List> = Vec::with_capacity(counts.len());
        for (n, &count) in (1..).zip(&counts) {
            self.section_title(n, counts.len())?;
            let section = self.section(n, count, counts.len(), packing, &mut unigrams)?;
            let list = self.check(n, section, orders.last(), packing)?;
            if n == 1 {
                for word in [BOS, EOS] {
                    if !unigrams.contains(&word) {
                        bail!("{} is not among the unigrams. {REMAKE}", spell(word));
                    }
                }
            }
            orders.push(list);
        }
        match self.lines.next_filled()? {
            Some("\\end\\") => {}
            Some(line) => bail!("`{}` stands where \\end\\ should. {REMAKE}", shorten(line)),
            None => bail!("the text ends without \\end\\: the file was cut. Copy or make it again."),
        }
        match self.lines.next_filled()? {
            Some(line) => bail!("`{}` follows \\end\\, where nothing may. Remove it.", shorten(line)),
            None => Ok((packing, orders)),
        }
    }

    /// Sorts the n-grams of order `n`, and checks that none is listed twice and each has its context among `contexts`.
    fn check(
        &mut self,
        n: usize,
        section: Sorter<Numbered>,
        contexts: Option<&List>,
        packing: Packing,
    ) -> Result<List> {
        let section = section.finish()?;
        let (mut numbered, mut sorter) = (section.read()?, self.memory.sorter(PARTS));
        let mut contexts = contexts.map(|list| list.entries.read()).transpose()?;
        let (mut size, mut before) = (0, None);
        while let Some(Numbered { entry, line }) = numbered.next()? {
            let mut refuse = |what: &str| {
                let gram: Vec<String> = packing.words(entry.key, n).map(|word| self.words.spell(word)).collect();
                self.lines.number = line;
                Error::new(format!("the n-gram `{}` {what}. {REMAKE}", gram.join(" ")))
            };
            if before == Some(entry.key) {
                return Err(refuse("is listed twice"));
            }
            before = Some(entry.key);
            if let Some(contexts) = &mut contexts {
                let context = packing.prefix(entry.key, n - 1);
                while contexts.peek().is_some_and(|listed| listed.key < context) {
                    contexts.advance()?;
                }
                if contexts.peek().is_none_or(|listed| listed.key != context) {
                    return Err(refuse("has a context that is not listed one order below"));
                }
            }
            // A model that was made without <unk> gives unknown words probability 0; <unk> is the first of all words.
            if n == 1 && size == 0 && packing.word(entry.key, 0) != UNK {
                let unknown = packing.pack([UNK]);
                sorter.push(Entry { key: unknown, log10_prob: f32::NEG_INFINITY, log10_backoff: 0.0 })?;
                size += 1;
            }
            sorter.push(entry)?;
            size += 1;
        }
        Ok(List { entries: sorter.finish()?, size })
    }

    /// Reads the line `\N-grams:`.
    fn section_title(&mut self, n: usize, order: usize) -> Result<()> {
        let title = format!("\\{n}-grams:");
        match self.lines.next_filled()? {
            Some(line) if line == title => Ok(()),
            Some(line) if line.starts_with('\\') => {
                bail!("the section {title} is missing: `{}` stands in its place. {REMAKE}", shorten(line))
            }
            Some(line) if n > 1 => bail!(
                "`{}` follows a blank line, where {title} should begin. The section before has a blank line inside, or \
                 more n-grams than it should.",
                shorten(line)
            ),
            Some(line) => bail!("{title} should stand here, not `{}`. {REMAKE}", shorten(line)),
            None => bail!("the text ends before {title}, of {order} orders: the file was cut. Copy or make it again."),
        }
    }

    /// Reads the `count` n-grams of one section. The first section fills `unigrams`.
    fn section(
        &mut self,
        n: usize,
        count: u64,
        order: usize,
        packing: Packing,
        unigrams: &mut HashSet<u32>,
    ) -> Result<Sorter<Numbered>> {
        let mut sorter = self.memory.sorter(PARTS);
        for read in 0..count {
            let Some(line) = self.lines.next()? else {
                bail!("the text ends inside \\{n}-grams: the file was cut. Copy or make it again.");
            };
            if line.trim().is_empty() || line.starts_with('\\') {
                bail!("\\{n}-grams: has {read} n-grams, but the header says {count}. {REMAKE}");
            }
            let (log10_prob, gram, log10_backoff) = entry(line, n, order)?;
            let mut words = [UNK; MAX_ORDER];
            for (word, text) in words.iter_mut().zip(gram.split(DELIMITERS).filter(|text| !text.is_empty())) {
                *word = self.words.word(text, n)?;
                if *word > packing.largest() {
                    bail!(
                        "the token id {text} is too large: at order {order} ids up to {} are read.",
                        packing.largest() - 3
                    );
                }
                if n == 1 {
                    unigrams.insert(*word);
                } else if !unigrams.contains(word) {
                    bail!("the word `{text}` is not among the unigrams. {REMAKE}");
                }
            }
            let entry = Entry { key: packing.pack(words[..n].iter().copied()), log10_prob, log10_backoff };
            sorter.push(Numbered { entry, line: self.lines.number })?;
        }
        match self.lines.next()? {
            Some(line) if line.starts_with('\\') => {
                bail!("a blank line should end \\{n}-grams:, before `{}`. {REMAKE}", shorten(line))
            }
            Some(line) if !line.trim().is_empty() => {
                bail!("\\{n}-grams: goes on after the {count} n-grams that the header says. {REMAKE}")
            }
            _ => Ok(sorter),
        }
    }
}

const DELIMITERS: [char; 2] = ['\t', ' '];

/// Splits a line into the log10 probability, the words and the log10 back-off of its n-gram.
fn entry(line: &str, n: usize, order: usize) -> Result<(f32, &str, f32)> {
    let line = line.trim_matches(DELIMITERS);
    let fields = line.split(DELIMITERS).filter(|field| !field.is_empty()).count();
    let (prob, rest) = line.split_once(DELIMITERS).unwrap_or((line, ""));
    let prob = number(prob)?;
    if prob > 0.0 {
        bail!("the log10 probability {prob} is positive: the probability would be more than 1. {REMAKE}");
    }
    let (gram, backoff) = if fields == n + 1 {
        (rest, 0.0)
    } else if fields == n + 2 && n < order {
        let (gram, backoff) = rest.rsplit_once(DELIMITERS).unwrap_or((rest, ""));
        (gram, number(backoff)?)
    } else if fields == n + 2 {
        bail!("an n-gram of the highest order has a back-off weight, or a word too many. {REMAKE}");
    } else {
        bail!(
            "an n-gram of order {n} has a log10 probability, {n} words and maybe a back-off weight; this line has \
             {fields} fields. {REMAKE}"
        );
    };
    Ok((prob, gram.trim_matches(DELIMITERS), backoff))
}

/// Parses a finite log10; -99 is log 0.
fn number(text: &str) -> Result<f32> {
    match text.parse::<f32>() {
        Ok(LOG_ZERO) => Ok(f32::NEG_INFINITY),
        Ok(number) if number.is_finite() => Ok(number),
        _ => bail!("`{}` is not a number (with a decimal point). {REMAKE}", shorten(text)),
    }
}

/// Returns the start of a line, for a message.
fn shorten(line: &str) -> String {
    let start: String = line.chars().take(40).collect();
    if start.len() < line.len() { format!("{start}...") } else { start }
}
