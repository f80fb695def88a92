//! Parquet files, as pyarrow, pandas and the Hugging Face hub write them.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::Value;

use super::records::{Column, Each, RecordLocation};
use crate::error::{Error, Result, bail, guarded};
use crate::files;

/// Calls `each` with every row as an object of those wanted columns that the file has.
///
/// # Errors
/// When the file is not Parquet, lacks a needed column, or a wanted column holds bytes or times.
pub fn for_each_row(path: &Path, columns: &[Column], each: Each) -> Result<()> {
    if files::is_gzip_name(path) {
        bail!("a Parquet file is compressed inside. Unpack it (gunzip) and name the unpacked file.");
    }
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    // The library may panic on damaged files.
    let rows = guarded(|| -> Result<()> {
        let reader = SerializedFileReader::new(file).map_err(|e| explain(&e))?;
        let projection = projection(reader.metadata().file_metadata().schema(), columns)?;
        let rows = reader.get_row_iter(Some(projection)).map_err(|e| explain(&e))?;
        for (index, row) in rows.enumerate() {
            let location = RecordLocation::Row(index + 1);
            let row = row.map_err(|e| explain(&e).within(location))?;
            let fields = row.get_column_iter().map(|(name, field)| {
                let value = value(field).map_err(|kind| {
                    Error::new(format!("the column `{name}` holds {kind}, not text; name a column of strings in [data.NAME], or write it again as one."))
                        .within(location)
                })?;
                Ok((name.clone(), value))
            });
            each(location, &fields.collect::<Result<_>>()?)?;
        }
        Ok(())
    });
    rows.unwrap_or_else(|| bail!("the file is damaged. Make or fetch it again."))
}

/// Returns the names of the columns of a file.
///
/// # Errors
/// When the file is not Parquet.
pub fn column_names(path: &Path) -> Result<Vec<String>> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let names = guarded(|| -> Result<Vec<String>> {
        let reader = SerializedFileReader::new(file).map_err(|e| explain(&e))?;
        let schema = reader.metadata().file_metadata().schema();
        Ok(schema.get_fields().iter().map(|field| field.name().to_owned()).collect())
    });
    names.unwrap_or_else(|| bail!("the file is damaged. Make or fetch it again."))
}

/// Returns the wanted part of a schema. Reading the other columns would take time and may not even work.
fn projection(schema: &Type, wanted: &[Column]) -> Result<Type> {
    let there: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
    let mut chosen = Vec::new();
    for column in wanted {
        match [&column.field, &column.outer].into_iter().find(|name| there.contains(&name.as_str())) {
            Some(name) => chosen.push(name.as_str()),
            None if column.needed => bail!(
                "no column `{}`; the file has {}. Name the right field in [data.NAME].",
                column.field,
                there.join(", ")
            ),
            None => {}
        }
    }
    let fields = schema.get_fields().iter().filter(|field| chosen.contains(&field.name())).map(Arc::clone).collect();
    Ok(Type::group_type_builder(schema.name()).with_fields(fields).build().expect("a part of a schema is a schema"))
}

/// Returns a field as JSON, or what kind of value it is that JSON does not have.
fn value(field: &Field) -> Result<Value, &'static str> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Str(text) => Value::from(text.as_str()),
        Field::ListInternal(list) => list.elements().iter().map(value).collect::<Result<_, _>>()?,
        Field::Group(row) => {
            let fields = row.get_column_iter().map(|(name, field)| value(field).map(|value| (name.clone(), value)));
            Value::Object(fields.collect::<Result<_, _>>()?)
        }
        Field::Bytes(_) => return Err("bytes that are not marked as text"),
        _ => return Err("times, decimals or maps"),
    })
}

fn explain(error: &ParquetError) -> Error {
    let advice = match error {
        ParquetError::NYI(_) | ParquetError::General(_) if error.to_string().contains("feature") => {
            "This program reads snappy and gzip compression; write it again with one of them."
        }
        _ => "Make or fetch it again; files of other formats are told by their names: .jsonl, .csv, .txt.",
    };
    Error::new(format!("not readable as Parquet ({error}). {advice}"))
}
