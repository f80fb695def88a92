//! n-gram language models over token ids: a toolkit of its own, and the cheap rescorer of a lattice.
//!
//! Read the files in this order: `words.rs` (token ids as words, `<s>`, `</s>`, `<unk>`), `key.rs` (n-grams as
//! integers), `sort.rs` (sorting in bounded memory), [`counts`] (from documents to counts, on disk and back),
//! [`estimate`](mod@estimate) (from counts to Kneser-Ney or Katz probabilities), `listing.rs` (a model as sorted
//! lists), [`arpa`] (a model as text), [`model`] (a model as an automaton in a mapped file: one 4-byte [`State`],
//! `state -> (log-probability, next state)`).
//!
//! The conventions are those of KenLM's `lmplz`; the tests in `kenlm.rs` compare the numbers with KenLM's own.
//! Probabilities are stored as log10 in `f32`, as in ARPA files; queries return natural logarithms in `f64`.

pub mod arpa;
pub mod counts;
pub mod estimate;
#[cfg(test)]
mod kenlm;
mod key;
mod listing;
pub mod model;
mod sort;
mod words;

pub use counts::{Collector, Counter, Counts, PartialCount};
pub use estimate::{DEFAULT_FALLBACK, Discounts, Estimate, Options, Smoothing, estimate};
pub use listing::Listing;
pub use model::{Model, Quantisation, Rows, Score, State};
pub use sort::Memory;
pub use words::{Ending, MAX_ORDER, Vocabulary};
