//! What a replay did, step by step, with the drafts: from these every number of a variant can be computed again.

use serde::Serialize;

use super::{ReplayText, Step};
use crate::drafting::Drafter;
use crate::error::Result;
use crate::lattice::Lattice;
use crate::rescorer::BlockContext;

/// One call of the backbone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRecord<'a> {
    /// The data set.
    pub set: &'a str,
    /// As in the report.
    pub variant: &'a str,
    /// The document's id.
    pub document: &'a str,
    /// Tokens of the continuation committed before.
    pub start: usize,
    /// Accepted tokens.
    pub accepted: usize,
    /// Slots that could be accepted.
    pub slots: usize,
    /// Draft nodes verified.
    pub nodes: usize,
    /// The drafts, as token ids.
    pub drafts: Vec<Vec<u32>>,
}

/// The drafts of every step of a walk, drafted again: keeping them while thousands of settings are walked takes memory.
pub fn drafts_of(
    text: &ReplayText,
    lattices: &[Lattice],
    steps: &[Step],
    drafter: &dyn Drafter,
) -> Result<Vec<Vec<Vec<u32>>>> {
    let blocks: Vec<BlockContext> =
        steps.iter().map(|step| text.block_context(step.start, &lattices[step.start])).collect();
    Ok(drafter.session().drafts(&text.tokens, &blocks)?.into_iter().map(|drafts| drafts.paths).collect())
}
