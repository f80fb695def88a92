//! An evaluated set: everything that analyses look at.

use std::sync::Arc;

use super::analyses::heads::HeadQuality;
use super::bootstrap::{Counts, Intervals, intervals};
use super::{Axis, Evaluator, LiveCheck, Tally, Texts, TracedSplit, VariantResult, block_efficiency};
use crate::drafting::{PreparedVariant, Settings, TunedSet, TunedVariant};
use crate::error::Result;
use crate::rescorer::Rescorer;
use crate::tables::Colour;

/// A data set on which every variant was evaluated.
pub struct EvaluatedSet<'a> {
    /// What it was evaluated with.
    pub evaluator: &'a Evaluator<'a>,
    /// The data set's name.
    pub name: String,
    /// The split that the numbers are about.
    pub test: TracedSplit<'a>,
    /// Its documents with their lattices.
    pub texts: Texts,
    /// What is measured on dev without a search: coverage, temperatures, lookup confidence.
    pub start: Settings,
    /// The heads by themselves, head 1, the backbone, first.
    pub heads: Arc<Vec<HeadQuality>>,
    /// The variants, plain decoding first.
    pub variants: Vec<EvaluatedVariant<'a>>,
    /// The walks of the oracle of the evaluated k.
    pub oracle: Tally,
    /// What live decoding said; none where nothing was decoded live.
    pub live: Option<LiveCheck>,
}

/// A variant with what was found out about it.
pub struct EvaluatedVariant<'a> {
    /// The variant, switched off where it did not help on dev.
    pub prepared: PreparedVariant<'a>,
    /// What was tried of it on dev.
    pub axes: Vec<Axis>,
    /// Hash of all that the result depends on.
    pub key: String,
    /// The result.
    pub result: Arc<VariantResult>,
    /// Its walks over the test documents, summed up.
    pub tally: Tally,
}

impl EvaluatedVariant<'_> {
    /// Its name.
    pub fn name(&self) -> String {
        self.prepared.variant.to_string()
    }

    /// The rescorers that have a say at its settings.
    pub fn rescorers_with_a_say(&self) -> impl Iterator<Item = &dyn Rescorer> {
        let settings = &self.result.settings;
        let rescores = self.prepared.searches() && settings.weighting.scale != 0.0;
        let terms = self.prepared.terms().iter().zip(&settings.shares);
        terms.filter(move |(_, share)| rescores && **share != 0.0).map(|((_, rescorer), _)| *rescorer)
    }

    /// Whether it runs a language model of its own, which has a say.
    pub fn runs_language_model(&self) -> bool {
        self.rescorers_with_a_say().any(|rescorer| rescorer.reads_prefix())
    }
}

impl EvaluatedSet<'_> {
    /// Plain decoding, which the others are compared with.
    pub fn plain(&self) -> &EvaluatedVariant<'_> {
        &self.variants[0]
    }

    /// Whether the variant at a place emits the backbone's own text: by construction, unless the live check found otherwise.
    pub fn is_lossless(&self, place: usize) -> bool {
        self.live.as_ref().is_none_or(|live| live.outcomes[place].text_mismatches == 0)
    }

    /// The place of the lossless variant with the highest block efficiency, or of the lossy ones when there are no others. Of
    /// equals the first, which is plain decoding if it is among them: a tie is no gain.
    pub fn best(&self) -> usize {
        let any_lossless = (0..self.variants.len()).any(|place| self.is_lossless(place));
        let efficiency = |place: usize| self.variants[place].tally.block_efficiency();
        let eligible = (0..self.variants.len()).filter(|place| self.is_lossless(*place) == any_lossless);
        eligible.reduce(|best, next| if efficiency(next) > efficiency(best) { next } else { best }).unwrap_or(0)
    }

    /// The colour of the variant at a place, or behind the last one of the oracle, in every figure.
    pub fn colour(&self, place: usize) -> Colour {
        place.checked_sub(1).map_or(Colour::Baseline, Colour::Cycle)
    }

    /// Paired bootstrap intervals of what `documents` took, gains over `base`.
    ///
    /// # Errors
    /// Documents without a token or a call.
    pub fn intervals(&self, base: &[Counts], documents: &[Counts]) -> Result<Intervals> {
        let Evaluator { options, seed, .. } = self.evaluator;
        intervals(&self.texts.groups(), base, documents, options.bootstrap, *seed)
    }

    /// Block efficiency over the documents that do not loop; none where all do.
    pub fn without_loops(&self, documents: &[Counts]) -> Option<f64> {
        let rest = documents.iter().zip(&self.texts.looping).filter(|(_, looping)| !**looping);
        let rest: Vec<Counts> = rest.map(|(counts, _)| *counts).collect();
        (!rest.is_empty()).then(|| block_efficiency(&rest))
    }

    /// The settings that dev chose.
    pub fn tuned(&self) -> TunedSet {
        let tuned = self.variants.iter().map(|EvaluatedVariant { prepared, result, .. }| TunedVariant {
            variant: prepared.variant.clone(),
            switched_off: result.switched_off,
            dev_block_efficiency: result.dev_block_efficiency,
            settings: result.settings.clone(),
        });
        TunedSet::new(&self.name, tuned.collect())
    }
}
