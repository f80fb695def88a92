//! Reads `config.json` and what lies beside it in a model folder.

#![no_main]

draftsmith_fuzz::target!("models");
