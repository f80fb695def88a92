//! The connection to the user at the terminal: messages and progress bars on standard error, and Ctrl-C.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};
use crate::progress::{self, Importance, Observer, Unit, Watch, Work};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How much is written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only errors.
    Quiet,
    /// What every user wants to know.
    Normal,
    /// Details as well.
    Verbose,
}

/// Starts showing messages and progress on the terminal.
pub fn watch(verbosity: Verbosity) {
    progress::observe(Box::new(Terminal { verbosity }));
}

/// Writes a line to standard error, whatever the verbosity. It is not an error if the reader has gone away.
///
/// Messages quote files, which may hold anything: characters that would steer the terminal are written as escapes.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(line));
}

fn plain(line: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\n';
    line.chars().map(|c| if steers(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Turns the first Ctrl-C (or SIGTERM) into a request to stop, which long work honours at its next step. The second one
/// ends the process.
///
/// # Errors
/// Returns an error if the system does not allow this.
pub fn listen_for_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        complain("\nfinishing the current step, then stopping; once more to stop at once");
    })
    .map_err(|e| Error::new(format!("cannot listen for Ctrl-C: {e}.")))
}

/// Asks long work to stop at its next step, like Ctrl-C.
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
            // A download writes no lines of its own before it is finished.
            _ if work.unit == Unit::Bytes => None,
            _ => Some(Box::new(Lines::new(work))),
        }
    }

    fn wants_to_stop(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

/// A moving progress bar.
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

/// Progress as plain lines, for when there is no terminal.
struct Lines {
    work: Work,
    started: Instant,
    last: Instant,
}

/// The shortest time between two lines.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_do_not_steer_the_terminal() {
        assert_eq!(plain("a \u{1b}[31mred\r\nline \u{9b}"), "a \\u{1b}[31mred\\r\nline \\u{9b}");
        assert_eq!(plain("größer – 3 %"), "größer – 3 %");
    }
}
