//! Downloads files from a hub's server into the cache: the content under `blobs`, named by its hash, and a link to it
//! under `snapshots`, with the file's name. An unfinished download is called `.incomplete`, and a later attempt resumes
//! it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::HumanBytes;
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::error::{Error, Result};
use crate::progress::{self, Progress, Unit, Work};

/// The number of attempts at a download that keeps breaking off.
const TRIES: usize = 5;

/// Why a file could not be downloaded.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server refused, with this status.
    Status(u16),
    /// There was no answer, or it broke off.
    Network(String),
    /// The server answered as no hub does.
    Strange(String),
    /// Something failed on this machine, or the user pressed Ctrl-C.
    Here(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

/// A hub's server, with the token to use there.
pub(super) struct Server {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What the server says about a file before it sends the file.
struct Head {
    /// Where on the server the file is: its address, after redirections within the server.
    address: String,
    commit: String,
    /// The hash of the content.
    tag: String,
    size: Option<u64>,
}

impl Server {
    /// Prepares requests to the server at `endpoint`.
    pub(super) fn new(endpoint: &str, token: Option<&str>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Large files come from another server, by a signed address, and that server must not see the token.
            .redirect_auth_headers(RedirectAuthHeaders::Never)
            // A compressed answer can neither be resumed nor measured.
            .accept_encoding("identity")
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        Self { agent: config.build().into(), endpoint: endpoint.into(), token: token.map(str::to_owned) }
    }

    /// Returns the commit that a revision stands for now, which the server tells along with a file that every model
    /// has.
    pub(super) fn commit(&self, model: &str, revision: &str, file: &str) -> Result<String, Fault> {
        Ok(self.head(&self.address(model, revision, file))?.commit)
    }

    /// Lists a folder of a data set at a revision: paths from the root, each with whether it is a folder.
    pub(super) fn list(&self, name: &str, revision: &str, folder: &str) -> Result<Vec<(String, bool)>, Fault> {
        let address = format!("{}/api/datasets/{name}/tree/{}/{folder}", self.endpoint, revision.replace('/', "%2F"));
        let address = address.trim_end_matches('/');
        let mut answer =
            self.authorised(self.agent.get(address), address).call().map_err(|e| Fault::Network(e.to_string()))?;
        if !answer.status().is_success() {
            return Err(Fault::Status(answer.status().as_u16()));
        }
        // Longer lists come in pages, and no split has so many files.
        if header(&answer, "link").is_some() {
            return Err(Fault::Strange(format!("more files in `{folder}` than one answer holds")));
        }
        let text = answer.body_mut().read_to_string().map_err(|e| Fault::Network(e.to_string()))?;
        let strange = || Fault::Strange(format!("no list of the files in `{folder}`"));
        let list: Vec<Value> = serde_json::from_str(&text).map_err(|_| strange())?;
        let entry = |entry: &Value| Some((entry["path"].as_str()?.to_owned(), entry["type"] == "directory"));
        list.iter().map(entry).collect::<Option<_>>().ok_or_else(strange)
    }

    /// Ensures that `file` of a commit is in the snapshot below `repository`, and asks the server only if it is not.
    /// `file` may have folders in its name.
    pub(super) fn fetch(&self, model: &str, commit: &str, file: &str, repository: &Path) -> Result<(), Fault> {
        let (blobs, folder) = (repository.join("blobs"), repository.join("snapshots").join(commit));
        let link = folder.join(file);
        if link.exists() {
            return Ok(());
        }
        let head = self.head(&self.address(model, commit, file))?;
        for needed in [&blobs, link.parent().unwrap_or(&folder)] {
            fs::create_dir_all(needed).map_err(|e| Error::io("create", needed, e))?;
        }
        let blob = blobs.join(&head.tag);
        if !blob.exists() {
            self.fill(&head, &blob, file)?;
        }
        // If someone tidied the cache by hand, a link to nothing may be left.
        let _ = fs::remove_file(&link);
        #[cfg(unix)]
        let linked = {
            let up = "../".repeat(1 + Path::new(file).components().count());
            std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(&head.tag), &link)
        };
        #[cfg(not(unix))]
        let linked = fs::rename(&blob, &link);
        match linked {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("write", &link, e).into()),
            _ => Ok(()),
        }
    }

    /// Downloads a content under a temporary name and then renames it; only one process at a time works on it.
    fn fill(&self, head: &Head, blob: &Path, name: &str) -> Result<(), Fault> {
        let part = blob.with_file_name(format!("{}.incomplete", head.tag));
        let at = |e| Error::io("write", &part, e);
        let mut file = OpenOptions::new().create(true).append(true).open(&part).map_err(at)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            progress::say(format!("{name}: another process is downloading it; waiting"));
            file.lock().map_err(at)?;
        }
        if blob.exists() {
            // The other process has finished.
            let _ = fs::remove_file(&part);
            return Ok(());
        }
        let (first, total) = (file.metadata().map_err(at)?.len() as usize, head.size.unwrap_or_default() as usize);
        let mut bar = Progress::of(Work { title: name.to_owned(), first, total, unit: Unit::Bytes });
        let mut outcome = Ok(());
        for _ in 0..TRIES {
            outcome = self.pour(head, &mut file, &mut bar, name).and_then(|()| verify(head, &part, &file, name));
            if !matches!(outcome, Err(Fault::Network(_))) {
                break;
            }
        }
        outcome?;
        file.sync_all().and_then(|()| fs::rename(&part, blob)).map_err(at)?;
        bar.finish(&HumanBytes(file.metadata().map_err(at)?.len()).to_string());
        Ok(())
    }

    /// Downloads once, from where the last attempt ended.
    fn pour(&self, head: &Head, file: &mut File, bar: &mut Progress, name: &str) -> Result<(), Fault> {
        let address = &head.address;
        let local = |e| Fault::Here(Error::io("write", name, e));
        let mut have = file.metadata().map_err(local)?.len();
        // Without the size, nobody can tell whether the rest still fits what is there.
        if head.size.is_none_or(|size| have > size) {
            file.set_len(0).map_err(local)?;
            have = 0;
        }
        if head.size == Some(have) {
            return Ok(());
        }
        let mut request = self.authorised(self.agent.get(address), address);
        if have > 0 {
            request = request.header("range", format!("bytes={have}-"));
        }
        let answer = request.call().map_err(|e| Fault::Network(e.to_string()))?;
        match answer.status().as_u16() {
            206 if have > 0 && continues(&answer, have, head.size) => {}
            206 => {
                file.set_len(0).map_err(local)?;
                return Err(Fault::Network("the server sent another part of the file than it was asked for".into()));
            }
            // The server sends all of it again, or none of it because it has nothing at that position, so what came
            // before is void.
            status @ (200 | 416) => {
                file.set_len(0).map_err(local)?;
                have = 0;
                if status == 416 {
                    return Err(Fault::Network("the server has no such part of the file".into()));
                }
            }
            status => return Err(Fault::Status(status)),
        }
        let mut reader = answer.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            if progress::interrupted() {
                return Err(Fault::Here(Error::interrupted(format!(
                    "interrupted while downloading {name}. What came is kept; start the same command again to go on."
                ))));
            }
            let count = reader.read(&mut buffer).map_err(|e| Fault::Network(format!("{name} broke off ({e})")))?;
            if count == 0 {
                break;
            }
            if have + count as u64 > head.size.unwrap_or(UNANNOUNCED) {
                file.set_len(0).map_err(local)?;
                return Err(Fault::Strange("more bytes than it announced".into()));
            }
            file.write_all(&buffer[..count]).map_err(local)?;
            have += count as u64;
            bar.update(have as usize, String::new);
        }
        match head.size {
            Some(size) if size != have => Err(Fault::Network(format!("{name} has {size} bytes, and {have} came"))),
            _ => Ok(()),
        }
    }

    /// Asks about a file. Redirections within the server are followed; one to the host of large files counts as an
    /// answer.
    fn head(&self, address: &str) -> Result<Head, Fault> {
        let mut address = address.to_owned();
        for _ in 0..10 {
            let request = self.authorised(self.agent.head(&address), &address).config().max_redirects(0).build();
            let answer = request.call().map_err(|e| Fault::Network(e.to_string()))?;
            let target = header(&answer, "location").filter(|_| answer.status().is_redirection());
            match target {
                Some(path) if path.starts_with('/') => address = format!("{}{path}", origin(&address)),
                Some(other) if origin(other) == origin(&address) => address = other.to_owned(),
                _ if answer.status().is_success() || target.is_some() => return Head::read(&answer, address),
                _ => return Err(Fault::Status(answer.status().as_u16())),
            }
        }
        Err(Fault::Strange("it redirects for ever".into()))
    }

    /// Adds the token to a request, if it goes to the hub's own server.
    fn authorised<T>(&self, request: ureq::RequestBuilder<T>, address: &str) -> ureq::RequestBuilder<T> {
        match &self.token {
            Some(token) if origin(address) == origin(&self.endpoint) => {
                request.header("authorization", format!("Bearer {token}"))
            }
            _ => request,
        }
    }

    /// Returns the address of a file.
    fn address(&self, model: &str, revision: &str, file: &str) -> String {
        format!("{}/{model}/resolve/{}/{file}", self.endpoint, revision.replace('/', "%2F"))
    }
}

