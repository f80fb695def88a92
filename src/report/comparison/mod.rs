//! The comparison of several runs on the documents that they share.

mod figures;
mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::documents::Documents;
use super::json;
use super::model::Report;
use super::settings::{DifferingKey, differing};
use super::training::TrainingLog;
use crate::error::{Result, bail};
use crate::evaluation::analyses::VariantRow;
use crate::evaluation::block_efficiency;
use crate::evaluation::bootstrap::{Counts, intervals};
use crate::tables::Record;

/// The version of the layout of `comparison.json`.
const SCHEMA: u64 = 1;

/// The number of bootstrap resamples, and the seed that draws them.
const RESAMPLES: usize = 10_000;
const SEED: u64 = 1;

/// A finished run, as far as a comparison needs it.
pub struct EvaluatedRun {
    /// The name of the run, which is its folder as it was given.
    pub name: String,
    /// The report.
    pub report: Report,
    /// The tokens and calls of every document.
    pub documents: Documents,
    /// The log of the heads' training, if they were trained in this run.
    training: Option<TrainingLog>,
}

impl EvaluatedRun {
    /// Reads the report and the documents in `run/report`, and the log of the training in `run/heads`.
    ///
    /// # Errors
    /// Returns an error if report or documents are missing or damaged.
    pub fn read(run: &Path) -> Result<Self> {
        let folder = run.join("report");
        let report = json::read(&folder.join("report.json"))?;
        let training = TrainingLog::read(&run.join("heads")).ok();
        Ok(Self { name: run.display().to_string(), report, documents: Documents::read(&folder)?, training })
    }
}

/// A comparison of several runs on each data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The version of the layout of this file.
    pub schema_version: u64,
    /// The definition of each number, in one sentence.
    pub definitions: BTreeMap<&'static str, &'static str>,
    /// The folders of the runs, in the order in which they were given.
    pub runs: Vec<String>,
    /// The keys by which their configurations differ.
    pub settings: Vec<DifferingKey>,
    /// The data sets that all runs have.
    pub datasets: Vec<ComparedSet>,
}

/// The comparison on one data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparedSet {
    /// The name of the data set in the reports.
    pub name: String,
    /// The number of documents that all runs have. All numbers are computed on these.
    pub shared_documents: u64,
    /// The variants in the order of the first run, followed by those that only later runs have.
    pub variants: Vec<ComparedVariant>,
}

/// One variant in all runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparedVariant {
    /// The name of the variant in the reports.
    pub name: String,
    /// The block efficiency in each run, or none if the run lacks the variant.
    pub block_efficiency: Vec<Option<f64>>,
    /// The 95 % bootstrap interval of `block_efficiency` in each run, low end first.
    pub ci95: Vec<Option<[f64; 2]>>,
    /// The differences between any two runs that have the variant. The earlier run is the base.
    pub differences: Vec<Difference>,
}

/// The difference between two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The number of the base run, from 1.
    pub base: u64,
    /// The number of the other run, from 1.
    pub run: u64,
    /// The other run's block efficiency divided by the base's, minus 1.
    pub difference: f64,
    /// The 95 % paired bootstrap interval of `difference`, low end first.
    pub difference_ci95: [f64; 2],
}

const DEFINITIONS: [(&str, &str); 6] = [
    (
        "block_efficiency",
        "Decoded tokens divided by verification forwards of the backbone, each summed over the shared documents.",
    ),
    (
        "ci95",
        "The 2.5 % and 97.5 % quantiles of block_efficiency over 10,000 bootstrap resamples (seed 1) of whole groups of shared documents; where those of two runs overlap, difference_ci95 still tells them apart, as it resamples both together.",
    ),
    (
        "difference",
        "block_efficiency of the run divided by that of the base, minus 1, on the shared documents: 0.14 is 14 % more.",
    ),
    (
        "difference_ci95",
        "The 2.5 % and 97.5 % quantiles of difference over 10,000 bootstrap resamples (seed 1) of whole groups of shared documents, both runs resampled together.",
    ),
    (
        "settings",
        "The keys of the runs' resolved configurations that have not the same value in all of them, besides `name`.",
    ),
    ("shared_documents", "Documents of the data set, by id, that every run evaluated."),
];

