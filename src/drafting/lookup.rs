//! Prompt lookup, which copies a draft from the text itself.
//!
//! A lookup finds the longest suffix of the known text that also occurs earlier in it. The draft is made of the tokens
//! that followed the latest such occurrence. The known text is the prompt, the tokens decoded so far, and the pinned
//! token, which the backbone has already chosen.
//!
//! [`PromptLookup`] is the control that needs no training. It looks up suffixes of at most 3 tokens and always drafts
//! what it finds. [`LookupConfidence`] tells how probable it is that a copy is right, so that copies can compete with
//! the heads' candidates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Drafter, Drafts, Session};
use crate::error::Result;
use crate::lattice::LookupToken;
use crate::rescorer::BlockContext;

/// The length in tokens of the longest suffix that [`PromptLookup`] looks up.
pub const LONGEST_SUFFIX: usize = 3;
/// The length in tokens from which on a longer suffix makes no difference to the confidence.
const LONGEST_MEASURED: usize = 16;

/// A drafter that drafts what followed the same tokens earlier in the text. If they do not occur earlier, it drafts the
/// pinned token alone.
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
            let followed = &known[latest_match(&known, LONGEST_SUFFIX).0..];
            let draft = std::iter::once(pinned).chain(followed.iter().copied()).take(block.slots).collect();
            // Tokens are compared exactly, so that there are no near-ties.
            Drafts::chosen(vec![draft], f64::INFINITY)
        };
        Ok(blocks.iter().map(one).collect())
    }
}

/// Finds the longest suffix of `known`, of at most `longest` tokens, that also occurs earlier in it.
///
/// Returns where its latest earlier occurrence ends, exclusive, and the length of the suffix. If there is none, returns
/// the length of `known` and 0.
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
    /// Measures the confidence on `texts`, for blocks of at most `slots` slots. Each text comes with the length of its
    /// prompt in tokens.
    ///
    /// Copies are tried at every position behind the prompt. The counts are smoothed by Laplace's rule of succession,
    /// so that the confidence is one half where no copy was seen. That of the pinned token is 1.
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

    /// Returns whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the probabilities of every class of suffix lengths: the class in words, and one probability per slot.
    pub fn by_suffix(&self) -> impl Iterator<Item = (String, &[f64])> {
        let words = |class: usize| match class {
            0 => "1 token".to_owned(),
            1 => "2 tokens".to_owned(),
            _ if class + 1 == self.0.len() => format!("{} tokens or more", (1 << (class - 1)) + 1),
            _ => format!("{} to {} tokens", (1 << (class - 1)) + 1, 1 << class),
        };
        self.0.iter().enumerate().map(move |(class, by_slot)| (words(class), by_slot.as_slice()))
    }

    /// Returns the copy that continues `text`, of at most `slots` tokens from the pinned one on. It is empty if no suffix of
    /// the known text occurs earlier.
    pub fn copied(&self, text: &[u32], pinned: u32, slots: usize) -> Vec<LookupToken> {
        let known = [text, &[pinned]].concat();
        let Some((class, copy)) = copy(&known, slots) else { return Vec::new() };
        let confidence = self.0.get(class).map_or(&[][..], Vec::as_slice);
        copy.into_iter().zip(confidence).map(|(token, &confidence)| LookupToken { token, confidence }).collect()
    }
}

/// Returns the class of a suffix of `length` tokens: 0 for 1, 1 for 2, 2 for 3 and 4, 3 for 5 to 8, and so on.
fn class(length: usize) -> usize {
    length.next_power_of_two().ilog2() as usize
}

/// Returns the class of the longest match and the copy for a block of `slots` slots, or `None` if nothing matches.
///
/// The copy begins with the last known token. When it reaches the end of the known text, it goes on with what it has
/// itself copied, and thus continues a loop in the text.
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
        let block = BlockContext { slots, ..BlockContext::new(start, &lattice) };
        let drafts = PromptLookup.session().drafts(text, &[block]).unwrap().remove(0);
        assert_eq!(drafts.paths.len(), 1);
        drafts.paths[0].clone()
    }

    #[test]
    fn longer_suffixes_come_first_then_later_places() {
        // The draft follows `1 2 3`, although `2 3` and `3` occur later.
        assert_eq!(draft(&[1, 2, 3, 7, 8, 2, 3, 9, 3, 5, 1, 2], 12, 3, 3), [3, 7, 8]);
        // The draft follows the later `2 3`.
        assert_eq!(draft(&[2, 3, 7, 2, 3, 9, 4, 2], 8, 3, 4), [3, 9, 4, 2]);
        // Only one token matches, and only one token follows it in the known text.
        assert_eq!(draft(&[6, 5], 2, 5, 9), [5, 5]);
        // Tokens behind the start are not known yet.
        assert_eq!(draft(&[1, 2, 4, 9, 4, 8], 2, 4, 5), [4]);
        assert_eq!(draft(&[], 0, 4, 5), [4]);
        assert_eq!(draft(&[1, 2, 1], 3, 2, 1), [2]);
    }

    #[test]
    fn a_trusted_copy_reads_on_in_itself() {
        let confidence = LookupConfidence(vec![vec![1.0, 0.5, 0.25], vec![1.0, 0.75, 0.5]]);
        let copied = |text: &[u32], pinned: u32, slots: usize| -> Vec<(u32, f64)> {
            confidence.copied(text, pinned, slots).into_iter().map(|copied| (copied.token, copied.confidence)).collect()
        };
        // `1 2` came before.
        assert_eq!(copied(&[1, 2, 7, 8, 1], 2, 3), [(2, 1.0), (7, 0.75), (8, 0.5)]);
        // One token repeats, and the suffix of two tokens occurs before.
        assert_eq!(copied(&[4, 4], 4, 3), [(4, 1.0), (4, 0.75), (4, 0.5)]);
        assert_eq!(copied(&[3, 4, 1], 4, 2), [(4, 1.0), (1, 0.5)]);
        assert_eq!(copied(&[1, 2], 3, 3), []);
        assert_eq!(LookupConfidence::default().copied(&[1, 1], 1, 2), []);
    }

    proptest! {
        /// Compares the confidence with counts that are taken anew at every position.
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
                            // A copy that reaches the end of the known text goes on with itself.
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

        /// Compares the draft with the best of all positions and lengths: the longest match, and of those the latest.
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
