//! The clock of a training, in a file beside its metrics.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::Deserialize;
use serde_json::json;

use super::log::Log;
use crate::error::Result;

/// The file that says when each step was done.
const TIMINGS: &str = "timings.jsonl";

/// When a step was done.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Timing {
    /// The number of the step, from 1 on.
    pub step: u64,
    /// The seconds of training until then.
    pub seconds: f64,
    /// The tokens that the step trained on, for each second that it took.
    pub tokens_per_s: Option<f64>,
}

/// Reads when the steps of the training in `folder` were done, in their order. Lines that cannot be read are left out, and there
/// are none where no file is.
pub fn read_timings(folder: &Path) -> Vec<Timing> {
    let lines = fs::read(folder.join(TIMINGS)).unwrap_or_default();
    let lines = lines.split(|&byte| byte == b'\n');
    let mut timings: Vec<Timing> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    timings.sort_by_key(|timing| timing.step);
    timings
}

/// Returns the median of the seconds that the steps of the training in `folder` took, from the one after step `first` on: what is done
/// once is done in the first of them. None where no two steps are known.
pub fn seconds_per_step(folder: &Path, first: u64) -> Option<f64> {
    let timings = read_timings(folder);
    let timings = &timings[timings.partition_point(|timing| timing.step < first)..];
    let mut seconds: Vec<f64> = timings.windows(2).map(|pair| pair[1].seconds - pair[0].seconds).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied()
}

/// When each step was done, in seconds of training, and how fast it was. What is lost in a crash is not counted, nor is the
/// time until the training goes on. No two trainings share these numbers, so they have a file of their own.
pub(super) struct Timings {
    log: Log,
    /// The seconds of the processes before this one.
    before: f64,
    started: Instant,
}

impl Timings {
    /// Opens the file and cuts it to what it says of the first `steps` steps.
    pub fn open(folder: &Path, steps: usize) -> Result<Self> {
        let path = folder.join(TIMINGS);
        let text = fs::read(&path).unwrap_or_default();
        let (mut keep, mut before) = (0, 0.0);
        for line in text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let Ok(Timing { step, seconds, .. }) = serde_json::from_slice(line) else { break };
            if step > steps as u64 {
                break;
            }
            (keep, before) = (keep + line.len() as u64, seconds);
        }
        Ok(Self { log: Log::open(path, keep)?, before, started: Instant::now() })
    }

    pub fn write(&mut self, step: usize, tokens_per_s: f64) -> Result<()> {
        let seconds = self.before + self.started.elapsed().as_secs_f64();
        self.log.write(&json!({"step": step, "seconds": seconds, "tokens_per_s": tokens_per_s}))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_step_takes_what_lies_between_two_ends() {
        let folder = tempfile::tempdir().unwrap();
        let lines = [(1, 9.0), (2, 10.0), (3, 10.5), (4, 12.5)]
            .map(|(step, seconds)| format!("{{\"step\": {step}, \"seconds\": {seconds}}}\n"));
        fs::write(folder.path().join(TIMINGS), lines.concat()).unwrap();
        assert_eq!(seconds_per_step(folder.path(), 1), Some(1.0));
        assert_eq!(seconds_per_step(folder.path(), 3), Some(2.0));
        assert_eq!(seconds_per_step(folder.path(), 4), None);
        assert_eq!(seconds_per_step(&folder.path().join("none"), 1), None);
    }

    #[test]
    fn the_clock_goes_on_where_the_checkpoint_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TIMINGS);
        let lines = [1, 2, 3].map(|step| format!("{{\"step\": {step}, \"seconds\": {step}00}}\n")).concat();
        fs::write(&path, lines + "{\"step\": 4, \"sec").unwrap();
        let mut timings = Timings::open(folder.path(), 2).unwrap();
        timings.write(3, 7.0).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let steps: Vec<&Value> = lines.iter().map(|line| &line["step"]).collect();
        assert_eq!(steps, [1, 2, 3]);
        let seconds = lines[2]["seconds"].as_f64().unwrap();
        assert!((200.0..300.0).contains(&seconds) && lines[2]["tokens_per_s"] == 7.0, "{text}");
        Timings::open(folder.path(), 0).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "", "another training begins anew");
    }
}
