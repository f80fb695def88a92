//! Results of evaluations, kept on disk. After an interrupt, they need not be computed again.

use std::any::Any;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::files;

/// Findings by key. The folder contains one file for each of them, from the moment when it is known.
pub struct Findings {
    folder: PathBuf,
    program: String,
    known: Known,
}

/// The findings that this process knows. Evaluations that share this value compute nothing twice.
#[derive(Clone, Default)]
pub struct Known(Arc<Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>>);

impl Findings {
    /// Uses the findings in `folder`, which need not exist. Findings of another `program` are ignored.
    pub fn new(folder: PathBuf, program: impl Into<String>, known: Known) -> Self {
        Self { folder, program: program.into(), known }
    }

    /// Returns the key of a finding: a hash of its kind and of everything that it depends on.
    pub fn key(&self, kind: &str, depends_on: &impl Serialize) -> String {
        files::hash_json(&(&self.program, kind, depends_on))
    }

    /// Returns whether a finding is on disk.
    pub fn has(&self, key: &str) -> bool {
        self.file(key).exists()
    }

    /// Returns the finding with this key. It is taken from memory or from disk if possible; otherwise `find` computes
    /// it, and it is kept.
    ///
    /// # Errors
    /// Returns an error if `find` fails, or if the folder cannot be written to.
    pub fn find<T>(&self, key: &str, find: impl FnOnce() -> Result<T>) -> Result<Arc<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let known = || self.known.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = known().get(key).cloned();
        if let Some(found) = earlier.and_then(|found| found.downcast().ok()) {
            return Ok(found);
        }
        let file = self.file(key);
        let found = match read(&file) {
            Some(found) => found,
            None => {
                let found = find()?;
                write(&file, &found)?;
                found
            }
        };
        let found = Arc::new(found);
        known().insert(key.to_owned(), found.clone());
        Ok(found)
    }

    /// Removes all findings from disk.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be removed.
    pub fn clear(&self) -> Result<()> {
        files::remove_folder(&self.folder)
    }

    fn file(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.json.gz"))
    }
}

/// Reads a finding. Returns none if there is no such file or it cannot be read; the finding is then computed again.
fn read<T: DeserializeOwned>(file: &Path) -> Option<T> {
    let file = fs::File::open(file).ok()?;
    serde_json::from_reader(std::io::BufReader::new(GzDecoder::new(file))).ok()
}

fn write(file: &Path, found: &impl Serialize) -> Result<()> {
    files::write_with(file, |file| {
        let mut file = GzEncoder::new(file, Compression::fast());
        serde_json::to_writer(&mut file, found)?;
        file.finish().map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_finding_outlives_the_process_and_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let open = |program: &str| Findings::new(folder.path().join("findings"), program, Known::default());
        let (first, key) = (open("1"), open("1").key("sum", &[1, 2]));
        assert!(!first.has(&key));
        assert_eq!(*first.find(&key, || Ok(vec![1.0 / 3.0, 2.5])).unwrap(), [1.0 / 3.0, 2.5]);
        for again in [&first, &open("1")] {
            assert!(again.has(&key));
            assert_eq!(*again.find::<Vec<f64>>(&key, || panic!("it is known")).unwrap(), [1.0 / 3.0, 2.5]);
        }
        assert_ne!(open("2").key("sum", &[1, 2]), key);
        assert_ne!(first.key("product", &[1, 2]), key);
        first.clear().unwrap();
        first.clear().unwrap();
        assert!(!open("1").has(&key));
    }

    #[test]
    fn an_error_is_no_finding_and_a_damaged_file_none_either() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Findings::new(folder.path().to_owned(), "1", Known::default());
        let key = open().key("x", &());
        assert!(open().find::<u64>(&key, || Err(Error::new("no"))).is_err());
        assert!(!open().has(&key));
        fs::write(folder.path().join(format!("{key}.json.gz")), "half").unwrap();
        assert_eq!(*open().find(&key, || Ok(7u64)).unwrap(), 7);
        assert_eq!(*open().find(&key, || Ok(8u64)).unwrap(), 7);
    }

    #[test]
    fn what_a_process_knows_needs_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let known = Known::default();
        let [one, other] = ["a", "b"].map(|name| Findings::new(folder.path().join(name), "1", known.clone()));
        let key = one.key("x", &());
        one.find(&key, || Ok(7u64)).unwrap();
        assert_eq!(*other.find(&key, || Ok(8u64)).unwrap(), 7);
        assert!(!other.has(&key));
    }
}
