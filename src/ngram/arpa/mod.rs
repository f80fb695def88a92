//! Models as ARPA text: a `\data\` section with the number of n-grams of every order, a `\N-grams:` section for each
//! order with lines of `log10 probability<TAB>w1 .. wN[<TAB>log10 back-off]`, and `\end\`. A probability or back-off of
//! -99 is log 0.
//!
//! Words are decimal token ids, `<s>`, `</s>` and `<unk>`. The file does not say which ids the last three stand for, so
//! the reader must be told. Numbers are written as the shortest text that reads back as the same `f32`. A file whose
//! name ends in `.gz` is compressed with gzip.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{parse, parse_words, read, read_words, sizes};
pub use write::{save, write};

/// How log 0 is written.
const LOG_ZERO: f32 = -99.0;
