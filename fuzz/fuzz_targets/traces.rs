//! Reads the files of a trace and of a column.

#![no_main]

draftsmith_fuzz::target!("traces");
