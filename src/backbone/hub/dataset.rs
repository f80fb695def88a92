//! Finds files of a data set in the cache that the Python libraries use: one file, `hf://datasets/ORG/NAME[@REVISION]/FILE` as
//! they write it, or all of a split.

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

/// The branch on which the hub keeps Parquet copies, in folders CONFIGURATION/SPLIT.
const PARQUET: &str = "refs/convert/parquet";

/// What lies in a folder of a data set.
struct Entry {
    /// The path from the root of the data set.
    path: String,
    folder: bool,
}

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

    /// Does the work of [`resolve_files`](super::resolve_files) for a split.
    pub(super) fn resolve_split(&self, reference: &str, split: &str) -> Result<Vec<PathBuf>> {
        let named = reference.strip_prefix(DATASETS).unwrap_or_default().trim_end_matches('/');
        let parts: Vec<&str> = named.split('/').collect();
        let (name, configuration) = match parts[..] {
            [owner, name] => (format!("{owner}/{name}"), None),
            [owner, name, configuration] => (format!("{owner}/{name}"), Some(configuration)),
            _ => (String::new(), None),
        };
        let word =
            |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\\', '@', '?', '#']);
        if Id::parse(&name).is_none() || !configuration.is_none_or(word) || !word(split) {
            bail!(
                "`{reference}` with the split `{split}` is no part of a data set of the hub; those are written {DATASETS}ORG/NAME or {DATASETS}ORG/NAME/CONFIGURATION. For one file leave `split` out."
            );
        }
        let folders = |list: Vec<Entry>| {
            let folders = list.into_iter().filter(|entry| entry.folder);
            folders.map(|entry| entry.path).collect::<Vec<String>>()
        };
        let configuration = match configuration {
            Some(configuration) => configuration.to_owned(),
            None => {
                let known = folders(self.list(&name, "")?);
                match &known[..] {
                    [only] => only.clone(),
                    several if several.iter().any(|name| name == "default") => "default".to_owned(),
                    _ => bail!(
                        "the data set `{name}` has several configurations, {}. Name one: `path` = \"{DATASETS}{name}/{}\".",
                        known.join(", "),
                        known.first().map_or("CONFIGURATION", String::as_str)
                    ),
                }
            }
        };
        let folder = format!("{configuration}/{split}");
        let files = self.list(&name, &folder)?.into_iter().filter(|entry| !entry.folder).map(|entry| entry.path);
        // They are numbered, 0000.parquet and so on.
        let mut files: Vec<String> = files.filter(|path| path.ends_with(".parquet")).collect();
        files.sort();
        if files.is_empty() {
            let splits = folders(self.list(&name, &configuration)?);
            let splits: Vec<&str> = splits.iter().filter_map(|path| path.rsplit('/').next()).collect();
            bail!("`{configuration}` of the data set `{name}` has no split `{split}`; it has {}.", splits.join(", "));
        }
        files.iter().map(|file| self.resolve_file(&format!("{DATASETS}{name}@{PARQUET}/{file}"))).collect()
    }

    /// Lists a folder of a data set's Parquet copies, as the hub says or, without a network, as the cache has it.
    fn list(&self, name: &str, folder: &str) -> Result<Vec<Entry>> {
        let wanted = DatasetFile { name, revision: PARQUET.to_owned(), file: folder };
        let cached = || {
            let repository = wanted.repository(self);
            let commit = fs::read_to_string(repository.join("refs").join(PARQUET)).ok()?;
            let snapshot = repository.join("snapshots").join(commit.trim());
            let entry = |path: PathBuf| {
                let inside = path.strip_prefix(&snapshot).ok()?.to_string_lossy().replace('\\', "/");
                Some(Entry { folder: path.is_dir(), path: inside })
            };
            let found: Vec<Entry> =
                files::listing(&snapshot.join(folder)).ok()?.into_iter().filter_map(entry).collect();
            (!found.is_empty()).then_some(found)
        };
        let absent = |reason: &str| match cached() {
            Some(found) => {
                progress::detail(format!("{name}: {reason}; taking the files of `{folder}` that are in the cache"));
                Ok(found)
            }
            None => Err(Error::new(format!(
                "which files the data set `{name}` has in `{folder}` of `{PARQUET}` is not known here: {reason}. Get {}/datasets/{name}/tree/{}/{folder} where there is a network, and name each file in the `path` of a corpus.",
                self.endpoint,
                PARQUET.replace('/', "%2F")
            ))),
        };
        if self.offline {
            return absent("HF_HUB_OFFLINE is set");
        }
        let server = Server::new(&self.endpoint, self.token.as_deref());
        let listed = server.list(name, PARQUET, folder);
        match listed {
            Ok(list) => Ok(list.into_iter().map(|(path, folder)| Entry { path, folder }).collect()),
            Err(Fault::Here(error)) => Err(error),
            // A folder that is not there is an empty one.
            Err(Fault::Status(404)) if !folder.is_empty() => Ok(Vec::new()),
            Err(Fault::Status(code)) => absent(&format!(
                "the hub does not list it (status {code}); check the name, and for a gated data set accept its terms and set HF_TOKEN"
            )),
            Err(Fault::Network(reason) | Fault::Strange(reason)) => absent(&reason),
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
