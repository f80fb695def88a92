//! n-gram language models over token ids: the cheap rescorer of a lattice.
//!
//! Read in this order: `words.rs` (token ids as words, `<s>`, `</s>`, `<unk>`) · [`count`] (documents to counts) ·
//! [`estimate`](mod@estimate) (counts to interpolated modified Kneser-Ney probabilities) · `table.rs` (the n-grams as a
//! trie of flat arrays: what is estimated, written and read) · [`arpa`] (the table as text) · [`model`] (the table
//! compiled into an automaton: one 4-byte [`State`], about one probe per order and token).
//!
//! The conventions are those of KenLM's `lmplz`, and `kenlm.rs` holds the numbers to its own.
//! Probabilities are stored as log10 in `f32`, as ARPA has them; a query answers in natural logarithms, `f64`.

pub mod arpa;
pub mod count;
pub mod estimate;
#[cfg(test)]
mod kenlm;
pub mod model;
mod slots;
mod table;
mod words;

pub use count::{Counter, Counts};
pub use estimate::{DEFAULT_FALLBACK, Discounts, Estimate, estimate};
pub use model::{Model, Score, State};
pub use table::Table;
pub use words::{Ending, MAX_ORDER, Vocabulary};
