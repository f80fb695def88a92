//! Heads that were trained elsewhere or earlier, evaluated as they are.

use std::path::Path;

use super::workspace::Stage;
use super::{TrainedHeads, Workspace};
use crate::error::Result;
use crate::files;
use crate::heads::{copy_heads, hash_heads, heads_folder, load_heads};

/// The heads that `path` names, and the run with them: nothing of its own that follows from its heads is read or written.
///
/// # Errors
/// No heads there; heads of another backbone or tokenizer.
pub fn other_heads(workspace: Workspace, path: &Path) -> Result<(Workspace, TrainedHeads)> {
    let from = heads_folder(path)?;
    let heads = load_heads(&from, &workspace.backbone)?;
    let key = files::hash_json(&("other heads", hash_heads(&from)?));
    let workspace = workspace.with_other_heads(&from, &key, heads.features())?;
    // A copy, so that the folder decodes as any other run does when the heads are gone from where they were.
    workspace.stage(&Stage { name: "heads", key: &key, title: "heads" }, |folder| copy_heads(&from, folder))?;
    Ok((workspace, TrainedHeads { heads, key, folder: from }))
}
