//! draftsmith trains prediction heads and draft rescorers for blockwise parallel decoding, and measures what they buy.
//!
//! A tour, in the order in which things flow:
//! [`config`] what a user writes · [`text`] corpora, tokenizer, splits · [`backbone`] the frozen language model ·
pub mod backbone;
pub mod cli;
pub mod config;
pub mod decoding;
pub mod device;
pub mod error;
pub mod evaluation;
pub mod files;
pub mod heads;
pub mod lattice;
pub mod nn;
pub mod progress;
pub mod report;
pub mod rescorer;
pub mod stages;
pub mod text;
pub mod traces;
pub mod training;

pub use error::{Error, Result};
