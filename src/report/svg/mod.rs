//! Small charts as inline SVG. They are drawn here so that a report needs neither a network nor scripts.
//!
//! A drawing is [`WIDTH`] units wide with a font size of about 12 units, so that it stays readable when a phone shrinks
//! it. Colours are CSS variables that the page sets for light and dark mode; [`STYLE`] contains the rules that the page
//! must include. The width of text is estimated from above, for any common font, and long text is shortened, so that it
//! never overflows.

mod bars;
mod lines;
mod scale;

use crate::tables::{Colour, Drawing, Reference};

/// The CSS rules for the classes and variables of the drawings, to be included in the page's `<style>`.
pub const STYLE: &str = include_str!("style.css");

/// The width of the viewBox of every drawing.
pub const WIDTH: f64 = 440.0;

/// Returns the drawing as SVG with the title `title`, or none if it is a text.
pub fn draw(drawing: &Drawing, title: &str) -> Option<String> {
    match drawing {
        Drawing::Lines(lines) => Some(lines.svg(title)),
        Drawing::Bars(bars) => Some(bars.svg(title)),
        Drawing::Passage(_) => None,
    }
}

impl Colour {
    const CYCLE: usize = 8;

    fn variable(self) -> String {
        match self {
            Self::Baseline => "--baseline".into(),
            Self::Ink => "--ink".into(),
            Self::Accent => "--accent".into(),
            Self::Cycle(i) => format!("--series-{}", i % Self::CYCLE + 1),
        }
    }

    /// Returns which of the four marker shapes goes with the colour.
    fn shape(self) -> usize {
        match self {
            Self::Baseline | Self::Accent => 0,
            Self::Ink => 2,
            Self::Cycle(i) => (i + i / Self::CYCLE + 1) % 4,
        }
    }
}

/// A drawing in progress. Coordinates are in viewBox units from the top left corner.
struct Canvas {
    title: String,
    body: String,
}

/// The position of a text relative to its point.
#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    fn new(title: &str) -> Self {
        Self { title: title.to_owned(), body: String::new() }
    }

    fn finish(self, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\"><title>{}</title>{}</svg>",
            number(WIDTH),
            number(height),
            escape(&self.title),
            self.body
        )
    }

    fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(number);
        self.body += &format!("<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>");
    }

    /// Draws a rectangle that shows `tooltip` under the pointer.
    fn rect(&mut self, class: &str, [x, y]: [f64; 2], [width, height]: [f64; 2], tooltip: &str) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        self.body += &format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"><title>{}</title></rect>",
            escape(tooltip)
        );
    }

    /// Fills the area between the lower and the upper ends in a pale colour. The ends are ordered by their horizontal
    /// place.
    fn band(&mut self, ends: &[[[f64; 2]; 2]]) {
        let around = ends.iter().map(|[low, _]| low).chain(ends.iter().rev().map(|[_, high]| high));
        let points: Vec<_> = around.map(|[x, y]| format!("{},{}", number(*x), number(*y))).collect();
        self.body += &format!("<polygon class=\"band\" points=\"{}\"/>", points.join(" "));
    }

    fn polyline(&mut self, points: &[[f64; 2]]) {
        let points: Vec<_> = points.iter().map(|[x, y]| format!("{},{}", number(*x), number(*y))).collect();
        self.body += &format!("<polyline class=\"curve\" points=\"{}\"/>", points.join(" "));
    }

    /// Draws one of four shapes around a point, so that lines never differ in colour alone.
    fn marker(&mut self, colour: Colour, [x, y]: [f64; 2], tooltip: &str) {
        let path = match colour.shape() {
            0 => "m-3.2,0a3.2,3.2 0 1,0 6.4,0a3.2,3.2 0 1,0 -6.4,0z",
            1 => "m-3,-3h6v6h-6z",
            2 => "m0,-4l4,4l-4,4l-4,-4z",
            _ => "m0,-4l3.8,6.6h-7.6z",
        };
        let tooltip = if tooltip.is_empty() { String::new() } else { format!("<title>{}</title>", escape(tooltip)) };
        self.body += &format!("<path class=\"marker\" d=\"M{},{}{path}\">{tooltip}</path>", number(x), number(y));
    }

    fn ring(&mut self, [x, y]: [f64; 2]) {
        self.body += &format!("<circle class=\"ring\" cx=\"{}\" cy=\"{}\" r=\"7\"/>", number(x), number(y));
    }

    /// Writes text on the baseline `y`. The class `name` uses a fixed-width font, and `tick` does not.
    fn text(&mut self, class: &str, anchor: Anchor, [x, y]: [f64; 2], text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.body += &format!(
            "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{}\" y=\"{}\">{}</text>",
            number(x),
            number(y),
            escape(text)
        );
    }

    /// Draws what `draw` draws in the given colour.
    fn coloured(&mut self, colour: Colour, draw: impl FnOnce(&mut Self)) {
        self.body += &format!("<g style=\"--c:var({})\">", colour.variable());
        draw(self);
        self.body += "</g>";
    }

    /// Draws the entries of a legend from left to right, with the first line at `y`. An entry that does not fit starts
    /// a new line. Returns the bottom of the legend.
    fn legend(&mut self, y: f64, entries: &[Key]) -> f64 {
        const SWATCH: f64 = 26.0;
        const LINE: f64 = 19.0;
        let [mut x, mut y] = [0.0, y];
        for entry in entries {
            let label = fit(&entry.label, WIDTH - SWATCH);
            let width = SWATCH + text_width(&label);
            if x > 0.0 && x + width > WIDTH {
                [x, y] = [0.0, y + LINE];
            }
            let (middle, class) = (y - 4.0, if entry.dashed { "reference" } else { "curve" });
            self.coloured(entry.colour, |c| {
                c.line(class, [x, middle], [x + 20.0, middle]);
                if !entry.dashed {
                    c.marker(entry.colour, [x + 10.0, middle], "");
                }
            });
            self.text("name", Anchor::Start, [x + SWATCH, y], &label);
            x += width + 16.0;
        }
        y + 8.0
    }
}

