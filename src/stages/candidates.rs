//! The heads' candidates on a trace: computed once.

use super::{CorpusTrace, TrainedHeads, Workspace};
use crate::error::Result;
use crate::heads::StoredCandidates;

/// The best tokens of every head at every position of `trace`, as many as anything asks for; fewer where the heads draft from fewer.
///
/// # Errors
/// What the heads, the disk or the trace refuse; an interrupt.
///
/// # Panics
/// Nothing reads the candidates on this trace.
pub fn candidates(workspace: &Workspace, heads: &TrainedHeads, trace: &CorpusTrace) -> Result<StoredCandidates> {
    let planned = &workspace.graph.traces[trace.number].candidates;
    let (k, artefact) = planned.as_ref().expect("whoever reads candidates has planned them");
    let folder = workspace.make(artefact, |folder| {
        let model = &workspace.backbone().model;
        StoredCandidates::make(&trace.trace, &heads.heads, model, *k, folder, &artefact.title)
    })?;
    StoredCandidates::open(&folder, &trace.trace)
}
