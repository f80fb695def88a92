//! Live blockwise decoding: propose a block, verify it in one forward, keep the longest prefix that the backbone would
//! have written itself. Knows nothing of metrics.

mod blockwise;

pub use blockwise::{Block, Decoder};
