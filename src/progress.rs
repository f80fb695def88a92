//! What a person sees while something long runs: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};

static VERBOSITY: AtomicU8 = AtomicU8::new(1);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Sets how much is said on standard error: 0 nothing but errors, 1 the normal measure, 2 details as well.
pub fn set_verbosity(level: u8) {
    VERBOSITY.store(level, Ordering::Relaxed);
}

/// One line of normal importance.
pub fn say(line: impl AsRef<str>) {
    say_from(1, line.as_ref());
}

/// One line for those who asked for details (`-v`).
pub fn detail(line: impl AsRef<str>) {
    say_from(2, line.as_ref());
}

fn say_from(level: u8, line: &str) {
    if VERBOSITY.load(Ordering::Relaxed) >= level {
        complain(line);
    }
}

/// A line on standard error, whatever the verbosity. A reader that went away is no error.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether moving bars are shown: on a terminal, unless quiet.
pub fn shows_bars() -> bool {
    VERBOSITY.load(Ordering::Relaxed) > 0 && std::io::stderr().is_terminal()
}

/// Turns the first Ctrl-C (or SIGTERM) into a request that long work honours at its next step; the second one kills.
pub fn listen_for_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        complain("\nfinishing the current step, then stopping; once more to stop at once");
    })
    .map_err(|e| Error::new(format!("cannot listen for Ctrl-C: {e}.")))
}

/// Asks long work to stop at its next step, as Ctrl-C does.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// An error once Ctrl-C was pressed, for work that keeps nothing of an unfinished stage.
pub fn stop_if_interrupted(stage: &str) -> Result<()> {
    if interrupted() {
        return Err(Error::interrupted(format!(
            "interrupted while {stage}. Nothing of this stage was kept; start the same command again, and finished stages are skipped."
        )));
    }
    Ok(())
}

/// The most memory that this process has held so far, in bytes, where the system tells (Linux).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the stage that moved last is at, in a few words.
static CURRENT: Mutex<String> = Mutex::new(String::new());

/// What this process is at, for others to see.
pub fn current() -> String {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The progress of one stage.
pub struct Progress {
    title: String,
    first: usize,
    done: usize,
    total: usize,
    started: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

/// Plain lines come no oftener than this.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

impl Progress {
    /// Starts at 0 of `total`.
    pub fn new(title: impl Into<String>, total: usize) -> Self {
        Self::starting_at(title, 0, total)
    }

    /// Starts at `first` of `total`, what came before having been done earlier.
    pub fn starting_at(title: impl Into<String>, first: usize, total: usize) -> Self {
        let title = title.into();
        let bar = (VERBOSITY.load(Ordering::Relaxed) >= 1 && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
                .expect("the template is well formed");
            ProgressBar::new(total as u64).with_style(style).with_prefix(title.clone()).with_position(first as u64)
        });
        let now = Instant::now();
        Self { title, first, done: first, total, started: now, bar, last_line: now }
    }

    /// One more of the total, with a few words on what comes next.
    pub fn advance(&mut self, words: impl FnOnce() -> String) {
        self.update(self.done + 1, words);
    }

    /// `done` of the total, with a few words on how it goes.
    pub fn update(&mut self, done: usize, words: impl FnOnce() -> String) {
        self.done = done;
        *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = format!("{} {done}/{}", self.title, self.total);
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(words());
            return;
        }
        if self.last_line.elapsed() >= PLAIN_INTERVAL {
            self.last_line = Instant::now();
            let elapsed = self.started.elapsed().as_secs_f64();
            let since = done.saturating_sub(self.first).max(1);
            let left = elapsed / since as f64 * self.total.saturating_sub(done) as f64;
            say(format!("{} {done}/{} {} {left:.0} s left", self.title, self.total, words()));
        }
    }

    /// Ends the bar and says what came out.
    pub fn finish(self, words: &str) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        say(format!("{}: {words} ({:.1} s)", self.title, self.started.elapsed().as_secs_f64()));
    }
}
