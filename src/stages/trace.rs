//! The stage `trace`, which makes texts with the backbone's states for every corpus and split.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Column, TraceArtefacts, Workspace};
use crate::backbone::Feature;
use crate::error::{Error, Result};
use crate::heads::TrainingText;
use crate::progress;
use crate::storage_type::StorageType;
use crate::store::Artefact;
use crate::text::{Document, Split};
use crate::traces::{self, ColumnPlan, Estimate, Keep, Sampling, Trace, TracePlan};

/// The traces of a run.
pub struct Traces {
    /// The traces of train: one for each kind of text of each corpus with a train split.
    pub train: Vec<CorpusTrace>,
    /// The traces of dev: one of greedy text for each corpus with a dev split.
    pub dev: Vec<CorpusTrace>,
    /// The traces of test: one of greedy text for each corpus with a test split.
    pub test: Vec<CorpusTrace>,
}

/// A trace and the name of its corpus.
pub struct CorpusTrace {
    /// The name of the corpus, as in `[data.NAME]`.
    pub corpus: String,
    /// The index of the trace's artefacts in [`Graph::traces`](super::Graph::traces).
    pub number: usize,
    /// The trace.
    pub trace: Trace,
}

impl CorpusTrace {
    /// Returns the trace in the form that heads train on.
    pub fn text(&self) -> TrainingText<'_> {
        TrainingText { corpus: &self.corpus, trace: &self.trace }
    }
}

/// An estimate of the disk space and the time that it takes to make the traces of a run.
#[derive(Debug, Serialize)]
pub struct TracesEstimate {
    /// The estimates of the traces that are not finished, in the order in which they are made.
    pub traces: Vec<NamedEstimate>,
    /// The names of the traces that are finished.
    pub finished: Vec<String>,
    /// The sum of [`Estimate::bytes_at_most`] over `traces`.
    pub bytes_at_most: u64,
    /// The sum of [`Estimate::seconds`] over `traces`, where it is known.
    pub seconds: f64,
    /// The folder that the traces are written to.
    pub folder: PathBuf,
    /// The number of free bytes on the disk of `folder`.
    pub bytes_free: u64,
}

/// An estimate of what it takes to make one trace.
#[derive(Debug, Serialize)]
pub struct NamedEstimate {
    /// The name of the trace.
    pub name: String,
    /// The estimated numbers.
    #[serde(flatten)]
    pub estimate: Estimate,
}

/// Makes the traces that are missing, and opens all traces.
///
/// # Errors
/// Fails if the backbone cannot process a text, if the disk cannot be written to, or on an interrupt.
pub fn trace(workspace: &Workspace) -> Result<Traces> {
    let mut all = Traces { train: vec![], dev: vec![], test: vec![] };
    for (number, of) in workspace.graph.traces.iter().enumerate() {
        let job = Job { workspace, of };
        let trace = job.with_likely(job.with_states(job.tokens()?)?)?;
        let list = match of.split {
            Split::Train => &mut all.train,
            Split::Dev => &mut all.dev,
            Split::Test => &mut all.test,
        };
        list.push(CorpusTrace { corpus: workspace.corpora()[of.corpus].name.clone(), number, trace });
    }
    Ok(all)
}

/// Estimates what [`trace`] will take, without making anything.
///
/// # Errors
/// Fails if the tokenizer cannot encode a text, or if a trace cannot be read.
pub fn estimate_traces(workspace: &Workspace) -> Result<TracesEstimate> {
    let (mut traces, mut finished) = (Vec::new(), Vec::new());
    for of in &workspace.graph.traces {
        match (Job { workspace, of }).estimate()? {
            Some(estimate) => traces.push(NamedEstimate { estimate, name: of.name.clone() }),
            None => finished.push(of.name.clone()),
        }
    }
    Ok(TracesEstimate {
        bytes_at_most: traces.iter().map(|trace| trace.estimate.bytes_at_most).sum(),
        seconds: traces.iter().filter_map(|trace| trace.estimate.seconds).sum(),
        bytes_free: free(workspace)?,
        traces,
        finished,
        folder: workspace.store.folder().to_owned(),
    })
}

fn free(workspace: &Workspace) -> Result<u64> {
    // If the store is only planned, its folder does not exist yet.
    let folder = workspace.store.folder().ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    traces::free_space(folder).map_err(|e| Error::io("ask for the free space of", folder, e))
}

/// The work on one trace of a run.
struct Job<'a> {
    workspace: &'a Workspace,
    of: &'a TraceArtefacts,
}

