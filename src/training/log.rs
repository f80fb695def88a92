//! Files of JSON lines that a training writes as it goes.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::PathBuf;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

/// A file of JSON lines, which is cut to a checkpoint's length when training resumes.
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the file and cuts it to at most `keep` bytes.
    pub fn open(path: PathBuf, keep: u64) -> Result<Self> {
        let folder = path.parent().expect("a file in a folder");
        fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        let mut file = files::open_own(&path)?;
        let mut cut = || -> std::io::Result<()> {
            let length = file.metadata()?.len();
            file.set_len(length.min(keep))?;
            file.seek(std::io::SeekFrom::End(0))?;
            Ok(())
        };
        cut().map_err(|e| Error::io("write", &path, e))?;
        Ok(Self { file, path })
    }

    pub fn write(&mut self, line: &Value) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Flushes the file to disk and returns its length in bytes.
    pub fn sync(&mut self) -> Result<u64> {
        let sync = || -> std::io::Result<u64> {
            self.file.sync_data()?;
            Ok(self.file.metadata()?.len())
        };
        sync().map_err(|e| Error::io("write", &self.path, e))
    }
}
