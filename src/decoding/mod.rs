//! Live blockwise decoding: propose a block, verify it in one forward, keep the longest prefix that the backbone would
//! have written itself, or that another [`Rule`] keeps. Knows nothing of metrics.

mod blockwise;
mod pace;
mod row;
mod rules;
mod timing;
mod verification;

pub use blockwise::{Block, Decoder, Decoding, Round, Spent};
pub use pace::BlockSeconds;
pub use rules::{DraftedTokens, Rule, Verdict};
pub use timing::{TimedBatch, block_seconds};
pub use verification::Verification;
