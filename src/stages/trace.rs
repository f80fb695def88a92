//! The stage `trace`, which makes texts with the backbone's states for every corpus and split.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Column, Part, TraceArtefacts, Workspace};
use crate::backbone::Feature;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::heads::TrainingText;
use crate::progress;
use crate::shard::Shard;
use crate::storage_type::StorageType;
use crate::store::{self, Artefact};
use crate::text::{Document, Split};
use crate::traces::{
    self, ColumnPlan, ColumnPlans, Estimate, FinishedTraces, Keep, Prompt, Responses, Sampling, Supply, Trace,
    TracePlan, TraceText,
};

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
    let given = Given::default();
    for (number, of) in workspace.graph.traces.iter().enumerate() {
        let trace = Job { workspace, of, shard: None, finished: None, given: &given }.whole()?;
        let list = match of.split {
            Split::Train => &mut all.train,
            Split::Dev => &mut all.dev,
            Split::Test => &mut all.test,
        };
        list.push(CorpusTrace { corpus: workspace.corpora()[of.corpus].name.clone(), number, trace });
    }
    Ok(all)
}

/// Makes a shard of every trace that is not finished. The shards of several processes are made into whole traces by
/// [`merge_traces`].
///
/// # Errors
/// Fails in the same cases as [`trace`].
pub fn trace_shard(workspace: &Workspace, shard: Shard) -> Result<()> {
    let (store, given) = (&workspace.store, Given::default());
    for of in &workspace.graph.traces {
        if Part::Trace(of).is_finished(store) {
            progress::say(format!("{}: finished earlier, skipped", of.tokens.title));
            continue;
        }
        // Where only columns are missing, the texts need not be made again.
        let whole = store.is_finished(&of.tokens.key).then(|| open_tokens(workspace, of)).transpose()?;
        let whole = whole.map(|whole| FinishedTraces::new(vec![whole])).transpose()?;
        let of = of.shard(shard);
        Job { workspace, of: &of, shard: Some(shard), finished: whole.as_ref(), given: &given }.whole()?;
    }
    Ok(())
}

/// Puts the traces together of which `count` shards are finished: to the byte what one process would have made.
///
/// # Errors
/// Fails if a shard is missing or was made with other settings, if two have the same document, or if the disk cannot be
/// written to.
pub fn merge_traces(workspace: &Workspace, count: usize) -> Result<()> {
    let (store, given) = (&workspace.store, Given::default());
    // What is missing is said before anything is copied.
    for of in workspace.graph.traces.iter().filter(|of| !Part::Trace(of).is_finished(store)) {
        for shard in Shard::all(count) {
            let part = of.shard(shard);
            let mut artefacts = Part::Trace(&part).artefacts().into_iter();
            if let Some(artefact) = artefacts.find(|artefact| !store.is_finished(&artefact.key)) {
                let nearest = store.nearest(artefact);
                let other = nearest.map_or(String::new(), |nearest| format!(", and {}", nearest.words()));
                bail!(
                    "{} is not finished in {}{other}. Make it with `draftsmith trace` and `--shard {shard}` of this very configuration, or copy it there from the machine that did.",
                    artefact.title,
                    store.folder().join("shards").display()
                );
            }
        }
    }
    for of in &workspace.graph.traces {
        if Part::Trace(of).is_finished(store) {
            progress::say(format!("{}: finished earlier, skipped", of.tokens.title));
            continue;
        }
        let open = |shard| {
            let part = of.shard(shard);
            let (title, mut trace) = open_tokens(workspace, &part)?;
            for Column { artefact, .. } in &part.columns {
                trace = trace.with_column(&finished(workspace, artefact)?)?;
            }
            if let Some(likely) = &part.likely {
                let count = workspace.config.traces.probabilities;
                trace = trace.with_likely(&finished(workspace, likely)?, count)?;
            }
            Ok((title, trace))
        };
        let shards = FinishedTraces::new(Shard::all(count).map(open).collect::<Result<_>>()?)?;
        Job { workspace, of, shard: None, finished: Some(&shards), given: &given }.whole()?;
    }
    // Nothing refers to the shards any longer, so that `clean` removes them.
    files::remove_folder(&workspace.folder.join("shards"))
}

/// Returns the folder of a finished artefact, once its files are checked.
fn finished(workspace: &Workspace, artefact: &Artefact) -> Result<PathBuf> {
    let folder = workspace.store.place(&artefact.key);
    store::verify(&folder)?;
    Ok(folder)
}

/// Returns the title and the texts of a trace whose tokens are finished.
fn open_tokens(workspace: &Workspace, of: &TraceArtefacts) -> Result<(String, Trace)> {
    let trace = Trace::open(&finished(workspace, &of.tokens)?, &workspace.backbone().identity())?;
    Ok((of.tokens.title.clone(), trace))
}

