//! Renders the `report.html` of a training, with charts of what its `metrics.jsonl` says about each step.

use std::fs;
use std::iter::once;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::page::{self, Plot, prose};
use super::tensorboard::write_events;
use crate::error::{Error, Result, bail};
use crate::files::write_atomic;
use crate::tables::{Colour, Figure, Lines, Series, XAxis, YAxis, format};

/// The largest number of points on a curve: almost one per unit of a drawing's width.
const POINTS: usize = 400;

const TRAIN: Colour = Colour::Cycle(0);
const DEV: Colour = Colour::Cycle(1);

/// Renders `folder/metrics.jsonl` as `folder/report.html`, and as an event file of TensorBoard.
///
/// Lines that cannot be read are skipped, and the page says how many. A killed process may leave one at the end.
pub fn write_training(folder: &Path, title: &str) -> Result<()> {
    let path = folder.join("metrics.jsonl");
    let log = Log::parse(&fs::read(&path).map_err(|e| Error::io("read", &path, e))?);
    let figures = figures(&log.lines);
    if figures.is_empty() {
        bail!(
            "{} has no usable line: {} read, {} damaged, and no line has a step with a loss or another number to draw. \
             Start the training again; it writes the file anew.",
            path.display(),
            format::counted(log.lines.len() as u64, "line", "lines"),
            log.damaged
        );
    }
    let page = Page {
        title,
        byline: byline(&log),
        claims: vec![prose(claim(&log.lines))],
        figures: figures.iter().filter_map(|figure| Plot::new(figure, "by step")).collect(),
    };
    write_atomic(&folder.join("report.html"), page::render(include_str!("training.html"), page)?.as_bytes())?;
    write_events(folder)
}

#[derive(Serialize)]
struct Page<'a> {
    title: &'a str,
    byline: String,
    claims: Vec<String>,
    figures: Vec<Plot>,
}

/// The numbers that a line of train or dev can have.
#[derive(Deserialize)]
struct Line {
    step: u64,
    /// The score by which the best checkpoint is chosen; the lowest is the best.
    score: Option<f64>,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    gradient_norm: Option<f64>,
    dev_loss: Option<f64>,
    dev_perplexity: Option<f64>,
    /// The accuracy of each head from head 2 on, or none if a head has no target on dev.
    #[serde(default)]
    dev_accuracy_by_head: Vec<Option<f64>>,
    dev_block_efficiency: Option<f64>,
}

struct Log {
    lines: Vec<Line>,
    /// The number of lines that could not be read.
    damaged: usize,
}

impl Log {
    /// Parses a log. It takes bytes instead of text, because a crash can leave anything in the last line.
    fn parse(bytes: &[u8]) -> Self {
        let mut log = Self { lines: Vec::new(), damaged: 0 };
        for line in bytes.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            match serde_json::from_slice(line) {
                Ok(line) => log.lines.push(line),
                Err(_) => log.damaged += 1,
            }
        }
        log
    }
}

/// Returns the evaluation whose checkpoint is chosen: the one with the lowest score, and the earliest of these.
fn best(lines: &[Line]) -> Option<&Line> {
    let evaluated = lines.iter().filter_map(|line| Some((line, line.score?)));
    evaluated.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(line, _)| line)
}

fn byline(log: &Log) -> String {
    let steps = log.lines.iter().map(|l| l.step).max().unwrap_or(0);
    let evaluated = log.lines.iter().filter(|l| l.dev_loss.is_some()).count() as u64;
    let mut parts = vec![
        format::counted(steps, "step", "steps"),
        format::counted(evaluated, "evaluation on dev", "evaluations on dev"),
    ];
    if log.damaged > 0 {
        parts.push(format::counted(log.damaged as u64, "damaged line skipped", "damaged lines skipped"));
    }
    parts.join(" · ")
}

