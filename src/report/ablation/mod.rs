//! The report of an ablation, [`Ablated`], which consists of plain numbers, and its renderings.
//!
//! `ablation.json` is the record. `ablation.csv` has a line for every cell, data set and variant, for other programs.
//! `ablation.md` and `ablation.html` are for people.

mod csv;
mod definitions;
mod figures;
mod html;
mod markdown;
mod model;
mod seeds;

use std::path::Path;

pub use markdown::table;
pub use model::{Ablated, AblatedCell, AblatedSet, Axis, Best, CellState, Measured, MeasuredSet, Setting, Summary};

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// Writes the four files into `dir`. All of them are rendered before the first one is written.
pub fn write(report: &Ablated, dir: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report)
        .map_err(|e| Error::new(format!("cannot write the ablation as JSON: {e}")))?;
    let files = [
        ("ablation.json", json + "\n"),
        ("ablation.csv", csv::csv(report)),
        ("ablation.md", markdown::markdown(report)),
        ("ablation.html", html::html(report)?),
    ];
    files.iter().try_for_each(|(name, text)| write_atomic(&dir.join(name), text.as_bytes()))
}
