//! How long things took: all that two evaluations of the same inputs do not have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Seconds and speeds of the evaluation of a data set, on one machine with all its threads. Without it a report is the same
/// bytes every time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Computing the heads' candidates at every position of the test documents, when that was done; replay reads them.
    pub candidates_seconds: Option<f64>,
    /// Reading them and building the lattices.
    pub lattices_seconds: Option<f64>,
    /// Decoded tokens per second of the live check over all variants together; none without one.
    pub tokens_per_s: Option<f64>,
    /// Decoded tokens per second of one-token-a-call decoding of the same documents.
    pub autoregressive_tokens_per_s: Option<f64>,
    /// In the order of [`Dataset::variants`](super::Dataset::variants), without the oracle.
    pub variants: Vec<VariantTiming>,
}

/// How fast a variant is replayed and decoded live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariantTiming {
    /// As in [`Variant::name`](super::Variant::name).
    pub name: String,
    /// Whether replaying it runs a language model.
    pub neural: bool,
    /// Replay of the test documents from their lattices; none in older reports.
    pub replay_seconds: Option<f64>,
    /// Decoded tokens per second of replay.
    pub replay_tokens_per_s: Option<f64>,
    /// Decoded tokens per second live; none where it was not decoded live.
    pub tokens_per_s: Option<f64>,
    /// `replay_tokens_per_s` / `tokens_per_s`
    pub replay_over_live: Option<f64>,
}

impl Timing {
    /// Puts in the speed of a variant that was decoded live.
    pub fn set_live(&mut self, name: &str, tokens_per_s: f64) {
        if let Some(variant) = self.variants.iter_mut().find(|variant| variant.name == name) {
            variant.tokens_per_s = Some(tokens_per_s);
            variant.replay_over_live = variant.replay_tokens_per_s.map(|replay| replay / tokens_per_s);
        }
    }
}

impl VariantTiming {
    /// A variant that was replayed, `tokens` in `seconds`, and not decoded live.
    pub fn replayed(name: &str, neural: bool, tokens: u64, seconds: f64) -> Self {
        Self {
            name: name.to_owned(),
            neural,
            replay_seconds: Some(seconds),
            replay_tokens_per_s: Some(tokens as f64 / seconds),
            tokens_per_s: None,
            replay_over_live: None,
        }
    }
}

/// Up to version 3, a report had its speeds among the other numbers of the live check.
pub fn out_of_live_check(report: &mut Value) {
    let sets = report.get_mut("datasets").and_then(Value::as_array_mut);
    for set in sets.into_iter().flatten().filter_map(Value::as_object_mut) {
        let Some(live) = set.get_mut("live").and_then(Value::as_object_mut) else { continue };
        let Some(together) = live.remove("tokens_per_s") else { continue };
        let alone = live.remove("autoregressive_tokens_per_s");
        let variants = live.get_mut("variants").and_then(Value::as_array_mut).into_iter().flatten();
        let variants = variants.filter_map(Value::as_object_mut).map(|variant| {
            let (name, speed) = (variant.get("name").cloned(), variant.remove("tokens_per_s"));
            json!({
                "name": name, "neural": false, "replay_seconds": null, "replay_tokens_per_s": null,
                "tokens_per_s": speed, "replay_over_live": null,
            })
        });
        let timing = json!({
            "candidates_seconds": null, "lattices_seconds": null, "tokens_per_s": together,
            "autoregressive_tokens_per_s": alone, "variants": variants.collect::<Vec<_>>(),
        });
        set.insert("timing".into(), timing);
    }
}
