//! The frame that every page has in common: `page.html` with the style, `figures.html` for the plots, `tables.html`.
//!
//! Everything a page says is prepared in Rust as text; the templates only place it and escape it. The drawings are the
//! one thing they take as they are, and [`svg`] has escaped those.

use minijinja::{AutoEscape, Environment, Value};
use serde::Serialize;

use super::svg;
use crate::error::{Error, Result};
use crate::tables::Figure;

/// `template`, which extends `page.html`, filled from `page`; the frame takes `title`, `byline` and `claims` from it.
pub fn render(template: &str, page: impl Serialize) -> Result<String> {
    let fill = || {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_global("svg_style", Value::from_safe_string(svg::STYLE.to_owned()));
        environment.add_template("page.html", include_str!("page.html"))?;
        environment.add_template("figures.html", include_str!("figures.html"))?;
        environment.add_template("tables.html", include_str!("tables.html"))?;
        environment.render_str(template, page)
    };
    fill().map_err(|e| Error::new(format!("the report's page cannot be made from its template: {e:#}")))
}

/// A plot as `figures.html` takes it.
#[derive(Serialize)]
pub struct Plot {
    title: String,
    caption: String,
    svg: Value,
}

impl Plot {
    /// A figure that is drawn, by its title and a few words that tell it from others of that title; none of a text.
    pub fn new(figure: &Figure, which: &str) -> Option<Self> {
        let svg = svg::draw(&figure.drawing, &format!("{} {which}", figure.title))?;
        let (title, caption) = (figure.title.clone(), prose(figure.caption.clone()));
        Some(Self { title, caption, svg: Value::from_safe_string(svg) })
    }
}

/// A table of texts as `tables.html` takes it.
#[derive(Serialize)]
pub struct TextTable {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// The headings are prose.
    pub fn new(headings: Vec<String>, rows: Vec<Vec<String>>) -> Self {
        Self { headings: headings.into_iter().map(prose).collect(), rows }
    }

    /// The first of `rows` are the headings.
    pub fn headed(mut rows: Vec<Vec<String>>) -> Self {
        Self::new(rows.remove(0), rows)
    }
}

/// Keeps a percent sign on the line of its number.
pub fn prose(text: String) -> String {
    text.replace(" %", "\u{a0}%")
}
