//! Counts of the n-grams of all orders, raw and adjusted, as `lmplz` makes them.
//!
//! An order is counted by one sort of integer keys: an n-gram is the pair (rank of its first n-1 words, last word), so
//! order n needs only the ranks of order n-1 at every position. The result is a trie in lexicographic order, whatever
//! the number of threads. The text is held in memory: about 50 bytes a token at the peak.

use rayon::prelude::*;

use super::words::{BOS, EOS, Ending, MAX_ORDER, UNK, Vocabulary, of_token};
use crate::error::{Result, bail};

/// Rank of a position where no n-gram of the order begins.
const NONE: u32 = u32::MAX;

/// The n-grams of one order with their counts, sorted by words.
#[derive(Debug, PartialEq)]
pub(super) struct GramCounts {
    /// Index, one order below, of the n-gram without its last word; 0 for unigrams.
    pub(super) parent: Vec<u32>,
    pub(super) word: Vec<u32>,
    /// Index, one order below, of the n-gram without its first word; 0 for unigrams.
    pub(super) suffix: Vec<u32>,
    pub(super) raw: Vec<u32>,
    /// The number of distinct left neighbours; the raw count at the highest order and for n-grams that begin with
    /// `<s>`.
    pub(super) adjusted: Vec<u32>,
}

/// Counts of the n-grams of orders 1 to n. `<unk>`, `<s>` and `</s>` are always among the unigrams.
#[derive(Debug, PartialEq)]
pub struct Counts {
    pub(super) vocabulary: Vocabulary,
    pub(super) orders: Vec<GramCounts>,
}

impl Counts {
    /// Number of distinct n-grams of every order, unigrams first.
    pub fn sizes(&self) -> Vec<usize> {
        self.orders.iter().map(|grams| grams.word.len()).collect()
    }
}

/// Collects documents, then counts them.
pub struct Counter {
    order: usize,
    vocabulary: Vocabulary,
    /// Every document as words, `<s>` in front; only `</s>` or a cut stands before the next `<s>`.
    text: Vec<u32>,
}

impl Counter {
    /// Counts up to `order`, 1 to [`MAX_ORDER`].
    pub fn new(order: usize, vocabulary: Vocabulary) -> Result<Self> {
        if !(1..=MAX_ORDER).contains(&order) {
            bail!("n-gram order {order} is outside 1 to {MAX_ORDER}. Choose an order in this range (4 is usual).");
        }
        Ok(Self { order, vocabulary, text: Vec::new() })
    }

    /// Adds one document. Fails on a token id outside the vocabulary's size.
    pub fn add(&mut self, tokens: &[u32], ending: Ending) -> Result<()> {
        let size = self.vocabulary.size.unwrap_or(usize::MAX);
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= size || of_token(id).is_none()) {
            bail!(
                "token id {id} is outside the vocabulary of {} ids. Count the text with the tokenizer that made it.",
                self.vocabulary.size.unwrap_or(u32::MAX as usize - 2)
            );
        }
        self.text.push(BOS);
        for &token in self.vocabulary.strip_bos(tokens) {
            if self.text.last() == Some(&EOS) {
                self.text.push(BOS);
            }
            self.text.push(self.vocabulary.word(token));
        }
        if ending == Ending::Complete && self.text.last() != Some(&EOS) {
            self.text.push(EOS);
        }
        if self.text.len() >= NONE as usize {
            bail!(
                "the text has more than {} tokens, the most that are counted at once. Count a part of it.",
                NONE as usize - 1
            );
        }
        Ok(())
    }

    /// The counts of everything added. Fails when no word was.
    pub fn finish(self) -> Result<Counts> {
        let Self { order, vocabulary, text } = self;
        if text.iter().all(|&word| word == BOS) {
            bail!("there is no text to count: no document was given, or all are empty. Check the training corpus.");
        }
        let (unigrams, mut ranks) = count_unigrams(&text);
        let mut orders = vec![unigrams];
        for n in 2..=order {
            let (grams, next) = count_order(&text, &ranks, n);
            adjust(&mut orders[n - 2], &grams);
            orders.push(grams);
            ranks = next;
        }
        Ok(Counts { vocabulary, orders })
    }
}

/// The unigrams and, for every position, the rank of its word.
fn count_unigrams(text: &[u32]) -> (GramCounts, Vec<u32>) {
    let mut word = text.to_vec();
    word.extend([UNK, BOS, EOS]);
    word.par_sort_unstable();
    word.dedup();
    // Every word of the text is in the list; its insertion point is its rank.
    let ranks: Vec<u32> = text.par_iter().map(|w| word.partition_point(|other| other < w) as u32).collect();
    let mut raw = vec![0; word.len()];
    for &rank in &ranks {
        raw[rank as usize] += 1;
    }
    let zeros = vec![0; word.len()];
    (GramCounts { parent: zeros.clone(), word, suffix: zeros, adjusted: raw.clone(), raw }, ranks)
}

