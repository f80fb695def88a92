//! Records of each step of a replay, including the drafts. All numbers of a variant can be recomputed from them.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::{EvaluatedSet, EvaluatedVariant, Step};
use crate::drafting::Drafts;
use crate::error::Result;
use crate::files;

/// The record of one call of the backbone.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct StepRecord<'a> {
    /// The name of the data set.
    set: &'a str,
    /// The name of the variant in the report.
    variant: &'a str,
    /// The id of the document.
    document: &'a str,
    /// The number of tokens of the continuation that were committed before.
    start: usize,
    /// The number of accepted tokens.
    accepted: usize,
    /// The number of slots that could have been accepted.
    slots: usize,
    /// The number of draft nodes that were verified.
    nodes: usize,
    /// The drafts, as token ids.
    drafts: Vec<Vec<u32>>,
}

/// Writes every step of every variant of an evaluated set into the file at `path`, compressed, as one JSON object per
/// line. All variants are replayed for this, because keeping the drafts of all walks would take too much memory.
///
/// # Errors
/// Returns an error if a drafter fails, or if the file cannot be written.
pub fn write_steps(set: &EvaluatedSet, path: &Path) -> Result<()> {
    files::write_with(path, |file| {
        let mut file = GzEncoder::new(file, Compression::default());
        for variant in &set.variants {
            let (name, EvaluatedVariant { prepared, result, .. }) = (variant.name(), variant);
            let drafter = prepared.drafter(&result.settings);
            let keep = |_, step, drafts: &Drafts| (step, drafts.paths.clone());
            let walks = set.texts.walk_with(prepared.variant.stop, &*drafter, keep)?;
            for (text, walk) in set.texts.texts.iter().zip(walks) {
                for (Step { start, accepted, slots, nodes, .. }, drafts) in walk {
                    let (set, variant, document) = (&*set.name, &*name, &*text.entry.id);
                    let record = StepRecord { set, variant, document, start, accepted, slots, nodes, drafts };
                    serde_json::to_writer(&mut file, &record)?;
                    file.write_all(b"\n")?;
                }
            }
        }
        file.finish().map(|_| ())
    })
}
