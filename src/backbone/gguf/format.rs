//! The structure of GGUF files, versions 2 and 3, little-endian.
//!
//! Nothing in the file is trusted: each count, length and offset is compared with what the file has before it is used,
//! and nothing is allocated on the word of a count alone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Range;

use super::quants::Kind;
use crate::error::{Error, Result, bail};

/// Where a tensor lies in the file, and its type.
pub struct Tensor {
    /// The dimensions in row-major order: rows (outputs) before columns (inputs).
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub kind: Kind,
    pub(super) bytes: Range<usize>,
}

/// A metadata value. Texts and arrays stay in the file; here are the ranges of their bytes.
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Flag(bool),
    Text(Range<usize>),
    Array { kind: u32, count: usize, bytes: Range<usize> },
}

const DEFAULT_ALIGNMENT: u64 = 32;
const DAMAGED: &str =
    "The file is damaged or was not copied whole: compare its size with the original's, and copy it again";

/// The metadata and the tensors.
type Contents = (BTreeMap<String, Value>, BTreeMap<String, Tensor>);

/// Reads and checks everything except the tensors' numbers.
pub(super) fn parse(file: &[u8]) -> Result<Contents> {
    let mut cursor = Cursor { bytes: file, at: 0 };
    if !file.starts_with(b"GGUF") {
        bail!("not a GGUF file (it does not begin with the letters GGUF). Check the path.");
    }
    cursor.at = 4;
    match cursor.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            bail!("a big-endian GGUF file; only little-endian ones are supported. Take the little-endian file.")
        }
        version => bail!("GGUF version {version}; versions 2 and 3 are supported. Convert the model again."),
    }
    let (tensor_count, key_count) = (cursor.u64()?, cursor.u64()?);

    let mut metadata = BTreeMap::new();
    for index in 0..key_count {
        let place = |e: Error| e.within(format!("metadata key {index} of {key_count}"));
        let key = cursor.name().map_err(place)?;
        let value = cursor.value().map_err(|e| e.within(format!("metadata key `{key}`")))?;
        insert_new(&mut metadata, key, value).map_err(place)?;
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Integer(n)) if *n > 0 && *n <= 1 << 30 && (*n as u64).is_power_of_two() => *n as u64,
        Some(_) => bail!("metadata key `general.alignment`: not a power of two. {DAMAGED}."),
    };

    let mut tensors = BTreeMap::new();
    let mut taken = 0;
    for index in 0..tensor_count {
        let place = |e: Error| e.within(format!("tensor {index} of {tensor_count}"));
        let name = cursor.name().map_err(place)?;
        let tensor = cursor.tensor(alignment, taken).map_err(|e| e.within(format!("tensor `{name}`")))?;
        taken = tensor.bytes.end;
        insert_new(&mut tensors, name, tensor).map_err(place)?;
    }
    // Offsets count from here. A file without any numbers may end earlier.
    let start = cursor.at.next_multiple_of(alignment as usize).min(file.len());
    let room = file.len() - start;
    for (name, tensor) in &mut tensors {
        if tensor.bytes.end > room {
            bail!(
                "tensor `{name}`: it ends at byte {} of the tensors' part, which has {room} bytes. {DAMAGED}.",
                tensor.bytes.end
            );
        }
        tensor.bytes = start + tensor.bytes.start..start + tensor.bytes.end;
    }
    Ok((metadata, tensors))
}

/// Inserts a value, unless its name is already there.
fn insert_new<T>(map: &mut BTreeMap<String, T>, name: String, value: T) -> Result<()> {
    match map.entry(name) {
        Entry::Vacant(place) => place.insert(value),
        Entry::Occupied(place) => bail!("`{}` is there twice. {DAMAGED}.", place.key()),
    };
    Ok(())
}

