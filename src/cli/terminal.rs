//! The connection to the user at the terminal: messages and progress bars on standard error, and Ctrl-C.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;

use crate::error::{Error, Result};
use crate::progress::{self, Importance, Observer, Reached, Unit, Watch, Work};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The form of the lines on standard error. Text, until the command line says something else.
static FORM: OnceLock<LogFormat> = OnceLock::new();

/// The bars that are drawn. Lines are written above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How much is written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only errors and warnings.
    Quiet,
    /// What every user wants to know.
    Normal,
    /// Details as well.
    Verbose,
}

/// The form of what is written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines and bars for people.
    Text,
    /// One JSON object a line, for programs: `time`, `level` (error, warning, info, detail or progress), and `message`, or for progress
    /// `title`, `done`, `total`, `seconds_left` and `words`.
    Json,
}

/// Starts showing messages and progress on the terminal.
pub fn watch(verbosity: Verbosity, form: LogFormat) {
    let _ = FORM.set(form);
    progress::observe(Box::new(Terminal { verbosity }));
}

fn writes_json() -> bool {
    FORM.get() == Some(&LogFormat::Json)
}

/// Returns whether standard output is a terminal whose user did not ask for plain text.
pub fn coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes an error to standard error, whatever the verbosity.
pub fn complain(error: &str) {
    match writes_json() {
        true => write_json("error", json!({"message": error})),
        false => write_line(&format!("error: {error}")),
    }
}

/// Writes a line to standard error, above the bars. It is not an error if the reader has gone away.
///
/// Messages quote files, which may hold anything: characters that would steer the terminal are written as escapes.
fn write_line(line: &str) {
    BARS.suspend(|| {
        let _ = writeln!(std::io::stderr(), "{}", plain(line));
    });
}

fn write_json(level: &str, fields: serde_json::Value) {
    let time = jiff::Timestamp::now();
    let mut line = json!({"time": time.to_string(), "level": level});
    if let (Some(line), serde_json::Value::Object(fields)) = (line.as_object_mut(), fields) {
        line.extend(fields);
    }
    let _ = writeln!(std::io::stderr(), "{line}");
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
        let line = "finishing the current step, then stopping; once more to stop at once";
        match writes_json() {
            true => write_json("info", json!({"message": line})),
            false => write_line(&format!("\n{line}")),
        }
    })
    .map_err(|e| Error::new(format!("cannot listen for Ctrl-C: {e}.")))
}

/// Asks long work to stop at its next step, like Ctrl-C.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Returns the columns of the terminal that standard output goes to, or none if it goes elsewhere.
pub fn width() -> Option<usize> {
    let out = std::io::stdout();
    out.is_terminal().then(|| terminal_size::terminal_size_of(out)).flatten().map(|(width, _)| width.0.into())
}

struct Terminal {
    verbosity: Verbosity,
}

impl Observer for Terminal {
    fn hear(&self, importance: Importance, line: &str) {
        let (needed, level) = match importance {
            Importance::Warning => (Verbosity::Quiet, "warning"),
            Importance::Normal => (Verbosity::Normal, "info"),
            Importance::Detail => (Verbosity::Verbose, "detail"),
        };
        match (self.verbosity >= needed, writes_json()) {
            (false, _) => (),
            (true, true) => write_json(level, json!({"message": line})),
            (true, false) => write_line(line),
        }
    }

    fn watch(&self, work: &Work) -> Option<Box<dyn Watch>> {
        match self.verbosity {
            Verbosity::Quiet => None,
            _ if std::io::stderr().is_terminal() && !writes_json() => Some(Box::new(Bar::new(work))),
            // A download writes no lines of its own before it is finished.
            _ if work.unit == Unit::Bytes && !writes_json() => None,
            _ => Some(Box::new(Lines::new(work))),
        }
    }

