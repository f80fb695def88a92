//! Reads n-gram models as they are mapped, whose hashes are made to fit.

#![no_main]

draftsmith_fuzz::target!("ngram_models");
