//! Reads corpora: JSON lines, conversations, CSV, TSV, Parquet and plain text, gzip-compressed or not.

#![no_main]

draftsmith_fuzz::target!("corpora");
