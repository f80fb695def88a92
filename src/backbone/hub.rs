//! Finds the model that a user names: a path, or `org/name` on the Hugging Face hub, which is looked up in the user's
//! own cache and downloaded into it.

mod dataset;
mod download;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result, bail};
use crate::{files, progress};
use download::{Fault, Server};

/// The files that the folder of a model must have besides weights. One of draft heads has no tokenizer.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// The files that it may have.
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ENDPOINT: &str = "https://huggingface.co";

/// Returns the folder (or .gguf file) of the model that `reference` names. The first rule that applies decides:
///
/// 1. A folder or a .gguf file that exists is taken as it is; `~/` is the home folder.
/// 2. What looks like a path (it begins with `/`, `./`, `../` or `~`, ends in `.gguf`, or has more than one slash) must
///    exist.
/// 3. `org/name` and `org/name@revision` (a branch, a tag or a whole commit hash; `main` by default) are looked for in
///    the Hugging Face cache: `HF_HUB_CACHE`, or else `hub` in `HF_HOME`, or else `~/.cache/huggingface/hub`. A
///    complete model there is taken, without asking the server for anything newer.
/// 4. Otherwise, what is missing is downloaded into that cache, unless `HF_HUB_OFFLINE` is 1. `HF_TOKEN` (or the token
///    that `hf auth login` keeps) and `HF_ENDPOINT` are respected.
///
/// # Errors
/// When there is no such path and no such model, there is no network, or the server refuses access to the model.
pub fn resolve(reference: &str) -> Result<PathBuf> {
    Hub::from_variables(|name| std::env::var(name).ok(), std::env::home_dir()).resolve(reference)
}

/// Does the same as [`resolve`] for a checkpoint of draft heads, which needs no tokenizer.
///
/// # Errors
/// As for [`resolve`].
pub fn resolve_draft(reference: &str) -> Result<PathBuf> {
    let hub = Hub::from_variables(|name| std::env::var(name).ok(), std::env::home_dir());
    Hub { needed: &NEEDED[..1], ..hub }.resolve(reference)
}

/// Returns the file that `reference` names: a path on this machine (`~/` is the home folder), or
/// `hf://datasets/ORG/NAME[@REVISION]/FILE`, a file of a data set on the hub, which is found and downloaded as by
/// [`resolve`].
///
/// # Errors
/// As for [`resolve`]. Whether a path exists is not checked.
pub fn resolve_file(reference: &str) -> Result<PathBuf> {
    Hub::from_variables(|name| std::env::var(name).ok(), std::env::home_dir()).resolve_file(reference)
}

/// Returns the files of a corpus: the one that `reference` names, as [`resolve_file`] does, or if `split` is given all Parquet
/// files of that split of a data set, `hf://datasets/ORG/NAME` or `hf://datasets/ORG/NAME/CONFIGURATION`, in their order.
///
/// The hub keeps every data set as Parquet on the branch `refs/convert/parquet`, and is asked which files there are. Without a
/// network those in the cache are taken.
///
/// # Errors
/// As for [`resolve`], and if the data set has no such split.
pub fn resolve_files(reference: &str, split: &str) -> Result<Vec<PathBuf>> {
    let hub = Hub::from_variables(|name| std::env::var(name).ok(), std::env::home_dir());
    if split.is_empty() { Ok(vec![hub.resolve_file(reference)?]) } else { hub.resolve_split(reference, split) }
}

/// Where models come from.
struct Hub {
    home: PathBuf,
    cache: PathBuf,
    endpoint: String,
    token: Option<String>,
    offline: bool,
    /// The files that a folder must have besides weights.
    needed: &'static [&'static str],
}

/// `org/name` at a branch, tag or commit.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    name: &'a str,
    revision: &'a str,
}

impl<'a> Id<'a> {
    /// Parses `org/name` or `org/name@revision`; returns none for anything else.
    fn parse(reference: &'a str) -> Option<Self> {
        let (name, revision) = reference.split_once('@').unwrap_or((reference, "main"));
        let (owner, model) = name.split_once('/')?;
        let made_of = |text: &str, marks: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c));
        let word = |text: &str| {
            let inside = text.trim_matches(['-', '.']);
            !text.is_empty() && inside == text && made_of(text, "-_.") && !text.contains("--") && !text.contains("..")
        };
        // A revision becomes a path below `refs`, and must not lead out of it.
        let branch = made_of(revision, "-_.+/@") && revision.split('/').all(|part| !["", ".", ".."].contains(&part));
        (word(owner) && word(model) && branch).then_some(Self { name, revision })
    }
}

