//! Live blockwise decoding: propose a block, verify it in one forward, keep the longest prefix that the backbone would
//! have written itself, or that another [`Rule`] keeps. Knows nothing of metrics.

mod blockwise;
mod price;
mod row;
mod rules;
mod stop;
mod verification;

pub use blockwise::{Block, Decoder, Decoding, Round, Spent};
pub use price::seconds_by_nodes;
pub use rules::{Drafted, Rule, Verdict};
pub use stop::worthwhile;
pub use verification::Verification;
