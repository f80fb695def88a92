//! What a person sees while something long runs: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
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
    if VERBOSITY.load(Ordering::Relaxed) >= 1 {
        eprintln!("{}", line.as_ref());
    }
}

/// One line for those who asked for details (`-v`).
pub fn detail(line: impl AsRef<str>) {
    if VERBOSITY.load(Ordering::Relaxed) >= 2 {
        eprintln!("{}", line.as_ref());
    }
}

/// Turns the first Ctrl-C (or SIGTERM) into a request that long work honours at its next step; the second one kills.
pub fn listen_for_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nfinishing the current step, then stopping; once more to stop at once");
    })
    .map_err(|e| Error::new(format!("cannot listen for Ctrl-C: {e}.")))
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

/// The progress of one stage.
pub struct Progress {
    title: String,
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
        let title = title.into();
        let bar = (VERBOSITY.load(Ordering::Relaxed) >= 1 && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
                .expect("the template is well formed");
            ProgressBar::new(total as u64).with_style(style).with_prefix(title.clone())
        });
        let now = Instant::now();
        Self { title, total, started: now, bar, last_line: now }
    }

    /// `done` of the total, with a few words on how it goes.
    pub fn update(&mut self, done: usize, words: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(words());
            return;
        }
        if self.last_line.elapsed() >= PLAIN_INTERVAL {
            self.last_line = Instant::now();
            let elapsed = self.started.elapsed().as_secs_f64();
            let left = elapsed / done.max(1) as f64 * self.total.saturating_sub(done) as f64;
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
