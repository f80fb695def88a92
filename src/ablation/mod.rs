//! Ablations: many runs that differ in a few keys, and share what these keys do not affect.
//!
//! A cell `runs/NAME/cells/KEY/` is a run like any other. Its parts are links into the [`store`](crate::store) of all
//! runs, where each part is made only once, by the process that claims it first ([`claims`](crate::claims)). Processes
//! know of each other only through this folder. So it does not matter how many there are, on how many machines they
//! run, or how often they are killed. [`Worker::work`] goes over the cells until none is left. The results table
//! ([`collect`]) depends on the reports of the cells alone.

mod collect;
mod jobs;
mod plan;
mod rough;
mod status;
mod work;

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use collect::collect;
pub use jobs::{Jobs, run_jobs};
pub use plan::{AblationPlan, CellPlan, SharedStages, plan};
pub use status::{Status, status};
pub use work::Worker;

use crate::claims::{Claims, Holder};
use crate::config::{Config, Grid};
use crate::error::{Result, bail};
use crate::files;
use crate::stages::Runs;

/// The cells of an ablation and their folders.
pub struct Ablation {
    /// The resolved configuration.
    pub config: Config,
    /// The cells' configurations, and the keys in which they differ.
    pub grid: Grid,
    /// The folders of all runs.
    pub all: Runs,
    /// The folder of the ablation, `runs/<name>`.
    pub folder: PathBuf,
    /// The runs, in the order of the grid. Cells with the same key share a run.
    pub runs: Vec<CellRun>,
}

/// The run of a cell, or of several cells that are the same.
pub struct CellRun {
    /// The key of the cell, as in [`Cell::key`](crate::config::Cell::key).
    pub key: String,
    /// The folder of the run, `runs/<name>/cells/<key>`.
    pub folder: PathBuf,
    /// The indices of its cells in the grid.
    pub cells: Vec<usize>,
}

/// The progress of a cell.
pub enum State {
    /// The cell has a report.
    Done,
    /// A process is working on the cell.
    Running(Holder),
    /// The last attempt ended with an error.
    Failed(Failure),
    /// No process has begun it, or the process that had is dead.
    Waiting,
}

/// The content of a cell's file `failed.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The message of the error.
    pub error: String,
    /// The command in which it failed. The jobs of that command do not try again.
    attempt: String,
}

impl Ablation {
    /// Makes the ablation of a configuration.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no ablation.
    pub fn new(config: Config, all: Runs) -> Result<Self> {
        let Some(grid) = config.grid()? else {
            bail!(
                "the configuration of `{}` has no [ablation] section; add one with `matrix = {{ \"heads.block_size\" = [5, 9] }}`, or with a list of [[ablation.cell]].",
                config.name
            );
        };
        let folder = all.run(&config.name);
        let mut runs: Vec<CellRun> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (number, cell) in grid.cells.iter().enumerate() {
            let place = *places.entry(&cell.key).or_insert_with(|| {
                let folder = folder.join("cells").join(&cell.key[..12]);
                runs.push(CellRun { key: cell.key.clone(), folder, cells: Vec::new() });
                runs.len() - 1
            });
            runs[place].cells.push(number);
        }
        Ok(Self { config, grid, all, folder, runs })
    }

    /// Returns the configuration of a run.
    pub fn config_of(&self, run: &CellRun) -> &Config {
        &self.grid.cells[run.cells[0]].config
    }

    /// Describes a run by its values, in one line. If it is the run of several cells, these are the values of the
    /// first.
    pub fn words(&self, run: &CellRun) -> String {
        Grid::words(&self.grid.axes, &self.grid.cells[run.cells[0]].values)
    }

    /// Returns the progress of a run. `running` is the result of [`Ablation::running`].
    pub fn state(&self, run: &CellRun, running: &HashMap<String, Holder>) -> State {
        if let Some(holder) = running.get(&run.key[..12]) {
            return State::Running(holder.clone());
        }
        if run.folder.join("report/stage.json").exists() {
            return State::Done;
        }
        run.failure().map_or(State::Waiting, State::Failed)
    }

    /// Returns the cells that processes are working on, by the name of their folder, which is the beginning of their
    /// key.
    pub fn running(&self, claims: &Claims) -> HashMap<String, Holder> {
        claims.in_folder(&self.folder.join("cells"))
    }
}

impl CellRun {
    fn failed_file(&self) -> PathBuf {
        self.folder.join("failed.json")
    }

    /// Returns the error of the last attempt, if there was one and no attempt has succeeded since.
    fn failure(&self) -> Option<Failure> {
        files::read_json(&self.failed_file()).ok()
    }
}
