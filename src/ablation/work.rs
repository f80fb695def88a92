//! One process's part of an ablation: the cells that nobody else is at, one after the other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Ablation, CellRun, Failure};
use crate::claims::{Attempt, Claims};
use crate::device::Opened;
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files;
use crate::progress;
use crate::report::Report;
use crate::stages::{self, Inputs, Planned, PlannedKind, Reach, Store, Workspace, outline};

/// `--shard i/n`: every n-th run, from the i-th on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// Whether the run of this number, from 0, is in it.
    fn has(self, number: usize) -> bool {
        number % self.count == self.index
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<usize>().ok()?, n.parse::<usize>().ok()?)));
        match parts {
            Some((index @ 1.., count)) if index <= count => Ok(Self { index: index - 1, count }),
            _ => bail!("`{text}` is no shard: write i/n with i from 1 to n, such as 2/8."),
        }
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

/// A process that works on an ablation.
pub struct Worker<'a> {
    ablation: &'a Ablation,
    device: Opened,
    store: Store,
    /// By the sections they are read from.
    inputs: RefCell<HashMap<String, Inputs>>,
}

/// Between two looks at what others are doing.
const PATIENCE: Duration = Duration::from_millis(250);

impl<'a> Worker<'a> {
    /// A worker; nothing is written.
    pub fn new(ablation: &'a Ablation, device: Opened, claims: Claims) -> Self {
        let reaches = ablation.runs.iter().map(|run| Reach::of(ablation.config_of(run)));
        let reach = reaches
            .reduce(|a, b| Reach { top_k: a.top_k.max(b.top_k), widest: a.widest.max(b.widest) })
            .expect("a grid has cells");
        let store = Store::new(ablation.store(), Arc::new(claims), reach);
        Self { ablation, device, store, inputs: RefCell::default() }
    }

    /// Works until every run of the shard has a report or has failed in this `attempt`, whoever does it; gives what it did not
    /// get done. Without a shard, waits for other processes' cells.
    ///
    /// # Errors
    /// Ctrl-C; what is wrong with the ablation's folder. What is wrong with a cell is written into its folder.
    pub fn work(&self, shard: Option<Shard>, attempt: &str) -> Result<()> {
        let claims = &self.store.claims;
        let runs = self.ablation.runs.iter().enumerate();
        let mut left: Vec<&CellRun> =
            runs.filter(|(number, _)| shard.is_none_or(|shard| shard.has(*number))).map(|(_, run)| run).collect();
        let total = left.len();
        let mut took: Vec<f64> = Vec::new();
        while !left.is_empty() {
            let (busy_cells, busy_stages) = (self.ablation.running(claims), claims.in_folder(&self.store.folder));
            let mut next = None;
            let mut still_left = Vec::new();
            for &run in &left {
                progress::stop_if_interrupted("between two cells")?;
                if run.failure().is_some_and(|failure| failure.attempt == attempt) {
                    continue;
                }
                let stages = self.stages(run);
                if stages.as_ref().is_ok_and(|stages| evaluated(stages)) {
                    continue;
                }
                still_left.push(run);
                let named = |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let waits = busy_cells.contains_key(&named(&run.folder))
                    || stages.iter().flatten().any(|s| !s.finished && busy_stages.contains_key(&named(&s.folder)));
                if next.is_none() && !waits {
                    next = Some(run);
                }
            }
            left = still_left;
            let Some(run) = next else {
                if !left.is_empty() {
                    std::thread::sleep(PATIENCE);
                }
                continue;
            };
            let Attempt::Mine(claim) = claims.attempt(&run.folder)? else { continue };
            // Whoever held it since the look above may have finished it.
            if self.is_done(run) {
                claim.finish();
                continue;
            }
            files::sweep(&run.folder)?;
            let began = Instant::now();
            let place = format!("cell {}/{total} ({})", total - left.len() + 1, self.ablation.words(run));
            progress::detail(format!("{place} in {}", run.folder.display()));
            let outcome = catch_unwind(AssertUnwindSafe(|| self.compute(run))).unwrap_or_else(|_| {
                Err(Error::new("this is a bug in draftsmith; the message before this one says more."))
            });
            match outcome {
                Ok(report) => {
                    claim.still_mine()?;
                    remove_failure(run)?;
                    claim.finish();
                    let (left, seconds) = (left.len() - 1, began.elapsed().as_secs_f64());
                    took.push(seconds);
                    // The first ones also made what all share.
                    took.sort_by(f64::total_cmp);
                    let about = took[(took.len() - 1) / 2] * left as f64;
                    progress::say(format!(
                        "{place}: {} ({seconds:.1} s); {left} left, about {about:.0} s",
                        words(&report)
                    ));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    progress::say(format!("{place} failed: {error}"));
                    let failure = Failure { error: error.to_string(), attempt: attempt.to_owned() };
                    files::write_json(&run.failed_file(), &failure)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a run has a report of what its inputs are now.
    fn is_done(&self, run: &CellRun) -> bool {
        self.stages(run).is_ok_and(|stages| evaluated(&stages))
    }

    /// Does every stage of a run that is not finished.
    fn compute(&self, run: &CellRun) -> Result<Report> {
        let workspace = self.workspace(run)?;
        workspace.describe()?;
        stages::run(&workspace, None)
    }

    /// What a run is made of.
    pub fn stages(&self, run: &CellRun) -> Result<Vec<Planned>> {
        outline(&self.workspace(run)?)
    }

    /// A run, opened.
    pub fn workspace(&self, run: &CellRun) -> Result<Workspace> {
        let config = self.ablation.config_of(run).clone();
        let key = files::hash_json(&(&config.backbone, &config.data));
        let known = self.inputs.borrow().get(&key).cloned();
        let inputs = match known {
            Some(inputs) => inputs,
            None => {
                let inputs = Inputs::read(&config, &self.device.device)?;
                self.inputs.borrow_mut().insert(key, inputs.clone());
                inputs
            }
        };
        Ok(Workspace::cell(config, self.device.clone(), run.folder.clone(), &inputs, &self.store))
    }
}

fn evaluated(stages: &[Planned]) -> bool {
    stages.iter().any(|stage| stage.kind == PlannedKind::Evaluation && stage.finished)
}

fn remove_failure(run: &CellRun) -> Result<()> {
    let path = run.failed_file();
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
        _ => Ok(()),
    }
}

/// A cell's outcome in a few words.
fn words(report: &Report) -> String {
    let set = |set: &crate::report::Dataset| {
        let best = set.best().map_or(String::new(), |best| format!("{} {:.3}", best.name, best.block_efficiency));
        format!("{}: {best}", set.name)
    };
    report.datasets.iter().map(set).collect::<Vec<_>>().join(", ")
}
