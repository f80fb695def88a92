//! Renders the `report.html` of a training, with charts of what its `metrics.jsonl` and `timings.jsonl` say about each step,
//! by step and by the clock. Comparisons lay the curves of several trainings over each other.

use std::fs;
use std::iter::once;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::page::{self, Entry, Plot, prose};
use super::tensorboard::write_events;
use crate::error::{Error, Result, bail};
use crate::files::write_atomic;
use crate::tables::{Colour, Figure, Lines, Series, XAxis, YAxis, format};
use crate::training::{Timing, read_timings};

/// The largest number of points on a curve: almost one per unit of a drawing's width.
const POINTS: usize = 400;

/// Renders the log of the training in `folder` as `folder/report.html`, and as an event file of TensorBoard.
///
/// Lines that cannot be read are skipped, and the page says how many. A killed process may leave one at the end.
pub fn write_training(folder: &Path, title: &str) -> Result<()> {
    let log = TrainingLog::read(folder)?;
    let curves = curves(&log);
    if curves.is_empty() {
        bail!(
            "{} has no usable line: {} read, {} damaged, and no line has a step with a loss or another number to draw. \
             Start the training again; it writes the file anew.",
            folder.join(METRICS).display(),
            format::counted(log.lines.len() as u64, "line", "lines"),
            log.damaged
        );
    }
    #[derive(Serialize)]
    struct Page<'a> {
        title: &'a str,
        byline: String,
        claims: Vec<String>,
        contents: [Entry; 0],
        opening: [Plot; 0],
        curves: Vec<(&'static str, Vec<Plot>)>,
    }
    let (byline, claims) = (log.byline(), vec![prose(log.claim())]);
    let page = Page { title, byline, claims, contents: [], opening: [], curves };
    write_atomic(&folder.join("report.html"), page::render(include_str!("training.html"), page)?.as_bytes())?;
    write_events(folder)
}

/// The file that holds the numbers of every step and of every evaluation on dev.
pub(super) const METRICS: &str = "metrics.jsonl";

/// What is said of a step on train, or of an evaluation on dev after it: a line of the file [`METRICS`].
#[derive(Deserialize)]
struct Line {
    step: u64,
    split: Split,
    /// The score by which the best checkpoint is chosen; the lowest is the best.
    score: Option<f64>,
    loss: Option<f64>,
    perplexity: Option<f64>,
    accuracy: Option<f64>,
    /// The accuracy of each head from head 2 on, or none if a head had no target.
    #[serde(default)]
    accuracy_by_head: Vec<Option<f64>>,
    block_efficiency: Option<f64>,
    learning_rate: Option<f64>,
    gradient_norm: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Split {
    Train,
    Dev,
}

/// The log of a training.
pub(super) struct TrainingLog {
    lines: Vec<Line>,
    timings: Vec<Timing>,
    /// The number of lines that could not be read.
    damaged: usize,
}

/// Parses JSON lines, and counts those that cannot be read. It takes bytes instead of text, because a crash can leave
/// anything in the last line.
pub(super) fn json_lines<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> (Vec<T>, usize) {
    let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let read: Vec<Option<T>> = lines.map(|line| serde_json::from_slice(line).ok()).collect();
    let damaged = read.iter().filter(|line| line.is_none()).count();
    (read.into_iter().flatten().collect(), damaged)
}

/// Returns the seconds from the beginning of a training to a step, between the steps that are known.
pub(super) fn seconds(timings: &[Timing], step: u64) -> Option<f64> {
    let after = timings.partition_point(|timing| timing.step < step);
    let before = after.checked_sub(1).map_or((0, 0.0), |place| (timings[place].step, timings[place].seconds));
    let after = timings.get(after)?;
    let share = (step - before.0) as f64 / (after.step - before.0).max(1) as f64;
    Some(before.1 + (after.seconds - before.1) * share)
}

impl TrainingLog {
    /// Reads the log of the training in `folder`.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(METRICS);
        let (lines, damaged) = json_lines(&fs::read(&path).map_err(|e| Error::io("read", &path, e))?);
        Ok(Self { lines, timings: read_timings(folder), damaged })
    }

