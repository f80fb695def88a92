//! Reads safetensors files.

#![no_main]

draftsmith_fuzz::target!("safetensors");
