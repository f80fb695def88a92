//! From lattices to drafts: rescorers say how well a token follows, drafters choose.
//!
//! A [`Rescorer`] scores the candidates of a lattice; each kind has its file, and all are used through that trait. A
//! [`Rescoring`] weighs the head scores and any sum of rescorers and selects drafts: globally (the best paths, or the tree
//! with the longest expected accepted length) where every rescorer's memory is finite, locally (from left to right, greedily
//! or by a beam) where one reads the whole prefix. It is a [`Drafter`]: one way to turn a lattice into drafts. A [`Session`]
//! is that drafter at work on one text; replay and live decoding use the same sessions, so both see the same drafts.

mod drafter;
mod drawn;
mod family;
mod host_tables;
mod lattice_training;
mod lava;
mod local;
mod lookup;
mod neural;
pub mod ngram;
mod ngram_rescorer;
mod price;
mod rescoring;
mod saved;
mod scores;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod transition;

pub use drafter::{Bpd, Closest, Decision, Drafter, Drafts, Opening, Origin, Session};
pub use drawn::DrawnDrafter;
pub use family::Rescorer;
pub use lattice_training::{Blocks, LatticeNetwork, LatticeTraining, Recorded};
pub use lava::{Lava, LavaNetwork};
pub use lookup::{PromptLookup, Trust};
pub use neural::NeuralRescorer;
pub use ngram_rescorer::{NgramRescorer, load_ngram, ngram_vocabulary, save_ngram};
pub use price::{BlockShape, Price};
pub use rescoring::{Rescoring, Selection, Settings};
pub use saved::{NetworkShape, load_network, save_network};
pub use scores::{Scores, Table};
pub use transition::{Transition, TransitionNetwork};
