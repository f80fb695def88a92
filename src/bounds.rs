//! Bounds that schemars has no attribute for, in the JSON Schema of the configuration's sections.

use schemars::Schema;

/// Demands of a number, or of every number of a list, that it is above 0; for the derives of sections.
pub(crate) fn above_zero(schema: &mut Schema) {
    bound(schema, "exclusiveMinimum", 0);
}

/// Demands of a number, or of every number of a list, that it is below 1.
pub(crate) fn below_one(schema: &mut Schema) {
    bound(schema, "exclusiveMaximum", 1);
}

fn bound(schema: &mut Schema, name: &str, bound: u64) {
    match schema.get_mut("items") {
        Some(items) => items[name] = bound.into(),
        None => {
            schema.insert(name.to_owned(), bound.into());
        }
    }
}
