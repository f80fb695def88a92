//! The heads' candidates on a trace, which are computed once.

use super::{CorpusTrace, TrainedHeads, Workspace};
use crate::error::Result;
use crate::heads::StoredCandidates;

/// Returns the best tokens of every head at every position of `trace`, which are computed unless that is done. There
/// are as many as any later part asks for, or fewer if the heads draft from fewer tokens.
///
/// # Errors
/// Fails if the heads or the trace cannot be read, if the disk cannot be written to, or on an interrupt.
///
/// # Panics
/// Panics if the graph plans no candidates on this trace, because nothing reads them.
pub fn candidates(workspace: &Workspace, heads: &TrainedHeads, trace: &CorpusTrace) -> Result<StoredCandidates> {
    let planned = &workspace.graph.traces[trace.number].candidates;
    let (k, artefact) = planned.as_ref().expect("whoever reads candidates has planned them");
    let folder = workspace.make(artefact, |folder| {
        let heads = (&heads.heads, &workspace.backbone().model);
        let states = workspace.graph.keeps_states.then_some(workspace.config.traces.dtype);
        StoredCandidates::make(&trace.trace, heads, (*k, states), folder, &artefact.title)
    })?;
    StoredCandidates::open(&folder, &trace.trace)
}
