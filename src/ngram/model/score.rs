//! The score of text, with what perplexity needs.

use std::ops::AddAssign;

/// The log-probability of texts; the scores of documents can be added up. A token is *known* if it is a unigram of the
/// model. Any other is out of vocabulary (OOV) and counts as `<unk>`. `</s>` is a token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// The log10 probability of all tokens.
    pub log10: f64,
    /// The number of tokens.
    pub tokens: u64,
    /// The log10 probability of the known tokens, each in its full context.
    pub known_log10: f64,
    /// The number of known tokens.
    pub known_tokens: u64,
}

impl Score {
    /// Returns the perplexity with OOV tokens; NaN when there are no tokens.
    pub fn perplexity(&self) -> f64 {
        10f64.powf(-self.log10 / self.tokens as f64)
    }

    /// Returns the perplexity without OOV tokens; NaN when all tokens are OOV.
    pub fn perplexity_without_oov(&self) -> f64 {
        10f64.powf(-self.known_log10 / self.known_tokens as f64)
    }

    pub(super) fn add(&mut self, log10: f64, known: bool) {
        self.log10 += log10;
        self.tokens += 1;
        if known {
            self.known_log10 += log10;
            self.known_tokens += 1;
        }
    }
}

impl AddAssign for Score {
    fn add_assign(&mut self, other: Self) {
        self.log10 += other.log10;
        self.tokens += other.tokens;
        self.known_log10 += other.known_log10;
        self.known_tokens += other.known_tokens;
    }
}
