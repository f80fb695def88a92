//! Reads counts of n-grams, as a file and as a Parquet table.

#![no_main]

draftsmith_fuzz::target!("counts");
