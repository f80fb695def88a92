//! Reading and writing of safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, TensorView};

use super::Values;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::storage_type::StorageType;

/// A safetensors file, mapped into memory, from which tensors are read one by one.
pub struct SafetensorsFile {
    map: Mmap,
    header: Metadata,
    /// Where the header ends and the numbers begin.
    data: usize,
}

impl SafetensorsFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// When the file cannot be read, or its length is not what its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
        // SAFETY: no reader can promise that nobody changes the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", path, e))?;
        let broken = |e: &dyn std::fmt::Display| {
            Error::new(format!(
                "{}: not a whole safetensors file ({e}). It may be truncated: compare its size with the original ({} bytes here) and copy it again.",
                path.display(),
                map.len()
            ))
        };
        let (length, header) = SafeTensors::read_metadata(&map).map_err(|e| broken(&e))?;
        let data = 8 + length;
        let end = header.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0);
        if map.len() - data != end {
            return Err(broken(&format!("the header asks for {end} bytes of numbers, there are {}", map.len() - data)));
        }
        Ok(Self { map, header, data })
    }

    /// Returns the names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort_unstable();
        names
    }

    /// Returns the shape and type of a tensor, if the file has it.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// Reads a tensor of 64-bit integers.
    ///
    /// # Errors
    /// When the file has no such tensor, or it is of another type.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let bytes = self.bytes_of(name, Dtype::I64)?;
        Ok(bytes.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect())
    }

    /// Reads a tensor of booleans.
    ///
    /// # Errors
    /// When the file has no such tensor, or it is of another type.
    pub fn flags(&self, name: &str) -> Result<Vec<bool>> {
        Ok(self.bytes_of(name, Dtype::BOOL)?.iter().map(|&byte| byte != 0).collect())
    }

    fn bytes_of(&self, name: &str, dtype: Dtype) -> Result<&[u8]> {
        match self.info(name) {
            None => bail!("the tensor `{name}` is missing."),
            Some(info) if info.dtype != dtype => {
                bail!("the tensor `{name}` is of type {:?}, not {dtype:?}.", info.dtype)
            }
            Some(info) => Ok(&self.map[self.data + info.data_offsets.0..self.data + info.data_offsets.1]),
        }
    }

    /// Reads a tensor of float32, float16 or bfloat16 numbers as float32.
    ///
    /// # Errors
    /// When the file has no such tensor, or it is of another type.
    pub fn read(&self, name: &str) -> Result<Values> {
        let Some(info) = self.info(name) else {
            bail!("the tensor `{name}` is missing.");
        };
        let storage = match info.dtype {
            Dtype::F32 => StorageType::Float32,
            Dtype::F16 => StorageType::Float16,
            Dtype::BF16 => StorageType::Bfloat16,
            other => {
                bail!("the tensor `{name}` is of type {other:?}; float32, float16 and bfloat16 are supported.")
            }
        };
        let bytes = &self.map[self.data + info.data_offsets.0..self.data + info.data_offsets.1];
        let mut numbers = Vec::with_capacity(bytes.len() / storage.bytes());
        storage.decode(bytes, &mut numbers);
        Ok((info.shape.clone(), numbers))
    }
}

/// Reads every tensor of a file.
///
/// # Errors
/// As for [`SafetensorsFile::open`] and [`SafetensorsFile::read`].
pub fn parameters_from_safetensors(path: &Path) -> Result<BTreeMap<String, Values>> {
    let file = SafetensorsFile::open(path)?;
    let read = |name: String| file.read(&name).map(|values| (name, values)).map_err(|e| e.within(path.display()));
    file.names().into_iter().map(read).collect()
}

/// Writes parameters as a safetensors file, sorted by name and all of one type.
pub fn parameters_to_safetensors(path: &Path, values: &BTreeMap<String, Values>, storage: StorageType) -> Result<()> {
    let encoded: Vec<(&String, &Vec<usize>, Vec<u8>)> = values
        .iter()
        .map(|(name, (shape, numbers))| {
            let mut bytes = Vec::with_capacity(numbers.len() * storage.bytes());
            storage.encode(numbers, &mut bytes);
            (name, shape, bytes)
        })
        .collect();
    let dtype = match storage {
        StorageType::Float32 => Dtype::F32,
        StorageType::Float16 => Dtype::F16,
        StorageType::Bfloat16 => Dtype::BF16,
    };
    let views = encoded.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, (*shape).clone(), bytes).expect("bytes match the shape");
        ((*name).clone(), view)
    });
    // Other readers of this format look for the framework's name.
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let bytes = safetensors::serialize(views, metadata)
        .map_err(|e| Error::new(format!("cannot write {}: {e}.", path.display())))?;
    files::write_atomic(path, &bytes)
}
