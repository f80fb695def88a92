//! Prompt lookup: a draft copied from the text itself.
//!
//! The longest suffix of the known text that occurs earlier in it is looked up, and the tokens that followed its latest
//! occurrence are the draft. The known text is the prompt, what has been decoded, and the pinned token, which the backbone has
//! said already.
//!
//! [`PromptLookup`] is the control that needs no training: suffixes of 3 tokens down to 1, and its draft is taken for good.
//! [`LookupConfidence`] says how probable a copy is, so that it can compete with what the heads propose.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Drafter, Drafts, Session};
use crate::error::Result;
use crate::lattice::{Lattice, LookupToken};
use crate::rescorer::BlockContext;

/// The longest suffix that the control looks up.
const LONGEST: usize = 3;
/// The longest suffix whose length makes a difference to confidence.
const LONGEST_MEASURED: usize = 16;

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
    fn drafts(&mut self, text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>> {
        let one = |block: &BlockContext| {
            let pinned = block.lattice.ids(0)[0];
            let known = [&text[..block.start], &[pinned]].concat();
            let followed = &known[latest_match(&known, LONGEST).0..];
            let draft = std::iter::once(pinned).chain(followed.iter().copied()).take(block.slots).collect();
            // A comparison of tokens is no near-tie.
            Drafts::chosen(vec![draft], f64::INFINITY)
        };
        Ok(blocks.iter().map(one).collect())
    }
}

/// Where the latest earlier occurrence of the longest suffix of at most `longest` tokens ends, and how long that suffix is; the
/// end of the text and 0 where there is none.
fn latest_match(known: &[u32], longest: usize) -> (usize, usize) {
    let mut best = (known.len(), 0);
    for end in (1..known.len()).rev() {
        let backwards = known[..end].iter().rev().zip(known.iter().rev());
        let common = backwards.take(longest).take_while(|(a, b)| a == b).count();
        if common > best.1 {
            best = (end, common);
        }
        if common == longest {
            break;
        }
    }
    best
}

/// How far copies can be trusted: by the length of the suffix that they follow (1, 2, 3 to 4, 5 to 8, 9 or more tokens) and by slot
/// (0 is the pinned one), the probability that the copied token is right if those before it are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LookupConfidence(Vec<Vec<f64>>);

impl LookupConfidence {
    /// Measured at every place of some texts, each with the tokens of its prompt, at which a block of at most `slots` slots could
    /// begin; half-way to even odds where nothing was seen (Laplace's rule).
    pub fn measured<'a>(texts: impl Iterator<Item = (&'a [u32], usize)>, slots: usize) -> Self {
        let classes = 1 + class(LONGEST_MEASURED);
        let mut seen = vec![vec![[1u64, 2]; slots]; classes];
        for (text, prompt) in texts {
            for start in prompt..text.len() {
                let Some((class, copy)) = copy(&text[..=start], slots) else { continue };
                for (right_and_all, (copied, token)) in seen[class].iter_mut().zip(copy.iter().zip(&text[start..])) {
                    right_and_all[1] += 1;
                    if copied != token {
                        break;
                    }
                    right_and_all[0] += 1;
                }
            }
        }
        let share = |[right, all]: [u64; 2]| right as f64 / all as f64;
        let of_class = |seen: Vec<[u64; 2]>| {
            // The pinned token is no copy.
            let behind = seen.into_iter().skip(1).map(share);
            std::iter::once(1.0).chain(behind).collect()
        };
        Self(seen.into_iter().map(of_class).collect())
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By the length of the suffix in words, and then by slot: the probabilities.
    pub fn by_suffix(&self) -> impl Iterator<Item = (String, &[f64])> {
        let words = |class: usize| match class {
            0 => "1 token".to_owned(),
            1 => "2 tokens".to_owned(),
            _ if class + 1 == self.0.len() => format!("{} tokens or more", (1 << (class - 1)) + 1),
            _ => format!("{} to {} tokens", (1 << (class - 1)) + 1, 1 << class),
        };
        self.0.iter().enumerate().map(move |(class, by_slot)| (words(class), by_slot.as_slice()))
    }

    /// What is copied behind `text` and the pinned token of `lattice`, at most to its last slot; nothing where no suffix occurs
    /// earlier.
    pub fn copied(&self, text: &[u32], lattice: &Lattice) -> Vec<LookupToken> {
        let known = [text, lattice.ids(0)].concat();
        let Some((class, copy)) = copy(&known, lattice.slots()) else { return Vec::new() };
        let confidence = self.0.get(class).map_or(&[][..], Vec::as_slice);
        copy.into_iter().zip(confidence).map(|(token, &confidence)| LookupToken { token, confidence }).collect()
    }
}

