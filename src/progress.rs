//! What somebody who watches long work hears, sees and may ask for: an [`Observer`].
//!
//! A program installs one with [`observe`], as the command line does. Without one, work is silent and nobody stops it. Work itself calls
//! [`say`], [`warn`], [`detail`], [`interrupted`] and [`Progress`].

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::HumanDuration;

use crate::error::{Error, Result};

/// Whoever watches the work of this process. What is not implemented is not heard, not shown, not asked for.
pub trait Observer: Send + Sync {
    /// Hears a line.
    fn hear(&self, _importance: Importance, _line: &str) {}

    /// Shows how far a piece of work is, until the value that is returned is dropped; none where nothing is shown.
    fn watch(&self, _work: &Work) -> Option<Box<dyn Watch>> {
        None
    }

    /// Whether work is to stop at its next step. What is worth keeping is kept.
    fn wants_to_stop(&self) -> bool {
        false
    }
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// For everybody, even those who want to hear nothing but errors.
    Warning,
    /// For everybody else.
    Normal,
    /// For those who asked for details.
    Detail,
}

/// A piece of work whose size is known.
#[derive(Debug, Clone)]
pub struct Work {
    /// What it is called.
    pub title: String,
    /// How much of it had been done earlier.
    pub first: usize,
    /// How much there is.
    pub total: usize,
    /// What is counted.
    pub unit: Unit,
}

/// What the progress of a piece of work counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Steps, documents or the like.
    Items,
    /// Bytes.
    Bytes,
}

/// How far a piece of work is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reached {
    /// How much of the total is done.
    pub done: usize,
    /// The share of the work that is behind, from 0 to 1. It differs from the share of the total where some items take longer than
    /// others; the time that is left follows from it.
    pub share: f64,
}

/// What shows how far one piece of work is.
pub trait Watch: Send {
    /// The work has come so far; `words` gives a few words on how it goes.
    fn update(&mut self, reached: Reached, words: &mut dyn FnMut() -> String);
}

static OBSERVER: OnceLock<Box<dyn Observer>> = OnceLock::new();

/// Installs the observer of this process. The first one stays.
pub fn observe(observer: Box<dyn Observer>) {
    let _ = OBSERVER.set(observer);
}

fn observer() -> Option<&'static dyn Observer> {
    OBSERVER.get().map(|observer| &**observer)
}

/// Says a line of normal importance.
pub fn say(line: impl AsRef<str>) {
    hear(Importance::Normal, line.as_ref());
}

/// Says a line that nobody should miss.
pub fn warn(line: impl AsRef<str>) {
    hear(Importance::Warning, line.as_ref());
}

/// Says a line for those who asked for details.
pub fn detail(line: impl AsRef<str>) {
    hear(Importance::Detail, line.as_ref());
}

fn hear(importance: Importance, line: &str) {
    if let Some(observer) = observer() {
        observer.hear(importance, line);
    }
}

/// Returns whether work is to stop at its next step.
pub fn interrupted() -> bool {
    observer().is_some_and(Observer::wants_to_stop)
}

/// Returns an error once work is to stop, for work that keeps nothing of an unfinished stage.
///
/// # Errors
/// Work is to stop.
pub fn stop_if_interrupted(stage: &str) -> Result<()> {
    if interrupted() {
        return Err(Error::interrupted(format!(
            "interrupted while {stage}. Nothing of this stage was kept; start the same command again, and finished stages are skipped."
        )));
    }
    Ok(())
}

/// Returns some seconds in words, as "2 minutes".
pub fn duration(seconds: f64) -> String {
    HumanDuration(Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX)).to_string()
}

/// Returns the most memory that this process has held so far, in bytes, where the system tells (Linux).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the work that moved last is at, in a few words.
static CURRENT: Mutex<String> = Mutex::new(String::new());

/// Returns what this process is at, in a few words, for others to see.
pub fn current() -> String {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The progress of one piece of work.
pub struct Progress {
    work: Work,
    done: usize,
    /// The share of the work that is behind after so many items; empty where each takes about as long.
    shares: Vec<f64>,
    started: Instant,
    watch: Option<Box<dyn Watch>>,
}

impl Progress {
    /// Starts at 0 of `total`.
    pub fn new(title: impl Into<String>, total: usize) -> Self {
        Self::starting_at(title, 0, total)
    }

    /// Starts at `first` of `total`, what came before having been done earlier.
    pub fn starting_at(title: impl Into<String>, first: usize, total: usize) -> Self {
        Self::of(Work { title: title.into(), first, total, unit: Unit::Items })
    }

    /// Starts at `first` of as many items as there are `costs`, which say how long they take beside each other, in any unit.
    pub fn with_costs(title: impl Into<String>, first: usize, costs: impl IntoIterator<Item = f64>) -> Self {
        let mut behind = vec![0.0];
        behind.extend(costs.into_iter().scan(0.0, |sum, cost| {
            *sum += cost;
            Some(*sum)
        }));
        let (total, whole) = (behind.len() - 1, behind[behind.len() - 1]);
        let work = Work { title: title.into(), first, total, unit: Unit::Items };
        let shares = if whole > 0.0 { behind.into_iter().map(|cost| cost / whole).collect() } else { Vec::new() };
        let mut progress = Self { shares, ..Self::of(work) };
        if first > 0 {
            progress.update(first, String::new);
        }
        progress
    }

    /// Starts a piece of work.
    pub fn of(work: Work) -> Self {
        let watch = observer().and_then(|observer| observer.watch(&work));
        Self { done: work.first, work, shares: Vec::new(), started: Instant::now(), watch }
    }

    /// One more of the total is done; `words` says what comes next.
    pub fn advance(&mut self, words: impl FnOnce() -> String) {
        self.update(self.done + 1, words);
    }

    /// `done` of the total are done; `words` says how it goes.
    pub fn update(&mut self, done: usize, words: impl FnOnce() -> String) {
        let even = done as f64 / self.work.total.max(1) as f64;
        self.reach(Reached { done, share: self.shares.get(done).copied().unwrap_or(even) }, words);
    }

    /// The work has come so far, where that is not known from the number of items alone; `words` says how it goes.
    pub fn reach(&mut self, reached: Reached, words: impl FnOnce() -> String) {
        let done = reached.done;
        self.done = done;
        *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) =
            format!("{} {done}/{}", self.work.title, self.work.total);
        let mut words = Some(words);
        if let Some(watch) = &mut self.watch {
            watch.update(reached, &mut || words.take().map(|words| words()).unwrap_or_default());
        }
    }

    /// Ends the work and says what came of it.
    pub fn finish(self, words: &str) {
        let Self { work, started, watch, .. } = self;
        drop(watch);
        say(format!("{}: {words} ({:.1} s)", work.title, started.elapsed().as_secs_f64()));
    }
}
