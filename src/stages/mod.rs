//! The stages of a run, each from configuration and earlier results to files, each skipped when it is finished.
//!
//! [`trace`] → [`train_heads`] → [`train_rescorers`] → [`evaluate`]; [`pretrain`] makes a backbone and stands apart. A stage
//! is known by the hash of everything it depends on, so a changed key of the configuration redoes what follows from it.

mod candidates;
mod evaluate;
mod opened;
mod other_heads;
mod outline;
mod pretrain;
mod trace;
mod train_heads;
mod train_rescorer;
mod variants;
mod workspace;

pub use candidates::candidates;
pub use evaluate::evaluate;
pub use opened::OpenedRun;
pub use other_heads::other_heads;
pub use outline::{Planned, PlannedKind, outline};
pub use pretrain::pretrain;
pub use trace::{CorpusTrace, NamedEstimate, Traces, TracesEstimate, estimate_traces, trace};
pub use train_heads::{TrainedHeads, train_heads};
pub use train_rescorer::{FittedRescorer, rescorers_need_heads, train_rescorers};
pub use workspace::{Corpus, Inputs, Reach, Stage, Store, Workspace};

use std::time::Instant;

use crate::error::{Result, bail};
use crate::report::Report;

/// Every stage of a run that is not finished; with `heads`, those are evaluated and none are trained.
pub fn run(workspace: &Workspace, heads: Option<TrainedHeads>) -> Result<Report> {
    let config = &workspace.config;
    if config.evaluation.all_checkpoints && !config.heads.keep_checkpoints && heads.is_none() {
        bail!("`evaluation.all_checkpoints` (--all-checkpoints): {HOW_TO_KEEP}");
    }
    let traces = trace(workspace)?;
    let heads = match heads {
        Some(heads) => heads,
        None => train_heads(workspace, &traces)?,
    };
    let rescorers = train_rescorers(workspace, &traces, Some(&heads), None)?;
    let started = Instant::now();
    let report = evaluate(workspace, &traces, &heads, &rescorers)?;
    workspace.note_seconds(&workspace.folder.join("report"), started)?;
    Ok(report)
}

/// What to do where checkpoints are missing.
const HOW_TO_KEEP: &str = "a training keeps the latest and the best checkpoint only, unless `heads.keep_checkpoints = true` was set before it began. Set it, remove the run's folder `heads` if there is one (finished heads are not trained again), and start this command once more.";
