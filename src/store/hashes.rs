//! The hashes of the files of an artefact, which its mark keeps, so that nothing that changed on disk is read in silence.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use rayon::prelude::*;

use super::{MARK, Mark, TOOK};
use crate::error::{Result, bail};
use crate::files;

/// The extensions of files that hold results. Logs, pages and checkpoints are not read by other stages.
const RESULTS: [&str; 4] = ["bin", "json", "ngram", "safetensors"];
/// Files and folders of an artefact that say how it was made.
const ASIDE: [&str; 5] = [MARK, TOOK, "timings.json", "checkpoints", "findings"];

/// Whether files are checked.
static CHECKS: AtomicBool = AtomicBool::new(true);
/// The folders that this process has checked.
static CHECKED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// Reads the files of artefacts without checking their hashes from now on.
pub fn skip_verification() {
    CHECKS.store(false, Ordering::Relaxed);
}

/// Returns whether the files of artefacts are checked when they are first opened.
pub fn verifies() -> bool {
    CHECKS.load(Ordering::Relaxed)
}

/// Returns the BLAKE3 hash of each file in `folder`, and below it, that holds results. The names are relative to the folder.
pub(super) fn hashes(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = Vec::new();
    collect(folder, "", &mut found)?;
    found.into_par_iter().map(|name| Ok((name.clone(), files::hash_file(&folder.join(name))?))).collect()
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    for path in files::listing(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if ASIDE.contains(&&*name) || name.starts_with('.') || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), found)?;
        } else if path.extension().is_some_and(|extension| RESULTS.iter().any(|known| extension == *known)) {
            found.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

/// Checks that the files of the finished artefact in `folder` are what they were when it was finished. A folder without a mark is
/// nobody's artefact, and is not checked. A process checks each artefact once, all its files side by side.
///
/// # Errors
/// Fails if a file has changed or is missing. The message says which, and what to do.
pub fn verify(folder: &Path) -> Result<()> {
    let Ok(real) = folder.canonicalize() else { return Ok(()) };
    let checked = || CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    if !verifies() || checked().contains(&real) {
        return Ok(());
    }
    let Ok(mark) = files::read_json::<Mark>(&folder.join(MARK)) else { return Ok(()) };
    // A run has links to its artefacts, and it is the artefact that is to be removed.
    let here = std::env::current_dir().and_then(|here| here.canonicalize()).unwrap_or_default();
    let shown = real.strip_prefix(here).unwrap_or(&real);
    mark.files.par_iter().try_for_each(|(name, hash)| {
        let file = folder.join(name);
        match file.is_file() {
            true if files::hash_file(&file)? == *hash => Ok(()),
            there => bail!(
                "{}: this file {} since it was made. Remove the folder {} and start the command again, which makes it anew; or, if you changed it yourself and mean it, add --no-verify.",
                shown.join(name).display(),
                if there { "has changed" } else { "has gone" },
                shown.display()
            ),
        }
    })?;
    checked().insert(real);
    Ok(())
}

/// Counts the artefact in `folder`, which this process has just made, as checked.
pub(super) fn trust(folder: &Path) {
    if let Ok(real) = folder.canonicalize() {
        CHECKED.lock().unwrap_or_else(PoisonError::into_inner).insert(real);
    }
}
