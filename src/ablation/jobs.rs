//! `--jobs N`: runs the program N times. Each process gets its share of the threads; only their claims tell them apart.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Ablation, State};
use crate::claims::Claims;
use crate::error::{Error, Result};
use crate::progress::{self, Progress};

/// The number of jobs and their command line.
pub struct Jobs {
    /// The number of jobs.
    pub count: usize,
    /// The arguments of this program, such as `ablate mine.toml`.
    pub arguments: Vec<String>,
}

/// Runs the jobs to their end and shows the progress of the cells. Each job ends when its standard input is closed, so
/// no job outlives this process.
///
/// # Errors
/// Returns an error if a job cannot be started, or after Ctrl-C, once the jobs have saved their work.
pub fn run_jobs(ablation: &Ablation, jobs: &Jobs) -> Result<()> {
    let program = std::env::current_exe().map_err(|e| Error::new(format!("cannot find this program's file: {e}.")))?;
    let threads = (std::thread::available_parallelism().map_or(1, usize::from) / jobs.count).max(1);
    let start = |_| -> Result<Child> {
        let mut command = Command::new(&program);
        command.args(&jobs.arguments).env("RAYON_NUM_THREADS", threads.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().map_err(|e| Error::new(format!("cannot start {}: {e}.", program.display())))
    };
    let mut children: Vec<Child> = (0..jobs.count).map(start).collect::<Result<_>>()?;
    let claims = Claims::watching();
    let counts = || {
        let running = ablation.running(&claims);
        let states: Vec<State> = ablation.runs.iter().map(|run| ablation.state(run, &running)).collect();
        let count = |is: fn(&State) -> bool| states.iter().filter(|state| is(state)).count();
        (count(|s| matches!(s, State::Done)), count(|s| matches!(s, State::Running(_))))
    };
    let mut done = counts().0;
    let mut bar = Progress::starting_at("cells", done, ablation.runs.len());
    loop {
        let mut alive = false;
        for child in &mut children {
            if progress::interrupted() {
                drop(child.stdin.take());
            }
            alive |= child.try_wait().map_err(|e| Error::new(format!("cannot wait for a job: {e}.")))?.is_none();
        }
        if !alive {
            break;
        }
        let (finished, running) = counts();
        done = finished;
        bar.update(done, || format!("{running} at work"));
        std::thread::sleep(Duration::from_millis(300));
    }
    bar.finish(&format!("{} of {} have a report", counts().0.max(done), ablation.runs.len()));
    progress::stop_if_interrupted("at work on cells")
}
