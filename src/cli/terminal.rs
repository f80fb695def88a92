//! The person at the terminal: reads lines on standard error, sees bars there, presses Ctrl-C.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};
use crate::progress::{self, Importance, Observer, Unit, Watch, Work};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How much is said on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Nothing but errors.
    Quiet,
    /// What everybody wants to know.
    Normal,
    /// Details as well.
    Verbose,
}

/// Lets the person at the terminal watch.
pub fn watch(verbosity: Verbosity) {
    progress::observe(Box::new(Terminal { verbosity }));
}

/// Writes a line on standard error, whatever the verbosity. A reader that went away is no error.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Turns the first Ctrl-C (or SIGTERM) into a request that long work honours at its next step; the second one kills.
///
/// # Errors
/// A system that does not allow it.
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

struct Terminal {
    verbosity: Verbosity,
}

impl Observer for Terminal {
    fn hear(&self, importance: Importance, line: &str) {
        let needed = match importance {
            Importance::Normal => Verbosity::Normal,
            Importance::Detail => Verbosity::Verbose,
        };
        if self.verbosity >= needed {
            complain(line);
        }
    }

    fn watch(&self, work: &Work) -> Option<Box<dyn Watch>> {
        match self.verbosity {
            Verbosity::Quiet => None,
            _ if std::io::stderr().is_terminal() => Some(Box::new(Bar::new(work))),
            // A download has no lines of its own before it is done.
            _ if work.unit == Unit::Bytes => None,
            _ => Some(Box::new(Lines::new(work))),
        }
    }

    fn wants_to_stop(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

/// A bar that moves.
struct Bar(ProgressBar);

impl Bar {
    fn new(work: &Work) -> Self {
        let template = match work.unit {
            Unit::Items => "{prefix} {wide_bar} {pos}/{len} {msg} {eta} left",
            Unit::Bytes => "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
        };
        let style = ProgressStyle::with_template(template).expect("the template is well formed");
        let bar = ProgressBar::new(work.total as u64).with_style(style).with_prefix(work.title.clone());
        Self(bar.with_position(work.first as u64))
    }
}

impl Watch for Bar {
    fn update(&mut self, done: usize, words: &mut dyn FnMut() -> String) {
        self.0.set_position(done as u64);
        self.0.set_message(words());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Plain lines, where there is no terminal.
struct Lines {
    work: Work,
    started: Instant,
    last: Instant,
}

/// Lines come no oftener than this.
const INTERVAL: Duration = Duration::from_secs(10);

impl Lines {
    fn new(work: &Work) -> Self {
        let now = Instant::now();
        Self { work: work.clone(), started: now, last: now }
    }
}

impl Watch for Lines {
    fn update(&mut self, done: usize, words: &mut dyn FnMut() -> String) {
        if self.last.elapsed() < INTERVAL {
            return;
        }
        self.last = Instant::now();
        let Work { title, first, total, .. } = &self.work;
        let each = self.started.elapsed().as_secs_f64() / done.saturating_sub(*first).max(1) as f64;
        let left = each * total.saturating_sub(done) as f64;
        complain(&format!("{title} {done}/{total} {} {left:.0} s left", words()));
    }
}