impl Job<'_> {
    /// Makes the tokens, unless that is done, and opens them.
    fn tokens(&self) -> Result<Trace> {
        let Self { workspace, of } = self;
        let (backbone, tokens) = (workspace.backbone(), &of.tokens);
        // The folder is marked as finished before it is put in its place.
        let folder = workspace.make_whole(tokens, |target| {
            self.with_plan(|plan| {
                let (features, dtype) = self.columns();
                let estimate = Estimate::new(backbone, plan, (&features, dtype), target, false)?;
                progress::say(format!("{}: {}", tokens.title, estimate.words(free(workspace)?)));
                traces::make(backbone, plan, target, &traces::free_space, |folder| {
                    workspace.store.finish(tokens, folder)
                })
            })
        })?;
        Trace::open(&folder, &backbone.identity())?.require_vocabulary(&folder, backbone.model.config().vocab_size)
    }

    fn with_plan<R>(&self, work: impl FnOnce(&TracePlan) -> R) -> R {
        let Self { workspace, of } = self;
        let options = &workspace.config.traces;
        let documents: Vec<&Document> = workspace.corpora()[of.corpus].split(of.split).take(of.documents).collect();
        work(&TracePlan {
            title: &of.tokens.title,
            key: of.tokens.key.hash(),
            documents: documents.len(),
            read: &|index| Ok(documents[index].clone()),
            text: of.text,
            sampling: Sampling { temperature: options.temperature, top_p: options.top_p, seed: workspace.config.seed },
            max_new: options.max_new,
            batch: options.batch,
        })
    }

    /// Returns the states that are kept as columns, and the type of their numbers.
    fn columns(&self) -> (Vec<Feature>, StorageType) {
        (self.of.columns.iter().map(|column| column.feature).collect(), self.workspace.config.traces.dtype)
    }

    /// Estimates what it takes to make the missing tokens and columns. Returns `None` if none are missing.
    fn estimate(&self) -> Result<Option<Estimate>> {
        let Self { workspace, of } = self;
        let (backbone, store, dtype) = (workspace.backbone(), &workspace.store, workspace.config.traces.dtype);
        let folder = store.place(&of.tokens.key);
        if !store.is_finished(&of.tokens.key) {
            let (features, dtype) = self.columns();
            return self.with_plan(|plan| Estimate::new(backbone, plan, (&features, dtype), &folder, true)).map(Some);
        }
        let missing = || of.columns.iter().filter(|column| !store.is_finished(&column.artefact.key));
        let features: Vec<Feature> = missing().map(|column| column.feature).collect();
        if features.is_empty() {
            return Ok(None);
        }
        let trace = Trace::open(&folder, &backbone.identity())?;
        let done = missing()
            .map(|Column { artefact: Artefact { key, .. }, .. }| traces::documents_done(&store.place(key), key.hash()));
        let done = done.min().unwrap_or(0);
        Ok(Some(Estimate::of_columns(backbone, &trace, (&features, dtype), done, true)))
    }

    /// Adds the states to a trace. Missing columns are made in one pass. If only tokens are kept, the states are
    /// recomputed when they are read.
    fn with_states(&self, trace: Trace) -> Result<Trace> {
        let Self { workspace, of } = self;
        let options = &workspace.config.traces;
        if options.keep == Keep::Tokens {
            let backbone = workspace.inputs.backbone.clone();
            return Ok(trace.recomputing(backbone, &workspace.features, options.dtype));
        }
        let make = |missing: &[&Column]| {
            let folders: Vec<PathBuf> =
                missing.iter().map(|column| workspace.store.place(&column.artefact.key)).collect();
            let plans = missing.iter().zip(&folders).map(|(column, folder)| ColumnPlan {
                feature: column.feature,
                dtype: options.dtype,
                folder,
                key: column.artefact.key.hash().to_owned(),
            });
            let plans: Vec<ColumnPlan> = plans.collect();
            let title = format!("columns of {}", of.words());
            let mark = |number: usize, folder: &Path| workspace.store.finish(&missing[number].artefact, folder);
            let named = (title.as_str(), options.batch);
            traces::make_columns(workspace.backbone(), &trace, &plans, named, &traces::free_space, &mark)
        };
        make_together(workspace, &of.columns, &mut Vec::new(), &make)?;
        let columns = of.columns.iter().map(|column| workspace.store.place(&column.artefact.key));
        columns.into_iter().try_fold(trace, |trace, folder| trace.with_column(&folder))
    }

    /// Adds the backbone's likeliest tokens to a trace, if they are asked for. They are computed unless that is done.
    fn with_likely(&self, trace: Trace) -> Result<Trace> {
        let Some(likely) = &self.of.likely else { return Ok(trace) };
        let count = self.workspace.config.traces.probabilities;
        let folder = self.workspace.make(likely, |folder| {
            traces::make_likely(&trace, &self.workspace.backbone().model, folder, count, &likely.title)
        })?;
        trace.with_likely(&folder, count)
    }
}

/// Calls `make` once for `missing` and all of `columns` that are not finished. No other process works on any of these
/// meanwhile. If there are none, `make` is not called.
fn make_together<'a>(
    workspace: &Workspace,
    columns: &'a [Column],
    missing: &mut Vec<&'a Column>,
    make: &dyn Fn(&[&Column]) -> Result<()>,
) -> Result<()> {
    let Some((first, rest)) = columns.split_first() else {
        return if missing.is_empty() { Ok(()) } else { make(missing) };
    };
    let mut entered = false;
    workspace.make_whole(&first.artefact, |_| {
        entered = true;
        missing.push(first);
        make_together(workspace, rest, missing, make)
    })?;
    if entered { Ok(()) } else { make_together(workspace, rest, missing, make) }
}
