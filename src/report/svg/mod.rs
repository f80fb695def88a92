//! Small charts as inline SVG. They are drawn here so that a report needs neither a network nor other files.
//!
//! A drawing is [`WIDTH`] units wide with a font size of 12 units, so that it stays readable when a phone shrinks it. Its
//! colours and strokes are attributes, for light paper, so that it looks the same wherever it is copied to. On the page,
//! the rules of [`palette`] override the colours, for light and for dark mode. The width of text is estimated from above,
//! for any common font, and long text is broken into lines, so that it is never cut off.

mod bars;
mod lines;
mod scale;

use crate::tables::{Colour, Drawing, Reference};

/// The width of the viewBox of every drawing.
pub const WIDTH: f64 = 440.0;

/// The colours of page and drawings: their names, on light paper and on dark.
const PALETTE: [(&str, &str, &str); 15] = [
    ("paper", "#fdfdfb", "#16181b"),
    ("ink", "#1c1e21", "#e8e8e4"),
    ("soft", "#5c626b", "#a3a9b2"),
    ("rule", "#e1e2de", "#2f3338"),
    ("bad", "#b3261e", "#ff8a80"),
    ("baseline", "#7d838c", "#8f959e"),
    ("accent", "#b4236a", "#f58ac0"),
    ("series-1", "#0b62a4", "#6cb2f0"),
    ("series-2", "#c8501e", "#f08a5d"),
    ("series-3", "#00805e", "#4cc9a0"),
    ("series-4", "#8d4fa0", "#cf9be0"),
    ("series-5", "#a87400", "#e3b549"),
    ("series-6", "#1f8fb5", "#7fd6ee"),
    ("series-7", "#a8324a", "#f0869a"),
    ("series-8", "#66761f", "#b6c965"),
];

/// Returns the CSS of the colours: variables for light and dark mode, and for each colour a class that draws in it.
pub fn palette() -> String {
    let variables = |of: fn(&(&str, &str, &str)) -> String| PALETTE.iter().map(of).collect::<String>();
    let light = variables(|(name, light, _)| format!("--{name}: {light}; "));
    let dark = variables(|(name, _, dark)| format!("--{name}: {dark}; "));
    let classes = variables(|(name, ..)| format!("svg .{name} {{ fill: var(--{name}); stroke: var(--{name}); }}\n"));
    format!(":root {{ {light}}}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n{classes}")
}

/// Returns the colour of this name on light paper.
fn light(name: &str) -> &'static str {
    PALETTE.iter().find(|(known, ..)| *known == name).expect("a colour of the palette").1
}

