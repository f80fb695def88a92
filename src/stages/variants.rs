//! The variants of a run, brought together with the rescorers that they name.

use super::FittedRescorers;
use crate::config::Config;
use crate::drafting::{PreparedVariant, Variant};

/// Brings a variant together with its rescorers.
///
/// # Panics
/// Panics if one of the rescorers is not among `fitted`.
pub(super) fn prepare<'a>(variant: Variant, config: &Config, fitted: &'a FittedRescorers) -> PreparedVariant<'a> {
    let name = variant.rescorer.clone();
    let terms = name.iter().flat_map(|name| config.terms(name)).map(|term| (term.to_owned(), &*fitted[term]));
    let beam = name.as_ref().and_then(|name| config.beam(name)).unwrap_or(1);
    PreparedVariant::new(variant, terms.collect(), &config.drafting, beam)
}
