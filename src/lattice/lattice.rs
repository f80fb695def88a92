//! The candidates of one block.

use crate::error::{Result, bail};
use std::ops::Range;

/// The best candidates of every slot of a block, in flat arrays: slot after slot, each best first.
///
/// Slot j holds the candidates for the token j + 1 positions after the last committed one. Slots may differ in width:
/// slot 0 is pinned to one token. Scores are logits or log-probabilities of the heads. A path has one candidate of
/// every slot, so adding a constant to all scores of a slot changes no comparison between paths.
///
/// There is at least one slot, and every slot has at least one candidate. The ids of a slot are distinct. Its scores
/// are finite and in descending order, ties by smaller id; [`top_k`](crate::kernels::top_k) returns them in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Lattice {
    /// Where the slots begin in the flat arrays: slot j is `starts[j]..starts[j + 1]`.
    starts: Vec<usize>,
    ids: Vec<u32>,
    scores: Vec<f32>,
}

impl Lattice {
    /// Makes a lattice of `widths.len()` slots. `ids` and `scores` hold `widths[0]` candidates of slot 0, then
    /// `widths[1]` of slot 1, and so on.
    ///
    /// # Errors
    /// When the lengths do not agree, or one of the conditions on the type does not hold.
    pub fn new(widths: &[usize], ids: Vec<u32>, scores: Vec<f32>) -> Result<Self> {
        let mut starts = vec![0];
        starts.extend(widths.iter().scan(0usize, |end, &width| {
            *end = end.saturating_add(width);
            Some(*end)
        }));
        let total = starts[widths.len()];
        if widths.is_empty() || ids.len() != total || scores.len() != total {
            let (slots, ids, scores) = (widths.len(), ids.len(), scores.len());
            bail!("a lattice of {slots} slots with {total} candidates in all was given {ids} ids and {scores} scores");
        }
        let lattice = Self { starts, ids, scores };
        (0..lattice.slots()).try_for_each(|slot| lattice.check(slot))?;
        Ok(lattice)
    }

    /// Makes the lattice of a block whose first token is known. Slot 0 holds `first_token` alone, with score 0, and
    /// every further slot the next `k` of `ids` and `scores` (`[slots - 1, k]`, row by row).
    ///
    /// # Errors
    /// When `ids` is not a whole number of slots, and as for [`Lattice::new`].
    pub fn pinned(first_token: u32, k: usize, ids: &[u32], scores: &[f32]) -> Result<Self> {
        if k == 0 || !ids.len().is_multiple_of(k) {
            bail!("{} candidates cannot be cut into slots of k = {k}", ids.len());
        }
        let mut widths = vec![k; 1 + ids.len() / k];
        widths[0] = 1;
        Self::new(&widths, [&[first_token], ids].concat(), [&[0.0], scores].concat())
    }

    /// Returns the number of slots: H for a whole block.
    #[inline]
    pub fn slots(&self) -> usize {
        self.starts.len() - 1
    }

    /// Returns the largest number of candidates in a slot.
    pub fn k(&self) -> usize {
        (0..self.slots()).map(|slot| self.width(slot)).max().unwrap_or(0)
    }

    /// Returns the number of candidates in `slot`.
    #[inline]
    pub fn width(&self, slot: usize) -> usize {
        self.range(slot).len()
    }

    /// Returns the token ids of `slot`, best first.
    #[inline]
    pub fn ids(&self, slot: usize) -> &[u32] {
        &self.ids[self.range(slot)]
    }

    /// Returns the head scores of `slot`, in the order of [`Lattice::ids`].
    #[inline]
    pub fn scores(&self, slot: usize) -> &[f32] {
        &self.scores[self.range(slot)]
    }

    /// Returns the best token of every slot: the draft of plain blockwise parallel decoding.
    pub fn top1(&self) -> Vec<u32> {
        (0..self.slots()).map(|slot| self.ids(slot)[0]).collect()
    }

