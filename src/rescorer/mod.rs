//! Rescorers, which score how well the candidates of a lattice follow each other.
//!
//! A [`Rescorer`] scores either the candidates of a block or, token by token, the prefixes of its drafts ([`Scoring`]).
//! Each kind of rescorer has its own file, which holds its section of the configuration ([`RescorerKind`]), the code
//! that fits it and the code that drafts with it. [`RescorerConfig`] lists the kinds. Nothing here knows how drafts are
//! selected or verified.

mod block;
mod correlation;
mod cost;
mod kind;
mod kinds;
mod language_modelling;
mod lattice_network;
mod lava;
mod neural;
mod ngram;
mod scoring;
mod selector;
mod sum;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod transition;

pub use block::BlockContext;
pub use correlation::{Correlation, CorrelationConfig, CorrelationNetwork};
pub use cost::{BlockShape, RescoringCost};
pub use kind::{FitContext, FitData, FitEstimate, FitLattices, FitSizes, LoadContext, RescorerKind, TextSource};
pub use kinds::RescorerConfig;
pub use language_modelling::LanguageModelling;
pub use lattice_network::{
    Blocks, LatticeKind, LatticeLoss, LatticeNetwork, LatticeShape, LatticeTraining, NetworkOptions, Recorded,
};
pub use lava::{Lava, LavaConfig, LavaNetwork};
pub use neural::{NeuralConfig, NeuralRescorer, Normalisation};
pub use ngram::{NgramConfig, NgramRescorer, NgramScores};
pub use scoring::{BlockScores, GlobalScoring, PrefixReader, PrefixToken, Rescorer, Scoring};
pub use selector::SelectorRescorerConfig;
pub use sum::{Sum, SumConfig};
pub use table::Table;
pub use transition::{GateState, Transition, TransitionConfig};
