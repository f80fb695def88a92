//! What rescoring one block costs, by the shapes of block and rescorer.

/// A block as far as it decides what a rescorer has to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockShape {
    /// H, the pinned slot included.
    pub slots: usize,
    /// Candidates of every slot behind the pinned one that are looked at.
    pub candidates: usize,
    /// Prefixes kept by a search from left to right.
    pub prefixes: usize,
    /// Tokens that were committed since the block before, on average.
    pub committed: f64,
    /// Tokens of the text before it.
    pub context: usize,
}

/// What a block takes of one rescorer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RescoringCost {
    /// Bytes of everything that is held in memory or mapped.
    pub held_bytes: f64,
    /// Bytes of weights that are read, as often as they are; rows that are looked up in tables are not counted.
    pub read_bytes: f64,
    /// Bytes of keys and values that are read.
    pub kv_bytes: f64,
    /// Floating-point operations, two for a multiplication with its addition.
    pub flops: f64,
}

impl std::iter::Sum for RescoringCost {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            held_bytes: sum.held_bytes + one.held_bytes,
            read_bytes: sum.read_bytes + one.read_bytes,
            kv_bytes: sum.kv_bytes + one.kv_bytes,
            flops: sum.flops + one.flops,
        })
    }
}
