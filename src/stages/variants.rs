//! The variants of a run, brought together with the rescorers that they name.

use super::FittedRescorers;
use crate::backbone::ModelConfig;
use crate::config::Config;
use crate::drafting::{PreparedVariant, Proposer, Source, Variant};

/// Brings a variant together with its rescorers.
///
/// # Panics
/// Panics if one of the rescorers is not among `fitted`.
pub(super) fn prepare<'a>(
    variant: Variant,
    config: &Config,
    fitted: &'a FittedRescorers,
    backbone: &ModelConfig,
) -> PreparedVariant<'a> {
    let name = variant.rescorer.clone();
    let terms = name.iter().flat_map(|name| config.terms(name)).map(|term| (term.to_owned(), &*fitted[term]));
    let beam = name.as_ref().and_then(|name| config.beam(name)).unwrap_or(1);
    let source = match &variant.source {
        Source::Rescorer(name) => Some(&*fitted[name]),
        Source::Heads | Source::Text => None,
    };
    let prepared = PreparedVariant::new(variant, terms.collect(), &config.drafting, beam);
    match source {
        Some(rescorer) => {
            let (vocabulary, k) = (backbone.vocab_size, config.lattice.top_k);
            prepared.proposed_by(Proposer { rescorer, vocabulary, k })
        }
        None => prepared,
    }
}
