//! Line charts. The horizontal axis shows positions, values or powers of two.

use super::scale::{Scale, decimals, ticks};
use super::{Anchor, Canvas, HIDDEN, Key, WIDTH, text_width};
use crate::tables::{Lines, Series, XAxis, YAxis, format};

const TOP: f64 = 26.0;
const BOTTOM: f64 = 226.0;
/// The largest number of markers on a line, apart from a ringed one. More would hide the line.
const MARKERS: usize = 40;

impl Lines {
    /// Draws the lines as SVG with the title `title`.
    pub(super) fn svg(&self, title: &str) -> String {
        let mut canvas = Canvas::new(title);
        let (x_ticks, y_ticks) = (self.x_ticks(), self.y_ticks());
        let (x_labels, y_labels) = (x_labels(&x_ticks), self.y_labels(&y_ticks));
        let left = y_labels.iter().map(|l| text_width(l)).fold(0.0, f64::max) + 8.0;
        let right = WIDTH - x_labels.iter().map(|l| text_width(l) / 2.0 - 4.0).fold(18.0, f64::max);
        let y = Scale::linear(ends(&y_ticks), [BOTTOM, TOP]);
        let x = if matches!(self.x, XAxis::Log2(_)) { Scale::log2 } else { Scale::linear };
        let x = x(ends(&x_ticks), [left + 10.0, right - 4.0]);
        canvas.text("tick", Anchor::Start, [0.0, 12.0], self.y_label());
        for (&tick, label) in y_ticks.iter().zip(&y_labels) {
            let place = y.place(tick);
            canvas.line("grid", [left, place], [right, place]);
            canvas.text("tick", Anchor::End, [left - 6.0, place + 4.0], label);
        }
        canvas.line("axis", [left, BOTTOM], [right, BOTTOM]);
        for (&tick, label) in x_ticks.iter().zip(&x_labels).step_by(x_ticks.len().div_ceil(16)) {
            let place = x.place(tick);
            canvas.line("axis", [place, BOTTOM], [place, BOTTOM + 4.0]);
            canvas.text("tick", Anchor::Middle, [place, BOTTOM + 18.0], label);
        }
        canvas.text("tick", Anchor::End, [right, BOTTOM + 36.0], self.x_label());
        for r in &self.references {
            canvas.coloured(r.colour, |c| c.line("reference", [left, y.place(r.value)], [right, y.place(r.value)]));
        }
        for (number, series) in self.series.iter().enumerate() {
            let attributes = format!("data-series=\"{number}\"{}", if series.hidden { HIDDEN } else { "" });
            canvas.group(&attributes, |canvas| {
                canvas.coloured(series.colour, |c| self.draw(c, series, &x, &y, decimals(&y_ticks)));
            });
        }
        let end = canvas.legend(BOTTOM + 60.0, &self.keys());
        canvas.finish(end)
    }

    fn x_label(&self) -> &str {
        let (XAxis::Positions(words) | XAxis::Log2(words) | XAxis::Linear(words)) = &self.x;
        words
    }

    fn y_label(&self) -> &str {
        let (YAxis::Linear(words) | YAxis::FromZero(words) | YAxis::Shares(words)) = &self.y;
        words
    }

    fn draw(&self, canvas: &mut Canvas, series: &Series, x: &Scale, y: &Scale, decimals: usize) {
        let points: Vec<_> = series.points.iter().filter(|p| finite(p)).collect();
        let place = |p: &[f64; 2]| [x.place(p[0]), y.place(p[1])];
        if !series.intervals.is_empty() {
            let ends = series.points.iter().zip(&series.intervals).filter(|(p, ends)| finite(p) && finite(ends));
            canvas.band(&ends.map(|([at, _], ends)| ends.map(|end| place(&[*at, end]))).collect::<Vec<_>>());
        }
        canvas.polyline(&points.iter().map(|p| place(p)).collect::<Vec<_>>());
        let every = points.len().div_ceil(MARKERS);
        for (i, point) in points.iter().enumerate() {
            let chosen = series.chosen == Some(point[0]);
            // Counted from the end, so that the last value always has a marker to point at.
            if !chosen && !(points.len() - 1 - i).is_multiple_of(every) {
                continue;
            }
            let value = match self.y {
                YAxis::Shares(_) => format::percent(point[1]),
                YAxis::Linear(_) | YAxis::FromZero(_) => format::fixed(point[1], (decimals + 1).max(3)),
            };
            let tooltip = format!("{}, {} {}: {value}", series.label, self.x_label(), super::number(point[0]));
            if chosen {
                canvas.ring(place(point));
            }
            canvas.marker(series.colour, place(point), &tooltip);
        }
    }

    fn keys(&self) -> Vec<Key> {
        let key = |(number, line): (usize, &Series)| Key {
            series: Some(number),
            hidden: line.hidden,
            ..Key::new(&line.label, line.colour)
        };
        self.series.iter().enumerate().map(key).chain(self.references.iter().map(Key::of)).collect()
    }