    /// Returns the evaluation whose checkpoint is chosen: the one with the lowest score, and the earliest of these.
    fn best(&self) -> Option<&Line> {
        let evaluated = self.lines.iter().filter_map(|line| Some((line, line.score?)));
        evaluated.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(line, _)| line)
    }

    fn byline(&self) -> String {
        let steps = self.lines.iter().map(|l| l.step).max().unwrap_or(0);
        let evaluated = self.lines.iter().filter(|l| l.split == Split::Dev).count() as u64;
        let mut parts = vec![
            format::counted(steps, "step", "steps"),
            format::counted(evaluated, "evaluation on dev", "evaluations on dev"),
        ];
        if let Some(last) = self.timings.last() {
            parts.push(format!("{} s", format::three_digits(last.seconds)));
        }
        if self.damaged > 0 {
            parts.push(format::counted(self.damaged as u64, "damaged line skipped", "damaged lines skipped"));
        }
        parts.join(" · ")
    }

    /// Describes the best step and its numbers in one sentence.
    fn claim(&self) -> String {
        let Some(line) = self.best() else { return "There is no evaluation on dev yet.".to_owned() };
        let mut parts = Vec::new();
        if let Some(loss) = line.loss {
            parts.push(format!("dev loss {} nats per target", format::fixed(loss, 3)));
        }
        if let Some(perplexity) = line.perplexity {
            parts.push(format!("perplexity {}", format::fixed(perplexity, 2)));
        }
        if let Some(efficiency) = line.block_efficiency {
            parts.push(format!("block efficiency {}", format::efficiency(efficiency)));
        }
        if !line.accuracy_by_head.is_empty() {
            let shares = line.accuracy_by_head.iter().map(|share| format::percent(share.unwrap_or(f64::NAN)));
            parts.push(format!("accuracy {} (from head 2 on)", shares.collect::<Vec<_>>().join(", ")));
        }
        format!("Best on dev at step {}, ringed below: {}.", format::count(line.step), parts.join("; "))
    }

    /// Makes the curve of the numbers that `value` finds in the lines of a split, over `axis`. It is not thinned yet.
    fn curve(
        &self,
        label: &str,
        colour: Colour,
        axis: Axis,
        split: Split,
        value: impl Fn(&Line) -> Option<f64>,
    ) -> Series {
        let place = |line: &Line| axis.place(self, line.step);
        let lines = self.lines.iter().filter(|line| line.split == split);
        let points: Vec<_> = lines.filter_map(|line| Some([place(line)?, value(line)?])).collect();
        let chosen = self.best().filter(|_| split == Split::Dev).and_then(place);
        Series::new(label, colour, points).ringed(chosen)
    }

    /// Makes the curve of a measure.
    fn measured(&self, label: &str, colour: Colour, axis: Axis, measure: &Measure, split: Split) -> Series {
        match measure.number {
            Number::OfLine(number) => self.curve(label, colour, axis, split, number),
            Number::Speed => {
                let point = |timing: &Timing| Some([axis.place(self, timing.step)?, timing.tokens_per_s?]);
                Series::new(label, colour, self.timings.iter().filter_map(point))
            }
        }
    }
}

/// What lies along the horizontal axis.
#[derive(Clone, Copy)]
enum Axis {
    Step,
    /// Minutes since the training began, without the time between an interruption and its end.
    Clock,
}

impl Axis {
    const ALL: [(Self, &str); 2] = [(Self::Step, "by step"), (Self::Clock, "by the clock")];

    fn place(self, log: &TrainingLog, step: u64) -> Option<f64> {
        match self {
            Self::Step => Some(step as f64),
            Self::Clock => seconds(&log.timings, step).map(|seconds| seconds / 60.0),
        }
    }

    fn words(self) -> XAxis {
        XAxis::Linear(if matches!(self, Self::Step) { "step" } else { "minutes of training" }.into())
    }
}