/// An entry of a legend: a line with a marker, or a dashed line without one for a reference.
struct Key {
    label: String,
    colour: Colour,
    dashed: bool,
}

impl Key {
    fn of(reference: &Reference) -> Self {
        Self { label: reference.label.clone(), colour: reference.colour, dashed: true }
    }
}

/// Formats a number with at most two decimals and without trailing zeros, so that all machines write the same bytes.
fn number(x: f64) -> String {
    let text = format!("{x:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Returns the largest width that `text` can have at a font size of 12 units. Characters of wide scripts take a full
/// em.
fn text_width(text: &str) -> f64 {
    text.chars().map(|c| if c < '\u{2e80}' { 7.4 } else { 12.5 }).sum()
}

/// Shortens `text` with an ellipsis if it is wider than `room`.
fn fit(text: &str, room: f64) -> String {
    if text_width(text) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        if text_width(&kept) + text_width(&format!("{c}…")) > room {
            break;
        }
        kept.push(c);
    }
    kept + "…"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_plain() {
        assert_eq!([0.0, -0.001, 3.0, 2.5, 1.0 / 3.0, 1e6].map(number), ["0", "0", "3", "2.5", "0.33", "1000000"]);
    }

    #[test]
    fn text_fits_its_room() {
        assert_eq!(fit("bpd", 100.0), "bpd");
        for name in ["a-very-long-variant-name-that-goes-on", "語".repeat(40).as_str()] {
            let short = fit(name, 150.0);
            assert!(short.ends_with('…') && text_width(&short) <= 150.0);
        }
    }

    #[test]
    fn the_legend_wraps_inside_the_drawing() {
        let mut canvas = Canvas::new("t");
        let key = |i| Key { label: "x".repeat(7 * i), colour: Colour::Cycle(i), dashed: false };
        let bottom = canvas.legend(20.0, &(1..12).map(key).collect::<Vec<_>>());
        assert!(bottom > 100.0);
        for text in canvas.body.split("<text ").skip(1) {
            let x: f64 = text.split("x=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
            let label = text.split('>').nth(1).unwrap().split('<').next().unwrap();
            assert!(x + text_width(label) <= WIDTH);
        }
    }

    #[test]
    fn colours_come_round_with_another_marker() {
        for i in 0..Colour::CYCLE {
            let [first, again] = [i, i + Colour::CYCLE].map(Colour::Cycle);
            assert_eq!(first.variable(), again.variable());
            assert_ne!(first.shape(), again.shape());
        }
    }
}
