//! Horizontal bars, each with an interval. Long names fit on one line, and all lengths start at zero, so that they can
//! be compared.

use super::scale::{Scale, decimals, ticks};
use super::{Anchor, Canvas, Key, LINE, WIDTH, text_width, wrap};
use crate::tables::{Bar, BarRow, Bars, LengthAxis, format};

const TOP: f64 = 4.0;
const GAP: f64 = 12.0;
/// The room for names beside their bars. Where one is longer, all stand above their bars.
const BESIDE: f64 = 165.0;

impl Bars {
    fn bars(&self) -> impl Iterator<Item = &Bar> {
        self.rows.iter().flat_map(|row| &row.bars)
    }

    /// Formats a tick of the axis. `decimals` is the number of decimals that tell the ticks apart.
    fn tick(&self, value: f64, decimals: usize) -> String {
        match self.lengths {
            LengthAxis::Efficiency(_) => format::fixed(value, decimals),
            LengthAxis::Change(_) => format!("{} %", format::fixed(100.0 * value, decimals.saturating_sub(2))),
        }
    }

    /// Formats a value and its interval.
    fn value(&self, bar: &Bar) -> [String; 2] {
        match self.lengths {
            LengthAxis::Efficiency(_) => [format::efficiency(bar.value), format::interval(bar.interval)],
            LengthAxis::Change(_) => [format::signed_percent(bar.value), format::percent_interval(bar.interval)],
        }
    }

