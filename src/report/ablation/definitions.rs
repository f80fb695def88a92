//! The written definition of every number of an ablation.

use std::collections::BTreeMap;

/// One sentence for each name; those that a run's report has too are that report's.
pub fn definitions() -> BTreeMap<String, String> {
    let shared = [
        "block_efficiency",
        "block_efficiency_document_mean",
        "ci95",
        "dev_block_efficiency",
        "drafts",
        "oracle",
        "relative_gain",
        "verified_tokens_per_call",
        "verified_tokens_per_call_max",
    ];
    let all = crate::report::definitions();
    let own = OWN.iter().map(|(name, sentence)| ((*name).to_owned(), (*sentence).to_owned()));
    own.chain(shared.into_iter().map(|name| (name.to_owned(), all[name].clone()))).collect()
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
        "seeds",
        "The cells of a setting, which differ in nothing but the seed; block_efficiency, relative_gain, dev_block_efficiency and verified_tokens_per_call of a setting are unweighted means over them.",
    ),
];

#[cfg(test)]
mod tests {
    #[test]
    fn definitions_are_single_sentences() {
        for (name, sentence) in super::definitions() {
            assert!(sentence.ends_with('.') && !sentence.contains("  "), "{name}: {sentence}");
        }
    }
}
