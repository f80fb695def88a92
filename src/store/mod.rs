//! The store, which keeps finished work. Each piece lies under the hash of what made it.
//!
//! An artefact is a folder `STORE/KIND/HASH/`. It is finished once `stage.json`, which contains its [`Key`], lies in
//! it. Other settings make another artefact next to it, so finished work is never overwritten. All processes that use a
//! store, on whatever machines, make each artefact only once: see [`claims`](crate::claims). [`unused`] finds the
//! artefacts that no run refers to any longer.

mod hashes;
mod key;
mod unused;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use hashes::{skip_verification, verifies, verify};
pub use key::{Difference, Key};
pub use unused::{Unused, unused};

use crate::claims::Claims;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::shard::Shard;

/// The file that marks an artefact as finished.
pub const MARK: &str = "stage.json";

/// The file that says how long making an artefact took. It is separate because its content differs each time the
/// artefact is made.
const TOOK: &str = "took.json";

#[derive(Serialize, Deserialize)]
struct Took {
    seconds: f64,
}

/// An artefact that a run needs and a store keeps.
#[derive(Debug, Clone)]
pub struct Artefact {
    /// The path of the artefact in a run's folder, such as `rescorers/ngram`.
    pub name: String,
    /// The name of the artefact in messages.
    pub title: String,
    /// Everything that the artefact depends on.
    pub key: Key,
}

impl Artefact {
    /// Returns the artefact of a shard of this one, which lies in `STORE/shards/HASH/` until all of them are merged.
    pub fn shard(&self, shard: Shard) -> Self {
        let name = format!("shards/{}/{}", shard.to_string().replace('/', "-of-"), self.name);
        Self { name, title: format!("{}, shard {shard}", self.title), key: self.key.shard(shard) }
    }
}

/// The contents of the file that marks an artefact as finished.
#[derive(Serialize, Deserialize)]
struct Mark {
    /// The name of the artefact in the run that made it.
    name: String,
    #[serde(flatten)]
    key: Key,
    /// The BLAKE3 hashes of its files, by their names.
    files: BTreeMap<String, String>,
}

/// A folder of artefacts. Clones refer to the same store.
#[derive(Clone)]
pub struct Store {
    folder: PathBuf,
    claims: Arc<Claims>,
    /// The folders of artefacts that could not be made, with the errors. This process does not try them again.
    failed: Arc<Mutex<HashMap<PathBuf, String>>>,
    /// A shared lock on the folder. It is held until the last clone is dropped, so that nothing is removed in the
    /// meantime.
    _shared: Option<Arc<File>>,
}

/// A finished artefact that differs little from one that is missing.
#[derive(Debug)]
pub struct Nearest {
    /// The folder of the artefact.
    pub folder: PathBuf,
    /// The differences between the key of the missing artefact and the key of this one.
    pub differences: Vec<Difference>,
    /// The seconds that making it took, if they were recorded.
    pub seconds: Option<f64>,
}

impl Nearest {
    /// Returns a clause that lists the first few differences.
    pub fn words(&self) -> String {
        const MOST: usize = 5;
        let named: Vec<String> = self.differences.iter().take(MOST).map(Difference::to_string).collect();
        let more = self.differences.len() - named.len();
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        format!("differs from what is finished in {}{more}", named.join(", "))
    }
}