/// Writes the prompts of all greedy traces into a file, for a serving engine to answer: lines of JSON with the `corpus` and the
/// `id` of a document, the ids `prompt_tokens`, and `max_tokens`, the most tokens that may follow.
///
/// # Errors
/// Fails if the tokenizer cannot encode a text, or if the file cannot be written.
pub fn write_prompts(workspace: &Workspace, path: &Path) -> Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        corpus: &'a str,
        #[serde(flatten)]
        prompt: Prompt,
    }
    let (given, mut lines) = (Given::default(), 0);
    files::write_with(path, |out| {
        for of in workspace.graph.traces.iter().filter(|of| of.text == TraceText::Greedy) {
            let job = Job { workspace, of, shard: None, finished: None, given: &given };
            for prompt in job.with_plan(|plan| plan.prompts(workspace.backbone()))? {
                let corpus = &workspace.corpora()[of.corpus].name;
                serde_json::to_writer(&mut *out, &Line { corpus, prompt })?;
                out.write_all(b"\n")?;
                lines += 1;
            }
        }
        Ok(())
    })?;
    progress::say(format!("{lines} prompts in {}", path.display()));
    Ok(())
}

/// Estimates what [`trace`] will take, without making anything.
///
/// # Errors
/// Fails if the tokenizer cannot encode a text, or if a trace cannot be read.
pub fn estimate_traces(workspace: &Workspace) -> Result<TracesEstimate> {
    let (mut traces, mut finished, given) = (Vec::new(), Vec::new(), Given::default());
    for of in &workspace.graph.traces {
        match (Job { workspace, of, shard: None, finished: None, given: &given }).estimate()? {
            Some(estimate) => traces.push(NamedEstimate { estimate, name: of.name.clone() }),
            None => finished.push(of.name.clone()),
        }
    }
    Ok(TracesEstimate {
        bytes_at_most: traces.iter().map(|trace| trace.estimate.bytes_at_most).sum(),
        // A sum of nothing would be -0.
        seconds: traces.iter().filter_map(|trace| trace.estimate.seconds).fold(0.0, |sum, seconds| sum + seconds),
        bytes_free: free(workspace)?,
        traces,
        finished,
        folder: workspace.store.folder().to_owned(),
    })
}

/// Estimates what is missing of one trace. Returns `None` if nothing is.
///
/// # Errors
/// As [`estimate_traces`].
pub fn estimate_trace(workspace: &Workspace, of: &TraceArtefacts) -> Result<Option<Estimate>> {
    Job { workspace, of, shard: None, finished: None, given: &Given::default() }.estimate()
}

fn free(workspace: &Workspace) -> Result<u64> {
    // If the store is only planned, its folder does not exist yet.
    let folder = workspace.store.folder().ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    traces::free_space(folder).map_err(|e| Error::io("ask for the free space of", folder, e))
}

/// The responses that `traces.from` names, by corpus, which are read when a trace first needs them.
type Given = OnceCell<BTreeMap<String, Responses>>;

/// The work on one trace of a run, or on a shard of one.
struct Job<'a> {
    workspace: &'a Workspace,
    of: &'a TraceArtefacts,
    /// The shard that `of` is, if it is one.
    shard: Option<Shard>,
    /// The finished traces that texts, columns and likeliest tokens are taken from, as far as they are there.
    finished: Option<&'a FinishedTraces>,
    given: &'a Given,
}

