//! The file `documents.json`, which holds the results of every variant on every document, so that runs can be compared
//! document by document.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, bail};
use crate::evaluation::bootstrap::Counts;
use crate::files;

/// The version of the layout. There is only one so far.
const SCHEMA: u64 = 1;

/// The name of the file, which lies beside `report.json`.
const DOCUMENTS: &str = "documents.json";

/// The documents of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Documents {
    /// The layout of this file.
    pub schema_version: u64,
    /// By data set.
    pub sets: BTreeMap<String, DocumentSet>,
}

/// The documents of a data set, in the order in which they were evaluated; every list has an entry for each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentSet {
    /// Names, unique in the set.
    pub ids: Vec<String>,
    /// What the bootstrap keeps together.
    pub groups: Vec<String>,
    /// Decoded tokens, the same for every variant.
    pub tokens: Vec<u64>,
    /// By variant, calls of the backbone.
    pub calls: BTreeMap<String, Vec<u64>>,
}

impl DocumentSet {
    /// Adds a variant with its tokens and calls for every document.
    pub fn add(&mut self, variant: &str, counts: &[Counts]) {
        self.tokens = counts.iter().map(|count| count.tokens).collect();
        self.calls.insert(variant.to_owned(), counts.iter().map(|count| count.calls).collect());
    }

    /// Returns the tokens and calls of a variant on each document.
    pub fn counts(&self, variant: &str) -> Option<BTreeMap<&str, Counts>> {
        let of_document = self.ids.iter().zip(&self.tokens).zip(self.calls.get(variant)?);
        Some(of_document.map(|((id, &tokens), &calls)| (id.as_str(), Counts { tokens, calls })).collect())
    }
}

impl Documents {
    /// Makes the documents of a report.
    pub fn new(sets: BTreeMap<String, DocumentSet>) -> Self {
        Self { schema_version: SCHEMA, sets }
    }

    /// Reads the `documents.json` of a report in `folder`.
    ///
    /// # Errors
    /// Returns an error if the file is missing or damaged, or has another layout.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(DOCUMENTS);
        if !path.exists() {
            bail!("there is no {}, which says what every document took. Evaluate it again.", path.display());
        }
        let documents: Self = files::read_json(&path)?;
        if documents.schema_version != SCHEMA {
            bail!(
                "{}: this file has layout {}, this program reads {SCHEMA}. Evaluate the run again.",
                path.display(),
                documents.schema_version
            );
        }
        Ok(documents)
    }

    /// Writes `documents.json` into `folder`. The file is a single line, because there may be thousands of documents.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string(self).expect("documents are JSON") + "\n";
        files::write_atomic(&folder.join(DOCUMENTS), text.as_bytes())
    }
}