/// Returns the attributes of an element: its class, by which the page finds it, and how it looks. Elements inside
/// [`Canvas::coloured`] take fill and stroke from there unless they have their own.
fn look(class: &str) -> String {
    let own = match class {
        "grid" => format!("stroke=\"{}\"", light("rule")),
        "axis" => format!("stroke=\"{}\"", light("soft")),
        "interval" => format!("stroke=\"{}\" stroke-width=\"1.5\"", light("ink")),
        "tick" => format!("fill=\"{}\"", light("soft")),
        "name" => "font-family=\"ui-monospace, monospace\"".to_owned(),
        "marker" => format!("stroke=\"{}\"", light("paper")),
        "ring" => "fill=\"none\" stroke-width=\"1.5\"".to_owned(),
        "curve" => "fill=\"none\" stroke-width=\"2\" stroke-linejoin=\"round\"".to_owned(),
        "reference" => "stroke-width=\"1.5\" stroke-dasharray=\"5 4\"".to_owned(),
        "bar" => "stroke=\"none\" fill-opacity=\".8\"".to_owned(),
        "band" => "stroke=\"none\" fill-opacity=\".16\"".to_owned(),
        _ => unreachable!("no element is called {class}"),
    };
    format!("class=\"{class}\" {own}")
}

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

    /// Returns the name of the colour in the palette.
    fn name(self) -> String {
        match self {
            Self::Baseline => "baseline".into(),
            Self::Ink => "ink".into(),
            Self::Accent => "accent".into(),
            Self::Cycle(i) => format!("series-{}", i % Self::CYCLE + 1),
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
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"system-ui, sans-serif\" \
             font-size=\"12\" fill=\"{}\" role=\"img\"><title>{}</title>{}</svg>",
            number(WIDTH),
            number(height),
            light("ink"),
            escape(&self.title),
            self.body
        )
    }

    fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(number);
        self.body += &format!("<line {} x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>", look(class));
    }

    /// Draws a rectangle that shows `tooltip` under the pointer.
    fn rect(&mut self, class: &str, [x, y]: [f64; 2], [width, height]: [f64; 2], tooltip: &str) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        self.body += &format!(
            "<rect {} x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"><title>{}</title></rect>",
            look(class),
            escape(tooltip)
        );
    }

    /// Fills the area between the lower and the upper ends in a pale colour. The ends are ordered by their horizontal
    /// place.
    fn band(&mut self, ends: &[[[f64; 2]; 2]]) {
        let around = ends.iter().map(|[low, _]| low).chain(ends.iter().rev().map(|[_, high]| high));
        let points: Vec<_> = around.map(|[x, y]| format!("{},{}", number(*x), number(*y))).collect();
        self.body += &format!("<polygon {} points=\"{}\"/>", look("band"), points.join(" "));
    }

    fn polyline(&mut self, points: &[[f64; 2]]) {
        let points: Vec<_> = points.iter().map(|[x, y]| format!("{},{}", number(*x), number(*y))).collect();
        self.body += &format!("<polyline {} points=\"{}\"/>", look("curve"), points.join(" "));
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
        let (x, y) = (number(x), number(y));
        self.body += &format!("<path {} d=\"M{x},{y}{path}\">{tooltip}</path>", look("marker"));
    }

    fn ring(&mut self, [x, y]: [f64; 2]) {
        self.body += &format!("<circle {} cx=\"{}\" cy=\"{}\" r=\"7\"/>", look("ring"), number(x), number(y));
    }

    /// Writes text on the baseline `y`. The class `name` uses a fixed-width font, and `tick` does not.
    fn text(&mut self, class: &str, anchor: Anchor, [x, y]: [f64; 2], text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.body += &format!(
            "<text {} text-anchor=\"{anchor}\" x=\"{}\" y=\"{}\">{}</text>",
            look(class),
            number(x),
            number(y),
            escape(text)
        );
    }

    /// Draws what `draw` draws in the given colour.
    fn coloured(&mut self, colour: Colour, draw: impl FnOnce(&mut Self)) {
        let name = colour.name();
        self.group(&format!("class=\"{name}\" fill=\"{0}\" stroke=\"{0}\"", light(&name)), draw);
    }

    /// Draws what `draw` draws as a group with these attributes.
    fn group(&mut self, attributes: &str, draw: impl FnOnce(&mut Self)) {
        self.body += &format!("<g {attributes}>");
        draw(self);
        self.body += "</g>";
    }

    /// Draws the entries of a legend from left to right, with the first line at `y`. An entry that does not fit starts
    /// a new line. Returns the bottom of the legend.
    ///
    /// Each entry is a group that is moved to its place, so that the page can place them again when the reader chooses
    /// other lines.
    fn legend(&mut self, y: f64, entries: &[Key]) -> f64 {
        const SWATCH: f64 = 26.0;
        let [mut x, mut y, mut tallest] = [0.0, y, 0.0f64];
        for entry in entries {
            let label = wrap(&entry.label, WIDTH - SWATCH);
            let width = SWATCH + label.iter().map(|line| text_width(line)).fold(0.0, f64::max);
            if x > 0.0 && x + width > WIDTH {
                [x, y, tallest] = [0.0, y + tallest, 0.0];
            }
            let series = entry.series.map(|place| format!(" data-series=\"{place}\"")).unwrap_or_default();
            let hidden = if entry.hidden { HIDDEN } else { "" };
            let place = format!("class=\"key\"{series}{hidden} transform=\"translate({},{})\"", number(x), number(y));
            self.group(&place, |canvas| {
                let class = if entry.dashed { "reference" } else { "curve" };
                canvas.coloured(entry.colour, |c| {
                    c.line(class, [0.0, -4.0], [20.0, -4.0]);
                    if !entry.dashed {
                        c.marker(entry.colour, [10.0, -4.0], "");
                    }
                });
                canvas.texts("name", [SWATCH, 0.0], &label);
            });
            if !entry.hidden {
                x += width + 16.0;
                tallest = tallest.max(4.0 + LINE * label.len() as f64);
            }
        }
        y + tallest - 11.0
    }

    /// Writes text in lines, the first on the baseline `y`.
    fn texts(&mut self, class: &str, [x, y]: [f64; 2], lines: &[String]) {
        for (number, line) in lines.iter().enumerate() {
            self.text(class, Anchor::Start, [x, y + LINE * number as f64], line);
        }
    }
}