fn class(length: usize) -> usize {
    length.next_power_of_two().ilog2() as usize
}

/// The class of the longest match and a block's copy from there, which begins with the last known token and may read what it
/// has copied itself, as texts that loop do.
fn copy(known: &[u32], slots: usize) -> Option<(usize, Vec<u32>)> {
    let (end, length) = latest_match(known, LONGEST_MEASURED);
    (length > 0).then(|| {
        let copied = known.last().into_iter().chain(known[end..].iter().cycle());
        (class(length), copied.copied().take(slots).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lattice::Lattice;
    use proptest::prelude::*;

    fn draft(text: &[u32], start: usize, pinned: u32, slots: usize) -> Vec<u32> {
        let lattice = Lattice::pinned(pinned, 1, &[], &[]).unwrap();
        let block = BlockContext { start, slots, lattice: &lattice, hidden: &[] };
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

    #[test]
    fn a_trusted_copy_reads_on_in_itself() {
        let confidence = LookupConfidence(vec![vec![1.0, 0.5, 0.25], vec![1.0, 0.75, 0.5]]);
        let copied = |text: &[u32], pinned: u32, slots: u32| -> Vec<(u32, f64)> {
            let (ids, scores): (Vec<u32>, Vec<f32>) = (1..slots).map(|slot| (slot, 0.0)).unzip();
            let lattice = Lattice::pinned(pinned, 1, &ids, &scores).unwrap();
            confidence.copied(text, &lattice).into_iter().map(|copied| (copied.token, copied.confidence)).collect()
        };
        // `1 2` came before.
        assert_eq!(copied(&[1, 2, 7, 8, 1], 2, 3), [(2, 1.0), (7, 0.75), (8, 0.5)]);
        // A loop of one token, whose suffix of two came before.
        assert_eq!(copied(&[4, 4], 4, 3), [(4, 1.0), (4, 0.75), (4, 0.5)]);
        assert_eq!(copied(&[3, 4, 1], 4, 2), [(4, 1.0), (1, 0.5)]);
        assert_eq!(copied(&[1, 2], 3, 3), []);
        assert_eq!(LookupConfidence::default().copied(&[1, 1], &Lattice::pinned(1, 1, &[2], &[0.0]).unwrap()), []);
    }

    proptest! {
        /// By looking at every place anew.
        #[test]
        fn trust_is_the_share_of_right_copies(
            texts in prop::collection::vec((prop::collection::vec(0u32..3, 2..25), 1usize..6), 1..5),
            slots in 1usize..6,
        ) {

            let confidence = LookupConfidence::measured(texts.iter().map(|(text, prompt)| (&text[..], *prompt)), slots);
            for (class, lengths) in [(0, 1..=1), (1, 2..=2), (2, 3..=4), (3, 5..=8), (4, 9..=16)] {
                let mut expected = vec![1.0];
                for slot in 1..slots {
                    let (mut right, mut all) = (1, 2);
                    for (text, prompt) in &texts {
                        for start in *prompt..text.len() {
                            let known = &text[..=start];
                            let (end, length) = latest_match(known, 16);
                            // LookupToken from a text that goes on in itself.
                            let copied = |slot: usize| known[end..].iter().cycle().nth(slot - 1).copied();
                            let right_to = |slot: usize| (1..=slot).all(|slot| copied(slot) == text.get(start + slot).copied());
                            if lengths.contains(&length) && start + slot < text.len() && right_to(slot - 1) {
                                all += 1;
                                right += usize::from(right_to(slot));
                            }
                        }
                    }
                    expected.push(right as f64 / all as f64);
                }
                prop_assert_eq!(&confidence.0[class], &expected);
            }
        }

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
