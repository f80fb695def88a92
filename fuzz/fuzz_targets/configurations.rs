//! Reads configurations, with the ablations in them.

#![no_main]

draftsmith_fuzz::target!("configurations");
