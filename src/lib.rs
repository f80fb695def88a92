//! draftsmith trains prediction heads and draft rescorers for blockwise parallel decoding, and measures what they buy.
//!
//! A tour, in the order in which things flow; each room imports from those before it:
//!
//! - [`text`]: corpora, tokenizer, splits. [`kernels`]: the CPU's inner loops. [`nn`]: layers, named parameters,
//!   cross-entropy.
//! - [`backbone`]: the frozen language model, its cache and its plain text. [`traces`]: text with its hidden states, on
//!   disk.
//! - [`lattice`]: the top-k lattice and the pure algorithms on it. [`training`]: the one loop for everything that trains.
//! - [`ngram`]: the n-gram toolkit. [`heads`]: draft heads and their training task. [`rescorer`]: n-gram, neural and lattice
//!   rescorers. [`drafting`]: what turns heads, rescorers and the text into drafts.
//! - [`decoding`]: the live blockwise loop and its verification rules. [`evaluation`]: replay, tallies, what is tuned,
//!   bootstrap, the live check. [`report`]: one value, three renderings.
//! - [`config`]: what a user writes, put together from the rooms' sections and validated once.
//! - [`stages`]: what a run is made of and how. [`store`]: finished work under the hash of what made it. [`ablation`]: many
//!   runs that share it.
//!   [`cli`]: the command line.
//!
//! The best paths through a block's lattice, and the name of the variant that drafts them:
//!
//! ```
//! use draftsmith::drafting::{Selection, Variant};
//! use draftsmith::lattice::{Lattice, NoScorer, Weighting, p_best};
//!
//! // Behind the pinned token 7, two heads propose two candidates each, best first.
//! let lattice = Lattice::pinned(7, 2, &[1, 3, 2, 4], &[-0.1, -2.4, -0.5, -0.9])?;
//! let best = p_best(&lattice, NoScorer, (), Weighting::from(0.0), 2);
//! let tokens: Vec<_> = best.paths.iter().map(|path| path.tokens.as_slice()).collect();
//! assert_eq!(tokens, [[7, 1, 2], [7, 1, 4]]);
//!
//! let variant: Variant = "pbest-0gram".parse()?;
//! assert_eq!(variant, Variant::new(Selection::BestPaths, None));
//! # Ok::<(), draftsmith::Error>(())
//! ```
//!
//! [`device`], [`error`], [`files`], [`claims`], [`progress`], [`shard`] and [`storage_type`] serve all of them.

pub mod ablation;
pub mod backbone;
mod bounds;
pub mod claims;
pub mod cli;
pub mod config;
pub mod decoding;
pub mod device;
pub mod doctor;
pub mod drafting;
pub mod error;
pub mod evaluation;
pub mod export;
pub mod files;
mod hash;
pub mod heads;
pub mod kernels;
pub mod lattice;
pub mod ngram;
pub mod nn;
pub mod progress;
pub mod report;
pub mod rescorer;
pub mod shard;
pub mod stages;
pub mod storage_type;
pub mod store;
pub mod tables;
pub mod text;
pub mod traces;
pub mod training;

pub use error::{Error, ErrorKind, Result};