impl Head {
    /// Reads what an answer says about a file.
    fn read(answer: &Response<Body>, address: String) -> Result<Self, Fault> {
        let found = |names: &[&str]| names.iter().find_map(|name| header(answer, name)).map(str::to_owned);
        let lacking = |name: &str| Fault::Strange(format!("no {name}"));
        let tag = found(&["x-linked-etag", "etag"]).ok_or_else(|| lacking("etag"))?;
        let tag = tag.trim_start_matches("W/").trim_matches('"').to_owned();
        // It becomes the name of a file.
        if tag.is_empty() || !tag.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
            return Err(Fault::Strange(format!("the etag {tag:?}")));
        }
        // The length of a redirection is not that of the file.
        let length = if answer.status().is_redirection() { "x-linked-size" } else { "content-length" };
        let size = found(&["x-linked-size", length]).and_then(|size| size.parse().ok());
        Ok(Self { address, commit: found(&["x-repo-commit"]).ok_or_else(|| lacking("x-repo-commit"))?, tag, size })
    }
}

/// The most bytes that are taken of a file whose size the server does not announce.
const UNANNOUNCED: u64 = 64 << 20;

/// Returns whether a part that the server sends begins behind `have` bytes of a file of `size` bytes.
fn continues(answer: &Response<Body>, have: u64, size: Option<u64>) -> bool {
    let part = || {
        let (range, total) = header(answer, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split_once('-')?.0.parse::<u64>().ok()?, total.parse::<u64>().ok()))
    };
    part().is_some_and(|(first, total)| first == have && total.is_none_or(|total| Some(total) == size))
}

