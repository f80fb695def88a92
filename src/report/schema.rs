//! The JSON schemas of the files that other programs read, generated from the Rust types.

use schemars::generate::SchemaSettings;

use super::documents::Documents;
use super::model::Report;

/// Returns the JSON schema (draft 2020-12) of `report.json`. Its definitions include the schema of `documents.json`.
pub fn schema() -> String {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<Documents>();
    let schema = generator.into_root_schema_for::<Report>();
    serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n"
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_in_docs_is_that_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/report.schema.json");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == super::schema(), "write it anew: draftsmith report --schema > docs/report.schema.json");
    }
}
