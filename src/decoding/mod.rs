//! Live blockwise decoding: propose a block, verify it in one forward, keep the longest prefix that the backbone would
//! have written itself, or that another [`Rule`] keeps. Knows nothing of metrics.

mod blockwise;
mod rules;
mod verification;

pub use blockwise::{Block, Decoder, Decoding, Spent};
pub use rules::{Drafted, Rule, Verdict};
pub use verification::Verification;
