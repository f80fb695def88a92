//! What of a run is there.

use std::path::PathBuf;

use serde::Serialize;

use super::{Part, Workspace};

/// How far an artefact of a run is.
#[derive(Debug, Serialize)]
pub struct ArtefactStatus {
    /// Its place in the run's folder.
    pub name: String,
    /// How far it is.
    pub state: ArtefactState,
    /// Where it is or will be.
    pub folder: PathBuf,
    /// Seconds that making it took, if it is finished.
    pub seconds: Option<f64>,
    /// In what it differs from the nearest finished one of the same name, if it is not finished and there is one.
    pub differences: Vec<String>,
}

/// How far an artefact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtefactState {
    /// It is there.
    Finished,
    /// Somebody is making it.
    InTheMaking,
    /// It is not there, but one that other settings made is.
    Stale,
    /// Nothing of the kind is there.
    Missing,
}

/// Returns the state of every artefact of a run, in the order in which they are made.
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
