//! `trace`: text with the backbone's states for every corpus and split.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::workspace::Stage;
use super::{Corpus, Workspace};
use crate::backbone::Feature;
use crate::config::{Keep, TraceText};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::heads::TrainingText;
use crate::progress;
use crate::text::{Document, Split};
use crate::traces::{self, ColumnPlan, Estimate, Sampling, Trace, TracePlan};

/// The traces of a run.
pub struct Traces {
    /// One per kind of text and corpus with a train split.
    pub train: Vec<CorpusTrace>,
    /// One per corpus with a dev split, greedy.
    pub dev: Vec<CorpusTrace>,
    /// One per corpus with a test split, greedy.
    pub test: Vec<CorpusTrace>,
    /// Hashes of what made train and dev.
    pub fit_key: String,
    /// Hash of what made all of them.
    pub key: String,
}

/// A trace and the corpus, by name, that it is of.
pub struct CorpusTrace {
    /// As in `[data.NAME]`.
    pub corpus: String,
    /// Its folder's name.
    pub name: String,
    /// Hash of what made its tokens.
    pub key: String,
    /// The trace.
    pub trace: Trace,
}

impl CorpusTrace {
    /// The trace as heads train on it.
    pub fn text(&self) -> TrainingText<'_> {
        TrainingText { corpus: &self.corpus, trace: &self.trace }
    }
}

/// What making the traces of a run will take.
#[derive(Debug, Serialize)]
pub struct TracesEstimate {
    /// Those that are not finished, in the order in which they are made.
    pub traces: Vec<NamedEstimate>,
    /// Names of those that are finished.
    pub finished: Vec<String>,
    /// Sum of [`Estimate::bytes_at_most`].
    pub bytes_at_most: u64,
    /// Sum of [`Estimate::seconds`].
    pub seconds: f64,
    /// Where they go.
    pub folder: PathBuf,
    /// Bytes free there.
    pub bytes_free: u64,
}

/// What making one trace will take.
#[derive(Debug, Serialize)]
pub struct NamedEstimate {
    /// Its folder's name.
    pub name: String,
    /// The numbers.
    #[serde(flatten)]
    pub estimate: Estimate,
}

/// One trace of a run.
struct Job<'a> {
    corpus: &'a str,
    split: Split,
    name: String,
    /// Its place in a run.
    place: String,
    title: String,
    folder: PathBuf,
    key: String,
    text: TraceText,
    documents: Vec<&'a Document>,
}

/// Makes the traces that are missing and opens them all.
pub fn trace(workspace: &Workspace) -> Result<Traces> {
    let mut all = Traces { train: vec![], dev: vec![], test: vec![], fit_key: String::new(), key: String::new() };
    let (features, jobs) = (workspace.features()?, jobs(workspace)?);
    let TraceKeys { fit_key, key, .. } = keys_of(workspace, &jobs, &features);
    (all.fit_key, all.key) = (fit_key, key);
    for job in jobs {
        if workspace.is_finished(&job.folder, &job.key) {
            traces::discard(&job.folder)?;
        }
        // The mark comes with the folder that it marks, so an earlier trace stays whole until then.
        workspace.stage_with_mark(&job.stage(), |target| {
            job.with_plan(workspace, |plan| {
                let columns = (job.kept(workspace, &features), workspace.config.traces.dtype);
                let estimate = Estimate::new(&workspace.backbone, plan, columns, target, false)?;
                progress::say(format!("{}: {}", job.title, estimate.words(free(workspace)?)));
                traces::make(&workspace.backbone, plan, target, &traces::free_space, |folder| {
                    workspace.finish(folder, &job.key)
                })
            })
        })?;
        let trace = Trace::open(&job.folder, &workspace.backbone.identity())?;
        let trace = job.with_states(workspace, trace, &features)?;
        let trace = job.with_likely(workspace, trace)?;
        let list = match job.split {
            Split::Train => &mut all.train,
            Split::Dev => &mut all.dev,
            Split::Test => &mut all.test,
        };
        let (corpus, name, key) = (job.corpus.to_owned(), job.name.clone(), job.key.clone());
        list.push(CorpusTrace { corpus, name, key, trace });
    }
    Ok(all)
}

/// Hashes that are known before any trace is made.
pub(super) struct TraceKeys {
    /// As [`Traces::fit_key`].
    pub fit_key: String,
    /// As [`Traces::key`].
    pub key: String,
    /// By trace.
    pub traces: Vec<TraceKey>,
}

/// A trace that is to be made.
pub(super) struct TraceKey {
    /// Its place in a run.
    pub name: String,
    /// What messages call it.
    pub title: String,
    /// Hash of what makes it.
    pub key: String,
    /// What it is of.
    pub split: Split,
    /// Documents, at most.
    pub documents: usize,
    /// Whether its tokens and its columns are there.
    pub finished: bool,
}

/// The keys of a run's traces.
pub(super) fn trace_keys(workspace: &Workspace) -> Result<TraceKeys> {
    Ok(keys_of(workspace, &jobs(workspace)?, &workspace.features()?))
}