    fn x_ticks(&self) -> Vec<f64> {
        let range = range(self.points().map(|p| p[0]));
        match self.x {
            XAxis::Positions(_) => (range[0] as u64..=range[1] as u64).map(|j| j as f64).collect(),
            XAxis::Log2(_) => powers_of_two(range),
            XAxis::Linear(_) => ticks(range, 6),
        }
    }

    fn y_ticks(&self) -> Vec<f64> {
        let values = self.points().map(|p| p[1]).chain(self.references.iter().map(|r| r.value));
        let intervals = self.series.iter().flat_map(|s| s.intervals.iter().flatten().copied());
        let zero = (!matches!(self.y, YAxis::Linear(_))).then_some(0.0);
        ticks(range(values.chain(intervals).chain(zero)), 5)
    }

    fn y_labels(&self, ticks: &[f64]) -> Vec<String> {
        let decimals = decimals(ticks);
        let label = |&tick: &f64| match self.y {
            YAxis::Shares(_) => format!("{} %", format::fixed(100.0 * tick, decimals.saturating_sub(2))),
            YAxis::Linear(_) | YAxis::FromZero(_) => format::fixed(tick, decimals),
        };
        ticks.iter().map(label).collect()
    }

    fn points(&self) -> impl Iterator<Item = &[f64; 2]> {
        self.series.iter().flat_map(|s| &s.points).filter(|p| finite(p))
    }
}

fn x_labels(ticks: &[f64]) -> Vec<String> {
    let decimals = decimals(ticks);
    ticks.iter().map(|&tick| format::fixed(tick, decimals)).collect()
}

fn finite(point: &[f64; 2]) -> bool {
    point.iter().all(|x| x.is_finite())
}

/// Returns the smallest and the largest value, or `[0, 1]` if there are none.
fn range(values: impl Iterator<Item = f64>) -> [f64; 2] {
    values.filter(|x| x.is_finite()).map(|x| [x, x]).reduce(|[a, b], [x, _]| [a.min(x), b.max(x)]).unwrap_or([0.0, 1.0])
}

fn ends(ticks: &[f64]) -> [f64; 2] {
    range(ticks.iter().copied())
}

fn powers_of_two([low, high]: [f64; 2]) -> Vec<f64> {
    let [low, high] = [low.max(1.0).log2().floor(), high.max(1.0).log2().ceil()];
    (low as i32..=high as i32).map(|e| f64::from(e).exp2()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Colour;

    fn chart(x: XAxis, points: Vec<[f64; 2]>) -> String {
        let chosen = points.first().map(|p| p[0]);
        let series = Series::new("a<b", Colour::Cycle(2), points).ringed(chosen);
        Lines::new(x, YAxis::Linear("x".into()), vec![series]).svg("t")
    }

    #[test]
    fn a_band_goes_around_the_intervals_and_fits() {
        let series = Series::new("a", Colour::Accent, [[1.0, 1.5], [2.0, 1.6]]).within(vec![[0.5, 1.9], [1.5, 3.0]]);
        let svg = Lines::new(XAxis::Linear("x".into()), YAxis::Linear("y".into()), vec![series]).svg("t");
        let band = svg.split("<polygon ").nth(1).unwrap().split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let heights: Vec<f64> = band.split(' ').map(|p| p.split(',').nth(1).unwrap().parse().unwrap()).collect();
        // The outline follows the low ends and returns along the high ones. Higher values are further up.
        assert!(heights.len() == 4 && heights[0] > heights[1] && heights[1] > heights[3] && heights[3] > heights[2]);
        assert!(heights.iter().all(|y| (TOP..=BOTTOM).contains(y)), "{heights:?}");
    }

    #[test]
    fn draws_every_finite_point() {
        let svg = chart(XAxis::Linear("x".into()), vec![[0.0, 1.0], [0.5, f64::NAN], [1.0, 2.0]]);
        assert!(!svg.contains("NaN") && !svg.contains("a<b"));
        assert_eq!(svg.matches("class=\"marker\"").count(), 2 + 1, "two points and the legend's");
        assert_eq!(svg.matches("class=\"ring\"").count(), 1);
    }

    #[test]
    fn a_long_line_keeps_every_point_but_not_every_marker() {
        let svg = chart(XAxis::Linear("x".into()), (0..1000).map(|i| [f64::from(i), 2.0]).collect());
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(points.split(' ').count(), 1000);
        assert_eq!(svg.matches("class=\"marker\"").count(), MARKERS + 2, "with the ringed one and the legend's");
        assert!(svg.contains("x 0: 2.000") && svg.contains("x 999: 2.000"));
    }

    #[test]
    fn small_values_keep_their_digits() {
        assert!(chart(XAxis::Linear("x".into()), vec![[1.0, 1e-4], [2.0, 3e-4]]).contains("x 2: 0.000300<"));
    }

    #[test]
    fn one_point_and_none_still_draw() {
        for points in [vec![], vec![[1.0, 1.0]]] {
            for x in [XAxis::Positions("x".into()), XAxis::Log2("x".into()), XAxis::Linear("x".into())] {
                let svg = chart(x, points.clone());
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn powers_cover_their_range() {
        assert_eq!(powers_of_two([1.0, 64.0]), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]);
        assert_eq!(powers_of_two([3.0, 5.0]), [2.0, 4.0, 8.0]);
    }
}