/// Describes the best step and its numbers in one sentence.
fn claim(lines: &[Line]) -> String {
    let Some(line) = best(lines) else { return "There is no evaluation on dev yet.".to_owned() };
    let mut parts = Vec::new();
    if let Some(loss) = line.dev_loss {
        parts.push(format!("dev loss {} nats per target", format::fixed(loss, 3)));
    }
    if let Some(perplexity) = line.dev_perplexity {
        parts.push(format!("perplexity {}", format::fixed(perplexity, 2)));
    }
    if let Some(efficiency) = line.dev_block_efficiency {
        parts.push(format!("block efficiency {}", format::efficiency(efficiency)));
    }
    if !line.dev_accuracy_by_head.is_empty() {
        let shares = line.dev_accuracy_by_head.iter().map(|share| format::percent(share.unwrap_or(f64::NAN)));
        parts.push(format!("accuracy {} (from head 2 on)", shares.collect::<Vec<_>>().join(", ")));
    }
    format!("Best at step {}, ringed below: {}.", format::count(line.step), parts.join("; "))
}

/// Makes the charts in reading order, except those without any number.
fn figures(lines: &[Line]) -> Vec<Figure> {
    let chosen = best(lines).map(|line| line.step as f64);
    let train = |value: fn(&Line) -> Option<f64>| curve(lines, "train", TRAIN, None, value);
    let dev = |value: fn(&Line) -> Option<f64>| curve(lines, "dev", DEV, chosen, value);
    let heads = lines.iter().map(|l| l.dev_accuracy_by_head.len()).max().unwrap_or(0);
    let head = |i: usize| {
        let accuracy = move |line: &Line| *line.dev_accuracy_by_head.get(i)?;
        curve(lines, &format!("head {}", i + 2), Colour::Cycle(i), chosen, accuracy)
    };
    let charts = [
        Chart {
            id: "loss",
            title: "Loss",
            definition: "Cross-entropy in nats per target; for heads, the mean over the heads weighted by loss_weights.",
            y: YAxis::Linear("nats per target".into()),
            curves: vec![train(|l| l.loss), dev(|l| l.dev_loss)],
        },
        Chart {
            id: "accuracy",
            title: "Accuracy by head on dev",
            definition: "The share of a head's dev targets that are its first choice.",
            y: YAxis::Shares("share of targets".into()),
            curves: (0..heads).map(head).collect(),
        },
        Chart {
            id: "block-efficiency",
            title: "Block efficiency on dev",
            definition: "Decoded tokens divided by backbone calls, both summed over the dev documents, when plain \
                         blockwise decoding (every head's first choice) is replayed on them.",
            y: YAxis::Linear("tokens per backbone call".into()),
            curves: vec![dev(|l| l.dev_block_efficiency)],
        },
        Chart {
            id: "learning-rate",
            title: "Learning rate",
            definition: "The factor, without unit, that the optimizer's normalised update is multiplied by.",
            y: YAxis::FromZero("learning rate".into()),
            curves: vec![train(|l| l.learning_rate)],
        },
        Chart {
            id: "gradient-norm",
            title: "Gradient norm",
            definition: "The Euclidean norm of the loss's gradient over all parameters, before clipping, in nats per \
                         target per unit of parameter.",
            y: YAxis::FromZero("norm before clipping".into()),
            curves: vec![train(|l| l.gradient_norm)],
        },
    ];
    charts.into_iter().filter_map(Chart::figure).collect()
}

/// Makes the curve of the numbers that `value` finds in the lines, by step. It is not thinned yet.
fn curve(
    lines: &[Line],
    label: &str,
    colour: Colour,
    chosen: Option<f64>,
    value: impl Fn(&Line) -> Option<f64>,
) -> Series {
    let points = lines.iter().filter_map(|line| Some([line.step as f64, value(line)?]));
    Series::new(label, colour, points).ringed(chosen)
}

struct Chart {
    id: &'static str,
    title: &'static str,
    /// The definition of the chart's numbers, in one sentence.
    definition: &'static str,
    y: YAxis,
    curves: Vec<Series>,
}

impl Chart {
    fn figure(mut self) -> Option<Figure> {
        self.curves.retain(|curve| !curve.points.is_empty());
        let window = self.curves.iter().map(|curve| window(curve.points.len())).max()?;
        let thinned = |curve: Series| Series { points: thinned(&curve.points, curve.chosen), ..curve };
        let series = self.curves.into_iter().map(thinned).collect();
        let lines = Lines::new(XAxis::Linear("step".into()), self.y, series);
        let mut caption = self.definition.to_owned();
        if window > 1 {
            caption += &format!(
                " Thinned to at most {POINTS} points a curve: all but the first, the last and a ringed one are means of \
                 up to {window} consecutive values."
            );
        }
        Some(Figure::new(self.id, self.title, caption, lines))
    }
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

