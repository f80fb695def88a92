//! A mapped GGUF file: metadata by key, tensors by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::format::{Cursor, Tensor, Value, parse};
use crate::error::{Error, Result, bail};

/// A GGUF file, mapped into memory, from which tensors are read one by one.
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

impl GgufFile {
    /// Opens a file and checks all of its structure.
    ///
    /// # Errors
    /// When the file is not GGUF 2 or 3, is damaged or cut short, or has a tensor of an unsupported type. The error
    /// names the file and the key or tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
        // SAFETY: no reader can promise that nobody changes the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", path, e))?;
        let (metadata, tensors) = parse(&map).map_err(|e| e.within(path.display()))?;
        Ok(Self { path: path.into(), map, metadata, tensors })
    }

    /// Returns the file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether there is such a metadata key, of whatever type.
    pub fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// Returns a text. Like the other readers of metadata, it returns none if the key is absent or of another type.
    pub fn text(&self, key: &str) -> Option<&str> {
        let Value::Text(bytes) = self.metadata.get(key)? else { return None };
        std::str::from_utf8(&self.map[bytes.clone()]).ok()
    }

    /// Returns a whole number that is not negative.
    pub fn count(&self, key: &str) -> Option<usize> {
        let Value::Integer(number) = self.metadata.get(key)? else { return None };
        usize::try_from(*number).ok()
    }

    /// Returns a number, whole or not. A float32 becomes the shortest decimal that denotes it: 1e-5, not 9.99999974e-6.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns a truth value.
    pub fn flag(&self, key: &str) -> Option<bool> {
        let Value::Flag(flag) = self.metadata.get(key)? else { return None };
        Some(*flag)
    }

    /// Returns an array of texts.
    pub fn texts(&self, key: &str) -> Option<Vec<&str>> {
        self.array(key, |value| match value {
            Value::Text(bytes) => std::str::from_utf8(&self.map[bytes]).ok(),
            _ => None,
        })
    }

    /// Returns an array of whole numbers.
    pub fn integers(&self, key: &str) -> Option<Vec<i64>> {
        self.array(key, |value| match value {
            Value::Integer(number) => i64::try_from(number).ok(),
            _ => None,
        })
    }

    /// Returns an array of numbers, whole or not.
    pub fn numbers(&self, key: &str) -> Option<Vec<f32>> {
        self.array(key, |value| match value {
            Value::Integer(number) => Some(number as f32),
            Value::Float(number) => Some(number as f32),
            _ => None,
        })
    }

    /// Returns an array whose elements `element` converts.
    fn array<T>(&self, key: &str, mut element: impl FnMut(Value) -> Option<T>) -> Option<Vec<T>> {
        let Value::Array { kind, count, bytes } = self.metadata.get(key)? else { return None };
        let mut cursor = Cursor { bytes: &self.map[..bytes.end], at: bytes.start };
        // Opening the file read all these elements once, so they are complete.
        (0..*count).map(|_| element(cursor.element(*kind).ok()?)).collect()
    }

    /// Returns every tensor by its name, sorted.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Reads the shape (row-major) and the numbers of a tensor.
    ///
    /// # Errors
    /// When the file has no such tensor.
    pub fn read(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let Some(tensor) = self.tensors.get(name) else {
            bail!(
                "{}: the tensor `{name}` is missing. The file may be one part of a split model, or not a model of this \
                 architecture; take the whole model.",
                self.path.display()
            );
        };
        Ok((tensor.shape.clone(), tensor.kind.dequantise(&self.map[tensor.bytes.clone()])))
    }
}
