//! Plans of ablations: the cells, the parts that they share, and estimates of the time and disk space.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Serialize;

use super::rough::Rough;
use super::{Ablation, State, Worker};
use crate::claims::Claims;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::stages::{Part, estimate_trace};
use crate::traces::free_space;

/// The plan of an ablation.
#[derive(Debug, Serialize)]
pub struct AblationPlan {
    /// The name of the ablation.
    pub name: String,
    /// All cells.
    pub cells: Vec<CellPlan>,
    /// The number of cells that differ from every earlier one.
    pub different_cells: usize,
    /// The stages, one entry for each sort, in the order in which they run.
    pub stages: Vec<SharedStages>,
    /// The sum of the seconds of the stages.
    pub seconds: f64,
    /// The sum of the bytes of the stages.
    pub bytes: u64,
    /// The free bytes on the file system of `folder`.
    pub bytes_free: u64,
    /// The folder of the ablation.
    pub folder: PathBuf,
}

/// A cell and its state.
#[derive(Debug, Serialize)]
pub struct CellPlan {
    /// The values of the cell.
    pub cell: String,
    /// The folder of its run.
    pub folder: PathBuf,
    /// Its state: `done`, `running`, `failed` or `to do`.
    pub state: &'static str,
}

/// All stages that make the same sort of part.
#[derive(Debug, Default, Serialize)]
pub struct SharedStages {
    /// The sort of part that they make.
    pub makes: &'static str,
    /// How many such parts the cells need, counting a shared part once for each run.
    pub needed: usize,
    /// How many different parts there are among these, which is how many must be made.
    pub different: usize,
    /// How many of the different parts are finished.
    pub finished: usize,
    /// The estimated seconds for the unfinished parts, one after the other.
    pub seconds: f64,
    /// Whether `seconds` comes from the mean time of finished parts. Otherwise it is computed from sizes, and may be
    /// wrong by a factor of two or three.
    pub measured: bool,
    /// The approximate bytes of the unfinished parts.
    pub bytes: u64,
}

/// Makes the plan of an ablation without computing any part of it.
pub fn plan(ablation: &Ablation, worker: &Worker, claims: &Claims) -> Result<AblationPlan> {
    let running = ablation.running(claims);
    // In the order of the stages, which is the same for every cell.
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
        for part in workspace.graph.parts() {
            let makes = part.sort();
            let place = sorts.iter().position(|sort| sort.makes == makes).unwrap_or(sorts.len());
            if place == sorts.len() {
                sorts.push(SharedStages { makes, ..SharedStages::default() });
            }
            let sort = &mut sorts[place];
            sort.needed += 1;
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
            let (seconds, bytes) = match part {
                Part::Trace(of) => estimate_trace(&workspace, of)?
                    .map_or((0.0, 0), |estimate| (estimate.seconds.unwrap_or(0.0), estimate.bytes_at_most)),
                _ => rough.of(part, &workspace),
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
