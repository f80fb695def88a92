//! From a model's name to a local folder: a path, or `org/name` (`org/name@revision`) of the Hugging Face hub, looked up in
//! the user's own cache and fetched when it is not there.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::weights::{INDEX, SINGLE, weight_files};
use crate::error::{Error, Result, bail};
use crate::progress;

/// What a folder must hold besides weights.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// What it may hold.
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/// The folder (or file) of the model that `reference` names: a path that exists wins; else `org/name` or
/// `org/name@revision` is looked for in the Hugging Face cache (`HF_HUB_CACHE`, `HF_HOME`, `~/.cache/huggingface/hub`), and
/// downloaded into it unless `HF_HUB_OFFLINE` is set (`HF_TOKEN` and `HF_ENDPOINT` are honoured).
///
/// # Errors
/// No such path and no such model; no network; a model that the server does not give away.
pub fn resolve(reference: &str) -> Result<PathBuf> {
    Hub::from_env()?.resolve(reference)
}

/// Where models come from.
struct Hub {
    cache: PathBuf,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

/// `org/name` and a branch, tag or commit.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    name: &'a str,
    revision: &'a str,
}

impl<'a> Id<'a> {
    fn parse(reference: &'a str) -> Option<Self> {
        let (name, revision) = reference.split_once('@').unwrap_or((reference, "main"));
        let (owner, model) = name.split_once('/')?;
        let word = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && text.chars().all(plain)
        };
        let safe = !revision.is_empty() && !revision.contains("..") && !revision.starts_with('/');
        (word(owner) && word(model) && safe && !model.ends_with(".gguf")).then_some(Self { name, revision })
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.name.into(), RepoType::Model, self.revision.into())
    }
}

impl Hub {
    fn from_env() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = || variable("HF_HOME").map(|home| Path::new(&home).join("hub"));
        let user = || std::env::home_dir().map(|home| home.join(".cache/huggingface/hub"));
        let Some(cache) = variable("HF_HUB_CACHE").map(PathBuf::from).or_else(home).or_else(user) else {
            bail!("there is no home folder to keep downloaded models in; set HF_HOME to a folder.");
        };
        let offline = variable("HF_HUB_OFFLINE")
            .is_some_and(|v| !["0", "false", "no", "off"].contains(&v.to_lowercase().as_str()));
        Ok(Self { cache, endpoint: variable("HF_ENDPOINT"), token: variable("HF_TOKEN"), offline })
    }

    fn resolve(&self, reference: &str) -> Result<PathBuf> {
        let path = Path::new(reference);
        if path.exists() {
            return Ok(path.to_owned());
        }
        let Some(id) = Id::parse(reference) else {
            bail!(
                "`{reference}` does not exist, and is no model of the Hugging Face hub either: those are written org/name or org/name@revision (as in openai-community/gpt2). Check the path."
            );
        };
        if let Some(folder) = self.cached(&id) {
            return Ok(folder);
        }
        if self.offline {
            return Err(self.absent(&id, "HF_HUB_OFFLINE is set"));
        }
        self.download(&id)
    }

    /// The snapshot in the cache, if it is there with all that is needed.
    fn cached(&self, id: &Id) -> Option<PathBuf> {
        let repo = self.cache.join(id.repo().folder_name());
        // A revision is a name that stands for a commit, or the commit itself.
        let named = std::fs::read_to_string(repo.join("refs").join(id.revision)).ok();
        let commit = named.as_deref().map_or(id.revision, str::trim);
        let folder = repo.join("snapshots").join(commit);
        let weights = weight_files(&folder).ok()?;
        let needed = NEEDED.map(|name| folder.join(name));
        weights.iter().chain(&needed).all(|file| file.exists()).then_some(folder)
    }

    fn download(&self, id: &Id) -> Result<PathBuf> {
        let mut builder = ApiBuilder::from_cache(Cache::new(self.cache.clone())).with_progress(progress::shows_bars());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        if let Some(token) = &self.token {
            builder = builder.with_token(Some(token.clone()));
        }
        let api = builder.build().map_err(|e| Error::new(format!("cannot set up downloads: {e}.")))?;
        progress::say(format!("{}@{}: downloading into {}", id.name, id.revision, self.cache.display()));
        let repo = api.repo(id.repo());
        let mut folder = PathBuf::new();
        for name in NEEDED {
            folder = self.fetch(&repo, id, name)?.parent().expect("a file in a snapshot").to_owned();
        }
        for name in OPTIONAL {
            self.fetch_if_there(&repo, id, name)?;
        }
        if self.fetch_if_there(&repo, id, SINGLE)?.is_none() {
            self.fetch(&repo, id, INDEX)?;
            for file in weight_files(&folder)? {
                self.fetch(&repo, id, &file.file_name().expect("a file has a name").to_string_lossy())?;
            }
        }
        Ok(folder)
    }

    fn fetch(&self, repo: &ApiRepo, id: &Id, name: &str) -> Result<PathBuf> {
        match self.fetch_if_there(repo, id, name)? {
            Some(path) => Ok(path),
            None => bail!(
                "the hub has no {name} for `{}` at `{}`. Check the spelling of model and revision; a model without {name} cannot be used.",
                id.name,
                id.revision
            ),
        }
    }

    /// None where the server says that there is no such file. The file appears under its name only when it is whole.
    fn fetch_if_there(&self, repo: &ApiRepo, id: &Id, name: &str) -> Result<Option<PathBuf>> {
        match repo.get(name) {
            Ok(path) => Ok(Some(path)),
            Err(error) => match status(&error) {
                Some(404) => Ok(None),
                Some(401 | 403) => bail!(
                    "the hub does not give `{}` away ({error}). Check the spelling; for a gated or private model accept its terms on its page and set HF_TOKEN to a token of yours.",
                    id.name
                ),
                Some(_) => bail!("the hub failed to give {name} of `{}` ({error}). Try again later.", id.name),
                None => Err(self.absent(id, &error.to_string())),
            },
        }
    }

    fn absent(&self, id: &Id, reason: &str) -> Error {
        Error::new(format!(
            "the model `{}` at `{}` is not (or not wholly) in the cache {}, and it cannot be downloaded: {reason}. Download it where there is a network (`hf download {} --revision {}`) and copy that folder, or give a folder with the model.",
            id.name,
            id.revision,
            self.cache.display(),
            id.name,
            id.revision
        ))
    }
}