    fn wants_to_stop(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

/// How fast a piece of work goes.
struct Pace {
    started: Instant,
    /// The number of items and the share of the work that had been done earlier.
    first: (usize, f64),
    /// The share that was behind at the last update, and when that was.
    last: (f64, Instant),
}

impl Pace {
    fn new(work: &Work) -> Self {
        let (first, now) = (work.first as f64 / work.total.max(1) as f64, Instant::now());
        Self { started: now, first: (work.first, first), last: (first, now) }
    }

    fn update(&mut self, reached: Reached) {
        if reached.done == self.first.0 {
            self.first.1 = reached.share;
        }
        self.last = (reached.share, Instant::now());
    }

    /// Returns the time that is left if the rest goes as fast as what is behind; none before anything is behind.
    fn left(&self) -> Option<Duration> {
        let (share, at) = self.last;
        let done = share - self.first.1;
        let whole = (at - self.started).as_secs_f64() / done * (1.0 - share);
        (done > 0.0).then(|| Duration::from_secs_f64(whole.max(0.0)).saturating_sub(at.elapsed()))
    }
}

/// A moving progress bar.
struct Bar {
    bar: ProgressBar,
    pace: Arc<Mutex<Pace>>,
    work: Work,
}

/// The steps of a bar.
const STEPS: f64 = 10_000.0;

impl Bar {
    fn new(work: &Work) -> Self {
        let pace = Arc::new(Mutex::new(Pace::new(work)));
        let (length, template) = match work.unit {
            Unit::Items => (STEPS as u64, "{prefix} {wide_bar} {msg} {left}"),
            Unit::Bytes => (
                work.total as u64,
                "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {left}",
            ),
        };
        let left = {
            let pace = pace.clone();
            move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
                let left = pace.lock().unwrap_or_else(PoisonError::into_inner).left();
                let _ = left.map_or(Ok(()), |left| write!(out, "{:#} left", HumanDuration(left)));
            }
        };
        let style = ProgressStyle::with_template(template).expect("the template is well formed").with_key("left", left);
        let bar = BARS.add(ProgressBar::new(length).with_style(style).with_prefix(work.title.clone()));
        let mut bar = Self { bar, pace, work: work.clone() };
        let share = work.first as f64 / work.total.max(1) as f64;
        bar.update(Reached { done: work.first, share }, &mut String::new);
        bar.bar.tick();
        // Long steps show by the time left that they are at work.
        bar.bar.enable_steady_tick(Duration::from_secs(1));
        bar
    }
}

impl Watch for Bar {
    fn update(&mut self, reached: Reached, words: &mut dyn FnMut() -> String) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).update(reached);
        match self.work.unit {
            Unit::Items => {
                self.bar.set_message(format!("{}/{} {}", reached.done, self.work.total, words()));
                self.bar.set_position((STEPS * reached.share) as u64);
            }
            Unit::Bytes => self.bar.set_position(reached.done as u64),
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}

/// Progress as plain lines, for when there is no terminal.
struct Lines {
    work: Work,
    pace: Pace,
    last: Instant,
}

/// The shortest time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

impl Lines {
    fn new(work: &Work) -> Self {
        Self { work: work.clone(), pace: Pace::new(work), last: Instant::now() }
    }
}

impl Watch for Lines {
    fn update(&mut self, reached: Reached, words: &mut dyn FnMut() -> String) {
        self.pace.update(reached);
        if self.last.elapsed() < INTERVAL {
            return;
        }
        self.last = Instant::now();
        let (Work { title, total, .. }, Reached { done, .. }) = (&self.work, reached);
        let left = self.pace.left().map(|left| left.as_secs_f64());
        if writes_json() {
            let fields =
                json!({"title": title, "done": done, "total": total, "seconds_left": left, "words": words().trim()});
            return write_json("progress", fields);
        }
        let mut line = format!("{title} {done}/{total} {}", words());
        let _ = left.map_or(Ok(()), |left| write!(line, " {left:.0} s left"));
        write_line(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_share_of_the_work() {
        let now = Instant::now();
        let pace =
            |first, share| Pace { started: now - Duration::from_secs(10), first: (0, first), last: (share, now) };
        let seconds = |pace: Pace| pace.left().map(|left| left.as_secs_f64().round());
        assert_eq!(seconds(pace(0.0, 0.25)), Some(30.0));
        // What had been done earlier took none of these ten seconds.
        assert_eq!(seconds(pace(0.5, 0.75)), Some(10.0));
        assert_eq!(seconds(pace(0.0, 1.0)), Some(0.0));
        assert_eq!(seconds(pace(0.25, 0.25)), None);
        let late =
            Pace { started: now - Duration::from_secs(20), first: (0, 0.0), last: (0.5, now - Duration::from_secs(5)) };
        assert_eq!(seconds(late), Some(10.0), "it falls while a long step is at work");
    }

    #[test]
    fn messages_do_not_steer_the_terminal() {
        assert_eq!(plain("a \u{1b}[31mred\r\nline \u{9b}"), "a \\u{1b}[31mred\\r\nline \\u{9b}");
        assert_eq!(plain("größer – 3 %"), "größer – 3 %");
    }
}
