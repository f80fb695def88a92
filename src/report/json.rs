//! `report.json`: the record that other programs read and that every other rendering can be made from again.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::model::{Report, SCHEMA_VERSION};
use super::timing;
use crate::error::{Error, Result, bail};

/// Pretty-printed JSON with a final newline; the order of its fields never changes.
///
/// JSON has no NaN: the text is read back, so a number that is not finite is an error here and not in its reader.
pub fn to_json(report: &Report) -> Result<String> {
    let mut text = serde_json::to_string_pretty(report)
        .map_err(|e| Error::new(format!("cannot write the report as JSON: {e}")))?;
    text.push('\n');
    from_json(&text).map_err(|e| e.within("a number of the report is not finite (NaN or infinity)"))?;
    Ok(text)
}

/// Reads a report of this schema version or an older one.
pub fn from_json(text: &str) -> Result<Report> {
    #[derive(Deserialize)]
    struct Header {
        schema_version: u64,
    }
    let header: Header = serde_json::from_str(text)
        .map_err(|e| Error::new(format!("this is not a draftsmith report: {e}. Give the report.json of a run.")))?;
    if header.schema_version > SCHEMA_VERSION {
        bail!(
            "this report has schema version {}, and this draftsmith reads up to {SCHEMA_VERSION}. Use the draftsmith that \
             wrote it, or a newer one.",
            header.schema_version
        );
    }
    let report = if header.schema_version < 4 {
        serde_json::from_str(text).and_then(|mut older: Value| {
            timing::out_of_live_check(&mut older);
            serde_json::from_value(older)
        })
    } else {
        serde_json::from_str(text)
    };
    report.map_err(|e| {
        Error::new(format!(
            "the report does not follow schema version {}: {e}. Run the evaluation again to write it anew.",
            header.schema_version
        ))
    })
}

