//! The part of an ablation that one process does: one after the other, it computes the cells that no other process is
//! working on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::{Ablation, CellRun, Failure};
use crate::backbone::Feature;
use crate::claims::Attempt;
use crate::config::Config;
use crate::device::Opened;
use crate::error::{Error, ErrorKind, Result};
use crate::evaluation::Known;
use crate::evaluation::analyses::VariantRow;
use crate::files;
use crate::progress;
use crate::report::Report;
use crate::shard::Shard;
use crate::stages::{self, Inputs, Reach, Shared, Workspace};
use crate::store::Store;
use crate::tables::{Dataset, Record};
use crate::traces::TraceText;

/// A process that works on an ablation.
pub struct Worker<'a> {
    ablation: &'a Ablation,
    device: Opened,
    store: Store,
    /// The candidates that all cells together need.
    reach: Reach,
    known: Known,
    /// The inputs that were read so far, by a hash of the sections of the configuration that name them.
    inputs: RefCell<HashMap<String, Inputs>>,
    /// The states of the backbone that cells with the same traces read, by a hash of the sections that describe these.
    columns: RefCell<HashMap<String, Vec<Feature>>>,
}

/// The pause before looking again at what other processes are doing.
const PATIENCE: Duration = Duration::from_millis(250);

impl<'a> Worker<'a> {
    /// Makes a worker that writes into the store of all runs.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written to.
    pub fn new(ablation: &'a Ablation, device: Opened) -> Result<Self> {
        Ok(Self::in_store(ablation, device, Store::open(ablation.all.store())?))
    }

    /// Makes a worker that only looks and writes nothing.
    pub fn looking(ablation: &'a Ablation, device: Opened) -> Self {
        Self::in_store(ablation, device, Store::look(ablation.all.store()))
    }

    fn in_store(ablation: &'a Ablation, device: Opened, store: Store) -> Self {
        let reaches = ablation.runs.iter().map(|run| Reach::of(ablation.config_of(run)));
        let reach = reaches.reduce(Reach::or).expect("a grid has cells");
        let (inputs, columns) = Default::default();
        Self { ablation, device, store, reach, known: Known::default(), inputs, columns }
    }

    /// Works until every run of the shard, or of the whole ablation, has a report or has failed in this `attempt`.
    /// Other processes may do some of the runs; if only such runs are left, this one waits for them.
    ///
    /// # Errors
    /// Returns an error after Ctrl-C, or if something is wrong with the folder of the ablation. An error of a cell is
    /// written into the folder of that cell instead.
    pub fn work(&self, shard: Option<Shard>, attempt: &str) -> Result<()> {
        let claims = self.store.claims();
        let runs = self.ablation.runs.iter().enumerate();
        let mut left: Vec<&CellRun> =
            runs.filter(|(number, _)| shard.is_none_or(|shard| shard.has(*number))).map(|(_, run)| run).collect();
        let total = left.len();
        let mut took: Vec<f64> = Vec::new();
        while !left.is_empty() {
            let (busy_cells, in_the_making) = (self.ablation.running(claims), self.store.in_the_making());
            let mut next = None;
            let mut still_left = Vec::new();
            for &run in &left {
                progress::stop_if_interrupted("between two cells")?;
                if run.failure().is_some_and(|failure| failure.attempt == attempt) {
                    continue;
                }
                let workspace = self.workspace(run);
                if workspace.as_ref().is_ok_and(Workspace::is_evaluated) {
                    continue;
                }
                still_left.push(run);
                // A part that another process is making is not finished yet.
                let waits = busy_cells.contains_key(&run.key[..12])
                    || workspace.iter().flat_map(|workspace| workspace.graph.parts()).any(|part| {
                        part.artefacts().iter().any(|made| in_the_making.contains(&self.store.place(&made.key)))
                    });
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
            // The process that held it when we looked above may have finished it in the meantime.
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
                    // The median, because the first cells also made the parts that all cells share.
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

    /// Returns whether a run has a report that fits its present inputs.
    fn is_done(&self, run: &CellRun) -> bool {
        self.workspace(run).is_ok_and(|workspace| workspace.is_evaluated())
    }

    /// Runs all unfinished stages of a run.
    fn compute(&self, run: &CellRun) -> Result<Report> {
        let workspace = self.workspace(run)?;
        workspace.describe()?;
        stages::run(&workspace)
    }

    /// Opens the workspace of a run.
    pub fn workspace(&self, run: &CellRun) -> Result<Workspace> {
        let config = self.ablation.config_of(run).clone();
        let inputs = self.inputs(&config)?;
        let columns = self.columns(&config, &inputs);
        let (device, store) = (self.device.clone(), self.store.clone());
        let place = (self.ablation.all.clone(), run.folder.clone());
        let shared = Shared { inputs, columns, reach: self.reach, known: self.known.clone() };
        Workspace::cell(config, device, place, store, shared)
    }

    /// Returns the inputs of a cell, which are read once for all that have the same.
    fn inputs(&self, config: &Config) -> Result<Inputs> {
        let key = inputs_key(config);
        if let Some(inputs) = self.inputs.borrow().get(&key) {
            return Ok(inputs.clone());
        }
        let inputs = Inputs::read(config, &self.device.device)?;
        self.inputs.borrow_mut().insert(key, inputs.clone());
        Ok(inputs)
    }

    /// Returns the states of the backbone that cells with the same traces as this one read.
    fn columns(&self, config: &Config, inputs: &Inputs) -> Vec<Feature> {
        let traces = |config: &Config| files::hash_json(&(inputs_key(config), &config.traces));
        let key = traces(config);
        let of_all = || {
            let cells = self.ablation.runs.iter().map(|run| self.ablation.config_of(run));
            Shared::columns(cells.filter(|cell| traces(cell) == key), inputs)
        };
        self.columns.borrow_mut().entry(key.clone()).or_insert_with(of_all).clone()
    }
}

/// Returns a hash of the sections of a configuration that name its inputs.
fn inputs_key(config: &Config) -> String {
    // Text of the corpus that is learnt from is looked at when it is read.
    let learns = config.traces.train_text.contains(&TraceText::Corpus);
    files::hash_json(&(&config.backbone, &config.data, learns))
}

fn remove_failure(run: &CellRun) -> Result<()> {
    let path = run.failed_file();
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
        _ => Ok(()),
    }
}

/// Summarizes the result of a cell: the best variant on each data set.
fn words(report: &Report) -> String {
    let set = |set: &Dataset| {
        let best = set.table(VariantRow::TABLE).and_then(|table| table.rows.iter().find(|row| row.best));
        let efficiency = best.and_then(|best| best.cells.first()?.number()).unwrap_or(f64::NAN);
        let best = best.map_or(String::new(), |best| format!("{} {efficiency:.3}", best.name));
        format!("{}: {best}", set.name)
    };
    report.datasets.iter().map(set).collect::<Vec<_>>().join(", ")
}