/// The height of a line of text.
const LINE: f64 = 15.0;

/// The attribute of what is not shown until the reader chooses it.
const HIDDEN: &str = " display=\"none\"";

/// An entry of a legend: a line with a marker, or a dashed line without one for a reference.
struct Key {
    label: String,
    colour: Colour,
    dashed: bool,
    /// The number of the line, if it can be chosen, and whether it is not shown.
    series: Option<usize>,
    hidden: bool,
}

impl Key {
    /// Makes the entry of a colour.
    fn new(label: &str, colour: Colour) -> Self {
        Self { label: label.to_owned(), colour, dashed: false, series: None, hidden: false }
    }

    fn of(reference: &Reference) -> Self {
        Self { dashed: true, ..Self::new(&reference.label, reference.colour) }
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

/// Breaks `text` into lines that are not wider than `room`: behind a space or a sign where there is one, else anywhere.
fn wrap(text: &str, room: f64) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for c in text.chars() {
        if !line.is_empty() && text_width(&line) + text_width(c.encode_utf8(&mut [0; 4])) > room {
            let sign = |c: char| !c.is_alphanumeric() && c != '.';
            let rest = line.char_indices().rfind(|(_, c)| sign(*c)).map_or(line.len(), |(at, c)| at + c.len_utf8());
            let rest = line.split_off(rest);
            lines.push(std::mem::replace(&mut line, rest));
        }
        line.push(c);
    }
    lines.push(line);
    lines
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
    fn text_fits_its_room_and_nothing_of_it_is_lost() {
        assert_eq!(wrap("bpd", 100.0), ["bpd"]);
        assert_eq!(wrap("pbest-mixed+lookup@ngram (auto)", 150.0), ["pbest-mixed+lookup@", "ngram (auto)"]);
        for name in ["a-very-long-variant-name-that-goes-on".to_owned(), "x".repeat(50), "語".repeat(40)] {
            let lines = wrap(&name, 150.0);
            assert!(lines.len() > 1 && lines.concat() == name);
            assert!(lines.iter().all(|line| text_width(line) <= 150.0), "{lines:?}");
        }
    }

    #[test]
    fn the_legend_wraps_inside_the_drawing_and_leaves_out_what_is_hidden() {
        let key = |i| Key { series: Some(i), ..Key::new(&"x".repeat(7 * i), Colour::Cycle(i)) };
        let keys = || (1..12).map(key).collect::<Vec<_>>();
        let mut canvas = Canvas::new("t");
        let bottom = canvas.legend(20.0, &keys());
        assert!(bottom > 100.0);
        for entry in canvas.body.split("translate(").skip(1) {
            let x: f64 = entry.split(',').next().unwrap().parse().unwrap();
            let widths = entry
                .split("<text ")
                .skip(1)
                .map(|text| text_width(text.split('>').nth(1).unwrap().split('<').next().unwrap()));
            assert!(widths.into_iter().all(|width| x + 26.0 + width <= WIDTH));
        }
        let half = keys().into_iter().enumerate().map(|(i, key)| Key { hidden: i % 2 == 1, ..key });
        let mut canvas = Canvas::new("t");
        assert!(canvas.legend(20.0, &half.collect::<Vec<_>>()) < bottom);
        assert_eq!(canvas.body.matches(HIDDEN).count(), 5);
    }

    /// Whoever draws a copy of it knows no CSS of the page.
    #[test]
    fn every_colour_is_an_attribute() {
        let mut canvas = Canvas::new("t");
        canvas.coloured(Colour::Cycle(9), |c| c.polyline(&[[0.0, 0.0], [1.0, 1.0]]));
        let svg = canvas.finish(10.0);
        assert!(svg.contains("<g class=\"series-2\" fill=\"#c8501e\" stroke=\"#c8501e\">"), "{svg}");
        assert!(svg.contains("fill=\"none\" stroke-width=\"2\"") && !svg.contains("var("), "{svg}");
        assert!(palette().contains("svg .series-2 { fill: var(--series-2); stroke: var(--series-2); }"));
    }

    #[test]
    fn colours_come_round_with_another_marker() {
        for i in 0..Colour::CYCLE {
            let [first, again] = [i, i + Colour::CYCLE].map(Colour::Cycle);
            assert_eq!(first.name(), again.name());
            assert_ne!(first.shape(), again.shape());
        }
    }
}