    /// Returns the first `slots` slots with the `k` best candidates of each, or all where there are fewer. A shorter
    /// block or a smaller k would have given the same.
    ///
    /// # Errors
    /// When `slots` or `k` is 0.
    pub fn prefix(&self, slots: usize, k: usize) -> Result<Self> {
        if slots == 0 || k == 0 {
            bail!("a lattice needs at least one slot and one candidate, not {slots} slots and k = {k}");
        }
        let mut prefix = Self { starts: vec![0], ids: Vec::new(), scores: Vec::new() };
        for slot in 0..slots.min(self.slots()) {
            let width = k.min(self.width(slot));
            prefix.ids.extend(&self.ids(slot)[..width]);
            prefix.scores.extend(&self.scores(slot)[..width]);
            prefix.starts.push(prefix.ids.len());
        }
        Ok(prefix)
    }

    /// Returns the lattice with only those of the `k` best candidates of each slot whose scores are at most `gate`
    /// below the slot's best.
    ///
    /// # Errors
    /// When `k` is 0, or `gate` is negative.
    pub fn narrowed(&self, k: usize, gate: f64) -> Result<Self> {
        if k == 0 || gate.is_nan() || gate < 0.0 {
            bail!("a lattice needs at least one candidate a slot and a gate of at least 0, not k = {k} and {gate}");
        }
        let mut narrowed = Self { starts: vec![0], ids: Vec::new(), scores: Vec::new() };
        for slot in 0..self.slots() {
            let scores = self.scores(slot);
            let near = |&&score: &&f32| f64::from(scores[0]) - f64::from(score) <= gate;
            let width = scores.iter().take(k).take_while(near).count();
            narrowed.ids.extend(&self.ids(slot)[..width]);
            narrowed.scores.extend(&scores[..width]);
            narrowed.starts.push(narrowed.ids.len());
        }
        Ok(narrowed)
    }

    /// Returns the lattice with the scores of every slot divided by its entry in `temperatures` (above 0). Slots beyond
    /// the end of the list keep their scores, and all slots keep their order.
    pub fn tempered(&self, temperatures: &[f64]) -> Self {
        let mut tempered = self.clone();
        for (slot, &temperature) in temperatures.iter().enumerate().take(self.slots()) {
            let scores = &mut tempered.scores[self.range(slot)];
            scores.iter_mut().for_each(|score| *score = (f64::from(*score) / temperature) as f32);
        }
        tempered
    }

    #[inline]
    fn range(&self, slot: usize) -> Range<usize> {
        self.starts[slot]..self.starts[slot + 1]
    }

