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
    /// The number of the backbone's layer whose keys and values of the text before a block its rows attend to as well, behind their
    /// own attention. For a single layer.
    pub crosses: Option<usize>,
    /// The rows of a block, if they do not all enter the first layer.
    pub staggered: Option<StaggeredRows>,
}

/// Blocks of rows that enter the layers one after another, evenly spread over them. Below its layer a row stays what it is, and rows
/// see only those before them, which have entered earlier.
#[derive(Debug, Clone, Copy)]
pub struct StaggeredRows {
    /// The number of rows of a block.
    pub count: usize,
    /// The number of layers.
    pub layers: usize,
}

impl StaggeredRows {
    /// Returns the layer that a row of a block enters.
    pub fn layer(self, row: usize) -> usize {
        row * self.layers / self.count
    }

    /// Returns whether a row of whole blocks has not entered yet when `layer` is run.
    pub fn waits(self, row: usize, layer: usize) -> bool {
        self.layer(row % self.count) > layer
    }
}
