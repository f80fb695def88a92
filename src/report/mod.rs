//! The report: one value, many small renderers.
//!
//! [`Report`] is everything an evaluation has to say, as plain numbers. It knows nothing of how they were computed, and
//! the renderers know nothing but it:
//!
//! - [`to_json`] writes the record: what other programs read, and what the other renderings can be made from again;
//! - [`markdown()`] makes the tables for a pull request, [`table`] the aligned ones for the terminal;
//! - [`html()`] makes the self-contained page a researcher opens first, with plots drawn as inline SVG.
//!
//! [`compare`] puts runs side by side, by what [`Documents`] keep of every document; [`check_gates`] says whether a report
//! reaches what it must; [`schema()`] is the record's JSON schema.
//!
//! [`write_training`] makes a page of the same frame from the log of a training.
//!
//! A number without a written definition invites two readings, so [`definitions()`] holds one sentence for each name in
//! the schema; every report carries them and every rendering prints them from there. [`summary()`] words the claims, and is
//! the one place where "best" and "gain" turn into prose.

pub mod ablation;
mod columns;
mod comparison;
mod definitions;
mod documents;
mod figures;
#[cfg(test)]
mod fixture;
mod format;
mod gate;
mod grids;
mod html;
mod json;
mod markdown;
mod model;
mod page;
mod schema;
mod summary;
mod svg;
mod timing;
mod training;

use std::path::Path;

pub use comparison::{Comparison, EvaluatedRun, compare};
pub use definitions::definitions;
pub use documents::{DocumentSet, Documents};
pub use gate::{Gate, check_gates};
pub use html::html;
pub use json::{from_json, read, to_json};
pub use markdown::{markdown, table};
pub use model::{
    BASELINE, BestPaths, BySteps, Dataset, Live, LiveVariant, Looping, ORACLE, OraclePoint, Report, SCHEMA_VERSION,
    SameStarts, StepPoint, TuningPoint, Variant,
};
pub use schema::schema;
pub use summary::summary;
pub use timing::{Timing, VariantTiming};
pub use training::write_training;

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// Writes `report.json`, `report.md` and `report.html` into `dir`, which is made if it is missing.
///
/// All three are rendered before the first is written, so a report that cannot be rendered leaves the old files alone.
pub fn write(report: &Report, dir: &Path) -> Result<()> {
    let files = [("report.json", to_json(report)?), ("report.md", markdown(report)), ("report.html", html(report)?)];
    std::fs::create_dir_all(dir).map_err(|e| Error::io("make the folder", dir, e))?;
    for (name, text) in files {
        write_atomic(&dir.join(name), text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_three_files_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("report");
        write(&fixture::report(), &dir).unwrap();
        write(&fixture::report(), &dir).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["report.html", "report.json", "report.md"]);
        assert!(read(&dir.join("report.json")).unwrap() == fixture::report());
    }

    #[test]
    fn a_number_that_is_not_finite_leaves_the_old_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        write(&fixture::report(), folder.path()).unwrap();
        let mut broken = fixture::report();
        broken.datasets[0].variants[0].block_efficiency = f64::NAN;
        assert!(write(&broken, folder.path()).is_err());
        assert!(read(&folder.path().join("report.json")).unwrap() == fixture::report());
    }
}
