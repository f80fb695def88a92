//! `trace`: text with the backbone's hidden states for every corpus and split.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::workspace::Stage;
use super::{Corpus, Workspace};
use crate::config::TraceText;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::progress;
use crate::text::{Document, Split};
use crate::traces::{self, Estimate, Sampling, Trace, TracePlan};

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
    /// Hash of what made it.
    pub key: String,
    /// The trace.
    pub trace: Trace,
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
    let jobs = jobs(workspace)?;
    let TraceKeys { fit_key, key, .. } = keys_of(&jobs);
    (all.fit_key, all.key) = (fit_key, key);
    for job in jobs {
        if workspace.is_finished(&job.folder, &job.key) {
            traces::discard(&job.folder)?;
        }
        // The mark comes with the folder that it marks, so an earlier trace stays whole until then.
        workspace.stage_with_mark(&job.stage(), |target| {
            job.with_plan(workspace, |plan| {
                let estimate = Estimate::new(&workspace.backbone, plan, target, false)?;
                progress::say(format!("{}: {}", job.title, estimate.words(free(workspace)?)));
                traces::make(&workspace.backbone, plan, target, &traces::free_space, |folder| {
                    workspace.finish(folder, &job.key)
                })
            })
        })?;
        let mut trace = Trace::open(&job.folder, &workspace.backbone.identity())?;
        let likely = workspace.config.traces.probabilities;
        if job.split == Split::Train && likely > 0 {
            trace = workspace.alone(&job.folder, &job.title, || {
                traces::with_likely(trace, &workspace.backbone.model, &job.folder, likely, &job.title)
            })?;
        }
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
}

/// The keys of a run's traces.
pub(super) fn trace_keys(workspace: &Workspace) -> Result<TraceKeys> {
    Ok(keys_of(&jobs(workspace)?))
}

fn keys_of(jobs: &[Job]) -> TraceKeys {
    let keys = |test: bool| jobs.iter().filter(|job| test || job.split != Split::Test).map(|job| &job.key).collect();
    let (fit, all): (Vec<&String>, Vec<&String>) = (keys(false), keys(true));
    let of = |job: &Job| TraceKey {
        name: job.place.clone(),
        title: job.title.clone(),
        key: job.key.clone(),
        split: job.split,
        documents: job.documents.len(),
    };
    TraceKeys { fit_key: files::hash_json(&fit), key: files::hash_json(&all), traces: jobs.iter().map(of).collect() }
}

/// Says what [`trace`] will take, and makes nothing.
pub fn estimate_traces(workspace: &Workspace) -> Result<TracesEstimate> {
    let folder = workspace.folder.join("traces");
    let (mut traces, mut finished) = (Vec::new(), Vec::new());
    for job in jobs(workspace)? {
        if workspace.is_finished(&job.folder, &job.key) {
            finished.push(job.name);
        } else {
            let estimate = |plan: &TracePlan| Estimate::new(&workspace.backbone, plan, &job.folder, true);
            traces.push(NamedEstimate { estimate: job.with_plan(workspace, estimate)?, name: job.name });
        }
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
            options.keep_hidden.then_some(options.dtype),
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
            dtype: options.keep_hidden.then_some(options.dtype),
            batch: options.batch,
        })
    }
}