/// Compares runs on the documents that they share.
///
/// # Errors
/// Returns an error if there are fewer than two runs, if data sets of the same name come from different files, or if
/// the runs share nothing.
pub fn compare(runs: &[EvaluatedRun]) -> Result<Comparison> {
    let [first, others @ ..] = runs else { bail!("there is no run to compare.") };
    if others.is_empty() {
        bail!("one run has nothing to be compared with; name at least two.");
    }
    let mut datasets = Vec::new();
    for name in first.documents.sets.keys() {
        if others.iter().all(|run| run.documents.sets.contains_key(name)) {
            datasets.push(compared_set(runs, name)?);
        }
    }
    if datasets.is_empty() {
        let sets = |run: &EvaluatedRun| {
            let names: Vec<&str> = run.documents.sets.keys().map(String::as_str).collect();
            format!("{}: {}", run.name, if names.is_empty() { "none".into() } else { names.join(", ") })
        };
        bail!("no data set is in all of the runs ({}).", runs.iter().map(sets).collect::<Vec<_>>().join("; "));
    }
    Ok(Comparison {
        schema_version: SCHEMA,
        definitions: DEFINITIONS.into(),
        runs: runs.iter().map(|run| run.name.clone()).collect(),
        settings: differing(runs.iter().map(|run| &run.report)),
        datasets,
    })
}

