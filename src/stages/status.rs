//! The status of a run, which tells which of its artefacts are finished.

use std::path::PathBuf;

use serde::Serialize;

use super::{Part, Workspace};

/// The status of an artefact of a run.
#[derive(Debug, Serialize)]
pub struct ArtefactStatus {
    /// The path of the artefact in the run's folder.
    pub name: String,
    /// The state that the artefact is in.
    pub state: ArtefactState,
    /// The folder where the artefact is or will be.
    pub folder: PathBuf,
    /// The seconds that it took to make the artefact, if it is finished.
    pub seconds: Option<f64>,
    /// The differences from the nearest finished artefact of the same name. Empty if this artefact is finished, or if
    /// there is no such other one.
    pub differences: Vec<String>,
}

/// The state of an artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtefactState {
    /// The artefact is finished.
    Finished,
    /// A process is making the artefact.
    InTheMaking,
    /// The artefact is not there, but one of the same name that was made with other settings is.
    Stale,
    /// Neither the artefact nor one of the same name is there.
    Missing,
}

/// Returns the status of every artefact of a run, in the order in which they are made.
pub fn status(workspace: &Workspace) -> Vec<ArtefactStatus> {
    let in_the_making = workspace.store.in_the_making();
    let of = |artefact: &crate::store::Artefact| {
        let folder = workspace.store.place(&artefact.key);
        let finished = workspace.store.is_finished(&artefact.key);
        let nearest = if finished { None } else { workspace.store.nearest(artefact) };
        let state = match (finished, in_the_making.contains(&folder), &nearest) {
            (true, ..) => ArtefactState::Finished,
            (_, true, _) => ArtefactState::InTheMaking,
            (.., Some(_)) => ArtefactState::Stale,
            _ => ArtefactState::Missing,
        };
        ArtefactStatus {
            name: artefact.name.clone(),
            state,
            folder,
            seconds: workspace.store.seconds(&artefact.key),
            differences: nearest.iter().flat_map(|n| n.differences.iter().map(ToString::to_string)).collect(),
        }
    };
    workspace.graph.parts().flat_map(Part::artefacts).map(of).collect()
}
