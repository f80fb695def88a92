//! Horizontal bars with an interval each: long names keep to one line, and lengths start at zero, so they compare.

use super::scale::{Scale, decimals, ticks};
use super::{Anchor, Canvas, Colour, Key, Reference, WIDTH, fit, text_width};
use crate::report::format;

/// One bar from zero to its value.
pub struct Bar {
    pub label: String,
    pub value: f64,
    /// Drawn across the end of the bar, low end first.
    pub interval: [f64; 2],
    pub colour: Colour,
}

/// Bars from top to bottom over one axis.
pub struct BarChart {
    pub title: String,
    pub axis: String,
    pub bars: Vec<Bar>,
    pub references: Vec<Reference>,
}

const TOP: f64 = 4.0;
const PITCH: f64 = 27.0;
const THICKNESS: f64 = 15.0;

impl BarChart {
    /// The drawing.
    pub fn svg(&self) -> String {
        let mut canvas = Canvas::new(&self.title);
        let names = self.bars.iter().map(|b| text_width(&b.label)).fold(0.0, f64::max).min(165.0);
        let ends =
            self.bars.iter().flat_map(|b| [b.value, b.interval[1]]).chain(self.references.iter().map(|r| r.value));
        let ticks = ticks([0.0, ends.filter(|x| x.is_finite()).fold(0.0, f64::max)], 5);
        let values = ticks.last().copied().unwrap_or(1.0);
        let scale = Scale::linear([0.0, values], [names + 10.0, WIDTH - 48.0]);
        let bottom = TOP + PITCH * self.bars.len() as f64;

        let decimals = decimals(&ticks);
        for &tick in &ticks {
            let x = scale.place(tick);
            canvas.line("grid", [x, TOP], [x, bottom + 4.0]);
            canvas.text("tick", Anchor::Middle, [x, bottom + 18.0], &format::fixed(tick, decimals));
        }
        for (i, bar) in self.bars.iter().enumerate().filter(|(_, b)| b.value.is_finite()) {
            draw(&mut canvas, bar, &scale, names, TOP + PITCH * (i as f64 + 0.5));
        }
        canvas.line("axis", [scale.place(0.0), TOP], [scale.place(0.0), bottom]);
        for reference in &self.references {
            let x = scale.place(reference.value);
            canvas.coloured(reference.colour, |c| c.line("reference", [x, TOP], [x, bottom]));
        }
        canvas.text("tick", Anchor::End, [WIDTH - 48.0 + 12.0, bottom + 36.0], &self.axis);
        let keys: Vec<_> =
            self.references.iter().map(|r| Key { label: r.label.clone(), colour: r.colour, dashed: true }).collect();
        let end = if keys.is_empty() { bottom + 44.0 } else { canvas.legend(bottom + 58.0, &keys) };
        canvas.finish(end)
    }
}

fn draw(canvas: &mut Canvas, bar: &Bar, scale: &Scale, names: f64, middle: f64) {
    let [zero, end] = [0.0, bar.value].map(|v| scale.place(v));
    let value = format::efficiency(bar.value);
    let tooltip = format!("{}: {value} {}", bar.label, format::interval(bar.interval));
    canvas.text("name", Anchor::End, [names, middle + 4.0], &fit(&bar.label, names));
    canvas.coloured(bar.colour, |c| {
        c.rect("bar", [zero, middle - THICKNESS / 2.0], [(end - zero).max(0.0), THICKNESS], &tooltip);
    });
    let mut right = end;
    if bar.interval.iter().all(|x| x.is_finite()) {
        let [low, high] = bar.interval.map(|v| scale.place(v));
        canvas.line("interval", [low, middle], [high, middle]);
        for x in [low, high] {
            canvas.line("interval", [x, middle - 4.0], [x, middle + 4.0]);
        }
        right = right.max(high);
    }
    canvas.text("tick", Anchor::Start, [right + 6.0, middle + 4.0], &value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: f64) -> Bar {
        Bar { label: label.into(), value, interval: [value - 0.1, value + 0.1], colour: Colour::Cycle(0) }
    }

    fn chart(bars: Vec<Bar>) -> String {
        BarChart { title: "t".into(), axis: "x".into(), bars, references: Vec::new() }.svg()
    }

    #[test]
    fn lengths_are_proportional() {
        let svg = chart(vec![bar("a", 1.0), bar("b", 2.0)]);
        let widths: Vec<f64> = svg
            .split("<rect")
            .skip(1)
            .map(|r| r.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert!((widths[1] / widths[0] - 2.0).abs() < 1e-3, "{widths:?}");
    }

    #[test]
    fn names_are_escaped_and_shortened() {
        let svg = chart(vec![bar(&"<b>".repeat(30), 1.0)]);
        assert!(!svg.contains("<b>") && svg.contains("…</text>"));
    }

    #[test]
    fn a_value_that_is_not_finite_is_left_out() {
        let svg = chart(vec![bar("a", 1.0), bar("b", f64::NAN)]);
        assert!(!svg.contains("NaN") && svg.matches("<rect").count() == 1);
    }
}