fn keys_of(workspace: &Workspace, jobs: &[Job], features: &[Feature]) -> TraceKeys {
    let keys = |test: bool| jobs.iter().filter(|job| test || job.split != Split::Test).map(|job| &job.key).collect();
    let (fit, all): (Vec<&String>, Vec<&String>) = (keys(false), keys(true));
    let of = |job: &Job| TraceKey {
        name: job.place.clone(),
        title: job.title.clone(),
        key: job.key.clone(),
        split: job.split,
        documents: job.documents.len(),
        finished: job.is_finished(workspace) && job.missing(workspace, features).is_empty(),
    };
    TraceKeys { fit_key: files::hash_json(&fit), key: files::hash_json(&all), traces: jobs.iter().map(of).collect() }
}

/// Says what [`trace`] will take, and makes nothing.
pub fn estimate_traces(workspace: &Workspace) -> Result<TracesEstimate> {
    let folder = workspace.folder.join("traces");
    let (mut traces, mut finished) = (Vec::new(), Vec::new());
    let (features, backbone) = (workspace.features()?, &workspace.backbone);
    for job in jobs(workspace)? {
        let missing = job.missing(workspace, &features);
        let names: Vec<Feature> = missing.iter().map(|column| column.feature).collect();
        let columns = (&names[..], workspace.config.traces.dtype);
        let estimate = match (job.is_finished(workspace), missing.is_empty()) {
            (true, true) => {
                finished.push(job.name);
                continue;
            }
            (true, false) => {
                let trace = Trace::open(&job.folder, &backbone.identity())?;
                let done = |column: &ColumnJob| traces::documents_done(&column.folder, &workspace.stamped(&column.key));
                let done = missing.iter().map(done).min().unwrap_or(0);
                Estimate::of_columns(backbone, &trace, columns, done, true)
            }
            (false, _) => job.with_plan(workspace, |plan| Estimate::new(backbone, plan, columns, &job.folder, true))?,
        };
        traces.push(NamedEstimate { estimate, name: job.name });
    }
    Ok(TracesEstimate {
        bytes_at_most: traces.iter().map(|trace| trace.estimate.bytes_at_most).sum(),
        seconds: traces.iter().filter_map(|trace| trace.estimate.seconds).sum(),
        bytes_free: free(workspace)?,
        traces,
        finished,
        folder,
    })
}

fn free(workspace: &Workspace) -> Result<u64> {
    // A cell that is only planned has no folder yet.
    let folder = workspace.folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    traces::free_space(folder).map_err(|e| Error::io("ask for the free space of", folder, e))
}

/// Every trace of the run, train before dev before test.
fn jobs(workspace: &Workspace) -> Result<Vec<Job<'_>>> {
    let options = &workspace.config.traces;
    let mut jobs = Vec::new();
    for (split, most, texts) in [
        (Split::Train, options.train_documents, options.train_text.as_slice()),
        (Split::Dev, options.dev_documents, &[TraceText::Greedy]),
        (Split::Test, options.test_documents, &[TraceText::Greedy]),
    ] {
        for corpus in workspace.corpora.iter().filter(|corpus| corpus.has(split)) {
            for &text in texts {
                jobs.push(Job::new(workspace, corpus, split, most, text)?);
            }
        }
    }
    Ok(jobs)
}

impl<'a> Job<'a> {
    fn new(workspace: &'a Workspace, corpus: &'a Corpus, split: Split, most: usize, text: TraceText) -> Result<Self> {
        let options = &workspace.config.traces;
        let kind = if text == TraceText::Greedy { None } else { Some(text.name()) };
        let words = |joint: &str| {
            let parts = [Some(corpus.name.as_str()), Some(split.name()), kind];
            parts.into_iter().flatten().collect::<Vec<_>>().join(joint)
        };
        let title = format!("trace {}", words(" "));
        let documents: Vec<&Document> = corpus.split(split).take(most).collect();
        if documents.is_empty() {
            bail!(
                "{title}: the split has no documents. Give a larger corpus, or other shares `data.{0}.dev` and `data.{0}.test`.",
                corpus.name
            );
        }
        let sampling =
            (text == TraceText::Sampled).then_some((options.temperature, options.top_p, workspace.config.seed));
        let key = files::hash_json(&(
            &workspace.backbone.identity(),
            &corpus.hash,
            &corpus.config,
            (split, most, text, sampling),
            options.max_new,
            options.batch,
        ));
        let name = words("-");
        let (corpus, place) = (corpus.name.as_str(), format!("traces/{name}"));
        let folder = workspace.place(&Stage { name: &place, key: &key, title: &title });
        Ok(Self { corpus, split, title, folder, place, name, key, text, documents })
    }