    fn draw(&self, canvas: &mut Canvas, label: &str, bar: &Bar, scale: &Scale, middle: f64, thickness: f64) {
        let [zero, end] = [0.0, bar.value].map(|v| scale.place(v));
        let [value, interval] = self.value(bar);
        let key = self.keys.iter().find(|(_, colour)| *colour == bar.colour);
        let label = key.map_or(label.to_owned(), |(key, _)| format!("{label}, {key}"));
        canvas.coloured(bar.colour, |c| {
            let corner = [zero.min(end), middle - thickness / 2.0];
            c.rect("bar", corner, [(end - zero).abs(), thickness], &format!("{label}: {value} {interval}"));
        });
        let mut right = end.max(zero);
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

    /// Draws the bars as SVG with the title `title`.
    pub(super) fn svg(&self, title: &str) -> String {
        let mut canvas = Canvas::new(title);
        let thickness = if self.rows.iter().all(|row| row.bars.len() == 1) { 15.0 } else { 12.0 };
        let names = self.rows.iter().map(|row| text_width(&row.label)).fold(0.0, f64::max);
        let above = |row: &BarRow| if names > BESIDE { wrap(&row.label, WIDTH) } else { Vec::new() };
        let head = |row: &BarRow| LINE * above(row).len() as f64;
        let height = |row: &BarRow| GAP + head(row) + thickness * row.bars.len() as f64;
        let ends = self.bars().flat_map(|b| [b.value, b.interval[0], b.interval[1]]);
        let ends = ends.chain(self.references.iter().map(|r| r.value)).filter(|x| x.is_finite());
        let range = ends.fold([0.0, 0.0], |[low, high]: [f64; 2], x| [low.min(x), high.max(x)]);
        let ticks = ticks(range, 5);
        let decimals = decimals(&ticks);
        let ends = [ticks[0], ticks[ticks.len() - 1]];
        let left = if names > BESIDE { text_width(&self.tick(ends[0], decimals)) / 2.0 } else { names + 10.0 };
        let values = self.bars().map(|bar| text_width(&self.value(bar)[0]) + 8.0);
        let right = WIDTH - values.fold(text_width(&self.tick(ends[1], decimals)) / 2.0, f64::max);
        let scale = Scale::linear(ends, [left, right]);
        let bottom = TOP + self.rows.iter().map(height).sum::<f64>();

        for &tick in &ticks {
            let x = scale.place(tick);
            canvas.line("grid", [x, TOP], [x, bottom + 4.0]);
            canvas.text("tick", Anchor::Middle, [x, bottom + 18.0], &self.tick(tick, decimals));
        }
        let mut top = TOP;
        for row in &self.rows {
            if names > BESIDE {
                canvas.texts("name", [0.0, top + GAP / 2.0 + 10.0], &above(row));
            } else {
                canvas.text("name", Anchor::End, [names, top + height(row) / 2.0 + 4.0], &row.label);
            }
            for (i, bar) in row.bars.iter().enumerate().filter(|(_, bar)| bar.value.is_finite()) {
                let middle = top + head(row) + GAP / 2.0 + thickness * (i as f64 + 0.5);
                self.draw(&mut canvas, &row.label, bar, &scale, middle, thickness);
            }
            top += height(row);
        }
        canvas.line("axis", [scale.place(0.0), TOP], [scale.place(0.0), bottom]);
        for reference in &self.references {
            let x = scale.place(reference.value);
            canvas.coloured(reference.colour, |c| c.line("reference", [x, TOP], [x, bottom]));
        }
        let (LengthAxis::Efficiency(words) | LengthAxis::Change(words)) = &self.lengths;
        canvas.text("tick", Anchor::End, [right, bottom + 36.0], words);
        let keys = self.keys.iter().map(|(label, colour)| Key::new(label, *colour));
        let keys: Vec<Key> = keys.chain(self.references.iter().map(Key::of)).collect();
        let end = if keys.is_empty() { bottom + 44.0 } else { canvas.legend(bottom + 58.0, &keys) };
        canvas.finish(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Colour;

    fn row(label: &str, values: &[f64]) -> BarRow {
        let bar =
            |(i, &value): (usize, &f64)| Bar { value, interval: [value - 0.1, value + 0.1], colour: Colour::Cycle(i) };
        BarRow { label: label.into(), bars: values.iter().enumerate().map(bar).collect() }
    }

    fn chart(rows: Vec<BarRow>) -> String {
        Bars::new(LengthAxis::Efficiency("x".into()), rows).svg("t")
    }

    /// Returns the left end and the width of every bar.
    fn places(svg: &str) -> Vec<[f64; 2]> {
        let number = |rect: &str, name: &str| {
            rect.split(&format!(" {name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse::<f64>().unwrap()
        };
        svg.split("<rect").skip(1).map(|rect| ["x", "width"].map(|name| number(rect, name))).collect()
    }

    #[test]
    fn lengths_are_proportional() {
        for rows in [vec![row("a", &[1.0]), row("b", &[2.0])], vec![row("a", &[1.0, 2.0])]] {
            let places = places(&chart(rows));
            assert!((places[1][1] / places[0][1] - 2.0).abs() < 1e-3, "{places:?}");
        }
    }

    #[test]
    fn a_negative_change_ends_at_zero() {
        let svg = Bars::new(LengthAxis::Change("x".into()), vec![row("a", &[-0.2, 0.4])]).svg("t");
        let [negative, positive] = places(&svg)[..] else { panic!("{svg}") };
        assert!((negative[0] + negative[1] - positive[0]).abs() < 0.02, "{svg}");
        assert!((positive[1] / negative[1] - 2.0).abs() < 1e-3, "{svg}");
        assert!(svg.contains(">\u{2212}20.0 %</text>") && svg.contains(">+40.0 %</text>"), "{svg}");
    }

    #[test]
    fn names_are_escaped_and_whole() {
        let svg = chart(vec![row(&"<b>".repeat(30), &[1.0])]);
        assert!(!svg.contains("<b>") && !svg.contains('…'));
        assert_eq!(svg.matches("b&gt;").count(), 2 * 30, "in lines, and under the pointer");
    }

    #[test]
    fn a_value_that_is_not_finite_is_left_out() {
        let svg = chart(vec![row("a", &[1.0]), row("b", &[f64::NAN])]);
        assert!(!svg.contains("NaN") && svg.matches("<rect").count() == 1);
    }
}
