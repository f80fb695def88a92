//! The frame that all pages share: `page.html` with style (`page.css`) and script (`page.js`), `figures.html` for plots and
//! `tables.html` for tables. The script sorts and copies tables, and lets the reader choose columns and lines. Without it,
//! everything that is not chosen away is shown.
//!
//! Everything that a page says is prepared in Rust as text; the templates only place and escape it. The drawings are
//! the exception: templates insert them unchanged, because [`svg`] has already escaped them.

use minijinja::{AutoEscape, Environment, Value};
use serde::Serialize;

use super::svg;
use crate::error::{Error, Result};
use crate::tables::Figure;

/// Fills `template`, which extends `page.html`, with the fields of `page`. The frame itself needs `title`, `byline`,
/// `claims`, `contents`, which is a list of [`Entry`], and `opening`, which is a list of [`Plot`].
pub fn render(template: &str, page: impl Serialize) -> Result<String> {
    let fill = || {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let style = svg::palette() + include_str!("page.css");
        environment.add_global("style", Value::from_safe_string(style));
        environment.add_global("script", Value::from_safe_string(include_str!("page.js").to_owned()));
        environment.add_template("page.html", include_str!("page.html"))?;
        environment.add_template("figures.html", include_str!("figures.html"))?;
        environment.add_template("curves.html", include_str!("curves.html"))?;
        environment.add_template("tables.html", include_str!("tables.html"))?;
        environment.render_str(template, page)
    };
    fill().map_err(|e| Error::new(format!("the report's page cannot be made from its template: {e:#}")))
}

/// An entry of the list of contents.
#[derive(Serialize)]
pub struct Entry {
    /// The id of the heading that it leads to.
    pub id: String,
    /// The words of the heading.
    pub title: String,
    /// The entries of what stands under that heading.
    pub inner: Vec<Entry>,
}

impl Entry {
    /// Makes the entries of the data sets of a page, which have the ids `set-1`, `set-2` and so on.
    pub fn of_sets<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let entry = |(place, name): (usize, &str)| Self {
            id: format!("set-{}", place + 1),
            title: name.to_owned(),
            inner: Vec::new(),
        };
        names.into_iter().enumerate().map(entry).collect()
    }
}

/// A plot in the form that `figures.html` expects.
#[derive(Serialize)]
pub struct Plot {
    title: String,
    caption: String,
    svg: Value,
}

impl Plot {
    /// Makes the plot of a figure that is a drawing. `which` tells it from others with the same title. Returns none if
    /// the figure is a text.
    pub fn new(figure: &Figure, which: &str) -> Option<Self> {
        let svg = svg::draw(&figure.drawing, &format!("{} {which}", figure.title))?;
        let (title, caption) = (figure.title.clone(), prose(figure.caption.clone()));
        Some(Self { title, caption, svg: Value::from_safe_string(svg) })
    }
}

/// A table of texts in the form that `tables.html` expects.
#[derive(Serialize)]
pub struct TextTable {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// Makes a table. The headings are treated as prose.
    pub fn new(headings: Vec<String>, rows: Vec<Vec<String>>) -> Self {
        Self { headings: headings.into_iter().map(prose).collect(), rows }
    }

    /// Makes a table whose headings are the first of `rows`.
    pub fn headed(mut rows: Vec<Vec<String>>) -> Self {
        Self::new(rows.remove(0), rows)
    }
}

/// Replaces the space before a percent sign by one that does not break, so that the sign stays on the line of its
/// number.
pub fn prose(text: String) -> String {
    text.replace(" %", "\u{a0}%")
}
