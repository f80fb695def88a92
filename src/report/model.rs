//! The [`Report`] value, which is the content of `report.json`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::tables::{Dataset, Section};

/// The version of the layout. There is only one so far.
pub const SCHEMA_VERSION: u64 = 1;

/// One evaluation: its tables and figures, with the definition of every number, and where they came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The layout of this file.
    pub schema_version: u64,
    /// In the order in which they were evaluated.
    pub datasets: Vec<Dataset>,
    /// What all data sets say together.
    pub across: Vec<Section>,
    /// Version, command line, seed, device, start, backbone, and whatever else tells where the numbers come from.
    pub provenance: Map<String, Value>,
}

impl Report {
    /// Makes a report in the present layout.
    pub fn new(datasets: Vec<Dataset>, across: Vec<Section>, provenance: Map<String, Value>) -> Self {
        Self { schema_version: SCHEMA_VERSION, datasets, across, provenance }
    }

    /// Returns every section, with the name of the data set that it is about.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        let of_sets = self.datasets.iter().flat_map(|set| set.sections.iter().map(|section| (&*set.name, section)));
        of_sets.chain(self.across.iter().map(|section| ("", section)))
    }

    /// Returns the name of the run, if the provenance has it.
    pub fn run(&self) -> Option<&str> {
        self.configured("/name")
    }

    /// Returns the last part of the path of the backbone, if the provenance has it.
    pub fn backbone(&self) -> Option<String> {
        let path = self.provenance.get("backbone")?.get("path")?.as_str()?;
        path.trim_end_matches('/').rsplit('/').next().map(str::to_owned)
    }

    /// Returns the kind of the heads, if the provenance has it, or where they come from if they were made elsewhere.
    pub fn heads(&self) -> Option<String> {
        let given = self.provenance.get("heads").and_then(|heads| heads.get("path")?.as_str());
        let kind = || Some(format!("{} heads", self.configured("/heads/architecture/kind")?));
        given.map(|path| format!("heads of {path}")).or_else(kind)
    }

    /// Returns the text at a place of the resolved configuration.
    fn configured(&self, place: &str) -> Option<&str> {
        self.provenance.get("configuration")?.pointer(place)?.as_str()
    }
}