/// Returns whether a revision is a whole commit hash, which needs no lookup.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit())
}

impl Hub {
    /// Reads the same variables in the same order as the Python library.
    fn from_variables(get: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Self {
        let home = home.unwrap_or_default();
        let text = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(|value| expand(&value, &home));
        let cache = || path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let base = path("HF_HOME").unwrap_or_else(|| cache().join("huggingface"));
        let kept = path("HF_TOKEN_PATH").unwrap_or_else(|| base.join("token"));
        let kept = || fs::read_to_string(kept).ok().map(|token| token.trim().to_owned()).filter(|t| !t.is_empty());
        let set = |name: &str| text(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&&*v.to_lowercase()));
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Self {
            cache: path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| base.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: text("HF_TOKEN").or_else(kept),
            offline: set("HF_HUB_OFFLINE") || set("TRANSFORMERS_OFFLINE"),
            needed: &NEEDED,
            home,
        }
    }

    /// Does the work of the function [`resolve`].
    fn resolve(&self, reference: &str) -> Result<PathBuf> {
        let path = expand(reference, &self.home);
        let gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if path.is_dir() || gguf && path.is_file() {
            return Ok(path);
        }
        if path.exists() {
            bail!(
                "{reference} is a file. Give the folder of the model (with config.json and weights), or a .gguf file."
            );
        }
        let name = reference.split('@').next().unwrap_or_default();
        let rooted = ["/", "./", "../", "~"].iter().any(|start| reference.starts_with(start));
        if rooted || gguf || reference.contains('\\') || name.matches('/').count() > 1 {
            bail!(
                "there is no {}. Check the path; a model of the Hugging Face hub is written org/name or org/name@revision.",
                path.display()
            );
        }
        if !name.contains('/') {
            bail!(
                "there is no folder `{reference}` here. A model of the Hugging Face hub is written with its owner, org/name: openai-community/gpt2, for instance."
            );
        }
        let Some(id) = Id::parse(reference) else {
            bail!(
                "there is no folder `{reference}` here, and it cannot be a model of the Hugging Face hub: those are written org/name or org/name@revision, with letters, digits, `-`, `_` and `.`."
            );
        };
        let found = match self.snapshot(&id) {
            Some(folder) => Some((missing(&folder, self.needed)?, folder)),
            None => None,
        };
        match found {
            Some((missing, folder)) if missing.is_empty() => Ok(folder),
            found if self.offline => {
                let missing = found.map_or(Vec::new(), |(missing, _)| missing);
                Err(self.out_of_reach(&id, &missing, "HF_HUB_OFFLINE is set"))
            }
            _ => self.download(&id),
        }
    }

    /// Returns the cache's folder for all revisions of a model.
    fn repository(&self, id: &Id) -> PathBuf {
        self.cache.join(format!("models--{}", id.name.replace('/', "--")))
    }

    /// Returns the folder of the commit that the revision stands for, if the cache knows it.
    fn snapshot(&self, id: &Id) -> Option<PathBuf> {
        let repository = self.repository(id);
        let named = || fs::read_to_string(repository.join("refs").join(id.revision)).ok();
        let commit = if is_commit(id.revision) { Some(id.revision.to_owned()) } else { named() }?;
        is_commit(commit.trim()).then(|| repository.join("snapshots").join(commit.trim()))
    }

    /// Downloads what is missing. All files are those of one commit, even if the branch moves meanwhile. The branch's
    /// name is written last, so that whoever looks it up finds a complete model.
    fn download(&self, id: &Id) -> Result<PathBuf> {
        let server = Server::new(&self.endpoint, self.token.as_deref());
        let commit = server
            .commit(id.name, id.revision, self.needed[0])
            .and_then(|commit| if is_commit(&commit) { Ok(commit) } else { Err(Fault::Strange("no commit".into())) })
            .map_err(|fault| self.explain(id, self.needed[0], fault))?;
        let repository = self.repository(id);
        let folder = repository.join("snapshots").join(&commit);
        progress::say(format!("{}@{}: downloading into {}", id.name, id.revision, self.cache.display()));
        // Downloads a file; returns whether the model has it.
        let get = |name: &str| match server.fetch(id.name, &commit, name, &repository) {
            Ok(()) => Ok(true),
            Err(Fault::Status(404)) => Ok(false),
            Err(fault) => Err(self.explain(id, name, fault)),
        };
        let need = |name: &str| if get(name)? { Ok(()) } else { Err(self.explain(id, name, Fault::Status(404))) };
        for &name in self.needed {
            need(name)?;
        }
        for name in OPTIONAL {
            get(name)?;
        }
        if !get(SINGLE)? {
            if !get(INDEX)? {
                bail!(
                    "`{}` at `{}` has neither {SINGLE} nor {INDEX}. Choose a model with safetensors weights, or download it and convert it with save_pretrained(..., safe_serialization=True).",
                    id.name,
                    id.revision
                );
            }
            for name in shards(&folder.join(INDEX))? {
                need(&name)?;
            }
        }
        if id.revision != commit {
            files::write_atomic(&repository.join("refs").join(id.revision), commit.as_bytes())?;
        }
        Ok(folder)
    }