fn compared_set(runs: &[EvaluatedRun], name: &str) -> Result<ComparedSet> {
    let hash =
        |run: &EvaluatedRun| run.report.provenance.get("data").and_then(|data| data.get(name)?.get("hash")).cloned();
    if let Some(other) = runs.iter().find(|run| hash(run) != hash(&runs[0])) {
        bail!(
            "the data set {name} of {} and that of {} were read from different files, so their documents cannot be paired. Evaluate both on one file.",
            runs[0].name,
            other.name
        );
    }
    let sets: Vec<_> = runs.iter().map(|run| &run.documents.sets[name]).collect();
    let ids = |of: usize| sets[of].ids.iter().map(String::as_str).collect::<BTreeSet<&str>>();
    let shared = (1..sets.len()).fold(ids(0), |shared, of| shared.intersection(&ids(of)).copied().collect());
    if shared.is_empty() {
        bail!("the runs share no document of the data set {name}; evaluate them on the same splits.");
    }
    let mut numbers = BTreeMap::new();
    let mut group_of = BTreeMap::new();
    for (id, group) in sets[0].ids.iter().zip(&sets[0].groups) {
        let next = numbers.len();
        group_of.insert(id.as_str(), *numbers.entry(group.as_str()).or_insert(next));
    }
    let groups: Vec<usize> = shared.iter().map(|id| group_of[id]).collect();
    let mut names: Vec<&str> = Vec::new();
    let sets_of_name = runs.iter().flat_map(|run| run.report.datasets.iter().filter(|set| set.name == name));
    for row in sets_of_name.filter_map(|set| set.table(VariantRow::TABLE)).flat_map(|table| &table.rows) {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    let variants = names.into_iter().map(|variant| {
        let counts: Vec<Option<Vec<Counts>>> = sets
            .iter()
            .map(|set| set.counts(variant).map(|counts| shared.iter().map(|id| counts[id]).collect()))
            .collect();
        let mut differences = Vec::new();
        for (base, of_base) in counts.iter().enumerate() {
            for (run, of_run) in counts.iter().enumerate().skip(base + 1) {
                let (Some(of_base), Some(of_run)) = (of_base, of_run) else { continue };
                differences.push(Difference {
                    base: base as u64 + 1,
                    run: run as u64 + 1,
                    difference: block_efficiency(of_run) / block_efficiency(of_base) - 1.0,
                    difference_ci95: intervals(&groups, of_base, of_run, RESAMPLES, SEED)?.gain,
                });
            }
        }
        let interval = |counts: &Vec<Counts>| Ok(intervals(&groups, counts, counts, RESAMPLES, SEED)?.ratio);
        Ok(ComparedVariant {
            name: variant.to_owned(),
            ci95: counts.iter().map(|counts| counts.as_ref().map(interval).transpose()).collect::<Result<_>>()?,
            block_efficiency: counts.iter().map(|counts| counts.as_deref().map(block_efficiency)).collect(),
            differences,
        })
    });
    Ok(ComparedSet {
        name: name.to_owned(),
        shared_documents: shared.len() as u64,
        variants: variants.collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{DocumentSet, fixture};

    /// Makes a run of four documents in two groups.
    fn run(name: &str, ids: [&str; 4], calls: [u64; 4]) -> EvaluatedRun {
        let set = DocumentSet {
            ids: ids.map(str::to_owned).to_vec(),
            groups: ["g", "g", "h", "h"].map(str::to_owned).to_vec(),
            tokens: vec![10, 20, 30, 40],
            calls: BTreeMap::from([("bpd".to_owned(), calls.to_vec())]),
        };
        let documents = Documents::new(BTreeMap::from([("tales".to_owned(), set)]));
        EvaluatedRun { name: name.into(), report: fixture::report(), documents, training: None }
    }

    #[test]
    fn only_shared_documents_count_and_both_runs_are_resampled_together() {
        let runs = [run("a", ["1", "2", "3", "4"], [5, 10, 30, 20]), run("b", ["2", "3", "9", "1"], [20, 10, 7, 4])];
        // Document "1" has 40 tokens in the second run. Only the prompts must be the same, not the decoded texts.
        let set = &compare(&runs).unwrap().datasets[0];
        assert_eq!(set.shared_documents, 3);
        let bpd = &set.variants[0];
        assert_eq!(bpd.block_efficiency, [Some(60.0 / 45.0), Some(70.0 / 34.0)]);
        // The groups are {1, 2} and {3}, as below.
        assert_eq!(bpd.ci95[0], Some([1.0, 2.0]));
        let difference = &bpd.differences[0];
        assert_eq!((difference.base, difference.run), (1, 2));
        assert!((difference.difference - (70.0 / 34.0) / (60.0 / 45.0) + 1.0).abs() < 1e-12);
        // The groups are {1, 2} and {3}. A resample contains one of them twice, or both.
        let (low, high) = ((50.0 / 24.0) / (30.0 / 15.0) - 1.0, (20.0 / 10.0) / (30.0 / 30.0) - 1.0);
        for (found, expected) in difference.difference_ci95.into_iter().zip([low, high]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        let same = compare(&[run("a", ["1", "2", "3", "4"], [5; 4]), run("b", ["1", "2", "3", "4"], [5; 4])]).unwrap();
        assert_eq!(same.datasets[0].variants[0].differences[0].difference_ci95, [0.0, 0.0]);
        // Variants that one run lacks are listed without a difference.
        let other = &same.datasets[0].variants[1];
        assert_eq!((&other.block_efficiency[..], other.differences.len()), (&[None, None][..], 0));
    }

    #[test]
    fn settings_that_differ_are_listed() {
        let all = ["1", "2", "3", "4"];
        let mut other = run("b", all, [5; 4]);
        let configuration = serde_json::json!({"name": "b", "heads": {"block_size": 5, "loss": "all"}});
        other.report.provenance.insert("configuration".into(), configuration);
        let comparison = compare(&[run("a", all, [5; 4]), other]).unwrap();
        let found: Vec<(&str, Vec<Option<&str>>)> = comparison
            .settings
            .iter()
            .map(|found| (&*found.key, found.values.iter().map(Option::as_deref).collect()))
            .collect();
        let expected = [
            ("heads.architecture.kind", vec![Some("ffn"), None]),
            ("heads.block_size", vec![Some("9"), Some("5")]),
            ("heads.loss", vec![None, Some("all")]),
        ];
        assert_eq!(found, expected);
        for text in [comparison.table(None), comparison.markdown(), comparison.html(&[]).unwrap()] {
            assert!(text.contains("heads.block_size"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let all = ["1", "2", "3", "4"];
        let error = |runs: &[EvaluatedRun]| compare(runs).unwrap_err().to_string();
        assert!(error(&[run("a", all, [5; 4])]).contains("at least two"));
        let mut other = run("b", all, [5; 4]);
        other.report.provenance.insert("data".into(), serde_json::json!({"tales": {"hash": "x"}}));
        assert!(error(&[run("a", all, [5; 4]), other]).contains("different files"));
        let other = run("b", ["5", "6", "7", "8"], [5; 4]);
        assert!(error(&[run("a", all, [5; 4]), other]).contains("share no document"));
        let mut other = run("b", all, [5; 4]);
        other.documents.sets = BTreeMap::from([("news".to_owned(), DocumentSet::default())]);
        assert!(error(&[run("a", all, [5; 4]), other]).contains("a: tales; b: news"));
    }
}
