//! The progress of an ablation, read from its folder alone.

use serde::Serialize;

use super::{Ablation, State};
use crate::claims::Claims;
use crate::store;

/// The progress of an ablation.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The name of the ablation.
    pub name: String,
    /// The number of runs. Cells that are the same count once.
    pub cells: usize,
    /// The number of runs that have a report.
    pub done: usize,
    /// The runs that a process is working on.
    pub running: Vec<Running>,
    /// The runs whose last attempt ended with an error.
    pub failed: Vec<Failed>,
    /// The number of runs that no process has begun.
    pub waiting: usize,
    /// The seconds that the unfinished runs would take one after the other, if each takes the mean time of the finished
    /// ones. Shared parts are not included. None if no run is finished yet.
    pub seconds_left: Option<f64>,
}

/// A cell that a process is working on.
#[derive(Debug, Serialize)]
pub struct Running {
    /// The values of the cell.
    pub cell: String,
    /// The name of the machine.
    pub host: String,
    /// The id of the process.
    pub pid: u32,
    /// The time when the process began.
    pub since: String,
    /// What the process was doing a few seconds ago.
    pub doing: String,
}

/// A cell that failed.
#[derive(Debug, Serialize)]
pub struct Failed {
    /// The values of the cell.
    pub cell: String,
    /// The message of the error.
    pub error: String,
}

/// Reads the progress of an ablation.
pub fn status(ablation: &Ablation, claims: &Claims) -> Status {
    let held = ablation.running(claims);
    let mut status = Status {
        name: ablation.config.name.clone(),
        cells: ablation.runs.len(),
        done: 0,
        running: Vec::new(),
        failed: Vec::new(),
        waiting: 0,
        seconds_left: None,
    };
    let mut took = Vec::new();
    for run in &ablation.runs {
        let cell = ablation.words(run);
        match ablation.state(run, &held) {
            State::Done => {
                status.done += 1;
                took.extend(store::seconds_of(&run.folder.join("report")));
            }
            State::Running(holder) => {
                let (host, pid, since, doing) = (holder.host, holder.pid, holder.since, holder.doing);
                status.running.push(Running { cell, host, pid, since, doing });
            }
            State::Failed(failure) => status.failed.push(Failed { cell, error: failure.error }),
            State::Waiting => status.waiting += 1,
        }
    }
    let left = (status.cells - status.done) as f64;
    status.seconds_left = (!took.is_empty()).then(|| took.iter().sum::<f64>() / took.len() as f64 * left);
    status
}
