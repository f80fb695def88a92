//! The integration tests, in one binary: it links once, and the tiny world of [`common`] is made once for all of them.

mod common;

#[cfg(unix)]
mod ablation;
#[cfg(feature = "cpu")]
mod accelerator;
#[cfg(feature = "cpu")]
mod analyses;
#[cfg(feature = "cpu")]
mod backbone;
mod bad_input;
mod browser;
mod cli;
#[cfg(feature = "cpu")]
mod consumers;
mod corpora;
#[cfg(target_os = "linux")]
mod crash;
#[cfg(feature = "cpu")]
mod decoding;
mod doctor;
mod export;
mod heads;
mod heads_given;
mod ngram;
mod ngram_peers;
#[cfg(feature = "cpu")]
mod reference;
mod replay;
mod reports;
mod responses;
#[cfg(unix)]
mod resume;
mod store;
#[cfg(feature = "cpu")]
mod strange_bytes;
#[cfg(feature = "cpu")]
mod strange_files;
#[cfg(unix)]
mod trace_command;
#[cfg(unix)]
mod trace_shards;
mod traces;
mod tutorial;
#[cfg(feature = "cpu")]
mod vectors;
