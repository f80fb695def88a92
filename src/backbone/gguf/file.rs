//! A GGUF file, mapped: metadata by key, tensors by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::format::{Cursor, Tensor, Value, parse};
use crate::error::{Error, Result, bail};

/// A GGUF file, mapped; tensors are read one by one.
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
    /// A file that is not GGUF 2 or 3, that is damaged or cut short, or that has a tensor of an unsupported type: the
    /// error names the file and the key or tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
        // SAFETY: a file changed under a reader is outside what any reader can promise.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", path, e))?;
        let (metadata, tensors) = parse(&map).map_err(|e| e.within(path.display()))?;
        Ok(Self { path: path.into(), map, metadata, tensors })
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is such a metadata key, of whatever type.
    pub fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// A text; none where the key is absent or of another type, as in all of these.
    pub fn text(&self, key: &str) -> Option<&str> {
        let Value::Text(bytes) = self.metadata.get(key)? else { return None };
        std::str::from_utf8(&self.map[bytes.clone()]).ok()
    }

    /// A whole number from 0.
    pub fn count(&self, key: &str) -> Option<usize> {
        let Value::Integer(number) = self.metadata.get(key)? else { return None };
        usize::try_from(*number).ok()
    }

    /// A number, whole or not. A float32 becomes the shortest decimal that denotes it: 1e-5, not 9.99999974e-6.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> Option<bool> {
        let Value::Flag(flag) = self.metadata.get(key)? else { return None };
        Some(*flag)
    }

    /// An array of texts.
    pub fn texts(&self, key: &str) -> Option<Vec<&str>> {
        self.array(key, |value| match value {
            Value::Text(bytes) => std::str::from_utf8(&self.map[bytes]).ok(),
            _ => None,
        })
    }

    /// An array of whole numbers.
    pub fn integers(&self, key: &str) -> Option<Vec<i64>> {
        self.array(key, |value| match value {
            Value::Integer(number) => i64::try_from(number).ok(),
            _ => None,
        })
    }

    /// An array of numbers, whole or not.
    pub fn numbers(&self, key: &str) -> Option<Vec<f32>> {
        self.array(key, |value| match value {
            Value::Integer(number) => Some(number as f32),
            Value::Float(number) => Some(number as f32),
            _ => None,
        })
    }

    fn array<T>(&self, key: &str, mut element: impl FnMut(Value) -> Option<T>) -> Option<Vec<T>> {
        let Value::Array { kind, count, bytes } = self.metadata.get(key)? else { return None };
        let mut cursor = Cursor { bytes: &self.map[..bytes.end], at: bytes.start };
        // Opening the file walked over these elements, so there are as many bytes as they need.
        (0..*count).map(|_| element(cursor.element(*kind).ok()?)).collect()
    }

    /// Every tensor by its name, sorted.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Shape (row-major) and numbers of a tensor.
    ///
    /// # Errors
    /// A name that the file does not have.
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
