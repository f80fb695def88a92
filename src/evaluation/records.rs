//! What a replay did, step by step, with the drafts: from these every number of a variant can be computed again.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::{EvaluatedSet, EvaluatedVariant, Step, replay_with};
use crate::error::Result;
use crate::files;

/// One call of the backbone.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct StepRecord<'a> {
    /// The data set.
    set: &'a str,
    /// As in the report.
    variant: &'a str,
    /// The document's id.
    document: &'a str,
    /// Tokens of the continuation committed before.
    start: usize,
    /// Accepted tokens.
    accepted: usize,
    /// Slots that could be accepted.
    slots: usize,
    /// Draft nodes verified.
    nodes: usize,
    /// The drafts, as token ids.
    drafts: Vec<Vec<u32>>,
}

/// Writes every step of every variant of an evaluated set into the file at `path`, a JSON object a line, compressed.
/// Every variant walks again: keeping the drafts of all walks takes memory.
///
/// # Errors
/// A file that cannot be written.
pub fn write_steps(set: &EvaluatedSet, path: &Path) -> Result<()> {
    files::write_with(path, |file| {
        let mut file = GzEncoder::new(file, Compression::default());
        for variant in &set.variants {
            let (name, EvaluatedVariant { prepared, result, .. }) = (variant.name(), variant);
            let drafter = prepared.drafter(&result.settings);
            let walks = set.texts.of_each(prepared.variant.stop, &*drafter, |_, text, lattices| {
                replay_with(text, lattices, &*drafter, |step, drafts| (step, drafts.paths.clone()))
            })?;
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
