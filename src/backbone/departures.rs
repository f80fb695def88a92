//! How the decoder layers of draft heads depart from a backbone's.

use super::convolution::Convolution;

/// What layers that draft have besides, or instead of, what a backbone's layers have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Departures {
    /// Convolutions over the rows of a block, around attention and MLP. Rows must then be run in whole blocks.
    pub convolution: Option<Convolution>,
    /// How many numbers of a row its queries, keys and values are made of, where rows bring these numbers along: a row then has them
    /// first and the residual stream behind them. Otherwise they are the stream, normalised. For a single layer.
    pub reads: Option<usize>,
}
