//! n-grams of up to [`MAX_ORDER`](super::words::MAX_ORDER) words as integers that compare as the sequences do.
//!
//! A key holds a sequence of words, the first one in the highest bits. A shorter sequence sorts before the longer ones
//! that begin with it. The word 0 (`<unk>`) is never counted, so it can stand for "nothing". Two orders of the words of
//! an n-gram `w1 .. wm` are used:
//!
//! - *text order* `w1 .. wm`: an n-gram is next to those whose context begins alike. ARPA files and the model use this
//!   order.
//! - *suffix order* `wm .. w1`: an n-gram comes right after its suffixes `wm`, `w(m-1) wm`, ...

use bytemuck::{Pod, Zeroable};

use super::words::UNK;

/// A packed sequence of words.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Key {
    high: u64,
    low: u64,
}

impl Key {
    pub(super) const EMPTY: Self = Self { high: 0, low: 0 };

    const fn new(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }

    #[inline]
    const fn bits(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.bits().cmp(&other.bits())
    }
}

impl PartialOrd for Key {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The number of bits of a word in the keys of one model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packing {
    width: u32,
}

impl Packing {
    /// Makes the packing of n-grams of up to `order` words: 32 bits for each word up to order 4, 25 at order 5, 21 at
    /// order 6.
    pub(super) fn new(order: usize) -> Self {
        Self { width: (128 / order as u32).min(32) }
    }

    /// Returns the largest word.
    pub(super) fn largest(self) -> u32 {
        ((1u64 << self.width) - 1) as u32
    }

    /// Packs the sequence `words`.
    pub(super) fn pack(self, words: impl IntoIterator<Item = u32>) -> Key {
        let mut bits = 0;
        let mut shift = 128;
        for word in words {
            shift -= self.width;
            bits |= u128::from(word) << shift;
        }
        Key::new(bits)
    }

    /// Returns the word at `index`.
    #[inline]
    pub(super) fn word(self, key: Key, index: usize) -> u32 {
        (key.bits() >> (128 - self.width * (index as u32 + 1))) as u32 & self.largest()
    }

    /// Returns the words of a sequence of `length`.
    pub(super) fn words(self, key: Key, length: usize) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator {
        (0..length).map(move |index| self.word(key, index))
    }

    /// Returns the first `length` words.
    #[inline]
    pub(super) fn prefix(self, key: Key, length: usize) -> Key {
        let kept = self.width * length as u32;
        if kept == 0 { Key::EMPTY } else { Key::new(key.bits() & (u128::MAX << (128 - kept))) }
    }

    /// Returns the sequence without its first word.
    #[inline]
    pub(super) fn rest(self, key: Key) -> Key {
        Key::new(key.bits() << self.width)
    }

    /// Returns the sequence with `word` before it; its length must be below the order.
    #[inline]
    pub(super) fn prepend(self, word: u32, key: Key) -> Key {
        Key::new(u128::from(word) << (128 - self.width) | key.bits() >> self.width)
    }

    /// Returns a sequence of `length` with `word` after it.
    #[inline]
    pub(super) fn append(self, key: Key, length: usize, word: u32) -> Key {
        Key::new(key.bits() | u128::from(word) << (128 - self.width * (length as u32 + 1)))
    }

    /// Returns a sequence of `length` with its first word moved to the end.
    #[inline]
    pub(super) fn rotate(self, key: Key, length: usize) -> Key {
        self.append(self.rest(key), length - 1, self.word(key, 0))
    }

    /// Returns a sequence of `length` backwards: from text order to suffix order, and back.
    #[inline]
    pub(super) fn reverse(self, key: Key, length: usize) -> Key {
        self.pack(self.words(key, length).rev())
    }

    /// Returns the number of words before the first `<unk>`, at most `order`: the length of a counted sequence.
    #[inline]
    pub(super) fn length(self, key: Key, order: usize) -> usize {
        (0..order).find(|&index| self.word(key, index) == UNK).unwrap_or(order)
    }

    /// Returns the number of words that both sequences begin with, at most `order`.
    #[inline]
    pub(super) fn common(self, a: Key, b: Key, order: usize) -> usize {
        let equal = (a.bits() ^ b.bits()).leading_zeros() / self.width;
        (equal as usize).min(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequences() -> impl Strategy<Value = (usize, Vec<u32>, Vec<u32>)> {
        (1usize..=6).prop_flat_map(|order| {
            let largest = Packing::new(order).largest();
            let word = prop_oneof![1u32..4, Just(largest), 1..=largest];
            let words = prop::collection::vec(word, 1..=order);
            (Just(order), words.clone(), words)
        })
    }

    proptest! {
        #[test]
        fn keys_behave_as_the_sequences_do((order, a, b) in sequences()) {
            let packing = Packing::new(order);
            let pack = |words: &[u32]| packing.pack(words.iter().copied());
            let (key, n) = (pack(&a), a.len());
            prop_assert_eq!(packing.words(key, n).collect::<Vec<_>>(), a.clone());
            prop_assert_eq!(key.cmp(&pack(&b)), a.cmp(&b));
            prop_assert_eq!(packing.length(key, order), n);
            prop_assert_eq!(packing.common(key, pack(&b), n), a.iter().zip(&b).take_while(|(x, y)| x == y).count());
            prop_assert_eq!(packing.prefix(key, n / 2), pack(&a[..n / 2]));
            prop_assert_eq!(packing.rest(key), pack(&a[1..]));
            prop_assert_eq!(packing.prepend(a[0], pack(&a[1..])), key);
            prop_assert_eq!(packing.append(pack(&a[..n - 1]), n - 1, a[n - 1]), key);
            prop_assert_eq!(packing.rotate(key, n), pack(&[&a[1..], &a[..1]].concat()));
            prop_assert_eq!(packing.reverse(key, n), pack(&a.iter().rev().copied().collect::<Vec<_>>()));
        }
    }
}