    /// Turns a fault into an error for the user.
    fn explain(&self, id: &Id, file: &str, fault: Fault) -> Error {
        let (name, revision, endpoint) = (id.name, id.revision, &self.endpoint);
        let folder = format!("There is no folder `{name}` here either.");
        match fault {
            Fault::Here(error) => error,
            Fault::Network(reason) => self.out_of_reach(id, &[file.to_owned()], &reason),
            Fault::Status(404) => Error::new(format!(
                "{endpoint} has no {file} of `{name}` at `{revision}`. Check the spelling of the model and of the revision; a model without {file} (one of .gguf files only, for instance) cannot be taken from the hub. {folder}"
            )),
            Fault::Status(code @ (401 | 403)) => {
                let token = if self.token.is_some() { "the token in use may not read it" } else { "no token is set" };
                Error::new(format!(
                    "{endpoint} does not give {file} of `{name}` away (status {code}; {token}). Check the spelling: a model that does not exist looks the same. For a gated or private one accept its terms on {endpoint}/{name} and set HF_TOKEN to a token of yours. {folder}"
                ))
            }
            Fault::Status(code) => Error::new(format!(
                "{endpoint} failed to give {file} of `{name}` at `{revision}` (status {code}). Try again later; whatever came is kept."
            )),
            Fault::Strange(reason) => Error::new(format!(
                "{endpoint} does not answer as a Hugging Face hub does ({reason} for {file} of `{name}`). Check HF_ENDPOINT, and whether a proxy or a login page is in between."
            )),
        }
    }

    /// Returns the error for a model that is not in the cache and cannot be downloaded.
    fn out_of_reach(&self, id: &Id, missing: &[String], reason: &str) -> Error {
        let (name, revision, cache) = (id.name, id.revision, self.cache.display());
        let lacking = if missing.is_empty() { String::new() } else { format!(" (missing: {})", missing.join(", ")) };
        let at = if revision == "main" { String::new() } else { format!(" --revision {revision}") };
        Error::new(format!(
            "the model `{name}` at `{revision}` is not, or not wholly, in the cache {cache}{lacking}, and it cannot be downloaded: {reason}. Run `hf download {name}{at}` where there is a network and copy {} into that cache; or give a folder with the model (there is no folder `{name}` here).",
            self.repository(id).file_name().unwrap_or_default().to_string_lossy(),
        ))
    }
}

/// Replaces a leading `~/` by the home folder.
fn expand(text: &str, home: &Path) -> PathBuf {
    text.strip_prefix("~/").map_or_else(|| text.into(), |rest| home.join(rest))
}

/// Returns the needed files that a snapshot lacks.
fn missing(folder: &Path, needed: &[&str]) -> Result<Vec<String>> {
    let mut needed: Vec<String> = needed.iter().map(|&name| name.to_owned()).collect();
    let index = folder.join(INDEX);
    if index.exists() && !folder.join(SINGLE).exists() {
        needed.extend(shards(&index)?);
    } else {
        needed.push(SINGLE.to_owned());
    }
    needed.retain(|name| !folder.join(name).exists());
    Ok(needed)
}

/// Returns the files that an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let value: Value = files::read_json(index)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let names: Option<BTreeSet<_>> = map.and_then(|m| m.values().map(|n| Some(n.as_str()?.to_owned())).collect());
    match names {
        // A name with a folder in it would be written outside the snapshot.
        Some(names)
            if !names.is_empty() && names.iter().all(|n| Path::new(n).components().count() == 1 && n != "..") =>
        {
            Ok(names)
        }
        _ => bail!(
            "{}: `weight_map` must give the file of every tensor. Delete the file to fetch it again.",
            index.display()
        ),
    }
}
