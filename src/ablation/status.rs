//! How far an ablation is, seen from its folder alone.

use serde::Serialize;

use super::{Ablation, State};
use crate::claims::Claims;
use crate::store;

/// How far an ablation is.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Runs in all; cells that are the same count once.
    pub cells: usize,
    /// Those with a report.
    pub done: usize,
    /// Those that somebody is at work on.
    pub running: Vec<Running>,
    /// Those whose last attempt ended with an error.
    pub failed: Vec<Failed>,
    /// Those that nobody has begun.
    pub waiting: usize,
    /// Seconds that the cells to do would take one after the other, at the mean of those done, without what they share; none
    /// before the first is done.
    pub seconds_left: Option<f64>,
}

/// A cell that somebody is at work on.
#[derive(Debug, Serialize)]
pub struct Running {
    /// Its values.
    pub cell: String,
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// Since when.
    pub since: String,
    /// What it was at a few seconds ago.
    pub doing: String,
}

/// A cell that failed.
#[derive(Debug, Serialize)]
pub struct Failed {
    /// Its values.
    pub cell: String,
    /// Why.
    pub error: String,
}

/// Looks.
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
