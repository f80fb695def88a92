//! What a second is worth while a text is decoded, for trees that are as large as pays.

/// The seconds that the parts of a block take on this machine.
///
/// A second is valued at the tokens per second that the blocks before were expected to bring. What is drafted thus depends
/// on the committed blocks and on these numbers, and not on the clock.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct BlockSeconds {
    /// By the number of nodes of its tree, from 1 on: what the heads need for the first candidates, and the forward that
    /// verifies the tree.
    pub nodes: Vec<f64>,
    /// By the number of rows that the heads run, from 1 on: another level of a grown tree. Empty where none is grown.
    pub level: Vec<f64>,
}

/// The tokens that the blocks of a text so far were expected to bring, and the seconds that they were expected to take.
#[derive(Default)]
pub(super) struct Pace {
    tokens: f64,
    seconds: f64,
}

impl Pace {
    /// Returns the expected tokens per second. `nodes` are the seconds of a block by its number of nodes. One block with a
    /// single node and a single token is always counted in, so that there is a rate before the first block.
    pub fn rate(&self, nodes: &[f64]) -> f64 {
        (1.0 + self.tokens) / (nodes[0] + self.seconds)
    }

    /// Counts a block in.
    pub fn add(&mut self, tokens: f64, seconds: f64) {
        self.tokens += tokens;
        self.seconds += seconds;
    }
}
