//! The artefacts of a store that no run refers to.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{MARK, kinds};
use crate::claims::Claims;
use crate::error::{Error, Result};
use crate::files;

/// An artefact, finished or not, that no run refers to.
#[derive(Debug)]
pub struct Unused {
    /// The name of the artefact, `KIND/HASH`.
    pub name: String,
    /// Whether the artefact is finished.
    pub finished: bool,
    /// The time when the artefact was last written to.
    pub modified: SystemTime,
    /// The bytes that the artefact takes on disk.
    pub bytes: u64,
    /// The folder of the artefact, and the files and folders next to it that belong to it.
    paths: Vec<PathBuf>,
}

impl Unused {
    /// Removes the artefact.
    ///
    /// # Errors
    /// Returns an error if a file cannot be removed.
    pub fn remove(self) -> Result<()> {
        for path in self.paths {
            // The mark is removed first, so that the rest of an interrupted removal is not mistaken for a finished
            // artefact.
            let mark = path.join(MARK);
            if mark.exists() {
                fs::remove_file(&mark).map_err(|e| Error::io("remove", &mark, e))?;
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(())
    }
}

/// Returns the artefacts in `store` that no run refers to by a link, oldest first. Each folder in `runs` except the
/// store is a run. Artefacts that a process is making are left out.
///
/// # Errors
/// Returns an error if a folder cannot be read.
pub fn unused(store: &Path, runs: &Path) -> Result<Vec<Unused>> {
    let real = store.canonicalize().map_err(|e| Error::io("read", store, e))?;
    let (mut referred, claims) = (HashSet::new(), Claims::watching());
    for run in files::listing(runs)?.into_iter().filter(|run| run.is_dir()) {
        if run.canonicalize().ok().as_ref() != Some(&real) {
            collect_links(&run, &real, &mut referred)?;
        }
    }
    let mut found = Vec::new();
    for kind in kinds(store) {
        let sort = kind.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let claimed = claims.in_folder(&kind);
        // Unfinished traces and claims lie next to the folder that they belong to.
        let mut parts: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for path in files::listing(&kind)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // The names of files that are being written begin with a dot; they are nobody's yet.
            if let Some(hash) = name.split('.').next().filter(|hash| !hash.is_empty()) {
                parts.entry(hash.to_owned()).or_default().push(path);
            }
        }
        for (hash, paths) in parts {
            let name = format!("{sort}/{hash}");
            if claimed.contains_key(&hash) || referred.contains(&name) {
                continue;
            }
            let (mut bytes, mut modified) = (0, SystemTime::UNIX_EPOCH);
            for path in &paths {
                let (more, at) = files::measure(path)?;
                (bytes, modified) = (bytes + more, modified.max(at));
            }
            let finished = kind.join(&hash).join(MARK).exists();
            found.push(Unused { name, finished, modified, bytes, paths });
        }
    }
    found.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
    Ok(found)
}

/// Adds to `referred` the `KIND/HASH` of every link below `folder` that leads into `store`, even if its target does not
/// exist yet.
fn collect_links(folder: &Path, store: &Path, referred: &mut HashSet<String>) -> Result<()> {
    for path in files::listing(folder)? {
        if let Ok(target) = fs::read_link(&path) {
            let target = folder.join(target);
            // The target of a link may not exist yet, so the folder above it is resolved instead.
            let above = target.parent().and_then(|kind| kind.canonicalize().ok());
            let whole = above.zip(target.file_name()).map(|(kind, name)| kind.join(name));
            let inside = whole.as_ref().and_then(|whole| whole.strip_prefix(store).ok());
            let parts = inside.into_iter().flat_map(|inside| inside.components().take(2));
            let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
            referred.insert(parts.join("/"));
        } else if path.is_dir() {
            collect_links(&path, store, referred)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::store::{Artefact, Key, Store};

    #[test]
    fn what_a_run_links_to_and_what_is_in_the_making_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (runs, folder) = (dir.path(), dir.path().join("store"));
        let store = Store::open(&folder).unwrap();
        let key = |number: u32| Key::new("heads", &number, []);
        let heads = |number| Artefact { name: "heads".into(), title: "heads".into(), key: key(number) };
        for number in 0..4 {
            let fill = |folder: &Path| files::write_json(&folder.join("x.json"), &number);
            store.make(&heads(number), fill).unwrap();
            let mark = File::options().write(true).open(store.place(&key(number)).join("x.json")).unwrap();
            mark.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(number))).unwrap();
        }
        // Run `a` refers to artefact 1, and also to 9, which nobody has begun. A cell of run `b` refers to artefact 2.
        let below = |number| PathBuf::from("store/heads").join(key(number).short());
        files::link(&Path::new("..").join(below(1)), &runs.join("a/heads")).unwrap();
        files::link(&Path::new("../../..").join(below(2)), &runs.join("b/cells/c/heads")).unwrap();
        files::link(&Path::new("..").join(below(9)), &runs.join("a/next")).unwrap();
        fs::create_dir_all(folder.join("heads").join(format!("{}.partial", key(9).short()))).unwrap();
        fs::write(folder.join("heads/.aside-1"), "a claim that somebody is writing").unwrap();
        // This unfinished artefact is one that no run refers to.
        fs::create_dir_all(folder.join("heads").join(format!("{}.partial", key(8).short()))).unwrap();
        let names = || unused(&folder, runs).unwrap().into_iter().map(|unused| (unused.name, unused.finished));
        let name = |number| format!("heads/{}", key(number).short());
        let mut found: Vec<_> = names().collect();
        found.sort();
        let mut expected = vec![(name(0), true), (name(3), true), (name(8), false)];
        expected.sort();
        assert_eq!(found, expected);
        let claim = store.claims().wait(&store.place(&key(3)), "heads").unwrap();
        assert!(names().all(|(other, _)| other != name(3)));
        claim.finish();
        for unused in unused(&folder, runs).unwrap() {
            assert!(unused.bytes > 0 || !unused.finished);
            unused.remove().unwrap();
        }
        assert_eq!(names().count(), 0);
        assert!(store.is_finished(&key(1)) && store.is_finished(&key(2)) && !store.is_finished(&key(0)));
    }
}