/// Where a number of a chart is found.
#[derive(Clone, Copy)]
enum Number {
    OfLine(fn(&Line) -> Option<f64>),
    Speed,
}

/// What a chart shows.
struct Measure {
    id: &'static str,
    title: &'static str,
    /// The definition of the chart's numbers, in one sentence.
    definition: &'static str,
    y: fn() -> YAxis,
    splits: &'static [Split],
    number: Number,
}

const MEASURES: [Measure; 6] = [
    Measure {
        id: "loss",
        title: "Loss",
        definition: "Cross-entropy in nats per target; for heads, the mean over the heads weighted by loss_weights.",
        y: || YAxis::Linear("nats per target".into()),
        splits: &[Split::Train, Split::Dev],
        number: Number::OfLine(|line| line.loss),
    },
    Measure {
        id: "accuracy",
        title: "Accuracy",
        definition: "The share of targets that are the first choice; for heads, the mean over the heads.",
        y: || YAxis::Shares("share of targets".into()),
        splits: &[Split::Train, Split::Dev],
        number: Number::OfLine(|line| line.accuracy),
    },
    Measure {
        id: "block-efficiency",
        title: "Block efficiency on dev",
        definition: "Decoded tokens divided by backbone calls, both summed over the dev documents, when plain blockwise \
                     decoding (every head's first choice) is replayed on them.",
        y: || YAxis::Linear("tokens per backbone call".into()),
        splits: &[Split::Dev],
        number: Number::OfLine(|line| line.block_efficiency),
    },
    Measure {
        id: "learning-rate",
        title: "Learning rate",
        definition: "The factor, without unit, that the optimizer's normalised update is multiplied by.",
        y: || YAxis::FromZero("learning rate".into()),
        splits: &[Split::Train],
        number: Number::OfLine(|line| line.learning_rate),
    },
    Measure {
        id: "gradient-norm",
        title: "Gradient norm",
        definition: "The Euclidean norm of the loss's gradient over all parameters, before clipping, in nats per target per \
                     unit of parameter.",
        y: || YAxis::FromZero("norm before clipping".into()),
        splits: &[Split::Train],
        number: Number::OfLine(|line| line.gradient_norm),
    },
    Measure {
        id: "speed",
        title: "Speed",
        definition: "Targets of a step divided by the seconds that the step took, without evaluations on dev.",
        y: || YAxis::FromZero("tokens/s".into()),
        splits: &[Split::Train],
        number: Number::Speed,
    },
];

impl Split {
    fn name(self) -> &'static str {
        if self == Self::Train { "train" } else { "dev" }
    }
}

/// Draws the curves of one training over each axis: a chart for each measure, and one for the heads.
fn curves(log: &TrainingLog) -> Vec<(&'static str, Vec<Plot>)> {
    drawn(|axis| {
        let curve = |measure: &Measure, (place, &split): (usize, &Split)| {
            log.measured(split.name(), Colour::Cycle(place), axis, measure, split)
        };
        let chart = |measure: &Measure| {
            let curves = measure.splits.iter().enumerate().map(|split| curve(measure, split)).collect();
            chart(measure.id, measure.title, measure.definition, axis, (measure.y)(), curves)
        };
        let (first, rest) = MEASURES.split_at(2);
        first.iter().filter_map(chart).chain(by_head(log, axis)).chain(rest.iter().filter_map(chart)).collect()
    })
}

fn by_head(log: &TrainingLog, axis: Axis) -> Option<Figure> {
    let heads = log.lines.iter().map(|line| line.accuracy_by_head.len()).max().unwrap_or(0);
    let curve = |head: usize| {
        let accuracy = move |line: &Line| *line.accuracy_by_head.get(head)?;
        log.curve(&format!("head {}", head + 2), Colour::Cycle(head), axis, Split::Dev, accuracy)
    };
    let definition = "The share of a head's dev targets that are its first choice.";
    let y = YAxis::Shares("share of targets".into());
    chart("accuracy-by-head", "Accuracy by head on dev", definition, axis, y, (0..heads).map(curve).collect())
}