/// Checks a content that came, in the file `part`, by its tag: the SHA-256 of large files, or what git calls small ones by. Tags of
/// other servers say nothing. What is not right is dropped.
fn verify(head: &Head, part: &Path, file: &File, name: &str) -> Result<(), Fault> {
    let is_hash = |length: usize| head.tag.len() == length && head.tag.chars().all(|c| c.is_ascii_hexdigit());
    let local = |e| Fault::Here(Error::io("read", part, e));
    let mut content = File::open(part).map_err(local)?;
    let found = if is_hash(64) {
        digest(Sha256::new(), &mut content).map_err(local)?
    } else if is_hash(40) {
        let length = content.metadata().map_err(local)?.len();
        digest(Sha1::new().chain_update(format!("blob {length}\0")), &mut content).map_err(local)?
    } else {
        return Ok(());
    };
    if found.eq_ignore_ascii_case(&head.tag) {
        return Ok(());
    }
    file.set_len(0).map_err(local)?;
    // Perhaps what an earlier attempt left was wrong, and the next one begins anew.
    Err(Fault::Network(format!("{name} came with the hash {found}, and should have {}", head.tag)))
}

/// Returns the hash of everything that `content` has, in hexadecimal.
fn digest(mut hasher: impl Digest + Write, content: &mut File) -> std::io::Result<String> {
    std::io::copy(content, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns a header, if it is text.
fn header<'a>(answer: &'a Response<Body>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

/// Returns the part `https://host:port` of an address.
fn origin(address: &str) -> &str {
    let host = address.find("://").map_or(0, |at| at + 3);
    address[host..].find('/').map_or(address, |length| &address[..host + length])
}