impl Job<'_> {
    /// Makes whatever is missing, and opens all of it.
    fn whole(&self) -> Result<Trace> {
        self.with_likely(self.with_states()?)
    }

    /// Makes the tokens, unless that is done, and opens them. Where the backbone's states are known then, `columns` are made
    /// along.
    fn tokens(&self, columns: ColumnPlans) -> Result<Trace> {
        let Self { workspace, of, .. } = self;
        let (backbone, tokens) = (workspace.backbone(), &of.tokens);
        // The folder is marked as finished before it is put in its place.
        let folder = workspace.make_whole(tokens, |target| {
            self.with_plan(|plan| {
                if plan.shard.is_none() {
                    let (features, dtype) = self.columns();
                    let estimate = Estimate::new(backbone, plan, (&features, dtype), target, false)?;
                    progress::say(format!("{}: {}", tokens.title, estimate.words(free(workspace)?)));
                }
                traces::make(backbone, plan, target, columns, &traces::free_space, |folder| {
                    workspace.store.finish(tokens, folder)
                })
            })
        })?;
        Trace::open(&folder, &backbone.identity())?.require_vocabulary(&folder, backbone.model.config().vocab_size)
    }

    /// Returns what supplies the texts behind the prompts.
    fn supply(&self) -> Result<Supply<'_>> {
        let Self { workspace, of, finished, given, .. } = self;
        let from = &workspace.config.traces.from;
        if let Some(finished) = finished {
            return Ok(Supply::Finished(finished));
        }
        if from.is_empty() || of.text != TraceText::Greedy {
            return Ok(Supply::Backbone);
        }
        if given.get().is_none() {
            let mut corpora: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
            for corpus in workspace.corpora() {
                let ids = corpus.documents.iter().map(|(_, document)| document.id.as_str());
                corpora.insert(&corpus.name, ids.collect());
            }
            let read = Responses::read(Path::new(from), workspace.backbone(), &corpora)?;
            let _ = given.set(read);
        }
        let responses = given.get().and_then(|all| all.get(&workspace.corpora()[of.corpus].name));
        // Replay is exact only if dev and test are what the backbone itself decodes.
        Ok(responses
            .map_or(Supply::Backbone, |responses| Supply::Responses { responses, exact: of.split != Split::Train }))
    }

    fn with_plan<R>(&self, work: impl FnOnce(&TracePlan) -> Result<R>) -> Result<R> {
        let Self { workspace, of, .. } = self;
        let options = &workspace.config.traces;
        let documents: Vec<&Document> = workspace.corpora()[of.corpus].split(of.split).take(of.documents).collect();
        work(&TracePlan {
            title: &of.tokens.title,
            key: of.tokens.key.hash(),
            documents: documents.len(),
            read: &|index| Ok(documents[index].clone()),
            shard: self.shard,
            text: of.text,
            supply: self.supply()?,
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
        let Self { workspace, of, .. } = self;
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

    /// Makes the tokens and the states. Missing columns are made along with the tokens, or in one pass over them. If only tokens
    /// are kept, the states are recomputed when they are read.
    fn with_states(&self) -> Result<Trace> {
        let Self { workspace, of, .. } = self;
        let (store, options) = (&workspace.store, &workspace.config.traces);
        if options.keep == Keep::Tokens {
            let backbone = workspace.inputs.backbone.clone();
            return Ok(self.tokens(ColumnPlans::NONE)?.recomputing(backbone, &workspace.features, options.dtype));
        }
        let mut trace = None;
        let mut make = |missing: &[&Column]| {
            let folders: Vec<PathBuf> = missing.iter().map(|column| store.place(&column.artefact.key)).collect();
            let plans = missing.iter().zip(&folders).map(|(column, folder)| ColumnPlan {
                feature: column.feature,
                dtype: options.dtype,
                folder,
                key: column.artefact.key.hash().to_owned(),
            });
            let plans: Vec<ColumnPlan> = plans.collect();
            let mark = |number: usize, folder: &Path| store.finish(&missing[number].artefact, folder);
            let tokens = self.tokens(ColumnPlans { plans: &plans, mark: &mark })?;
            let left: Vec<(usize, ColumnPlan)> = plans
                .into_iter()
                .enumerate()
                .filter(|(number, _)| !store.is_finished(&missing[*number].artefact.key))
                .collect();
            if !left.is_empty() {
                let (numbers, plans): (Vec<usize>, Vec<ColumnPlan>) = left.into_iter().unzip();
                let mark = |number: usize, folder: &Path| mark(numbers[number], folder);
                let columns = ColumnPlans { plans: &plans, mark: &mark };
                let title = format!("columns of {}", of.words());
                let named = (title.as_str(), options.batch);
                let free = &traces::free_space;
                traces::make_columns(workspace.backbone(), &tokens, columns, named, self.finished, free)?;
            }
            trace = Some(tokens);
            Ok(())
        };
        make_together(workspace, &of.columns, &mut Vec::new(), &mut make)?;
        let trace = trace.map_or_else(|| self.tokens(ColumnPlans::NONE), Ok)?;
        let columns = of.columns.iter().map(|column| store.place(&column.artefact.key));
        columns.into_iter().try_fold(trace, |trace, folder| trace.with_column(&folder))
    }

    /// Adds the backbone's likeliest tokens to a trace, if they are asked for. They are computed unless that is done.
    fn with_likely(&self, trace: Trace) -> Result<Trace> {
        let Some(likely) = &self.of.likely else { return Ok(trace) };
        let count = self.workspace.config.traces.probabilities;
        // Finished texts of which only columns were missing have none yet.
        let merged = self.finished.filter(|_| self.shard.is_none());
        let folder = self.workspace.make(likely, |folder| match merged {
            Some(finished) => traces::merge_likely(&trace, finished, folder),
            None => traces::make_likely(&trace, &self.workspace.backbone().model, folder, count, &likely.title),
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
    make: &mut dyn FnMut(&[&Column]) -> Result<()>,
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