/// The answer of the server, where there was one.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        ApiError::TooManyRetries(inner) => status(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn hub(cache: &Path) -> Hub {
        Hub { cache: cache.to_owned(), endpoint: None, token: None, offline: true }
    }

    /// A snapshot in the layout of the cache, with empty files.
    fn snapshot(cache: &Path, files: &[(&str, &str)]) -> PathBuf {
        let folder = cache.join("models--org--name/snapshots").join(COMMIT);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let refs = cache.join("models--org--name/refs/pr");
        std::fs::create_dir_all(&refs).unwrap();
        std::fs::write(refs.parent().unwrap().join("main"), COMMIT).unwrap();
        std::fs::write(refs.join("1"), format!("{COMMIT}\n")).unwrap();
        folder
    }

    const SHARDS: &str = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;

    #[test]
    fn branches_and_commits_lead_to_the_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let folder = snapshot(dir.path(), &[("config.json", ""), ("tokenizer.json", ""), (SINGLE, "")]);
        for reference in ["org/name", "org/name@main", "org/name@pr/1", &format!("org/name@{COMMIT}")] {
            assert_eq!(hub(dir.path()).resolve(reference).unwrap(), folder, "{reference}");
        }
        let error = hub(dir.path()).resolve("org/name@v2").unwrap_err().to_string();
        assert!(error.contains("`v2`") && error.contains("HF_HUB_OFFLINE"), "{error}");
    }

    #[test]
    fn a_snapshot_with_a_missing_shard_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let files = [("config.json", ""), ("tokenizer.json", ""), (INDEX, SHARDS), ("model-1.safetensors", "")];
        let folder = snapshot(dir.path(), &files);
        assert!(hub(dir.path()).resolve("org/name").unwrap_err().to_string().contains("not wholly"));
        std::fs::write(folder.join("model-2.safetensors"), "").unwrap();
        assert_eq!(hub(dir.path()).resolve("org/name").unwrap(), folder);
        std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
        assert!(hub(dir.path()).resolve("org/name").is_err());
    }

    #[test]
    fn a_path_wins_and_other_words_are_explained() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_string_lossy().into_owned();
        assert_eq!(hub(dir.path()).resolve(&path).unwrap(), dir.path());
        for reference in ["gpt2", "./absent", "a/b/c", "../x/y", "/no/where", "x/y.gguf", "a/b@../c", "a/b@"] {
            let error = hub(dir.path()).resolve(reference).unwrap_err().to_string();
            assert!(error.contains("org/name"), "{error}");
        }
    }

    /// A server with files of `org/name` at `main`; every other path gets `otherwise`.
    fn serve(files: BTreeMap<&'static str, &'static str>, otherwise: u16) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let request = lines.next().unwrap().unwrap();
                let range = lines.map_while(|line| line.ok().filter(|line| !line.is_empty()));
                let ranged = range.filter(|line| line.to_lowercase().starts_with("range: bytes=0-0")).count() > 0;
                let path = request.split(' ').nth(1).unwrap();
                let name = path.strip_prefix("/org/name/resolve/main/").unwrap_or("");
                let answer = match files.get(name) {
                    Some(text) => {
                        let total = text.len();
                        let text = if ranged { &text[..1] } else { text };
                        format!(
                            "HTTP/1.1 206 Partial Content\r\nx-repo-commit: {COMMIT}\r\netag: \"{name}\"\r\ncontent-range: bytes 0-0/{total}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                            text.len()
                        )
                    }
                    None => format!("HTTP/1.1 {otherwise} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
                };
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    fn online(cache: &Path, endpoint: String) -> Hub {
        Hub { endpoint: Some(endpoint), offline: false, ..hub(cache) }
    }

    #[test]
    fn what_is_missing_is_downloaded_once() {
        let files = BTreeMap::from([
            ("config.json", "{\"a\": 1}"),
            ("tokenizer.json", "{\"b\": 2}"),
            ("generation_config.json", "{}"),
            (INDEX, SHARDS),
            ("model-1.safetensors", "one"),
            ("model-2.safetensors", "two"),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let folder = online(dir.path(), serve(files.clone(), 404)).resolve("org/name").unwrap();
        for (name, text) in files {
            assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), text);
        }
        assert!(!folder.join("tokenizer_config.json").exists());
        assert_eq!(hub(dir.path()).resolve("org/name").unwrap(), folder);
    }

    #[test]
    fn what_the_server_refuses_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        for (code, words) in [(404, "has no config.json"), (401, "HF_TOKEN"), (403, "HF_TOKEN"), (500, "Try again")] {
            let endpoint = serve(BTreeMap::new(), code);
            let error = online(dir.path(), endpoint).resolve("org/name").unwrap_err().to_string();
            assert!(error.contains(words), "{code}: {error}");
        }
        let error = online(dir.path(), "http://127.0.0.1:1".into()).resolve("org/name").unwrap_err().to_string();
        assert!(error.contains("cannot be downloaded") && error.contains("hf download org/name"), "{error}");
    }
}
