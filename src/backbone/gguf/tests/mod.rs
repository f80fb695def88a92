//! Tests with files that they write themselves, against what Python reads from the same bytes (`fixtures/make.py`), and
//! with broken ones.

mod container;
mod llama;
mod tokenizer;
mod writer;

use std::io::Write;

use super::GgufFile;
use crate::error::Result;
use writer::Writer;

impl Writer {
    fn open(&self) -> Result<GgufFile> {
        open(&self.bytes())
    }
}

/// Opens `bytes` as a file.
fn open(bytes: &[u8]) -> Result<GgufFile> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    GgufFile::open(file.path())
}

/// Returns the message of `result`, which must be an error.
fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error was expected").to_string()
}