/// A position in a file.
pub(super) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl Cursor<'_> {
    /// Moves past `count` bytes, and returns their range.
    fn skip(&mut self, count: u64, what: impl fmt::Display) -> Result<Range<usize>> {
        let left = self.bytes.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left => {
                let start = self.at;
                self.at += count;
                Ok(start..self.at)
            }
            _ => bail!("{what} needs {count} bytes at byte {}, where {left} are left. {DAMAGED}.", self.at),
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let place = self.skip(N as u64, "a number")?;
        Ok(std::array::from_fn(|i| self.bytes[place.start + i]))
    }

    fn u32(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<Range<usize>> {
        let length = self.u64()?;
        let place = self.skip(length, "a text")?;
        match std::str::from_utf8(&self.bytes[place.clone()]) {
            Ok(_) => Ok(place),
            Err(e) => bail!("the text at byte {} is not UTF-8 ({e}). {DAMAGED}.", place.start),
        }
    }

    fn name(&mut self) -> Result<String> {
        let place = self.text()?;
        Ok(String::from_utf8_lossy(&self.bytes[place]).into_owned())
    }

    fn value(&mut self) -> Result<Value> {
        let kind = self.u32()?;
        if kind != 9 {
            return self.element(kind);
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        let start = self.at;
        match width(kind) {
            Some(width) => _ = self.skip(count.saturating_mul(width), "an array")?,
            // An array of texts, or what `element` refuses. An excessive count is harmless: each text takes at least 8
            // bytes.
            None => (0..count).try_for_each(|_| self.element(kind).map(drop))?,
        }
        let Ok(count) = usize::try_from(count) else { bail!("an array of {count} elements. {DAMAGED}.") };
        Ok(Value::Array { kind, count, bytes: start..self.at })
    }

    /// Reads any value but an array.
    pub fn element(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(self.bytes().map(u8::from_le_bytes)?.into()),
            1 => Value::Integer(self.bytes().map(i8::from_le_bytes)?.into()),
            2 => Value::Integer(self.bytes().map(u16::from_le_bytes)?.into()),
            3 => Value::Integer(self.bytes().map(i16::from_le_bytes)?.into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(self.bytes().map(i32::from_le_bytes)?.into()),
            6 => Value::Float(shortest(self.bytes().map(f32::from_le_bytes)?)),
            7 => Value::Flag(self.bytes()? != [0]),
            8 => Value::Text(self.text()?),
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(self.bytes().map(i64::from_le_bytes)?.into()),
            12 => Value::Float(self.bytes().map(f64::from_le_bytes)?),
            9 => bail!("an array of arrays, which no GGUF file of a language model has. {DAMAGED}."),
            _ => bail!("values of type {kind}; GGUF has the types 0 to 12. {DAMAGED}."),
        })
    }

    /// Reads a tensor's entry. Its bytes count from the start of the tensors' part, and must come after those `taken`.
    fn tensor(&mut self, alignment: u64, taken: usize) -> Result<Tensor> {
        let dimensions = self.u32()?;
        if dimensions > 4 {
            bail!("{dimensions} dimensions; GGUF has 4 at most. {DAMAGED}.");
        }
        // The file begins with the dimension whose numbers are adjacent.
        let mut shape = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<u64>>>()?;
        shape.reverse();
        let kind = Kind::from_id(self.u32()?)?;
        let offset = self.u64()?;
        let too_large = || Error::new(format!("the shape {shape:?} at offset {offset} is too large. {DAMAGED}."));
        let columns = shape.last().copied().unwrap_or(1);
        let (block, size) = kind.block();
        if !columns.is_multiple_of(block as u64) {
            bail!("rows of {columns} numbers, but {kind} stores blocks of {block}. {DAMAGED}.");
        }
        let numbers = shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n)).ok_or_else(too_large)?;
        let bytes = (numbers / block as u64).checked_mul(size as u64).ok_or_else(too_large)?;
        let end = offset.checked_add(bytes).ok_or_else(too_large)?;
        if !offset.is_multiple_of(alignment) || offset < taken as u64 {
            bail!("the offset {offset} is not a multiple of {alignment} after {taken}. {DAMAGED}.");
        }
        let whole = |n: u64| usize::try_from(n).map_err(|_| too_large());
        let bytes = whole(offset)?..whole(end)?;
        Ok(Tensor { shape: shape.iter().map(|&n| whole(n)).collect::<Result<_>>()?, kind, bytes })
    }
}

/// Returns the size in bytes of a number or truth value in an array; none for other types.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Converts a number by way of the shortest decimal that denotes it.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(number.into())
}
