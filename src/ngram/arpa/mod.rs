//! Models as ARPA text: `\data\` with the number of n-grams of every order, a `\N-grams:` section per order with lines
//! `log10 probability<TAB>w1 .. wN[<TAB>log10 back-off]`, `\end\`. A probability or back-off of -99 is log 0.
//!
//! Words are decimal token ids, `<s>`, `</s>` and `<unk>`; which ids the last three stand for is not in the file, so
//! the reader is told. Numbers are the shortest text that reads back as the same `f32`. A name that ends in `.gz` is
//! gzip.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{parse, parse_words, read, read_words};
pub use write::{save, write};

/// How log 0 is written.
const LOG_ZERO: f32 = -99.0;
