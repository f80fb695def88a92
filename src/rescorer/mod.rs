//! Rescorers: how well the candidates of a lattice follow each other.
//!
//! A [`Rescorer`] scores the candidates of a block; each kind has its file, and all are used through that trait. Knows nothing
//! of how drafts are selected or verified.

mod block;
mod cost;
mod family;
mod host_tables;
mod language_modelling;
mod lattice_training;
mod lava;
mod neural;
mod ngram_rescorer;
mod saved;
mod scores;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod transition;

pub use block::BlockContext;
pub use cost::{BlockShape, RescoringCost};
pub use family::Rescorer;
pub use language_modelling::LanguageModelling;
pub use lattice_training::{Blocks, LatticeNetwork, LatticeTraining, Recorded};
pub use lava::{Lava, LavaNetwork};
pub use neural::NeuralRescorer;
pub use ngram_rescorer::{NgramRescorer, load_ngram, ngram_vocabulary, save_ngram};
pub use saved::{NetworkShape, load_network, save_network};
pub use scores::{Scores, Sum, SumState, Table};
pub use transition::{Transition, TransitionNetwork};
