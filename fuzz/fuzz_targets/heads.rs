//! Reads the files of trained heads.

#![no_main]

draftsmith_fuzz::target!("heads");
