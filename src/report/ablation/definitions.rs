//! The written definitions of the numbers of an ablation.

use std::collections::BTreeMap;

use crate::evaluation::analyses::VariantRow;
use crate::tables::Record;

/// Returns one sentence for each name. Numbers that are also in a run's table of variants have the same definition as
/// there.
pub fn definitions() -> BTreeMap<String, String> {
    let shared = [
        "block_efficiency",
        "block_efficiency_document_mean",
        "ci95",
        "dev_block_efficiency",
        "drafts",
        "verified_tokens_per_call",
        "verified_tokens_per_call_max",
    ];
    let of_variants = VariantRow::fields().into_iter().filter(|field| shared.contains(&field.id));
    let of_variants = of_variants.map(|field| (field.id, field.definition));
    of_variants.chain(OWN.iter().copied()).map(|(name, sentence)| (name.to_owned(), sentence.to_owned())).collect()
}

const OWN: &[(&str, &str)] = &[
    (
        "best",
        "The setting and variant with the highest dev_block_efficiency, a mean over seeds, the first of equal ones; its numbers are from test, which had no part in the choice.",
    ),
    ("best_single", "As best, among variants that verify one draft a call."),
    (
        "interval",
        "Of a mean over several seeds: the mean plus and minus Student's t (97.5 %, seeds - 1 degrees of freedom) times the standard error over seeds, so what another seed may give on the same documents; with one seed, ci95 of its cell, so what other documents may give.",
    ),
    (
        "mean over settings",
        "In the drawings: the unweighted mean of block_efficiency over all settings with that value of the axis.",
    ),
    (
        "oracle",
        "Block efficiency when each step takes, from the lattice of every head's top_k candidates, the path with the longest accepted prefix; over a whole text it need not be the best.",
    ),
    (
        "relative_gain",
        "block_efficiency divided by that of plain bpd on the same documents, minus 1: 0.14 is 14 % more.",
    ),
    (
        "seeds",
        "The cells of a setting, which differ in nothing but the seed; block_efficiency, relative_gain, dev_block_efficiency and verified_tokens_per_call of a setting are unweighted means over them.",
    ),
];

#[cfg(test)]
mod tests {
    #[test]
    fn definitions_are_single_sentences() {
        assert_eq!(super::definitions().len(), 7 + super::OWN.len());
        for (name, sentence) in super::definitions() {
            assert!(sentence.ends_with('.') && !sentence.contains("  "), "{name}: {sentence}");
        }
    }
}
