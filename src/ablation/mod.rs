//! Ablations: many runs that differ in a few keys, and share what does not differ.
//!
//! `runs/NAME/cells/KEY/` is a run as any other, whose parts are links into the [`store`](crate::store) of all runs, where each is
//! made once, by whichever process comes first ([`claims`](crate::claims)). A process knows of the others only through that folder, so it
//! does not matter how many there are, on how many machines, or how often they are killed: [`Worker::work`] goes over the
//! cells until none is left, and the table ([`collect`]) is a function of the cells' reports alone.

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
pub use work::{Shard, Worker};

use crate::claims::{Claims, Holder};
use crate::config::{Config, Grid};
use crate::error::{Result, bail};
use crate::files;
use crate::stages::Runs;

/// An ablation's cells and where they are.
pub struct Ablation {
    /// The resolved configuration.
    pub config: Config,
    /// What varies.
    pub grid: Grid,
    /// Where all runs lie.
    pub all: Runs,
    /// `runs/<name>`
    pub folder: PathBuf,
    /// In the grid's order; cells of one key are one run.
    pub runs: Vec<CellRun>,
}

/// A cell's run.
pub struct CellRun {
    /// [`Cell::key`](crate::config::Cell::key)
    pub key: String,
    /// `runs/<name>/cells/<key>`
    pub folder: PathBuf,
    /// Which cells it is.
    pub cells: Vec<usize>,
}

/// How far a cell is.
pub enum State {
    /// It has a report.
    Done,
    /// Somebody is at work on it.
    Running(Holder),
    /// The last attempt ended with an error.
    Failed(Failure),
    /// Nobody has begun, or whoever had is no more.
    Waiting,
}

/// `failed.json` of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub error: String,
    /// Which command found out: its jobs do not try again.
    attempt: String,
}

impl Ablation {
    /// The ablation of a configuration.
    ///
    /// # Errors
    /// A configuration without one.
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

    /// The configuration of a run.
    pub fn config_of(&self, run: &CellRun) -> &Config {
        &self.grid.cells[run.cells[0]].config
    }

    /// A run's values in a line; those of its first cell, where it is several.
    pub fn words(&self, run: &CellRun) -> String {
        Grid::words(&self.grid.axes, &self.grid.cells[run.cells[0]].values)
    }

    /// How far a run is; `running` is what [`Ablation::running`] gave.
    pub fn state(&self, run: &CellRun, running: &HashMap<String, Holder>) -> State {
        if let Some(holder) = running.get(&run.key[..12]) {
            return State::Running(holder.clone());
        }
        if run.folder.join("report/stage.json").exists() {
            return State::Done;
        }
        run.failure().map_or(State::Waiting, State::Failed)
    }

    /// The cells that somebody is at work on, by the beginning of their key.
    pub fn running(&self, claims: &Claims) -> HashMap<String, Holder> {
        claims.in_folder(&self.folder.join("cells"))
    }
}

impl CellRun {
    fn failed_file(&self) -> PathBuf {
        self.folder.join("failed.json")
    }

    /// What the last attempt failed with, unless one succeeded.
    fn failure(&self) -> Option<Failure> {
        files::read_json(&self.failed_file()).ok()
    }
}
