//! The settings of a run beside its results: the resolved configuration, key by key.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};

use super::Report;

/// A key of which the configurations of compared runs have different values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DifferingKey {
    /// The key.
    pub key: String,
    /// Its value in each run, or none where the run has no such key.
    pub values: Vec<Option<String>>,
}

/// Returns the resolved configuration that a report was made by, if the report has it.
pub(super) fn configuration(report: &Report) -> Option<&Map<String, Value>> {
    report.provenance.get("configuration").and_then(Value::as_object)
}

/// Lists nested fields as `outer.inner`, with lists of plain values on one line.
pub fn flatten(fields: &Map<String, Value>) -> Vec<[String; 2]> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut rows = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Object(inner) => {
                rows.extend(flatten(inner).into_iter().map(|[key, value]| [format!("{name}.{key}"), value]))
            }
            Value::Array(items) => rows.push([name.clone(), items.iter().map(plain).collect::<Vec<_>>().join(" ")]),
            _ => rows.push([name.clone(), plain(value)]),
        }
    }
    rows
}

/// Returns the keys by which the configurations of some reports differ, besides the names of the runs.
pub(super) fn differing<'a>(reports: impl Iterator<Item = &'a Report>) -> Vec<DifferingKey> {
    let settings: Vec<BTreeMap<String, String>> = reports
        .map(|report| {
            configuration(report).map(flatten).unwrap_or_default().into_iter().map(<(String, String)>::from).collect()
        })
        .collect();
    let keys: BTreeSet<&String> = settings.iter().flat_map(BTreeMap::keys).filter(|key| *key != "name").collect();
    let of_key = |key: &String| DifferingKey {
        key: key.clone(),
        values: settings.iter().map(|settings| settings.get(key).cloned()).collect(),
    };
    keys.into_iter().map(of_key).filter(|found| found.values.windows(2).any(|pair| pair[0] != pair[1])).collect()
}
