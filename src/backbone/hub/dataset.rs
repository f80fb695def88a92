//! Finds one file of a data set, `hf://datasets/ORG/NAME[@REVISION]/FILE` as the Python libraries write it, in the same
//! cache.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::download::{Fault, Server};
use super::{Hub, Id, expand, is_commit};
use crate::error::{Error, Result, bail};
use crate::{files, progress};

const SCHEME: &str = "hf://";
const DATASETS: &str = "hf://datasets/";
/// Revisions that contain slashes and may be written with them: the hub's own Parquet copies, and pull requests.
const SPECIAL: [&str; 2] = ["refs/convert/", "refs/pr/"];

/// A file of a data set.
#[derive(Debug, PartialEq, Eq)]
struct DatasetFile<'a> {
    name: &'a str,
    revision: String,
    file: &'a str,
}

impl<'a> DatasetFile<'a> {
    /// Parses what follows [`DATASETS`].
    fn parse(reference: &'a str) -> Option<Self> {
        let (owner, rest) = reference.split_once('/')?;
        let end = rest.find(['@', '/'])?;
        let (name, rest) = (&reference[..owner.len() + 1 + end], &rest[end..]);
        let (revision, file) = match rest.strip_prefix('@') {
            None => ("main".to_owned(), &rest[1..]),
            Some(rest) => {
                let special =
                    SPECIAL.iter().find(|special| rest.starts_with(**special)).map_or(0, |special| special.len());
                let end = special + rest[special..].find('/')?;
                (rest[..end].replace("%2F", "/"), &rest[end + 1..])
            }
        };
        // The file's path goes below a snapshot, and must not lead out of it.
        let inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
        let known = Id::parse(&format!("{name}@{revision}")).is_some();
        (inside && known && !file.is_empty() && !file.contains('\\')).then_some(Self { name, revision, file })
    }

    /// Returns the cache's folder for all revisions of the data set.
    fn repository(&self, hub: &Hub) -> PathBuf {
        hub.cache.join(format!("datasets--{}", self.name.replace('/', "--")))
    }
}

impl Hub {
    /// Does the work of [`resolve_file`](super::resolve_file).
    pub(super) fn resolve_file(&self, reference: &str) -> Result<PathBuf> {
        if !reference.starts_with(SCHEME) {
            return Ok(expand(reference, &self.home));
        }
        let Some(wanted) = reference.strip_prefix(DATASETS).and_then(DatasetFile::parse) else {
            bail!(
                "`{reference}` is no file of a data set of the hub; those are written {DATASETS}ORG/NAME/FILE or {DATASETS}ORG/NAME@REVISION/FILE."
            );
        };
        let repository = wanted.repository(self);
        let named = || fs::read_to_string(repository.join("refs").join(&wanted.revision)).ok();
        let commit = if is_commit(&wanted.revision) { Some(wanted.revision.clone()) } else { named() };
        let commit = commit.map(|commit| commit.trim().to_owned()).filter(|commit| is_commit(commit));
        let found = commit.map(|commit| repository.join("snapshots").join(commit).join(wanted.file));
        match found.filter(|path| path.exists()) {
            Some(path) => Ok(path),
            None if self.offline => Err(self.absent(&wanted, "HF_HUB_OFFLINE is set")),
            None => self.download_file(&wanted),
        }
    }

    /// Downloads the file into the cache.
    fn download_file(&self, wanted: &DatasetFile) -> Result<PathBuf> {
        let server = Server::new(&self.endpoint, self.token.as_deref());
        let (place, repository) = (format!("datasets/{}", wanted.name), wanted.repository(self));
        let fetch = || {
            let commit = server.commit(&place, &wanted.revision, wanted.file)?;
            if !is_commit(&commit) {
                return Err(Fault::Strange("no commit".into()));
            }
            progress::say(format!("{}@{}: downloading {}", wanted.name, wanted.revision, wanted.file));
            server.fetch(&place, &commit, wanted.file, &repository)?;
            if wanted.revision != commit {
                files::write_atomic(&repository.join("refs").join(&wanted.revision), commit.as_bytes())?;
            }
            Ok(repository.join("snapshots").join(&commit).join(wanted.file))
        };
        fetch().map_err(|fault| match fault {
            Fault::Here(error) => error,
            Fault::Network(reason) | Fault::Strange(reason) => self.absent(wanted, &reason),
            Fault::Status(404) => self.absent(wanted, "the hub has no such file there"),
            Fault::Status(code @ (401 | 403)) => self.absent(
                wanted,
                &format!("the hub does not give it away (status {code}); accept its terms there and set HF_TOKEN"),
            ),
            Fault::Status(code) => self.absent(wanted, &format!("the hub failed to give it (status {code})")),
        })
    }

    /// Returns the error for a file that is not in the cache and cannot be downloaded.
    fn absent(&self, wanted: &DatasetFile, reason: &str) -> Error {
        let DatasetFile { name, revision, file } = wanted;
        Error::new(format!(
            "`{file}` of the data set `{name}` at `{revision}` is not in the cache {}, and it cannot be downloaded: {reason}. Get {}/datasets/{name}/resolve/{}/{file} where there is a network, put it here, and name it in `path`.",
            self.cache.display(),
            self.endpoint,
            revision.replace('/', "%2F"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart() {
        let parse = |text| DatasetFile::parse(text).map(|d| (d.name, d.revision, d.file));
        let part = |name, revision: &str, file| Some((name, revision.to_owned(), file));
        assert_eq!(parse("a/b/c.csv"), part("a/b", "main", "c.csv"));
        assert_eq!(parse("a/b@v1/d/c.csv"), part("a/b", "v1", "d/c.csv"));
        assert_eq!(parse("a/b/d/x@y.csv"), part("a/b", "main", "d/x@y.csv"));
        let special = part("a/b", "refs/convert/parquet", "default/test/0000.parquet");
        assert_eq!(parse("a/b@refs/convert/parquet/default/test/0000.parquet"), special);
        assert_eq!(parse("a/b@refs%2Fconvert%2Fparquet/default/test/0000.parquet"), special);
        for wrong in ["a", "a/b", "a/b/", "a/b@v1", "a/b@v1/../x", "a/b//x", "a b/c/d", "../b/c"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
