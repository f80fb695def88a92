//! Token ids as the words of an n-gram model.
//!
//! Inside this folder, a *word* is a `u32`: `<unk>` is 0, `<s>` is 1, `</s>` is 2, and token id `t` is word `t + 3`.

use serde::{Deserialize, Serialize};

/// The highest order that is counted, written or read, as in KenLM's default build.
pub const MAX_ORDER: usize = 6;

pub(super) const UNK: u32 = 0;
pub(super) const BOS: u32 = 1;
pub(super) const EOS: u32 = 2;
const FIRST_TOKEN: u32 = 3;

/// How a tokenizer's ids become words.
///
/// - Every id of `eos` is `</s>`. Text after it is a new document: the context after `</s>` is `<s>`.
/// - `bos` at the head of a document is its `<s>` and has no probability of its own. Elsewhere nothing predicts it: it
///   has the probability of `<unk>`, and the context after it is `<s>`. If `bos` is also in `eos` (GPT-2's
///   `<|endoftext|>`), it is `<s>` at the head and `</s>` elsewhere.
/// - With `size = Some(n)`, the model's vocabulary, over which probabilities sum to 1, is the ids `0..n` without `bos`
///   and `eos`, plus `</s>`. Each id of the vocabulary that was never counted has the share that is stored as `<unk>`.
///   An id outside it gets that number too, but is not part of the sum. While an id is unseen, this equals `lmplz
///   --vocab_pad` with the number of these types.
/// - With `size = None`, the vocabulary is the counted types without `<s>`, plus `</s>` and one `<unk>` for everything
///   else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// End-of-text ids; may be empty.
    pub eos: Vec<u32>,
    /// The beginning-of-text id, if the tokenizer has one.
    pub bos: Option<u32>,
    /// The number of ids of the tokenizer.
    pub size: Option<usize>,
    /// The hash of the tokenizer that made the ids, if there is one. Counts and models of another tokenizer are
    /// refused.
    #[serde(default)]
    pub tokenizer: Option<String>,
}

impl Vocabulary {
    /// Returns the word of a token that is not at the head of a document.
    pub(super) fn word(&self, token: u32) -> u32 {
        if self.eos.contains(&token) {
            EOS
        } else if self.bos == Some(token) {
            BOS
        } else {
            token.checked_add(FIRST_TOKEN).unwrap_or(UNK)
        }
    }

    /// Returns the document without the `bos` at its head.
    pub(super) fn strip_bos<'a>(&self, tokens: &'a [u32]) -> &'a [u32] {
        match tokens.split_first() {
            Some((&first, rest)) if self.bos == Some(first) => rest,
            _ => tokens,
        }
    }

    /// Returns the number of types that share the probability mass, if `size` is given.
    pub(super) fn padded_types(&self) -> Option<usize> {
        let size = self.size?;
        let mut special: Vec<u32> = self.eos.iter().copied().chain(self.bos).collect();
        special.sort_unstable();
        special.dedup();
        Some((size - special.iter().filter(|&&id| (id as usize) < size).count()).saturating_add(1))
    }
}

/// How the text of a document ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With `</s>`, whether or not an end-of-text id is written there.
    Complete,
    /// Cut by a length limit: without `</s>`, unless an end-of-text id is written there.
    Cut,
}

/// Returns the word as ARPA text: a decimal token id or a marker.
pub(super) fn spell(word: u32) -> String {
    match word {
        UNK => "<unk>".into(),
        BOS => "<s>".into(),
        EOS => "</s>".into(),
        _ => (word - FIRST_TOKEN).to_string(),
    }
}

/// Returns the marker that `text` spells, if it is one.
pub(super) fn marker(text: &str) -> Option<u32> {
    match text {
        "<unk>" | "<UNK>" => Some(UNK),
        "<s>" => Some(BOS),
        "</s>" => Some(EOS),
        _ => None,
    }
}

/// Returns the word of token `id`; none for the three largest ids of `u32`.
pub(super) fn of_token(id: u32) -> Option<u32> {
    id.checked_add(FIRST_TOKEN)
}

/// `<s>` and `</s>` among the ids of a table of counts.
pub(super) const BOS_ID: i64 = -1;
pub(super) const EOS_ID: i64 = -2;

/// Returns the id of a counted word in a table of counts.
pub(super) fn to_id(word: u32) -> i64 {
    match word {
        BOS => BOS_ID,
        EOS => EOS_ID,
        _ => i64::from(word) - i64::from(FIRST_TOKEN),
    }
}

/// Returns the word of an id in a table of counts.
pub(super) fn of_id(id: i64) -> Option<u32> {
    match id {
        BOS_ID => Some(BOS),
        EOS_ID => Some(EOS),
        _ => u32::try_from(id).ok().and_then(of_token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_ids_become_markers_and_leave_the_padded_types() {
        let vocabulary = Vocabulary { eos: vec![2, 0, 2, 200], bos: Some(1), size: Some(100), tokenizer: None };
        assert_eq!([0, 1, 2, 3].map(|id| vocabulary.word(id)), [EOS, BOS, EOS, 6]);
        assert_eq!(vocabulary.padded_types(), Some(98), "100 ids without 0, 1 and 2, with </s>");
        assert_eq!(Vocabulary { size: Some(usize::MAX), ..Vocabulary::default() }.padded_types(), Some(usize::MAX));
        assert_eq!(vocabulary.strip_bos(&[1, 1, 5]), [1, 5]);
        assert_eq!(vocabulary.word(u32::MAX), UNK);
    }
}
