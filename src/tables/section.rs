//! Sections, one for each analysis, and what they are about.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::record::{Record, record};
use super::table::Table;
use crate::error::{Error, Result};

/// What the evaluation of one data set says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The data set, for instance `tales`.
    pub name: String,
    /// The split that was evaluated; settings are chosen on dev.
    pub split: String,
    /// Its size, and the blocks' shape.
    pub facts: Facts,
    /// One for each analysis that has something to say, in reading order.
    pub sections: Vec<Section>,
}

record! {
    /// What was evaluated.
    pub struct Facts in "facts", each "data set" {
        /// The documents (prompts) evaluated.
        documents: u64 = "documents" as Count;
        /// New tokens emitted over the whole set, end-of-text included; prompt tokens, and drafted tokens after the end of
        /// the text, are not counted.
        decoded_tokens: u64 = "decoded tokens" as Count;
        /// H: the tokens proposed at once, the first of them the backbone's own next token.
        block_size: u64 = "block size" as Count;
        /// k: the candidates kept per head in the lattice.
        top_k: u64 = "top k" as Count;
    }
}

/// What an analysis says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// The analysis's id; no other section of the data set has it.
    pub id: String,
    /// Its name in words.
    pub title: String,
    /// What is analysed, and how.
    pub definition: String,
    /// Whether the terminal shows its narrow tables and its notes.
    pub brief: bool,
    /// Sentences that a page opens with.
    pub claims: Vec<String>,
    /// Sentences about what follows.
    pub notes: Vec<String>,
    /// Sentences that cast doubt on the numbers.
    pub warnings: Vec<String>,
    /// In reading order.
    pub figures: Vec<Figure>,
    /// In reading order.
    pub tables: Vec<Table>,
}

impl Section {
    /// A section that says nothing yet.
    pub fn new(id: &str, title: &str, definition: &str) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            definition: definition.into(),
            brief: false,
            claims: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            figures: Vec::new(),
            tables: Vec::new(),
        }
    }

    /// Whether it still says nothing.
    pub fn is_empty(&self) -> bool {
        [&self.claims, &self.notes, &self.warnings].iter().all(|words| words.is_empty())
            && self.tables.is_empty()
            && self.figures.is_empty()
    }
}

impl Dataset {
    /// The table that is called `id`.
    pub fn table(&self, id: &str) -> Option<&Table> {
        self.sections.iter().flat_map(|section| &section.tables).find(|table| table.id == id)
    }

    /// The rows of the table that `R` describes, by name; none where the data set has no such table.
    ///
    /// # Errors
    /// A table of that id with another shape.
    pub fn rows<R: Record>(&self) -> Result<Vec<(&str, R)>> {
        let rows = self.table(R::TABLE).map_or(Ok(Vec::new()), Table::records);
        rows.map_err(|e: Error| e.within(&self.name))
    }
}
