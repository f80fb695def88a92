//! The heads' candidates on a trace: computed once, kept in `candidates/`.

use super::workspace::Stage;
use super::{CorpusTrace, TrainedHeads, Workspace};
use crate::config::StorageType;
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
    let key = key(&heads.key, &trace.key, k, workspace.config.traces.dtype);
    let (name, title) = (format!("candidates/{}", trace.name), format!("candidates {}", trace.name.replace('-', " ")));
    let stage = Stage { name: &name, key: &key, title: &title };
    let folder = workspace.stage(&stage, |folder| {
        StoredCandidates::make(&trace.trace, &heads.heads, &workspace.backbone.model, k, folder, &title)
    })?;
    StoredCandidates::open(&folder, &trace.trace)
}

/// Hash of what makes candidates of heads that read states of this type.
pub(super) fn key(heads: &str, trace: &str, k: usize, dtype: StorageType) -> String {
    files::hash_json(&(LAYOUT, heads, trace, k, dtype))
}
