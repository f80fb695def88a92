//! The stage `evaluate`, which replays every variant with settings chosen on dev, checks a sample by live decoding, and
//! writes the report.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::variants::prepare;
use super::{CorpusTrace, FittedRescorers, HOW_TO_KEEP, Traces, TrainedHeads, Workspace, candidates};
use crate::error::{Error, Result, bail};
use crate::evaluation::{EvaluatedSet, Evaluator, Findings, TracedSplit, analyses, write_steps};
use crate::files;
use crate::report::{self, DocumentSet, Documents, Report};
use crate::tables::ORACLE;
use crate::training::KeptCheckpoints;

/// Evaluates the run, unless that is done, and returns the report.
///
/// # Errors
/// Fails if a variant fails, if checkpoints are asked for that were not kept, or on an interrupt.
pub fn evaluate(
    workspace: &Workspace,
    traces: &Traces,
    heads: &TrainedHeads,
    rescorers: &FittedRescorers,
) -> Result<Report> {
    // The run's folder links to the settings, because decoding looks for them there.
    files::link_to(&workspace.folder.join("report").join(TUNED), &workspace.folder.join(TUNED))?;
    let folder = workspace.make(&workspace.graph.evaluation, |folder| {
        let findings = Findings::new(folder.join("findings"), env!("CARGO_PKG_VERSION"), workspace.known.clone());
        let work = Work { workspace, traces, heads, rescorers, findings: &findings, folder };
        work.evaluate()?;
        // The findings are no longer needed, since the report has them all.
        findings.clear()
    })?;
    report::read(&folder.join("report.json"))
}

/// The inputs of one evaluation, and the folder that it writes to.
struct Work<'a> {
    workspace: &'a Workspace,
    traces: &'a Traces,
    heads: &'a TrainedHeads,
    rescorers: &'a FittedRescorers,
    findings: &'a Findings,
    folder: &'a Path,
}

impl Work<'_> {
    /// Writes the report, the settings that were chosen on dev, and the steps if they are to be kept.
    fn evaluate(&self) -> Result<()> {
        let Self { workspace, heads, rescorers, findings, folder, .. } = *self;
        let (config, graph) = (&workspace.config, &workspace.graph);
        let tuned = folder.join(TUNED);
        fs::create_dir_all(&tuned).map_err(|e| Error::io("create", &tuned, e))?;
        let checkpoints = if config.evaluation.all_checkpoints {
            let Some(kept) = KeptCheckpoints::find(&heads.folder)? else {
                bail!("--all-checkpoints: {} has not every checkpoint: {HOW_TO_KEEP}", heads.folder.display());
            };
            Some((&*heads.folder, kept))
        } else {
            None
        };
        let term_key = |name: &String| {
            // The scores of a fitted rescorer also depend on its section of the configuration, such as on how it
            // normalises.
            (name.clone(), files::hash_json(&(graph.rescorer(name).key.hash(), &config.rescorer[name])))
        };
        let model = workspace.backbone().model.config();
        let prepared = |variant| prepare(variant, config, rescorers, model);
        let evaluator = Evaluator {
            backbone: workspace.backbone(),
            heads: &heads.heads,
            heads_key: &files::hash_json(&(graph.heads.key.hash(), config.heads.weights)),
            checkpoints,
            variants: config.variants().into_iter().map(prepared).collect(),
            rescorer_keys: rescorers.keys().map(term_key).collect(),
            top_k: config.lattice.top_k,
            include_top1: config.drafting.include_top1,
            dtype: config.traces.dtype,
            tuning: &config.tuning,
            options: &config.evaluation,
            seed: config.seed,
            findings,
            scratch: folder,
        };
        let (mut datasets, mut documents) = (Vec::new(), BTreeMap::new());
        for test in &self.traces.test {
            let dev = self.traces.dev.iter().find(|dev| dev.corpus == test.corpus);
            let dev = dev.expect("a configuration with test has dev");
            let set = evaluator.evaluate(&test.corpus, self.split(dev)?, self.split(test)?)?;
            set.tuned().write(&tuned)?;
            if config.evaluation.keep_steps {
                write_steps(&set, &folder.join("steps").join(format!("{}.jsonl.gz", set.name)))?;
            }
            documents.insert(set.name.clone(), of_documents(&set));
            datasets.push(analyses::analyse(&set)?);
        }
        let across = analyses::across(&datasets)?;
        let mut provenance = workspace.provenance();
        provenance.insert("configuration".into(), serde_json::to_value(config).expect("a configuration is JSON"));
        report::write(&Report::new(datasets, across, provenance), folder)?;
        Documents::new(documents).write(folder)
    }

    /// Returns a traced split with its candidates, which are computed unless that is done.
    fn split<'t>(&'t self, trace: &'t CorpusTrace) -> Result<TracedSplit<'t>> {
        let key = self.workspace.graph.traces[trace.number].tokens.key.hash();
        let candidates = candidates(self.workspace, self.heads, trace)?;
        Ok(TracedSplit { trace: &trace.trace, key, candidates })
    }
}

/// The name of the folder of the settings that were chosen on dev. It has one file per data set.
pub(super) const TUNED: &str = "tuned";

/// Returns the results of every document, by variant and for the oracle.
fn of_documents(set: &EvaluatedSet) -> DocumentSet {
    let entries = set.texts.texts.iter().map(|text| &text.entry);
    let mut documents = DocumentSet {
        ids: entries.clone().map(|entry| entry.id.clone()).collect(),
        groups: entries.map(|entry| entry.group.clone()).collect(),
        ..DocumentSet::default()
    };
    set.variants.iter().for_each(|variant| documents.add(&variant.name(), &variant.tally.documents));
    documents.add(ORACLE, &set.oracle.documents);
    documents
}
