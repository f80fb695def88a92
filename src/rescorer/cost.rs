//! The cost of rescoring one block, which follows from the shapes of the block and of the rescorer.

/// The sizes of a block that decide how much work a rescorer has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockShape {
    /// The number of slots H, the pinned slot included.
    pub slots: usize,
    /// The number of candidates that are considered in each slot after the pinned one.
    pub candidates: usize,
    /// The number of prefixes that a search from left to right keeps.
    pub prefixes: usize,
    /// The average number of tokens that were committed since the block before.
    pub committed: f64,
    /// The number of tokens of the text before the block.
    pub context: usize,
}

/// The cost of one rescorer for one block.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RescoringCost {
    /// The bytes of everything that is held in memory or mapped.
    pub held_bytes: f64,
    /// The bytes of weights that are read. Weights that are read several times count each time. Rows that are looked up
    /// in tables are not counted.
    pub read_bytes: f64,
    /// The bytes of keys and values that are read.
    pub kv_bytes: f64,
    /// The number of floating-point operations. A multiplication with its addition counts as two.
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
