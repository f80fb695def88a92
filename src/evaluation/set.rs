//! The evaluated set, which analyses work on.

use std::sync::Arc;

use super::analyses::heads::HeadQuality;
use super::bootstrap::{Counts, Intervals, intervals};
use super::{Axis, Evaluator, LiveCheck, Tally, Texts, TracedSplit, VariantResult, block_efficiency};
use crate::drafting::{PreparedVariant, Settings, TunedSet, TunedVariant};
use crate::error::Result;
use crate::rescorer::Rescorer;
use crate::tables::{Colour, Lines};

/// A data set on which every variant was evaluated.
pub struct EvaluatedSet<'a> {
    /// The evaluator that made the set.
    pub evaluator: &'a Evaluator<'a>,
    /// The name of the data set.
    pub name: String,
    /// The split that the results are about.
    pub test: TracedSplit<'a>,
    /// The documents of that split, with their lattices.
    pub texts: Texts<'a>,
    /// The settings that are measured on dev without a search: coverage, temperatures and lookup confidence.
    pub start: Settings,
    /// The quality of each head by itself. The first is head 1, the backbone.
    pub heads: Arc<Vec<HeadQuality>>,
    /// The variants, plain decoding first.
    pub variants: Vec<EvaluatedVariant<'a>>,
    /// The walks of the oracle, with the k of the evaluation.
    pub oracle: Tally,
    /// The results of live decoding, or none if nothing was decoded live.
    pub live: Option<LiveCheck>,
}

/// A variant and its results.
pub struct EvaluatedVariant<'a> {
    /// The variant, switched off if it did not help on dev.
    pub prepared: PreparedVariant<'a>,
    /// The settings that were searched on dev, with their values.
    pub axes: Vec<Axis>,
    /// A hash of everything that the result depends on.
    pub key: String,
    /// The settings and the walks over test.
    pub result: Arc<VariantResult>,
    /// The sums of its walks over the test documents.
    pub tally: Tally,
}

impl EvaluatedVariant<'_> {
    /// Returns the name of the variant.
    pub fn name(&self) -> String {
        self.prepared.variant.to_string()
    }

    /// Returns the rescorers that count at the variant's settings, and the one that proposes tokens.
    pub fn rescorers_with_a_say(&self) -> impl Iterator<Item = &dyn Rescorer> {
        let settings = &self.result.settings;
        let rescores = self.prepared.searches() && settings.weighting.scale != 0.0;
        let terms = self.prepared.terms().iter().zip(&settings.shares);
        let terms = terms.filter(move |(_, share)| rescores && **share != 0.0).map(|((_, rescorer), _)| *rescorer);
        terms.chain(self.prepared.source())
    }

    /// Returns whether the variant runs a language model of its own that counts.
    pub fn runs_language_model(&self) -> bool {
        self.rescorers_with_a_say().any(|rescorer| rescorer.reads_prefix())
    }
}

impl EvaluatedSet<'_> {
    /// Returns plain decoding, with which the others are compared.
    pub fn plain(&self) -> &EvaluatedVariant<'_> {
        &self.variants[0]
    }

    /// Returns whether the variant with this index emits the backbone's own text. It does so by construction, unless
    /// the live check found otherwise.
    pub fn is_lossless(&self, place: usize) -> bool {
        self.live.as_ref().is_none_or(|live| live.outcomes[place].text_mismatches == 0)
    }

    /// Returns the index of the lossless variant with the highest block efficiency on dev, or of a lossy one if no variant
    /// is lossless. If several are equal, the first is taken. Plain decoding comes first, so a tie with it is no gain.
    ///
    /// Test has no part in the choice, so what the variant reaches there is not flattered by it.
    pub fn best(&self) -> usize {
        let any_lossless = (0..self.variants.len()).any(|place| self.is_lossless(place));
        let eligible = (0..self.variants.len()).filter(|place| self.is_lossless(*place) == any_lossless);
        eligible.reduce(|best, next| if self.on_dev(next) > self.on_dev(best) { next } else { best }).unwrap_or(0)
    }

    /// Returns the block efficiency of the variant with this index on dev.
    fn on_dev(&self, place: usize) -> f64 {
        self.variants[place].result.dev_block_efficiency
    }

    /// Returns, by index, whether figures of lines show a variant from the start: plain decoding, the six others that are
    /// best on dev, and the oracle, which comes after the last variant. The reader can choose others.
    pub fn leading(&self) -> Vec<bool> {
        let mut others: Vec<usize> = (1..self.variants.len()).collect();
        others.sort_by(|&a, &b| self.on_dev(b).total_cmp(&self.on_dev(a)));
        let shown = others.into_iter().take(Lines::MOST - 2).chain([0, self.variants.len()]);
        let mut leading = vec![false; self.variants.len() + 1];
        shown.for_each(|place| leading[place] = true);
        leading
    }

    /// Returns the colour that the variant with this index has in every figure. The index after the last variant is the
    /// oracle.
    pub fn colour(&self, place: usize) -> Colour {
        place.checked_sub(1).map_or(Colour::Baseline, Colour::Cycle)
    }

    /// Computes paired bootstrap intervals for the counts `documents`, with gains over `base`.
    ///
    /// # Errors
    /// Returns an error if a group of documents has no tokens or no calls.
    pub fn intervals(&self, base: &[Counts], documents: &[Counts]) -> Result<Intervals> {
        let Evaluator { options, seed, .. } = self.evaluator;
        intervals(&self.texts.groups(), base, documents, options.bootstrap, *seed)
    }

    /// Returns the block efficiency over the documents that do not loop, or none if all of them do.
    pub fn without_loops(&self, documents: &[Counts]) -> Option<f64> {
        let rest = documents.iter().zip(&self.texts.looping).filter(|(_, looping)| !**looping);
        let rest: Vec<Counts> = rest.map(|(counts, _)| *counts).collect();
        (!rest.is_empty()).then(|| block_efficiency(&rest))
    }

    /// Returns the settings that were chosen on dev.
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
