//! Reads n-gram models as ARPA text, gzip-compressed or not.

#![no_main]

draftsmith_fuzz::target!("arpa");
