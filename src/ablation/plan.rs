//! What an ablation will do: its cells, what they share, and about how long that takes and how much disk.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Serialize;

use super::rough::Rough;
use super::{Ablation, State, Worker};
use crate::claims::Claims;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::stages::{Part, estimate_traces};
use crate::traces::free_space;

/// What an ablation will do.
#[derive(Debug, Serialize)]
pub struct AblationPlan {
    /// Its name.
    pub name: String,
    /// Every cell.
    pub cells: Vec<CellPlan>,
    /// Cells that are not the same as an earlier one.
    pub different_cells: usize,
    /// By what they make, in the order in which they are made.
    pub stages: Vec<SharedStages>,
    /// Sum over the stages.
    pub seconds: f64,
    /// Sum over the stages.
    pub bytes: u64,
    /// Bytes free where they go.
    pub bytes_free: u64,
    /// Where they go.
    pub folder: PathBuf,
}

/// A cell and what it waits for.
#[derive(Debug, Serialize)]
pub struct CellPlan {
    /// Its values.
    pub cell: String,
    /// Where it goes.
    pub folder: PathBuf,
    /// `done`, `running`, `failed` or `to do`.
    pub state: &'static str,
}

/// All stages of one sort.
#[derive(Debug, Default, Serialize)]
pub struct SharedStages {
    /// What they make.
    pub makes: &'static str,
    /// How many cells' runs need one or more, each counted.
    pub needed: usize,
    /// Of them, different ones: so many are made.
    pub different: usize,
    /// Those that are finished.
    pub finished: usize,
    /// Seconds for the rest, one after the other.
    pub seconds: f64,
    /// Whether `seconds` is the mean of finished ones; else it is counted from sizes and may be off by a factor of two or three.
    pub measured: bool,
    /// Bytes for the rest, about.
    pub bytes: u64,
}

/// Plans; nothing is made.
pub fn plan(ablation: &Ablation, worker: &Worker, claims: &Claims) -> Result<AblationPlan> {
    let running = ablation.running(claims);
    // In the order of the stages, the same for every cell.
    let mut sorts: Vec<SharedStages> = Vec::new();
    let mut seen: HashSet<Vec<PathBuf>> = HashSet::new();
    let mut took: HashMap<&'static str, Vec<f64>> = HashMap::new();
    let mut rough = Rough::new();
    let mut bar = Progress::new("plan", ablation.runs.len());
    for run in &ablation.runs {
        let workspace = worker.workspace(run).map_err(|e| e.within(ablation.words(run)))?;
        let store = &workspace.store;
        let places = |part: Part| -> Vec<PathBuf> {
            part.artefacts().into_iter().map(|artefact| store.place(&artefact.key)).collect()
        };
        let to_trace = |part: Part| matches!(part, Part::Trace(_)) && !part.is_finished(store);
        let traces_to_do = workspace.graph.parts().any(|part| to_trace(part) && !seen.contains(&places(part)));
        // Only those that are not finished are estimated, in the order of the stages.
        let estimates = if traces_to_do { estimate_traces(&workspace)?.traces } else { Vec::new() };
        let mut estimates = estimates.into_iter();
        for part in workspace.graph.parts() {
            let makes = part.sort();
            let place = sorts.iter().position(|sort| sort.makes == makes).unwrap_or(sorts.len());
            if place == sorts.len() {
                sorts.push(SharedStages { makes, ..SharedStages::default() });
            }
            let sort = &mut sorts[place];
            sort.needed += 1;
            let of_trace = to_trace(part).then(|| estimates.next()).flatten();
            if !seen.insert(places(part)) {
                continue;
            }
            sort.different += 1;
            if part.is_finished(store) {
                sort.finished += 1;
                let seconds = part.artefacts().into_iter().map(|artefact| store.seconds(&artefact.key));
                took.entry(makes).or_default().extend(seconds.sum::<Option<f64>>());
                continue;
            }
            let (seconds, bytes) = match of_trace {
                Some(trace) => (trace.estimate.seconds.unwrap_or(0.0), trace.estimate.bytes_at_most),
                None => rough.of(part, &workspace),
            };
            sort.seconds += seconds;
            sort.bytes += bytes;
        }
        bar.advance(String::new);
    }
    for sort in &mut sorts {
        if let Some(took) = took.get(sort.makes).filter(|took| !took.is_empty()) {
            let mean = took.iter().sum::<f64>() / took.len() as f64;
            sort.seconds = mean * (sort.different - sort.finished) as f64;
            sort.measured = true;
        }
    }
    let cell = |(number, cell): (usize, &crate::config::Cell)| {
        let run = ablation.runs.iter().find(|run| run.cells.contains(&number)).expect("every cell is a run's");
        let state = match ablation.state(run, &running) {
            State::Done => "done",
            State::Running(_) => "running",
            State::Failed(_) => "failed",
            State::Waiting => "to do",
        };
        let words = crate::config::Grid::words(&ablation.grid.axes, &cell.values);
        CellPlan { cell: words, folder: run.folder.clone(), state }
    };
    let place = ablation.folder.ancestors().find(|path| path.is_dir()).unwrap_or(std::path::Path::new("."));
    Ok(AblationPlan {
        name: ablation.config.name.clone(),
        cells: ablation.grid.cells.iter().enumerate().map(cell).collect(),
        different_cells: ablation.runs.len(),
        seconds: sorts.iter().map(|sort| sort.seconds).sum(),
        bytes: sorts.iter().map(|sort| sort.bytes).sum(),
        stages: sorts,
        bytes_free: free_space(place).map_err(|e| Error::io("ask for the free space of", place, e))?,
        folder: ablation.folder.clone(),
    })
}
