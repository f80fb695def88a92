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
}
