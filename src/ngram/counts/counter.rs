//! Counts the windows of documents.

use super::super::key::{Key, Packing};
use super::super::sort::{Memory, Sorter};
use super::super::words::{BOS, EOS, Ending, Vocabulary, of_token};
use super::{Counts, Window, Windows, check_order};
use crate::error::{Result, bail};

/// A counter to which documents are added one by one.
pub struct Counter {
    pub(super) order: usize,
    pub(super) vocabulary: Vocabulary,
    packing: Packing,
    sorter: Sorter<Window>,
    tokens: u64,
}

impl Counter {
    /// Makes a counter for n-grams up to `order`, 1 to [`MAX_ORDER`](super::super::MAX_ORDER), that takes half of
    /// `memory`.
    ///
    /// # Errors
    /// When `order` is out of range.
    pub fn new(order: usize, vocabulary: Vocabulary, memory: &Memory) -> Result<Self> {
        check_order(order)?;
        Ok(Self { order, vocabulary, packing: Packing::new(order), sorter: memory.sorter(2), tokens: 0 })
    }

    /// Adds one document.
    ///
    /// # Errors
    /// When a token id is outside the vocabulary, or too large for the order.
    pub fn add(&mut self, tokens: &[u32], ending: Ending) -> Result<()> {
        self.check(tokens)?;
        let begin = self.packing.pack([BOS]);
        // The window of the previous word. What follows an end-of-text id is a new document.
        let (mut window, mut ended) = (begin, false);
        for &token in self.vocabulary.strip_bos(tokens) {
            if ended {
                window = begin;
            }
            let word = self.vocabulary.word(token);
            window = if word == BOS { begin } else { self.count(window, word)? };
            ended = word == EOS;
        }
        if ending == Ending::Complete && !ended {
            self.count(window, EOS)?;
        }
        Ok(())
    }

    /// Returns the number of words counted so far, `</s>` included.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Counts the window of `word` after the window `before`, and returns it.
    #[inline]
    fn count(&mut self, before: Key, word: u32) -> Result<Key> {
        let key = self.packing.prefix(self.packing.prepend(word, before), self.order);
        self.sorter.push(Window { key, count: 1 })?;
        self.tokens += 1;
        Ok(key)
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let size = self.vocabulary.size.unwrap_or(usize::MAX);
        let fits = |id: u32| (id as usize) < size && of_token(id).is_some_and(|word| word <= self.packing.largest());
        let Some(&id) = tokens.iter().find(|&&id| !fits(id)) else { return Ok(()) };
        match self.vocabulary.size {
            Some(size) if id as usize >= size => bail!(
                "token id {id} is outside the vocabulary of {size} ids. Count the text with the tokenizer that made it."
            ),
            _ => bail!(
                "token id {id} is too large: at order {} ids up to {} can be counted. Use a lower order, or count the \
                 text with the tokenizer that made it.",
                self.order,
                self.packing.largest() - 3
            ),
        }
    }

    /// Returns the counts of everything added.
    ///
    /// # Errors
    /// When no word was added.
    pub fn finish(self) -> Result<Counts> {
        if self.tokens == 0 {
            bail!("there is no text to count: no document was given, or all are empty. Check the training corpus.");
        }
        let Self { order, vocabulary, sorter, .. } = self;
        Ok(Counts { order, vocabulary, windows: Windows::Sorted(sorter.finish()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn listing(counts: &Counts) -> BTreeMap<Vec<i64>, u64> {
        let mut listing = BTreeMap::new();
        let once = |ids: &[i64], count| {
            assert_eq!(listing.insert(ids.to_vec(), count), None);
            Ok(())
        };
        counts.for_each(once).unwrap();
        listing
    }

    #[test]
    fn windows_of_a_hand_counted_text() {
        let vocabulary = Vocabulary { eos: vec![0], bos: Some(1), ..Vocabulary::default() };
        let mut counter = Counter::new(3, vocabulary, &Memory::usual()).unwrap();
        counter.add(&[7, 8, 7, 8], Ending::Complete).unwrap();
        counter.add(&[1, 7, 8, 0, 9], Ending::Cut).unwrap();
        counter.add(&[], Ending::Complete).unwrap();
        counter.add(&[], Ending::Cut).unwrap();
        counter.add(&[7, 1, 9], Ending::Cut).unwrap();
        assert_eq!(counter.tokens(), 5 + 4 + 1 + 2);
        let (begin, end) = (Counts::BEGIN, Counts::END);
        let expected = [
            (vec![begin, 7], 3),
            (vec![begin, 7, 8], 2),
            (vec![7, 8, 7], 1),
            (vec![8, 7, 8], 1),
            (vec![7, 8, end], 2),
            (vec![begin, 9], 2),
            (vec![begin, end], 1),
        ];
        assert_eq!(listing(&counter.finish().unwrap()), expected.into());
    }

    #[test]
    fn refuses_ids_outside_the_vocabulary_and_no_text() {
        let counter = |order, size| Counter::new(order, Vocabulary { size, ..Vocabulary::default() }, &Memory::usual());
        let message =
            |order, size, id: u32| counter(order, size).unwrap().add(&[id], Ending::Complete).unwrap_err().to_string();
        assert!(message(2, Some(5), 5).contains("token id 5 is outside"));
        assert!(message(6, None, 2_097_149).contains("ids up to 2097148"));
        assert!(message(4, None, u32::MAX).contains("too large"));
        assert!(counter(6, None).unwrap().add(&[2_097_148], Ending::Complete).is_ok());
        assert!(counter(2, None).unwrap().finish().is_err());
        assert!(counter(7, None).is_err() && counter(0, None).is_err());
    }
}