    const TRAIN_LINE: &str = r#"{"step": 1, "split": "train", "loss": 3.2, "learning_rate": 1e-3, "gradient_norm": 0.5, "accuracy": 0.4, "accuracy_by_head": {"head 3": 0.2}}"#;

    fn dev(step: usize, loss: f64) -> String {
        format!(
            r#"{{"step": {step}, "split": "dev", "score": {loss}, "dev_loss": {loss}, "dev_accuracy_head_2": 0.4, "dev_accuracy_by_head": [0.4, 0.25], "dev_block_efficiency": 1.7}}"#
        )
    }

    fn write(log: impl AsRef<[u8]>) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), log).unwrap();
        write_training(folder.path(), "heads <of> tiny")?;
        Ok(fs::read_to_string(folder.path().join("report.html")).unwrap())
    }

    fn curves(page: &str) -> usize {
        page.matches("<polyline").count()
    }

    #[test]
    fn heads_have_five_charts_and_a_curve_for_each_head() {
        let page = write([TRAIN_LINE, &dev(1, 3.1), &dev(2, 2.5), &dev(3, 2.75), &dev(4, 2.5)].join("\n")).unwrap();
        assert_eq!([page.matches("<figure>").count(), curves(&page)], [5, 2 + 2 + 1 + 1 + 1]);
        assert!(page.contains("<h1>heads &lt;of&gt; tiny</h1>"));
        assert!(page.contains("4 steps · 4 evaluations on dev</p>"));
        let best = "Best at step 2, ringed below: dev loss 2.500 nats per target; block efficiency 1.700; \
                    accuracy 40.0\u{a0}%, 25.0\u{a0}% (from head 2 on).";
        assert!(page.contains(best), "{page}");
        assert_eq!(page.matches("class=\"ring\"").count(), 1 + 2 + 1);
        assert!(page.contains("head 3, step 2: 25.0 %") && page.contains("train, step 1: 0.0010"));
        assert!(!page.contains("Thinned") && !page.contains("<script") && !page.contains("damaged"));
    }

    /// The score may be the block efficiency, for example. Then the lowest score and the lowest dev loss are at
    /// different steps.
    #[test]
    fn the_ring_is_around_what_was_chosen() {
        let line = |step: usize, score: f64, loss: f64| {
            format!(r#"{{"step": {step}, "split": "dev", "score": {score}, "dev_loss": {loss}}}"#)
        };
        let page = write([line(1, -1.9, 2.5), line(2, -1.7, 2.1)].join("\n")).unwrap();
        assert!(page.contains("Best at step 1, ringed below: dev loss 2.500 nats per target."), "{page}");
    }

    #[test]
    fn charts_without_numbers_are_left_out() {
        let page = write(
            "{\"step\": 7, \"loss\": 3}\n{\"step\": 7, \"score\": 2, \"dev_loss\": 2, \"dev_perplexity\": 7.389}",
        )
        .unwrap();
        assert_eq!([page.matches("<figure>").count(), curves(&page)], [1, 2]);
        assert!(page.contains("per target; perplexity 7.39.</p>"));
        let page = write("{\"step\": 7, \"gradient_norm\": 3}").unwrap();
        assert!(page.contains("<h3>Gradient norm</h3>") && !page.contains("<h3>Loss</h3>"));
        assert!(page.contains("There is no evaluation on dev yet."));
    }

    #[test]
    fn a_head_without_targets_has_no_point() {
        let page = write(r#"{"step": 1, "score": 2, "dev_loss": 2, "dev_accuracy_by_head": [0.5, null]}"#).unwrap();
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
        for (log, counts) in [("", "0 lines read, 0 damaged"), ("\n{\"step\": 1}\nno", "1 line read, 1 damaged")] {
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
        let line = |i: usize| format!("{{\"step\": {i}, \"loss\": {}, \"learning_rate\": 1e-4}}\n", 1.0 / i as f64);
        let page = write((1..=50_000).map(line).collect::<String>()).unwrap();
        assert!(page.len() < 60_000, "{}", page.len());
        assert_eq!(page.matches("means of up to 126 consecutive values").count(), 2);
        for points in page.split("points=\"").skip(1).map(|p| p.split('"').next().unwrap()) {
            assert_eq!(points.split(' ').count(), 2 + 49_998usize.div_ceil(126));
        }
    }
}
