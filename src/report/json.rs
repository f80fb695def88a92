//! The record `report.json`, which other programs read, and from which every other rendering can be made again.

use std::path::Path;

use serde::Deserialize;

use super::model::{Report, SCHEMA_VERSION};
use crate::error::{Error, Result, bail};

/// Writes a report as indented JSON with a final newline. The order of the fields never changes.
///
/// JSON has no NaN. The text is read back to check it, so that a number that is not finite causes an error here, not in
/// a program that reads the file.
pub fn to_json(report: &Report) -> Result<String> {
    let mut text = serde_json::to_string_pretty(report)
        .map_err(|e| Error::new(format!("cannot write the report as JSON: {e}")))?;
    text.push('\n');
    // Numbers that are not finite are written as null. This reads back as an empty cell, and is invalid anywhere else.
    if !from_json(&text).is_ok_and(|back| back == *report) {
        bail!("a number of the report is not finite (NaN or infinity), which JSON cannot hold.");
    }
    Ok(text)
}

/// Parses a report.
///
/// # Errors
/// Returns an error if the text is not a report, or has another layout.
pub fn from_json(text: &str) -> Result<Report> {
    #[derive(Deserialize)]
    struct Header {
        schema_version: u64,
    }
    let header: Header = serde_json::from_str(text)
        .map_err(|e| Error::new(format!("this is not a draftsmith report: {e}. Give the report.json of a run.")))?;
    if header.schema_version != SCHEMA_VERSION {
        bail!(
            "this report has layout {}, this program reads {SCHEMA_VERSION}. Evaluate the run again.",
            header.schema_version
        );
    }
    serde_json::from_str(text).map_err(|e| {
        Error::new(format!(
            "the report does not follow layout {SCHEMA_VERSION}: {e}. Run the evaluation again to write it anew."
        ))
    })
}

/// Reads the `report.json` at `path`.
///
/// # Errors
/// Returns an error if the file cannot be read, and the errors of [`from_json`].
pub fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    from_json(&text).map_err(|e| e.within(path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;
    use crate::tables::{Cell, Drawing};

    #[test]
    fn round_trips_to_the_byte() {
        let (report, text) = (fixture::report(), to_json(&fixture::report()).unwrap());
        let back = from_json(&text).unwrap();
        assert!(back == report, "{text}");
        assert_eq!(to_json(&back).unwrap(), text);
    }

    /// Checks that serde_json's feature `float_roundtrip` is enabled. Without it, about one number in ten loses its
    /// last bit.
    #[test]
    fn keeps_every_bit_of_every_number() {
        let mut report = fixture::report();
        for i in 1..1000 {
            let x = 1.0 + (f64::from(i) * 0.618).sin() / 3.0;
            report.datasets[0].sections[0].tables[0].rows[0].cells[0] = Cell::Number(x);
            let back = from_json(&to_json(&report).unwrap()).unwrap();
            let Cell::Number(found) = back.datasets[0].sections[0].tables[0].rows[0].cells[0] else { panic!("{x}") };
            assert_eq!(found.to_bits(), x.to_bits());
        }
    }

    #[test]
    fn refuses_another_layout_even_one_it_cannot_parse() {
        for version in [0, 2, 99] {
            let text = format!(r#"{{"schema_version": {version}, "somewhere": "else"}}"#);
            let error = from_json(&text).unwrap_err().to_string();
            assert!(error.contains(&format!("has layout {version}, this program reads 1.")), "{error}");
        }
    }

    #[test]
    fn says_what_a_wrong_file_is() {
        assert!(from_json("{}").unwrap_err().to_string().contains("not a draftsmith report"));
        let error = from_json(r#"{"schema_version": 1}"#).unwrap_err().to_string();
        assert!(error.contains("layout 1") && error.contains("missing field"), "{error}");
    }

    #[test]
    fn refuses_numbers_that_are_not_finite() {
        let in_a_cell = |report: &mut Report| {
            report.datasets[0].sections[0].tables[0].rows[0].cells[0] = Cell::Number(f64::NAN);
        };
        let in_a_figure = |report: &mut Report| {
            let Drawing::Bars(bars) = &mut report.datasets[0].sections[0].figures[0].drawing else { panic!("bars") };
            bars.rows[0].bars[0].value = f64::INFINITY;
        };
        for change in [in_a_cell, in_a_figure] {
            let mut report = fixture::report();
            change(&mut report);
            assert!(to_json(&report).unwrap_err().to_string().contains("not finite"));
        }
    }
}