    /// Checks the conditions on the type in one slot.
    fn check(&self, slot: usize) -> Result<()> {
        let (ids, scores) = (self.ids(slot), self.scores(slot));
        if ids.is_empty() {
            bail!("slot {slot} of the lattice has no candidate");
        }
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            bail!("the score of token {} in slot {slot} of the lattice is {}", ids[at], scores[at]);
        }
        for at in 1..ids.len() {
            let sorted = scores[at - 1] > scores[at] || (scores[at - 1] == scores[at] && ids[at - 1] < ids[at]);
            if !sorted {
                bail!("slot {slot} of the lattice is not sorted by score and token id at candidate {at}");
            }
            if ids[..at].contains(&ids[at]) {
                bail!("token {} is twice in slot {slot} of the lattice", ids[at]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::small_lattice;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pinned_prepends_the_known_token() {
        let lattice = Lattice::pinned(7, 2, &[3, 1, 4, 5], &[-0.5, -1.0, 2.0, 2.0]).unwrap();
        assert_eq!((lattice.slots(), lattice.k()), (3, 2));
        assert_eq!((lattice.ids(0), lattice.scores(0)), (&[7][..], &[0.0][..]));
        assert_eq!((lattice.ids(2), lattice.scores(2)), (&[4, 5][..], &[2.0, 2.0][..]));
        assert_eq!(lattice.top1(), [7, 3, 4]);
    }

    #[test]
    fn pinned_alone_is_a_block_of_one() {
        assert_eq!(Lattice::pinned(7, 16, &[], &[]).unwrap().top1(), [7]);
    }

    #[test]
    fn refuses_what_is_no_lattice() {
        let refused = |widths: &[usize], ids: &[u32], scores: &[f32], reason: &str| {
            let message = Lattice::new(widths, ids.to_vec(), scores.to_vec()).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        };
        refused(&[], &[], &[], "0 slots");
        refused(&[2], &[1, 2], &[1.0], "1 scores");
        refused(&[1], &[1, 2], &[1.0], "2 ids");
        refused(&[usize::MAX, 2], &[1], &[1.0], "1 ids");
        refused(&[1, 0], &[1], &[1.0], "slot 1 of the lattice has no candidate");
        refused(&[2], &[1, 2], &[1.0, 2.0], "not sorted");
        refused(&[2], &[2, 1], &[1.0, 1.0], "not sorted");
        refused(&[3], &[2, 4, 2], &[3.0, 2.0, 1.0], "token 2 is twice");
        refused(&[1], &[5], &[f32::NAN], "score of token 5");
        refused(&[2], &[5, 6], &[0.0, f32::NEG_INFINITY], "is -inf");
        assert!(Lattice::pinned(1, 2, &[1, 2, 3], &[3.0, 2.0, 1.0]).is_err());
        assert!(Lattice::pinned(1, 0, &[], &[]).is_err());
    }

    #[test]
    fn temperatures_divide_the_scores_of_their_slots() {
        let lattice = Lattice::pinned(7, 2, &[1, 2, 3, 4, 5, 6], &[3.0, 1.0, 5.0, 4.0, 2.0, 0.5]).unwrap();
        let tempered = lattice.tempered(&[1.0, 2.0, 0.5]);
        assert_eq!((tempered.scores(1), tempered.scores(2)), (&[1.5, 0.5][..], &[10.0, 8.0][..]));
        assert_eq!((tempered.scores(3), tempered.ids(2)), (lattice.scores(3), lattice.ids(2)));
        assert_eq!(lattice.tempered(&[1.0; 9]), lattice);
    }

    proptest! {
        #[test]
        fn a_prefix_keeps_the_best(lattice in small_lattice(), slots in 1usize..7, k in 1usize..6) {
            let prefix = lattice.prefix(slots, k).unwrap();
            prop_assert_eq!(prefix.slots(), slots.min(lattice.slots()));
            for slot in 0..prefix.slots() {
                let width = k.min(lattice.width(slot));
                prop_assert_eq!(prefix.ids(slot), &lattice.ids(slot)[..width]);
                prop_assert_eq!(prefix.scores(slot), &lattice.scores(slot)[..width]);
            }
        }
    }

    #[test]
    fn a_gate_leaves_what_is_near_the_first() {
        let lattice = Lattice::pinned(7, 3, &[1, 2, 3, 4, 5, 6], &[3.0, 1.0, 0.0, 5.0, 4.5, -9.0]).unwrap();
        let gated = lattice.narrowed(3, 2.0).unwrap();
        assert_eq!((gated.ids(0), gated.ids(1), gated.ids(2)), (&[7][..], &[1, 2][..], &[4, 5][..]));
        assert_eq!(lattice.narrowed(3, f64::INFINITY).unwrap(), lattice);
        assert_eq!(lattice.narrowed(9, 0.0).unwrap(), lattice.prefix(3, 1).unwrap());
        assert!(lattice.narrowed(0, 1.0).is_err() && lattice.narrowed(1, -1.0).is_err());
    }

    #[test]
    fn an_empty_prefix_is_refused() {
        let lattice = Lattice::pinned(1, 1, &[2], &[0.0]).unwrap();
        assert!(lattice.prefix(0, 1).is_err());
        assert!(lattice.prefix(1, 0).is_err());
    }
}
