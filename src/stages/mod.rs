//! The stages of a run. Each stage makes files from the configuration and the results of earlier stages, and is skipped
//! if it is finished.
//!
//! The stages are [`trace`] → [`train_heads`] → [`train_rescorers`] → [`evaluate`]. [`pretrain`] makes a backbone and
//! is not one of them. [`Graph`] alone says what the stages make, in which order and from what. Every artefact is kept
//! in the [`store`](crate::store), which all runs share, under the hash of what it depends on. When a key of the
//! configuration changes, the artefacts that depend on it are thus made anew, and the earlier ones stay.

mod candidates;
mod evaluate;
mod graph;
mod inputs;
mod opened;
mod pretrain;
mod status;
mod trace;
mod train_heads;
mod train_rescorer;
mod variants;
mod workspace;

pub use candidates::candidates;
pub use evaluate::evaluate;
pub use graph::{Column, Graph, Part, Reach, TraceArtefacts};
pub use inputs::{Corpus, Inputs, load_backbone};
pub use opened::OpenedRun;
pub use pretrain::pretrain;
pub use status::{ArtefactState, ArtefactStatus, status};
pub use trace::{
    CorpusTrace, NamedEstimate, Traces, TracesEstimate, estimate_trace, estimate_traces, merge_traces, trace,
    trace_shard, write_prompts,
};
pub use train_heads::{TrainedHeads, train_heads};
pub use train_rescorer::{FittedRescorers, rescorers_need_heads, train_rescorers};
pub use workspace::{Runs, Shared, Workspace};

use crate::error::{Result, bail};
use crate::report::Report;

/// Makes every part of a run that is not finished, and returns the report.
///
/// # Errors
/// Fails if a stage fails, or if all checkpoints are to be evaluated but would not be kept when the heads are trained.
pub fn run(workspace: &Workspace) -> Result<Report> {
    let config = &workspace.config;
    if config.evaluation.all_checkpoints && !config.heads.keep_checkpoints && workspace.given_heads.is_none() {
        bail!("`evaluation.all_checkpoints` (--all-checkpoints): {HOW_TO_KEEP}");
    }
    let traces = trace(workspace)?;
    let heads = train_heads(workspace, &traces)?;
    let rescorers = train_rescorers(workspace, &traces, Some(&heads), None)?;
    evaluate(workspace, &traces, &heads, &rescorers)
}

/// The advice in error messages on what to do if checkpoints are missing.
const HOW_TO_KEEP: &str = "a training keeps the latest and the best checkpoint only, unless `heads.keep_checkpoints = true`. Set it, and start this command once more: heads with all their checkpoints are trained beside those that there are.";
