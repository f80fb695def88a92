//! Figures: what is to be drawn, not how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A drawing with its words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What it is called; no other figure of its section is called so.
    pub id: String,
    /// What it shows, in a few words.
    pub title: String,
    /// A sentence or two on how to read it.
    pub caption: String,
    /// Whether a page opens with it, beside the claims, and leaves it out further below.
    pub opens: bool,
    /// What is drawn.
    pub drawing: Drawing,
}

impl Figure {
    /// A figure.
    pub fn new(id: &str, title: &str, caption: impl Into<String>, drawing: impl Into<Drawing>) -> Self {
        Self { id: id.into(), title: title.into(), caption: caption.into(), opens: false, drawing: drawing.into() }
    }

    /// As a figure that a page opens with.
    #[must_use]
    pub fn opening(self) -> Self {
        Self { opens: true, ..self }
    }
}

/// What is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Drawing {
    /// Lines over an axis.
    Lines(Lines),
    /// Horizontal bars with intervals.
    Bars(Bars),
    /// A text to unfold.
    Passage(Passage),
}

impl From<Lines> for Drawing {
    fn from(lines: Lines) -> Self {
        Self::Lines(lines)
    }
}

impl From<Bars> for Drawing {
    fn from(bars: Bars) -> Self {
        Self::Bars(bars)
    }
}

impl From<Passage> for Drawing {
    fn from(passage: Passage) -> Self {
        Self::Passage(passage)
    }
}

/// A colour of the page, so that light and dark can differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Colour {
    /// The grey of what others are compared with.
    Baseline,
    /// The text's own.
    Ink,
    /// The one colour of the page that no series of the cycle has.
    Accent,
    /// The i-th series; the colours come round again, each time with another marker.
    Cycle(usize),
}

/// A value that the bars or lines are compared with: a dashed line across the plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// What it is.
    pub label: String,
    /// Where it lies.
    pub value: f64,
    /// Its colour.
    pub colour: Colour,
}

impl Reference {
    /// One token a call.
    pub fn autoregressive() -> Self {
        Self { label: "autoregressive".into(), value: 1.0, colour: Colour::Ink }
    }
}

/// Lines with markers over one axis of positions, of values or of powers of two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lines {
    /// What lies along x.
    pub x: XAxis,
    /// What lies along y.
    pub y: YAxis,
    /// The lines.
    pub series: Vec<Series>,
    /// What they are compared with.
    pub references: Vec<Reference>,
}

impl Lines {
    /// The most lines that are shown at once: as many as there are colours, and as an eye can follow.
    pub const MOST: usize = 8;

    /// The lines, without references. Those behind the eighth are hidden, besides those that are hidden already, unless these are
    /// all.
    pub fn new(x: XAxis, y: YAxis, mut series: Vec<Series>) -> Self {
        if series.iter().all(|line| line.hidden) {
            series.iter_mut().for_each(|line| line.hidden = false);
        }
        series.iter_mut().filter(|line| !line.hidden).skip(Self::MOST).for_each(|line| line.hidden = true);
        Self { x, y, series, references: Vec::new() }
    }

    /// With dashed lines across.
    #[must_use]
    pub fn references(self, references: Vec<Reference>) -> Self {
        Self { references, ..self }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// What the legend calls it.
    pub label: String,
    /// Its colour.
    pub colour: Colour,
    /// Rising in x; points that are not finite are left out.
    pub points: Vec<[f64; 2]>,
    /// The x of a point to ring.
    pub chosen: Option<f64>,
    /// By point, low end first: drawn as a band behind the line; empty for none.
    pub intervals: Vec<[f64; 2]>,
    /// Whether it is not shown until the reader chooses it.
    pub hidden: bool,
}

impl Series {
    /// The line alone.
    pub fn new(label: impl Into<String>, colour: Colour, points: impl IntoIterator<Item = [f64; 2]>) -> Self {
        let points = points.into_iter().collect();
        Self { label: label.into(), colour, points, chosen: None, intervals: Vec::new(), hidden: false }
    }

    /// Not shown, where so, until the reader chooses it.
    #[must_use]
    pub fn hidden(self, hidden: bool) -> Self {
        Self { hidden, ..self }
    }

    /// With a ring around the point at `x`.
    #[must_use]
    pub fn ringed(self, x: Option<f64>) -> Self {
        Self { chosen: x, ..self }
    }

    /// With an interval for every point.
    #[must_use]
    pub fn within(self, intervals: Vec<[f64; 2]>) -> Self {
        Self { intervals, ..self }
    }
}

/// What lies along x, with its words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum XAxis {
    /// Whole numbers, each labelled.
    Positions(String),
    /// Powers of two at even distances.
    Log2(String),
    /// Any values.
    Linear(String),
}

/// What lies along y, with its words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum YAxis {
    /// Any values.
    Linear(String),
    /// Values whose distance from 0 counts, so the axis begins there.
    FromZero(String),
    /// Shares: labelled as percentages, from 0.
    Shares(String),
}

/// Horizontal bars from zero, with an interval each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bars {
    /// What lies along the axis.
    pub lengths: LengthAxis,
    /// From top to bottom.
    pub rows: Vec<BarRow>,
    /// What they are compared with.
    pub references: Vec<Reference>,
    /// What the colours stand for, by label; empty for no legend.
    pub keys: Vec<(String, Colour)>,
}

impl Bars {
    /// The rows, without references and without a legend.
    pub fn new(lengths: LengthAxis, rows: Vec<BarRow>) -> Self {
        Self { lengths, rows, references: Vec::new(), keys: Vec::new() }
    }

    /// With dashed lines across.
    #[must_use]
    pub fn references(self, references: Vec<Reference>) -> Self {
        Self { references, ..self }
    }

    /// With a legend of what the colours stand for.
    #[must_use]
    pub fn keys(self, keys: Vec<(String, Colour)>) -> Self {
        Self { keys, ..self }
    }
}

/// Bars that belong to one name, from top to bottom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BarRow {
    /// The name.
    pub label: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// One bar from zero to its value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bar {
    /// Where it ends.
    pub value: f64,
    /// Drawn across its end, low end first.
    pub interval: [f64; 2],
    /// Its colour.
    pub colour: Colour,
}

/// What lies along the axis of bars, with its words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LengthAxis {
    /// Tokens per call.
    Efficiency(String),
    /// Relative differences, which may be negative.
    Change(String),
}

/// A text in pieces, some of which are struck through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Passage {
    /// What stands before it.
    pub before: String,
    /// In order.
    pub pieces: Vec<Piece>,
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// What stands.
    pub kept: String,
    /// What is struck through behind it.
    pub struck: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_eight_lines_are_shown() {
        let shown = |hidden: fn(usize) -> bool| -> Vec<String> {
            let series = (0..20).map(|i| Series::new(i.to_string(), Colour::Cycle(i), []).hidden(hidden(i))).collect();
            let lines = Lines::new(XAxis::Linear("x".into()), YAxis::Linear("y".into()), series);
            lines.series.into_iter().filter(|line| !line.hidden).map(|line| line.label).collect()
        };
        assert_eq!(shown(|i| i % 2 == 1), ["0", "2", "4", "6", "8", "10", "12", "14"]);
        assert_eq!(shown(|_| true), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    }
}