/// Lays the curves of several trainings over each other, for each axis: a chart for each measure on each split, with a line
/// for each training. `runs` has a name, a colour and a log for each.
pub(super) fn overlaid(runs: &[(String, Colour, &TrainingLog)]) -> Vec<(&'static str, Vec<Plot>)> {
    drawn(|axis| {
        let of_split = |measure: &Measure, split: Split| {
            let curve = |(name, colour, log): &(String, Colour, &TrainingLog)| {
                log.measured(name, *colour, axis, measure, split)
            };
            let title = match measure.splits {
                [_] => measure.title.to_owned(),
                _ => format!("{} on {}", measure.title, split.name()),
            };
            let id = format!("{}-{}", measure.id, split.name());
            chart(&id, &title, measure.definition, axis, (measure.y)(), runs.iter().map(curve).collect())
        };
        let splits = |measure| -> Vec<Figure> {
            let measure: &Measure = measure;
            measure.splits.iter().filter_map(|&split| of_split(measure, split)).collect()
        };
        MEASURES.iter().flat_map(splits).collect()
    })
}

/// Draws the charts over each axis, and leaves out an axis without any.
fn drawn(charts: impl Fn(Axis) -> Vec<Figure>) -> Vec<(&'static str, Vec<Plot>)> {
    let over = |(axis, name): (Axis, &'static str)| {
        (name, charts(axis).iter().filter_map(|figure| Plot::new(figure, name)).collect::<Vec<_>>())
    };
    Axis::ALL.into_iter().map(over).filter(|(_, plots)| !plots.is_empty()).collect()
}

/// Makes a chart of thinned curves. Returns none if none of them has a point.
fn chart(id: &str, title: &str, definition: &str, axis: Axis, y: YAxis, mut curves: Vec<Series>) -> Option<Figure> {
    curves.retain(|curve| !curve.points.is_empty());
    let window = curves.iter().map(|curve| window(curve.points.len())).max()?;
    let thinned = |curve: Series| Series { points: thinned(&curve.points, curve.chosen), ..curve };
    let lines = Lines::new(axis.words(), y, curves.into_iter().map(thinned).collect());
    let mut caption = definition.to_owned();
    if window > 1 {
        caption += &format!(
            " Thinned to at most {POINTS} points a curve: all but the first, the last and a ringed one are means of up to \
             {window} consecutive values."
        );
    }
    Some(Figure::new(id, title, caption, lines))
}

/// Returns how many consecutive values are merged into one point, given the number of values.
fn window(values: usize) -> usize {
    if values <= POINTS { 1 } else { (values - 2).div_ceil(POINTS - 2) }
}

