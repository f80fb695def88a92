//! Prompt lookup: a draft copied from the text itself, the control that needs no training.
//!
//! The longest suffix of the known text, of 3 tokens down to 1, that occurs earlier in it is looked up, and the tokens that
//! followed its latest occurrence are the draft. The known text is the prompt, what has been decoded, and the pinned token,
//! which the backbone has said already.

use super::{Drafter, Drafts, Opening, Session};
use crate::error::Result;

/// The longest suffix that is looked up.
const LONGEST: usize = 3;

/// Drafts what followed the same tokens before; where they never occurred, the pinned token alone.
#[derive(Debug, Clone, Copy)]
pub struct PromptLookup;

impl Drafter for PromptLookup {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(*self)
    }

    fn reads_whole_lattice(&self) -> bool {
        false
    }

    fn reads_heads(&self) -> bool {
        false
    }
}

impl Session for PromptLookup {
    fn drafts(&mut self, text: &[u32], blocks: &[Opening]) -> Result<Vec<Drafts>> {
        let one = |block: &Opening| {
            let pinned = block.lattice.ids(0)[0];
            let known = [&text[..block.start], &[pinned]].concat();
            let followed = &known[latest_match(&known)..];
            let draft = std::iter::once(pinned).chain(followed.iter().copied()).take(block.slots).collect();
            // A comparison of tokens is no near-tie.
            Drafts::chosen(vec![draft], f64::INFINITY)
        };
        Ok(blocks.iter().map(one).collect())
    }
}

/// Where the latest earlier occurrence of the longest suffix ends; the end of the text where there is none.
fn latest_match(known: &[u32]) -> usize {
    let of_length = |length: usize| {
        let before = known.len().checked_sub(length)?;
        (length..known.len()).rev().find(|&end| known[end - length..end] == known[before..])
    };
    (1..=LONGEST).rev().find_map(of_length).unwrap_or(known.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lattice::Lattice;
    use proptest::prelude::*;

    fn draft(text: &[u32], start: usize, pinned: u32, slots: usize) -> Vec<u32> {
        let lattice = Lattice::pinned(pinned, 1, &[], &[]).unwrap();
        let block = Opening { start, slots, lattice: &lattice, hidden: &[] };
        let drafts = PromptLookup.session().drafts(text, &[block]).unwrap().remove(0);
        assert_eq!(drafts.paths.len(), 1);
        drafts.paths[0].clone()
    }

    #[test]
    fn longer_suffixes_come_first_then_later_places() {
        // Behind `1 2 3`, though `2 3` and `3` occur later.
        assert_eq!(draft(&[1, 2, 3, 7, 8, 2, 3, 9, 3, 5, 1, 2], 12, 3, 3), [3, 7, 8]);
        // Behind the later `2 3`.
        assert_eq!(draft(&[2, 3, 7, 2, 3, 9, 4, 2], 8, 3, 4), [3, 9, 4, 2]);
        // Only one token fits, and what follows ends with the known text.
        assert_eq!(draft(&[6, 5], 2, 5, 9), [5, 5]);
        // Tokens behind the start are not known yet.
        assert_eq!(draft(&[1, 2, 4, 9, 4, 8], 2, 4, 5), [4]);
        assert_eq!(draft(&[], 0, 4, 5), [4]);
        assert_eq!(draft(&[1, 2, 1], 3, 2, 1), [2]);
    }

    proptest! {
        /// By trying every place and length: the longest match wins, then the latest.
        #[test]
        fn is_the_best_of_all_places(text in prop::collection::vec(0u32..4, 0..30), pinned in 0u32..4, slots in 1usize..6) {
            let known = [&text[..], &[pinned]].concat();
            let mut best = (0, known.len());
            for end in 1..known.len() {
                let common = |length: &usize| known[..end].ends_with(&known[known.len() - length..]);
                let longest = (1..=3.min(end)).filter(common).max().unwrap_or(0);
                if longest > 0 && longest >= best.0 {
                    best = (longest, end);
                }
            }
            let mut expected = vec![pinned];
            expected.extend(&known[best.1..]);
            expected.truncate(slots);
            prop_assert_eq!(draft(&text, text.len(), pinned, slots), expected);
        }
    }
}