impl Store {
    /// Opens the store in `folder` to work in it, together with other processes. Creates the folder if necessary.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written to, or if another process is removing unused artefacts from it.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let (folder, claims) = (folder.into(), Claims::new());
        let shared = files::share(&folder, || !claimed(&folder, &claims).is_empty())?;
        Ok(Self { folder, claims: Arc::new(claims), failed: Arc::default(), _shared: Some(Arc::new(shared)) })
    }

    /// Returns the store in `folder` for reading only. Nothing is written, and the folder need not exist.
    pub fn look(folder: impl Into<PathBuf>) -> Self {
        let claims = Arc::new(Claims::watching());
        Self { folder: folder.into(), claims, failed: Arc::default(), _shared: None }
    }

    /// Returns the folder of the store.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the claims, which tell which process is making which artefact.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Returns the folder of an artefact, whether or not it exists.
    pub fn place(&self, key: &Key) -> PathBuf {
        self.folder.join(key.kind()).join(key.short())
    }

    /// Returns the folders of the artefacts that a process is making, this one included.
    pub fn in_the_making(&self) -> HashSet<PathBuf> {
        claimed(&self.folder, &self.claims)
    }

    /// Returns whether an artefact is finished.
    pub fn is_finished(&self, key: &Key) -> bool {
        // If the mark cannot be read, it is damaged, and the artefact is made again.
        files::read_json::<Mark>(&self.place(key).join(MARK)).is_ok_and(|mark| mark.key == *key)
    }

    /// Makes an artefact, unless it is finished. No other process makes it at the same time. The files of one that is finished are
    /// checked when this process first comes upon it ([`verify`]).
    ///
    /// `make` gets the artefact's folder and fills it. After that, the folder is marked as finished. If making was
    /// interrupted before, `make` finds what there was in the folder then.
    ///
    /// # Errors
    /// Returns the error of `make`, also if that failed earlier in this process. Returns an error as well after an
    /// interrupt while waiting for another process, if another process took over the work, or if a file cannot be
    /// written.
    pub fn make(&self, artefact: &Artefact, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.make_whole(artefact, |folder| {
            make(folder)?;
            self.finish(artefact, folder)
        })
    }

    /// Does the same as [`Store::make`], but leaves it to `make` to mark the folder as finished. `make` can thus fill
    /// another folder, call [`Store::finish`] on it, and rename it to the artefact's.
    ///
    /// # Errors
    /// Returns an error in the same cases as [`Store::make`].
    pub fn make_whole(&self, artefact: &Artefact, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let key = &artefact.key;
        let folder = self.place(key);
        if self.is_finished(key) {
            return verify(&folder);
        }
        let failed = || self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failed().get(&folder) {
            return Err(Error::new(error.clone()));
        }
        let claim = self.claims.wait(&folder, &artefact.title)?;
        if !self.is_finished(key) {
            files::sweep(&folder)?;
            let started = Instant::now();
            make(&folder).inspect_err(|error| {
                if error.kind() != ErrorKind::Interrupted {
                    failed().insert(folder.clone(), error.to_string());
                }
            })?;
            claim.still_mine()?;
            files::write_json(&folder.join(TOOK), &Took { seconds: started.elapsed().as_secs_f64() })?;
            hashes::trust(&folder);
        }
        claim.finish();
        Ok(())
    }

    /// Marks the content of `folder` as the finished artefact.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written to.
    pub fn finish(&self, artefact: &Artefact, folder: &Path) -> Result<()> {
        let (Artefact { name, key, .. }, files) = (artefact.clone(), hashes::hashes(folder)?);
        files::write_json(&folder.join(MARK), &Mark { name, key, files })
    }

    /// Returns the seconds that making the artefact took, if it is finished and they were recorded.
    pub fn seconds(&self, key: &Key) -> Option<f64> {
        seconds_of(&self.place(key)).filter(|_| self.is_finished(key))
    }

    /// Returns the finished artefact of the same kind and name whose key has the fewest differences from that of the
    /// given one. If there are several, returns the latest. Artefacts with the same key are not considered.
    pub fn nearest(&self, Artefact { name, key, .. }: &Artefact) -> Option<Nearest> {
        let folders = files::listing(&self.folder.join(key.kind())).unwrap_or_default();
        let finished = folders.into_iter().filter_map(|folder| {
            let mark = folder.join(MARK);
            let (other, made) = (files::read_json::<Mark>(&mark).ok()?, mark.metadata().ok()?.modified().ok()?);
            let differences = key.differences(&other.key);
            (other.name == *name && !differences.is_empty()).then_some((differences, Reverse(made), folder))
        });
        let (differences, _, folder) = finished.min_by_key(|(differences, made, _)| (differences.len(), *made))?;
        Some(Nearest { seconds: seconds_of(&folder), folder, differences })
    }
}

/// Returns the seconds that making the artefact in `folder` took, or none if they were not recorded.
pub fn seconds_of(folder: &Path) -> Option<f64> {
    let took = files::read_json::<Took>(&folder.join(TOOK)).ok()?.seconds;
    // Nothing is made for longer than ten years; the file was damaged.
    (0.0..3.2e8).contains(&took).then_some(took)
}

/// Returns the folders of the kinds of artefacts in a store.
fn kinds(store: &Path) -> Vec<PathBuf> {
    files::listing(store).unwrap_or_default().into_iter().filter(|path| path.is_dir()).collect()
}