/// Thins a curve to at most [`POINTS`] points. The first, the last and the chosen point are kept; the others are means
/// of neighbouring points.
fn thinned(points: &[[f64; 2]], chosen: Option<f64>) -> Vec<[f64; 2]> {
    let (window, [first, inner @ .., last]) = (window(points.len()), points) else { return points.to_vec() };
    let means = inner.chunks(window).map(|near| {
        let mean = |axis: usize| near.iter().map(|p| p[axis]).sum::<f64>() / near.len() as f64;
        near.iter().find(|p| chosen == Some(p[0])).copied().unwrap_or_else(|| [mean(0), mean(1)])
    });
    once(*first).chain(means).chain(once(*last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAIN_LINE: &str = r#"{"step": 1, "split": "train", "loss": 3.2, "learning_rate": 1e-3, "gradient_norm": 0.5, "accuracy": 0.4, "accuracy_by_head": [null, 0.2]}"#;

    fn dev(step: usize, loss: f64) -> String {
        format!(
            r#"{{"step": {step}, "split": "dev", "score": {loss}, "loss": {loss}, "accuracy_by_head": [0.4, 0.25], "block_efficiency": 1.7}}"#
        )
    }

    /// The log of four steps.
    fn log() -> String {
        [TRAIN_LINE, &dev(1, 3.1), &dev(2, 2.5), &dev(3, 2.75), &dev(4, 2.5)].join("\n")
    }

    fn folder(log: impl AsRef<[u8]>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(METRICS), log).unwrap();
        folder
    }

    fn page(folder: &Path) -> Result<String> {
        write_training(folder, "heads <of> tiny")?;
        Ok(fs::read_to_string(folder.join("report.html")).unwrap())
    }

    fn write(log: impl AsRef<[u8]>) -> Result<String> {
        page(folder(log).path())
    }

    fn curves(page: &str) -> usize {
        page.matches("<polyline").count()
    }

    #[test]
    fn heads_have_a_chart_of_each_measure_and_a_curve_for_each_head() {
        let page = write(log()).unwrap();
        assert_eq!([page.matches("<figure>").count(), curves(&page)], [6, 2 + 1 + 2 + 1 + 1 + 1]);
        assert!(page.contains("<h1>heads &lt;of&gt; tiny</h1>"));
        assert!(page.contains("4 steps · 4 evaluations on dev</p>"));
        let best = "Best on dev at step 2, ringed below: dev loss 2.500 nats per target; block efficiency 1.700; \
                    accuracy 40.0\u{a0}%, 25.0\u{a0}% (from head 2 on).";
        assert!(page.contains(best), "{page}");
        assert_eq!(page.matches("class=\"ring\"").count(), 1 + 2 + 1);
        assert!(page.contains("head 3, step 2: 25.0 %") && page.contains("train, step 1: 0.0010"));
        assert!(!page.contains("Thinned") && !page.contains("damaged") && !page.contains("by the clock"));
    }

    #[test]
    fn where_times_are_known_there_are_charts_by_the_clock_and_of_the_speed() {
        let folder = folder(log());
        let timings = [r#"{"step": 2, "seconds": 60, "tokens_per_s": 7}"#, r#"{"step": 4, "seconds": 180}"#];
        fs::write(folder.path().join("timings.jsonl"), timings.join("\n")).unwrap();
        let page = page(folder.path()).unwrap();
        assert_eq!(page.matches("<figure>").count(), 2 * 7);
        assert!(page.contains("4 evaluations on dev · 180 s</p>"));
        // Step 1 lies halfway to step 2, and step 3 halfway from there to step 4.
        for words in ["train, minutes of training 0.5: 3.200", "dev, minutes of training 2: 2.750"] {
            assert!(page.contains(words), "{words}");
        }
        assert!(page.contains("train, step 2: 7.000"), "{page}");
    }

    #[test]
    fn overlaid_trainings_have_a_line_each_in_every_chart() {
        let folder = folder(log());
        let read = TrainingLog::read(folder.path()).unwrap();
        let runs = [("run 1".to_owned(), Colour::Cycle(0), &read), ("run 2".to_owned(), Colour::Cycle(1), &read)];
        let drawn = overlaid(&runs);
        assert_eq!(drawn.len(), 1, "without times there is no clock");
        let text = serde_json::to_string(&drawn).unwrap();
        // Loss on train and dev, accuracy on train, block efficiency, learning rate and gradient norm.
        assert_eq!((drawn[0].1.len(), curves(&text)), (6, 12));
        assert!(text.contains("Loss on dev") && text.contains("run 2, step 2: 2.500"), "{text}");
    }

    /// The score may be the block efficiency, for example. Then the lowest score and the lowest dev loss are at
    /// different steps.
    #[test]
    fn the_ring_is_around_what_was_chosen() {
        let line = |step: usize, score: f64, loss: f64| {
            format!(r#"{{"step": {step}, "split": "dev", "score": {score}, "loss": {loss}}}"#)
        };
        let page = write([line(1, -1.9, 2.5), line(2, -1.7, 2.1)].join("\n")).unwrap();
        assert!(page.contains("Best on dev at step 1, ringed below: dev loss 2.500 nats per target."), "{page}");
    }

    #[test]
    fn charts_without_numbers_are_left_out() {
        let train = r#"{"step": 7, "split": "train", "loss": 3}"#;
        let dev = r#"{"step": 7, "split": "dev", "score": 2, "loss": 2, "perplexity": 7.389}"#;
        let page = write([train, dev].join("\n")).unwrap();
        assert_eq!([page.matches("<figure>").count(), curves(&page)], [1, 2]);
        assert!(page.contains("per target; perplexity 7.39.</p>"));
        let page = write(r#"{"step": 7, "split": "train", "gradient_norm": 3}"#).unwrap();
        assert!(page.contains("<h3>Gradient norm</h3>") && !page.contains("<h3>Loss</h3>"));
        assert!(page.contains("There is no evaluation on dev yet."));
    }

    #[test]
    fn a_head_without_targets_has_no_point() {
        let line = r#"{"step": 1, "split": "dev", "score": 2, "loss": 2, "accuracy_by_head": [0.5, null]}"#;
        let page = write(line).unwrap();
        assert_eq!(curves(&page), 2);
        assert!(page.contains("accuracy 50.0\u{a0}%, n&#x2f;a (from head 2 on)"));
    }

    #[test]
    fn damaged_lines_are_skipped_and_counted() {
        let whole = [TRAIN_LINE, &dev(2, 2.5)].join("\n") + "\n";
        for end in [&b"{\"step\": 3, \"split\": \"tr"[..], b"\0\0\0\0", b"\xff\xfe", b"{\"loss\": 2}"] {
            let page = write([whole.as_bytes(), end].concat()).unwrap();
            assert!(page.contains("2 steps · 1 evaluation on dev · 1 damaged line skipped</p>"));
        }
    }

    #[test]
    fn a_log_without_a_usable_line_is_refused() {
        let empty = "\n{\"step\": 1, \"split\": \"train\"}\nno";
        for (log, counts) in [("", "0 lines read, 0 damaged"), (empty, "1 line read, 1 damaged")] {
            let message = write(log).unwrap_err().to_string();
            assert!(message.contains("metrics.jsonl has no usable line: ") && message.contains(counts), "{message}");
            assert!(!message.contains('\n') && !message.contains("  ") && message.ends_with("anew."), "{message}");
        }
        let folder = tempfile::tempdir().unwrap();
        let message = write_training(folder.path(), "t").unwrap_err().to_string();
        assert!(message.contains("cannot read") && message.contains("Check the path."), "{message}");
    }

    #[test]
    fn thinning_keeps_first_last_and_chosen_and_the_mean_between() {
        for count in [POINTS + 1, 2 * POINTS - 2, 2 * POINTS - 1, 12345] {
            let points: Vec<_> = (0..count).map(|i| [i as f64, 2.0 * i as f64]).collect();
            let few = thinned(&points, Some(100.0));
            assert!(few.len() <= POINTS && few.len() > POINTS / 2, "{count}: {}", few.len());
            assert!(few[0] == points[0] && few.last() == points.last() && few.contains(&points[100]));
            assert!(few.is_sorted_by(|a, b| a[0] < b[0]) && few.iter().all(|p| p[1] == 2.0 * p[0]));
        }
        for count in 0..=POINTS {
            let points: Vec<_> = (0..count).map(|i| [i as f64, 1.0]).collect();
            assert_eq!(thinned(&points, None), points);
        }
    }

    #[test]
    fn a_long_run_stays_small_and_says_how() {
        let line = |i: usize| {
            let loss = 1.0 / i as f64;
            format!("{{\"step\": {i}, \"split\": \"train\", \"loss\": {loss}, \"learning_rate\": 1e-4}}\n")
        };
        let page = write((1..=50_000).map(line).collect::<String>()).unwrap();
        assert!(page.len() < 90_000, "{}", page.len());
        assert_eq!(page.matches("means of up to 126 consecutive values").count(), 2);
        for points in page.split("points=\"").skip(1).map(|p| p.split('"').next().unwrap()) {
            assert_eq!(points.split(' ').count(), 2 + 49_998usize.div_ceil(126));
        }
    }
}
