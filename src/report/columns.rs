//! The columns of the variants' table, shared by every rendering so that they cannot disagree.

use super::format;
use super::model::{BASELINE, Variant};

/// One column: its heading, the definition it obeys, and its cell for a variant.
pub struct Column {
    pub heading: &'static str,
    /// The name in [`definitions()`](super::definitions()).
    pub definition: &'static str,
    /// Whether the narrow tables (Markdown, terminal) show it as well.
    pub compact: bool,
    pub cell: fn(&Variant) -> String,
    /// What the page sorts the column by; negative infinity where there is nothing.
    pub order: fn(&Variant) -> f64,
}

/// From left to right, after the name.
pub const COLUMNS: &[Column] = &[
    Column {
        heading: "block efficiency",
        definition: "block_efficiency",
        compact: true,
        cell: |v| format::efficiency(v.block_efficiency),
        order: |v| v.block_efficiency,
    },
    Column {
        heading: "95 % interval",
        definition: "ci95",
        compact: true,
        cell: |v| format::interval(v.ci95),
        order: |v| v.ci95[0],
    },
    Column {
        heading: "gain",
        definition: "relative_gain",
        compact: true,
        cell: |v| beside_baseline(v, format::signed_percent(v.relative_gain)),
        order: |v| v.relative_gain,
    },
    Column {
        heading: "gain, 95 % interval",
        definition: "relative_gain_ci95",
        compact: false,
        cell: |v| beside_baseline(v, format::percent_interval(v.relative_gain_ci95)),
        order: |v| v.relative_gain_ci95[0],
    },
    Column {
        heading: "without loops",
        definition: "block_efficiency_without_loops",
        compact: true,
        cell: |v| v.block_efficiency_without_loops.map_or(NOTHING.to_owned(), format::efficiency),
        order: |v| v.block_efficiency_without_loops.unwrap_or(f64::NEG_INFINITY),
    },
    Column {
        heading: "doc mean",
        definition: "block_efficiency_document_mean",
        compact: false,
        cell: |v| format::efficiency(v.block_efficiency_document_mean),
        order: |v| v.block_efficiency_document_mean,
    },
    Column {
        heading: "verified / call",
        definition: "verified_tokens_per_call",
        compact: true,
        cell: |v| format::fixed(v.verified_tokens_per_call, 1),
        order: |v| v.verified_tokens_per_call,
    },
    Column {
        heading: "at most",
        definition: "verified_tokens_per_call_max",
        compact: false,
        cell: |v| format::count(v.verified_tokens_per_call_max),
        order: |v| v.verified_tokens_per_call_max as f64,
    },
    Column {
        heading: "drafts",
        definition: "drafts",
        compact: false,
        cell: |v| format::count(v.drafts),
        order: |v| v.drafts as f64,
    },
    Column {
        heading: "lm_scale",
        definition: "lm_scale",
        compact: true,
        cell: |v| v.lm_scale.map_or(NOTHING.to_owned(), |a| format::fixed(a, 2)),
        order: |v| v.lm_scale.unwrap_or(f64::NEG_INFINITY),
    },
    Column {
        heading: "headroom",
        definition: "headroom_closed",
        compact: false,
        cell: |v| v.headroom_closed.map_or(NOTHING.to_owned(), format::percent),
        order: |v| v.headroom_closed.unwrap_or(f64::NEG_INFINITY),
    },
    Column {
        heading: "dev",
        definition: "dev_block_efficiency",
        compact: false,
        cell: |v| v.dev_block_efficiency.map_or(NOTHING.to_owned(), |value| format::fixed(value, 3)),
        order: |v| v.dev_block_efficiency.unwrap_or(f64::NEG_INFINITY),
    },
    Column {
        heading: "win / tie / loss",
        definition: "wins",
        compact: false,
        cell: |v| {
            v.same_starts.as_ref().map_or(NOTHING.to_owned(), |s| {
                format!("{} / {} / {}", format::count(s.wins), format::count(s.ties), format::count(s.losses))
            })
        },
        order: |v| v.same_starts.as_ref().map_or(f64::NEG_INFINITY, |s| s.wins as f64 - s.losses as f64),
    },
    Column {
        heading: "repairs",
        definition: "repairs",
        compact: false,
        cell: |v| v.same_starts.as_ref().map_or(NOTHING.to_owned(), |s| format::count(s.repairs)),
        order: |v| v.same_starts.as_ref().map_or(f64::NEG_INFINITY, |s| s.repairs as f64),
    },
    Column {
        heading: "repeats",
        definition: "repetition",
        compact: true,
        cell: |v| v.same_starts.as_ref().map_or(NOTHING.to_owned(), |s| format::percent(s.repetition)),
        order: |v| v.same_starts.as_ref().map_or(f64::NEG_INFINITY, |s| s.repetition),
    },
    Column {
        heading: "longest run",
        definition: "longest_run",
        compact: false,
        cell: |v| v.same_starts.as_ref().map_or(NOTHING.to_owned(), |s| format::fixed(s.longest_run, 2)),
        order: |v| v.same_starts.as_ref().map_or(f64::NEG_INFINITY, |s| s.longest_run),
    },
    Column {
        heading: "open slots",
        definition: "choice_share",
        compact: false,
        cell: |v| v.choice_share.map_or(NOTHING.to_owned(), format::percent),
        order: |v| v.choice_share.unwrap_or(f64::NEG_INFINITY),
    },
    Column {
        heading: "calls + prefills",
        definition: "backbone_calls",
        compact: false,
        cell: |v| format!("{} + {}", format::count(v.backbone_calls), format::count(v.prefill_calls)),
        order: |v| v.backbone_calls as f64,
    },
    Column {
        heading: "lossless",
        definition: "lossless",
        compact: false,
        cell: |v| if v.lossless { "yes" } else { "no" }.to_owned(),
        order: |v| f64::from(v.lossless),
    },
];

const NOTHING: &str = "–";

/// The gain of the baseline over itself says nothing.
fn beside_baseline(variant: &Variant, gain: String) -> String {
    if variant.name == BASELINE { NOTHING.to_owned() } else { gain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_definition() {
        let written = crate::report::definitions();
        for column in COLUMNS {
            assert!(written.contains_key(column.definition), "{}", column.heading);
        }
    }
}
