//! The one hash map of this folder: (node, word) to a small value, key and value in one slot, so that a probe costs one
//! cache line. Open addressing, linear probing; the same insertions give the same bytes.

/// Marks a free slot; no node has this number.
const FREE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Slot<V> {
    node: u32,
    word: u32,
    value: V,
}

/// A map from (node, word) to `V`.
pub(super) struct Slots<V> {
    slots: Vec<Slot<V>>,
    used: usize,
}

impl<V: Copy + Default> Slots<V> {
    /// A map that takes `entries` without growing.
    pub(super) fn with_capacity(entries: usize) -> Self {
        let slots = vec![Slot { node: FREE, word: 0, value: V::default() }; entries + entries / 2 + 2];
        Self { slots, used: 0 }
    }

    /// Index of the first slot to try: a multiplicative mix, reduced to the range by its high bits.
    #[inline]
    fn home(&self, node: u32, word: u32) -> usize {
        let mut mix = ((u64::from(node) << 32) | u64::from(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mix = (mix ^ (mix >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((u128::from(mix) * self.slots.len() as u128) >> 64) as usize
    }

    /// Index of the slot that holds the key, or of the free one where it belongs.
    #[inline]
    fn find(&self, node: u32, word: u32) -> usize {
        let mut index = self.home(node, word);
        loop {
            let slot = &self.slots[index];
            if slot.node == FREE || (slot.node == node && slot.word == word) {
                return index;
            }
            index += 1;
            if index == self.slots.len() {
                index = 0;
            }
        }
    }

    #[inline]
    pub(super) fn get(&self, node: u32, word: u32) -> Option<V> {
        let slot = &self.slots[self.find(node, word)];
        (slot.node != FREE).then_some(slot.value)
    }

    /// Inserts a new key; false, and nothing changed, when the key is there already.
    pub(super) fn insert(&mut self, node: u32, word: u32, value: V) -> bool {
        if (self.used + 1) * 10 > self.slots.len() * 7 {
            let mut larger = Self::with_capacity(self.slots.len());
            for slot in self.slots.iter().filter(|slot| slot.node != FREE) {
                larger.insert(slot.node, slot.word, slot.value);
            }
            *self = larger;
        }
        let index = self.find(node, word);
        if self.slots[index].node != FREE {
            return false;
        }
        self.slots[index] = Slot { node, word, value };
        self.used += 1;
        true
    }

    /// Every stored value, in slot order.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.slots.iter_mut().filter(|slot| slot.node != FREE).map(|slot| &mut slot.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn agrees_with_the_standard_map_while_it_grows() {
        let mut slots = Slots::with_capacity(0);
        let mut reference = HashMap::new();
        for i in 0..20_000u32 {
            let (node, word) = (i % 97, (i * i) % 211);
            assert_eq!(slots.insert(node, word, i), !reference.contains_key(&(node, word)));
            reference.entry((node, word)).or_insert(i);
        }
        for node in 0..100 {
            for word in 0..220 {
                assert_eq!(slots.get(node, word), reference.get(&(node, word)).copied());
            }
        }
        assert_eq!(slots.values_mut().count(), reference.len());
    }
}