/// Returns the folders of the artefacts in a store that a running process has claimed, this one included.
fn claimed(store: &Path, claims: &Claims) -> HashSet<PathBuf> {
    let in_kind = |kind: PathBuf| claims.in_folder(&kind).into_keys().map(move |name| kind.join(name));
    kinds(store).into_iter().flat_map(in_kind).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use serde_json::json;

    use super::*;

    fn of(settings: serde_json::Value) -> Artefact {
        Artefact { name: "heads".into(), title: "train-heads".into(), key: Key::new("heads", &settings, []) }
    }

    fn heads(steps: u32) -> Artefact {
        of(json!({"steps": steps}))
    }

    #[test]
    fn an_artefact_is_made_once_and_another_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, made) = (Store::open(dir.path()).unwrap(), Cell::new(0));
        let make = |steps| {
            let fill = |folder: &Path| {
                made.set(made.get() + 1);
                files::write_json(&folder.join("value.json"), &steps)
            };
            store.make(&heads(steps), fill).unwrap();
            files::read_json::<u32>(&store.place(&heads(steps).key).join("value.json")).unwrap()
        };
        assert_eq!([make(1), make(2), make(1), make(2)], [1, 2, 1, 2]);
        assert_eq!(made.get(), 2);
        assert!(store.seconds(&heads(1).key).is_some() && store.seconds(&heads(3).key).is_none());
        // Only one process may remove artefacts, and only while no process works in the store.
        assert!(files::lock(dir.path()).is_err());
        drop(store);
        files::lock(dir.path()).unwrap();
    }

    #[test]
    fn what_failed_is_not_finished_and_not_tried_again_by_this_process() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let failing = |_: &Path| -> Result<()> { Err(Error::new("no disk")) };
        for store in [&store, &store.clone()] {
            assert_eq!(store.make(&heads(1), failing).unwrap_err().to_string(), "no disk");
        }
        let never = |_: &Path| -> Result<()> { panic!("it failed before") };
        assert!(store.make(&heads(1), never).is_err());
        let again = Store::open(dir.path()).unwrap();
        again.make(&heads(1), |folder| files::write_json(&folder.join("x"), &1)).unwrap();
        assert!(store.is_finished(&heads(1).key));
    }

    #[test]
    fn the_nearest_differs_least() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let heads = |steps: u32, rate: f64| of(json!({"steps": steps, "rate": rate}));
        assert!(store.nearest(&heads(1, 0.5)).is_none());
        for (steps, rate) in [(2, 0.25), (1, 0.25)] {
            store.make(&heads(steps, rate), |folder| files::write_json(&folder.join("x"), &1)).unwrap();
        }
        let nearest = store.nearest(&heads(1, 0.5)).unwrap();
        assert_eq!(nearest.folder, store.place(&heads(1, 0.25).key));
        assert_eq!(nearest.differences[0].to_string(), "rate = 0.5 (there 0.25)");
        assert_eq!(nearest.differences.len(), 1);
        assert!(store.nearest(&Artefact { name: "other".into(), ..heads(1, 0.5) }).is_none());
    }

    #[test]
    fn a_file_that_changed_is_not_read_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        let fill = |folder: &Path| {
            files::write_json(&folder.join("x.json"), &1)?;
            files::write_atomic(&folder.join("below/y.bin"), b"numbers")?;
            files::write_atomic(&folder.join("log.txt"), b"words")
        };
        let make = || Store::open(dir.path()).unwrap().make(&heads(1), fill);
        make().unwrap();
        let folder = Store::look(dir.path()).place(&heads(1).key);
        fs::write(folder.join("log.txt"), "other words").unwrap();
        fs::write(folder.join("mine.bin"), "the user's own").unwrap();
        verify(&folder).unwrap();
        // This process has checked it now; a copy is another folder.
        let copy = dir.path().join("copy");
        fs::create_dir_all(copy.join("below")).unwrap();
        for name in ["x.json", "below/y.bin", MARK] {
            fs::copy(folder.join(name), copy.join(name)).unwrap();
        }
        fs::write(copy.join("below/y.bin"), "Numbers").unwrap();
        let error = verify(&copy).unwrap_err().to_string();
        assert!(error.contains("y.bin: this file has changed") && error.contains("--no-verify"), "{error}");
        fs::remove_file(copy.join("below/y.bin")).unwrap();
        assert!(verify(&copy).unwrap_err().to_string().contains("has gone"));
        fs::write(copy.join("below/y.bin"), "numbers").unwrap();
        verify(&copy).unwrap();
    }

    #[test]
    fn a_damaged_mark_is_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let make = || store.make(&heads(1), |folder| files::write_json(&folder.join("x"), &1));
        make().unwrap();
        fs::write(store.place(&heads(1).key).join(MARK), "{").unwrap();
        assert!(!store.is_finished(&heads(1).key));
        make().unwrap();
        assert!(store.is_finished(&heads(1).key));
    }
}
