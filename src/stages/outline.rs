//! What a run is made of, known before anything is made: that is how cells of an ablation share stages, how what is left is
//! counted, and how a finished cell is told without context anything of it.

use std::path::PathBuf;

use super::workspace::Stage;
use super::{Workspace, candidates, evaluate, trace, train_heads, train_rescorer};
use crate::error::Result;
use crate::text::Split;

/// A stage that a run needs.
#[derive(Debug, Clone)]
pub struct Planned {
    /// What it makes.
    pub kind: PlannedKind,
    /// What messages call it.
    pub title: String,
    /// Hash of what makes it.
    pub key: String,
    /// Where it is or will be.
    pub folder: PathBuf,
    /// Whether it is there.
    pub finished: bool,
}

/// What a stage makes, with what its size depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlannedKind {
    /// A trace of so many documents, at most.
    Trace(usize),
    /// Heads.
    Heads,
    /// The k best tokens of every head on so many documents, at most.
    Candidates(usize, usize),
    /// A rescorer: its place among the configuration's.
    Rescorer(usize),
    /// The run's own report.
    Evaluation,
}

impl PlannedKind {
    /// In tables, and what took times are compared by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace(_) => "traces",
            Self::Heads => "heads",
            Self::Candidates(..) => "candidates",
            Self::Rescorer(_) => "rescorers",
            Self::Evaluation => "evaluation",
        }
    }
}

/// Every stage of a run, the report last.
pub fn outline(workspace: &Workspace) -> Result<Vec<Planned>> {
    let (config, reach) = (&workspace.config, workspace.reach());
    let mut stages = Vec::new();
    let planned = |kind, name: &str, title: &str, key: String| {
        let folder = match kind {
            PlannedKind::Evaluation => workspace.folder.join(name),
            _ => workspace.place(&Stage { name, key: &key, title }),
        };
        let finished = workspace.is_finished(&folder, &key);
        Planned { kind, title: title.to_owned(), key, folder, finished }
    };
    let traces = trace::trace_keys(workspace)?;
    for trace in &traces.traces {
        let of_trace = planned(PlannedKind::Trace(trace.documents), &trace.name, &trace.title, trace.key.clone());
        stages.push(Planned { finished: trace.finished, ..of_trace });
    }
    let heads = train_heads::key(config, &traces.fit_key)?;
    stages.push(planned(PlannedKind::Heads, "heads", "train-heads", heads.clone()));
    let reads_lattices = train_rescorer::rescorers_need_heads(config, None);
    for trace in &traces.traces {
        let k = match trace.split {
            Split::Train if !reads_lattices => continue,
            Split::Train => reach.top_k,
            Split::Dev | Split::Test => reach.widest,
        };
        let (key, title) = (
            candidates::key(&heads, &trace.key, k, config.traces.dtype),
            trace.title.replacen("trace", "candidates", 1),
        );
        let name = trace.name.replacen("traces", "candidates", 1);
        stages.push(planned(PlannedKind::Candidates(k, trace.documents), &name, &title, key));
    }
    let mut fitted = Vec::new();
    for (number, (name, rescorer)) in config.rescorer.iter().enumerate() {
        if let Some(kind) = rescorer.kind() {
            let key = train_rescorer::key(config, kind, &traces.fit_key, Some(&heads));
            let (place, title) = (format!("rescorers/{name}"), format!("train-rescorer {name}"));
            stages.push(planned(PlannedKind::Rescorer(number), &place, &title, key.clone()));
            fitted.push(key);
        }
    }
    let fitted: Vec<&str> = fitted.iter().map(String::as_str).collect();
    let key = evaluate::key(workspace, &traces.key, &heads, &fitted);
    stages.push(planned(PlannedKind::Evaluation, "report", "evaluate", key));
    Ok(stages)
}