/// The n-grams of order `n` and their rank at every position, from the ranks of order `n - 1`.
fn count_order(text: &[u32], shorter: &[u32], n: usize) -> (GramCounts, Vec<u32>) {
    let mut keys: Vec<(u64, u32)> = (0..(text.len() + 1).saturating_sub(n))
        .into_par_iter()
        .filter(|&at| shorter[at] != NONE && text[at + n - 1] != BOS)
        .map(|at| ((u64::from(shorter[at]) << 32) | u64::from(text[at + n - 1]), at as u32))
        .collect();
    keys.par_sort_unstable();

    let mut ranks = vec![NONE; text.len()];
    let mut grams = GramCounts { parent: vec![], word: vec![], suffix: vec![], raw: vec![], adjusted: vec![] };
    for same in keys.chunk_by(|a, b| a.0 == b.0) {
        let (key, first) = same[0];
        for &(_, at) in same {
            ranks[at as usize] = grams.word.len() as u32;
        }
        grams.parent.push((key >> 32) as u32);
        grams.word.push(key as u32);
        grams.suffix.push(shorter[first as usize + 1]);
        grams.raw.push(same.len() as u32);
    }
    grams.adjusted = grams.raw.clone();
    (grams, ranks)
}

/// Replaces the adjusted counts of `grams` by the number of distinct left neighbours. Only an n-gram that begins with
/// `<s>` has none; it keeps its raw count.
fn adjust(grams: &mut GramCounts, longer: &GramCounts) {
    let mut neighbours = vec![0; grams.word.len()];
    for &suffix in &longer.suffix {
        neighbours[suffix as usize] += 1;
    }
    for (adjusted, neighbours) in grams.adjusted.iter_mut().zip(neighbours) {
        if neighbours > 0 {
            *adjusted = neighbours;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(counts: &Counts, words: &[u32]) -> Option<(u32, u32)> {
        let mut found = None;
        let mut parent = 0;
        for (grams, &word) in counts.orders.iter().zip(words) {
            let at = (0..grams.word.len()).find(|&i| grams.parent[i] == parent && grams.word[i] == word)?;
            parent = at as u32;
            found = Some((grams.raw[at], grams.adjusted[at]));
        }
        found
    }

    #[test]
    fn raw_and_adjusted_counts_of_a_hand_counted_text() {
        let mut counter = Counter::new(3, Vocabulary { eos: vec![0], bos: Some(1), size: None }).unwrap();
        counter.add(&[7, 8, 7, 8], Ending::Complete).unwrap();
        counter.add(&[1, 7, 8, 9, 0], Ending::Complete).unwrap();
        counter.add(&[7], Ending::Cut).unwrap();
        let counts = counter.finish().unwrap();
        let (a, b, c) = (10, 11, 12);
        assert_eq!(lookup(&counts, &[UNK]), Some((0, 0)));
        assert_eq!(lookup(&counts, &[BOS]), Some((3, 3)));
        assert_eq!(lookup(&counts, &[EOS]), Some((2, 2)), "after 8 and after 9");
        assert_eq!(lookup(&counts, &[a]), Some((4, 2)), "after <s> and after 8");
        assert_eq!(lookup(&counts, &[b]), Some((3, 1)));
        assert_eq!(lookup(&counts, &[BOS, a]), Some((3, 3)), "begins with <s>: raw");
        assert_eq!(lookup(&counts, &[a, b]), Some((3, 2)));
        assert_eq!(lookup(&counts, &[a, b, c]), Some((1, 1)));
        assert_eq!(lookup(&counts, &[BOS, a, b]), Some((2, 2)), "highest order: raw");
        assert_eq!(lookup(&counts, &[a, EOS]), None, "the cut document has no </s>");
    }

    #[test]
    fn text_after_an_end_of_text_id_is_a_new_document() {
        let vocabulary = Vocabulary { eos: vec![0], bos: Some(1), size: Some(10) };
        let count = |documents: &[&[u32]]| {
            let mut counter = Counter::new(3, vocabulary.clone()).unwrap();
            documents.iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
            counter.finish().unwrap()
        };
        assert_eq!(count(&[&[1, 4, 5, 0, 6, 4, 5]]), count(&[&[4, 5], &[6, 4, 5, 0]]));
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let tokens: Vec<u32> = (0..20_000u32).map(|i| i.wrapping_mul(2_654_435_761) >> 25).collect();
        let count = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut counter = Counter::new(4, Vocabulary::default()).unwrap();
                tokens.chunks(100).for_each(|chunk| counter.add(chunk, Ending::Complete).unwrap());
                counter.finish().unwrap()
            })
        };
        assert_eq!(count(1), count(3));
    }

    #[test]
    fn refuses_ids_outside_the_vocabulary_and_no_text() {
        let mut counter = Counter::new(2, Vocabulary { size: Some(5), ..Vocabulary::default() }).unwrap();
        assert!(counter.add(&[5], Ending::Complete).unwrap_err().to_string().contains("token id 5"));
        assert!(Counter::new(2, Vocabulary::default()).unwrap().finish().is_err());
        assert!(Counter::new(7, Vocabulary::default()).is_err());
    }
}