/// Reads the `report.json` at `path`.
pub fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    from_json(&text).map_err(|e| e.within(path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn round_trips_to_the_byte() {
        for report in [fixture::report(), fixture::smallest()] {
            let text = to_json(&report).unwrap();
            let back = from_json(&text).unwrap();
            assert!(back == report, "{text}");
            assert_eq!(to_json(&back).unwrap(), text);
        }
    }

    /// Needs serde_json's feature `float_roundtrip`; without it the last bit of about one number in ten is lost.
    #[test]
    fn keeps_every_bit_of_every_number() {
        let mut report = fixture::report();
        for i in 1..1000 {
            let x = 1.0 + (f64::from(i) * 0.618).sin() / 3.0;
            report.datasets[0].variants[0].block_efficiency = x;
            let back = from_json(&to_json(&report).unwrap()).unwrap();
            assert_eq!(back.datasets[0].variants[0].block_efficiency.to_bits(), x.to_bits());
        }
    }

    #[test]
    fn every_number_is_a_number_and_where_the_schema_says() {
        let json: Value = serde_json::from_str(&to_json(&fixture::report()).unwrap()).unwrap();
        let set = &json["datasets"][0];
        let numbers = [
            "/documents",
            "/decoded_tokens",
            "/block_size",
            "/top_k",
            "/variants/1/block_efficiency",
            "/variants/1/ci95/0",
            "/variants/1/ci95/1",
            "/variants/1/block_efficiency_document_mean",
            "/variants/1/backbone_calls",
            "/variants/1/prefill_calls",
            "/variants/1/verified_tokens_per_call",
            "/variants/1/verified_tokens_per_call_max",
            "/variants/1/relative_gain",
            "/variants/1/relative_gain_ci95/0",
            "/variants/1/relative_gain_ci95/1",
            "/variants/1/lm_scale",
            "/variants/1/drafts",
            "/variants/1/accept_rate_by_position/8",
            "/oracle/0/top_k",
            "/oracle/0/block_efficiency",
            "/oracle/0/block_efficiency_dp",
            "/tuning/0/value",
            "/tuning/0/block_efficiency",
            "/looping/documents",
            "/looping/share",
            "/looping/bpd_block_efficiency_without",
            "/live/documents",
            "/live/batch",
            "/live/mismatches",
            "/live/near_ties",
            "/live/near_ties_by_kind/verifier",
            "/live/variants/0/mismatches",
            "/live/variants/0/near_ties",
            "/by_step/chosen_step",
            "/by_step/points/0/step",
            "/by_step/points/0/block_efficiency",
            "/by_step/points/0/ci95/1",
            "/timing/candidates_seconds",
            "/timing/lattices_seconds",
            "/timing/tokens_per_s",
            "/timing/autoregressive_tokens_per_s",
            "/timing/variants/0/replay_seconds",
            "/timing/variants/0/replay_tokens_per_s",
            "/timing/variants/0/tokens_per_s",
            "/timing/variants/0/replay_over_live",
        ];
        for pointer in numbers {
            assert!(set.pointer(pointer).is_some_and(Value::is_number), "{pointer}");
        }
        assert!(json["schema_version"].is_number());
        assert!(set["variants"][0]["lossless"].is_boolean());
        assert!(set["variants"][0]["lm_scale"].is_null());
        assert!(set["tuning"][0]["variant"].is_string());
    }

    /// Version 2 had no analyses: what it lacks is left out of every rendering.
    #[test]
    fn reads_and_renders_reports_from_before_the_analyses() {
        let mut json = serde_json::to_value(fixture::report()).unwrap();
        json["schema_version"] = 2.into();
        let remove = |value: &mut Value, names: &[&str]| {
            let fields = value.as_object_mut().unwrap();
            names.iter().for_each(|name| drop(fields.remove(*name).unwrap()));
        };
        remove(&mut json, &["efficiency_by_h_max"]);
        let set = &mut json["datasets"][0];
        remove(set, &["heads", "h_max", "autoregressive_cost", "by_step", "best_paths", "examples", "timing"]);
        for variant in set["variants"].as_array_mut().unwrap() {
            remove(variant, &["conditional_accept_rate_by_position", "cost"]);
        }
        let report = from_json(&json.to_string()).unwrap();
        let (text, page) = (crate::report::markdown(&report), crate::report::html(&report).unwrap());
        assert!(!text.contains("\n### ") && page.matches("<svg ").count() == 4);
    }

    /// Version 3 had its speeds among the live check's numbers.
    #[test]
    fn finds_the_speeds_of_older_reports() {
        let mut json = serde_json::to_value(fixture::report()).unwrap();
        json["schema_version"] = 3.into();
        let set = json["datasets"][0].as_object_mut().unwrap();
        set.remove("timing").unwrap();
        let live = set.get_mut("live").unwrap();
        live["tokens_per_s"] = 41.5.into();
        live["autoregressive_tokens_per_s"] = 30.25.into();
        live["variants"][1]["tokens_per_s"] = 12.5.into();
        let report = from_json(&json.to_string()).unwrap();
        let timing = report.datasets[0].timing.as_ref().unwrap();
        assert_eq!((timing.tokens_per_s, timing.autoregressive_tokens_per_s), (Some(41.5), Some(30.25)));
        let second = &timing.variants[1];
        assert_eq!((&*second.name, second.tokens_per_s, second.replay_over_live), ("2-gram", Some(12.5), None));
        // Written anew under its old version, it is read as it is.
        let again = from_json(&to_json(&report).unwrap()).unwrap();
        assert!(again == report);
        assert!(!crate::report::html(&report).unwrap().contains("NaN"));
    }

    #[test]
    fn refuses_a_newer_schema_even_one_it_cannot_parse() {
        let error = from_json(r#"{"schema_version": 99, "somewhere": "else"}"#).unwrap_err().to_string();
        assert!(error.contains("schema version 99") && error.contains("reads up to 5"), "{error}");
    }

    #[test]
    fn says_what_a_wrong_file_is() {
        assert!(from_json("{}").unwrap_err().to_string().contains("not a draftsmith report"));
        let error = from_json(r#"{"schema_version": 1}"#).unwrap_err().to_string();
        assert!(error.contains("schema version 1") && error.contains("missing field"), "{error}");
    }

    #[test]
    fn refuses_numbers_that_are_not_finite() {
        let mut report = fixture::report();
        report.datasets[0].variants[1].accept_rate_by_position[3] = f64::NAN;
        assert!(to_json(&report).unwrap_err().to_string().contains("not finite"));
    }
}
