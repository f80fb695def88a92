//! The heads' candidates on a trace: computed once, kept in `candidates/`.

use super::{CorpusTrace, TrainedHeads, Workspace};
use crate::error::Result;
use crate::files;
use crate::heads::StoredCandidates;

/// Raised when the files' layout changes, so that older ones are made again.
const LAYOUT: u32 = 2;

/// The `k` best tokens of every head at every position of `trace`; fewer where the heads draft from fewer.
pub fn candidates(
    workspace: &Workspace,
    heads: &TrainedHeads,
    trace: &CorpusTrace,
    k: usize,
) -> Result<StoredCandidates> {
    let folder = workspace.folder.join("candidates").join(&trace.name);
    let key = files::hash_json(&(LAYOUT, &heads.key, &trace.key, k));
    if !workspace.is_finished(&folder, &key) {
        let title = format!("candidates {}", trace.name.replace('-', " "));
        // Takes an older mark away.
        workspace.finished(&title, &folder, &key)?;
        StoredCandidates::make(&trace.trace, &heads.heads, &workspace.backbone.model, k, &folder, &title)?;
        workspace.finish(&folder, &key)?;
    }
    StoredCandidates::open(&folder, &trace.trace)
}