    fn stage(&self) -> Stage<'_> {
        Stage { name: &self.place, key: &self.key, title: &self.title }
    }

    fn with_plan<R>(&self, workspace: &Workspace, work: impl FnOnce(&TracePlan) -> R) -> R {
        let options = &workspace.config.traces;
        work(&TracePlan {
            title: &self.title,
            key: &workspace.stamped(&self.key),
            documents: self.documents.len(),
            read: &|index| Ok(self.documents[index].clone()),
            text: self.text,
            sampling: Sampling { temperature: options.temperature, top_p: options.top_p, seed: workspace.config.seed },
            max_new: options.max_new,
            batch: options.batch,
        })
    }
}

/// A column of a trace.
struct ColumnJob {
    feature: Feature,
    /// Its place in a run.
    place: String,
    title: String,
    folder: PathBuf,
    key: String,
}

impl ColumnJob {
    fn stage(&self) -> Stage<'_> {
        Stage { name: &self.place, key: &self.key, title: &self.title }
    }
}

impl Job<'_> {
    fn is_finished(&self, workspace: &Workspace) -> bool {
        workspace.is_finished(&self.folder, &self.key)
    }

    /// What messages call the corpus, the split and the kind of text.
    fn words(&self) -> String {
        self.name.replace('-', " ")
    }

    /// Those of `features` that columns keep.
    fn kept<'f>(&self, workspace: &Workspace, features: &'f [Feature]) -> &'f [Feature] {
        match workspace.config.traces.keep {
            Keep::Tokens => &[],
            Keep::Features => features,
        }
    }

    /// A column depends on the trace's tokens, on what it holds and on its type.
    fn columns(&self, workspace: &Workspace, features: &[Feature]) -> Vec<ColumnJob> {
        let column = |&feature: &Feature| {
            let key = files::hash_json(&(&self.key, feature, workspace.config.traces.dtype));
            let place = format!("columns/{}/{feature}", self.name);
            let title = format!("column {feature} of {}", self.words());
            let folder = workspace.place(&Stage { name: &place, key: &key, title: &title });
            ColumnJob { feature, place, title, folder, key }
        };
        self.kept(workspace, features).iter().map(column).collect()
    }

    fn missing(&self, workspace: &Workspace, features: &[Feature]) -> Vec<ColumnJob> {
        let mut columns = self.columns(workspace, features);
        columns.retain(|column| !workspace.is_finished(&column.folder, &column.key));
        columns
    }

    /// The trace with the states called `features`: makes the columns that are missing, in one pass.
    fn with_states(&self, workspace: &Workspace, trace: Trace, features: &[Feature]) -> Result<Trace> {
        let traces = &workspace.config.traces;
        if traces.keep == Keep::Tokens {
            return Ok(trace.recomputing(workspace.backbone.clone(), features, traces.dtype));
        }
        let columns = self.columns(workspace, features);
        let make = |missing: &[&ColumnJob]| {
            let plans = missing.iter().map(|column| ColumnPlan {
                feature: column.feature,
                dtype: traces.dtype,
                folder: &column.folder,
                key: workspace.stamped(&column.key),
            });
            let plans: Vec<ColumnPlan> = plans.collect();
            let title = format!("columns of {}", self.words());
            let mark = |number: usize, folder: &Path| workspace.finish(folder, &missing[number].key);
            let backbone = &workspace.backbone;
            traces::make_columns(backbone, &trace, &plans, (&title, traces.batch), &traces::free_space, &mark)
        };
        stage_together(workspace, &columns, &mut Vec::new(), &make)?;
        columns.iter().try_fold(trace, |trace, column| trace.with_column(&column.folder))
    }

    /// The trace of a train split with the backbone's likeliest tokens, where they are asked for.
    fn with_likely(&self, workspace: &Workspace, trace: Trace) -> Result<Trace> {
        let traces = &workspace.config.traces;
        let count = traces.probabilities;
        if self.split != Split::Train || count == 0 {
            return Ok(trace);
        }
        let key = files::hash_json(&(&self.key, traces.dtype, count));
        let (name, title) = (format!("likely/{}", self.name), format!("probabilities of {}", self.words()));
        let folder = workspace.stage(&Stage { name: &name, key: &key, title: &title }, |folder| {
            traces::make_likely(&trace, &workspace.backbone.model, folder, count, &title)
        })?;
        trace.with_likely(&folder, count)
    }
}

/// Calls `make` once for all of `columns` that are not finished, while no other process works on one of them.
fn stage_together<'a>(
    workspace: &Workspace,
    columns: &'a [ColumnJob],
    missing: &mut Vec<&'a ColumnJob>,
    make: &dyn Fn(&[&ColumnJob]) -> Result<()>,
) -> Result<()> {
    let Some((first, rest)) = columns.split_first() else {
        return if missing.is_empty() { Ok(()) } else { make(missing) };
    };
    if workspace.is_finished(&first.folder, &first.key) {
        traces::discard(&first.folder)?;
    }
    let mut entered = false;
    workspace.stage_with_mark(&first.stage(), |_| {
        entered = true;
        missing.push(first);
        stage_together(workspace, rest, missing, make)
    })?;
    if entered { Ok(()) } else { stage_together(workspace, rest, missing, make) }
}
