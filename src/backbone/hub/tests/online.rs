//! Tests of downloads from a server that answers as the hub does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::*;

/// A request: its method, path, and headers, whose names are in small letters.
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

/// Answers every request, each on a connection of its own, with what `answer` returns for it.
fn serve(mut answer: impl FnMut(&Request) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok());
            let Some(first) = lines.next() else { continue };
            let mut words = first.split(' ').map(str::to_owned);
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let headers = lines.take_while(|line| !line.is_empty());
            let headers = headers.filter_map(|h| h.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_owned())));
            let request = Request { method, path, headers: headers.collect() };
            let _ = stream.write_all(answer(&request).as_bytes());
        }
    });
    address
}

/// Returns an answer, without its body if the request is HEAD.
fn reply(request: &Request, status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    let body = if request.method == "HEAD" { "" } else { body };
    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}")
}

/// Returns the hub's answers for org/name, at any revision.
fn answer(files: &BTreeMap<&str, &str>, request: &Request) -> String {
    let name = request.path.rsplit('/').next().unwrap_or_default();
    let known = request.path.starts_with("/org/name/resolve/");
    let Some(text) = files.get(name).filter(|_| known) else { return reply(request, 404, "", "Entry not found") };
    let headers = format!("x-repo-commit: {COMMIT}\r\netag: \"{}-tag\"\r\n", name.replace('.', "_"));
    let part = |from: usize| format!("{headers}content-range: bytes {from}-{}/{}\r\n", text.len() - 1, text.len());
    let from = request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        Some(from) if from < text.len() => reply(request, 206, &part(from), &text[from..]),
        Some(_) => reply(request, 416, &headers, ""),
        None => reply(request, 200, &headers, text),
    }
}

fn online(cache: &Path, endpoint: String) -> Hub {
    Hub { endpoint, offline: false, ..hub(cache) }
}

#[test]
fn what_is_not_there_is_downloaded_once() {
    let (dir, requests) = (tempfile::tempdir().unwrap(), Arc::new(Mutex::new(0)));
    let mut files = BTreeMap::from(SHARDED);
    files.insert("generation_config.json", "{}");
    let (served, count) = (files.clone(), requests.clone());
    let hub = online(
        dir.path(),
        serve(move |request| {
            *count.lock().unwrap() += 1;
            answer(&served, request)
        }),
    );
    let folder = hub.resolve("org/name@refs/pr/2").unwrap();
    assert_eq!(folder, dir.path().join("models--org--name/snapshots").join(COMMIT));
    for (name, text) in files {
        assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), text);
    }
    assert!(!folder.join("tokenizer_config.json").exists());
    let repository = dir.path().join("models--org--name");
    assert_eq!(fs::read_to_string(repository.join("refs/refs/pr/2")).unwrap(), COMMIT);
    assert!(fs::read_dir(repository.join("blobs")).unwrap().all(|f| f.unwrap().path().extension().is_none()));
    let before = *requests.lock().unwrap();
    assert_eq!(hub.resolve("org/name@refs/pr/2").unwrap(), folder);
    assert_eq!(*requests.lock().unwrap(), before);
}

#[test]
fn a_missing_shard_is_fetched() {
    let (dir, asked) = (tempfile::tempdir().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let folder = snapshot(dir.path(), &SHARDED[..4]);
    let log = asked.clone();
    let hub = online(
        dir.path(),
        serve(move |request| {
            if request.method == "GET" {
                log.lock().unwrap().push(request.path.clone());
            }
            answer(&BTreeMap::from(SHARDED), request)
        }),
    );
    assert_eq!(hub.resolve("org/name").unwrap(), folder);
    assert_eq!(fs::read_to_string(folder.join("model-2.safetensors")).unwrap(), "second one");
    assert_eq!(*asked.lock().unwrap(), [format!("/org/name/resolve/{COMMIT}/model-2.safetensors")]);
}

#[test]
fn a_transfer_that_breaks_off_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let log = ranges.clone();
    let endpoint = serve(move |request| {
        let whole = answer(&BTreeMap::from(WHOLE), request);
        if request.method == "HEAD" || !request.path.ends_with(SINGLE) {
            return whole;
        }
        let mut log = log.lock().unwrap();
        log.push(request.headers.get("range").cloned().unwrap_or_default());
        if log.len() < 3 { whole[..whole.len() - 3].to_owned() } else { whole }
    });
    let folder = online(dir.path(), endpoint).resolve("org/name").unwrap();
    assert_eq!(fs::read_to_string(folder.join(SINGLE)).unwrap(), "weights");
    assert_eq!(*ranges.lock().unwrap(), ["", "bytes=4-", "bytes=4-"]);
}

#[test]
fn a_download_given_up_leaves_no_file_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = serve(|request| {
        let whole = answer(&BTreeMap::from(WHOLE), request);
        let cut = request.method == "GET" && request.path.ends_with(SINGLE) && !request.headers.contains_key("range");
        if cut {
            whole[..whole.len() - 2].to_owned()
        } else if request.headers.contains_key("range") {
            String::new()
        } else {
            whole
        }
    });
    let hub = online(dir.path(), endpoint);
    assert!(error(&hub, "org/name").contains("cannot be downloaded"));
    let repository = dir.path().join("models--org--name");
    assert!(!repository.join("snapshots").join(COMMIT).join(SINGLE).exists() && !repository.join("refs").exists());
    let part = repository.join("blobs/model_safetensors-tag.incomplete");
    assert_eq!(fs::read_to_string(&part).unwrap(), "weigh");
    // A later attempt: from a server without ranges, and from one for which the part is too long.
    for rest in ["weigh", "something longer"] {
        fs::write(&part, rest).unwrap();
        let endpoint = serve(|request| {
            let headers = BTreeMap::new();
            answer(
                &BTreeMap::from(WHOLE),
                &Request { method: request.method.clone(), path: request.path.clone(), headers },
            )
        });
        let folder = online(dir.path(), endpoint).resolve("org/name").unwrap();
        assert_eq!(fs::read_to_string(folder.join(SINGLE)).unwrap(), "weights");
        for gone in [repository.join("blobs/model_safetensors-tag"), repository.join("refs/main")] {
            fs::remove_file(gone).unwrap();
        }
    }
}

#[test]
fn the_token_stays_with_the_hub_when_files_lie_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = serve(|request| {
        assert!(!request.headers.contains_key("authorization"));
        reply(request, 200, "etag: \"another\"\r\n", "weights")
    });
    let endpoint = serve(move |request| {
        assert_eq!(request.headers["authorization"], "Bearer secret");
        assert_eq!(request.headers["accept-encoding"], "identity");
        if request.path.ends_with(SINGLE) {
            let headers = format!(
                "x-repo-commit: {COMMIT}\r\nx-linked-etag: \"abc\"\r\nx-linked-size: 7\r\nlocation: {elsewhere}/signed\r\n"
            );
            return reply(request, 302, &headers, "Found");
        }
        // Small files are at another path of the same server.
        match request.path.strip_prefix("/cache") {
            None => reply(request, 307, &format!("location: /cache{}\r\n", request.path), "Moved"),
            Some(path) => {
                let (method, headers) = (request.method.clone(), BTreeMap::new());
                answer(&BTreeMap::from(WHOLE), &Request { method, path: path.to_owned(), headers })
            }
        }
    });
    let hub = Hub { token: Some("secret".into()), ..online(dir.path(), endpoint) };
    let folder = hub.resolve("org/name").unwrap();
    assert_eq!(fs::read_to_string(folder.join(SINGLE)).unwrap(), "weights");
    assert!(dir.path().join("models--org--name/blobs/abc").exists());
}

/// The hub calls large files by their SHA-256, and others as git does.
#[test]
fn what_comes_is_what_was_announced() {
    // As `sha256sum` and `git hash-object --stdin` say of the seven bytes.
    let sha256 = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";
    let git = "3ab313fff6f41bb35969cd359e9ddfb8033b3ac2";
    let with_tag = |tag: &'static str, sent: &'static str| {
        serve(move |request| {
            if !request.path.ends_with(SINGLE) {
                return answer(&BTreeMap::from(WHOLE), request);
            }
            let headers = format!("x-repo-commit: {COMMIT}\r\netag: \"{tag}\"\r\n");
            reply(request, 200, &headers, sent)
        })
    };
    for tag in [sha256, git] {
        let dir = tempfile::tempdir().unwrap();
        let folder = online(dir.path(), with_tag(tag, "weights")).resolve("org/name").unwrap();
        assert_eq!(fs::read_to_string(folder.join(SINGLE)).unwrap(), "weights");
        let dir = tempfile::tempdir().unwrap();
        let error = error(&online(dir.path(), with_tag(tag, "weighty")), "org/name");
        assert!(error.contains("came with the hash") && error.contains(tag), "{error}");
        let blobs = dir.path().join("models--org--name/blobs");
        assert!(!blobs.join(tag).exists() && fs::read(blobs.join(format!("{tag}.incomplete"))).unwrap().is_empty());
    }
    // What an earlier attempt left is poisoned.
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("models--org--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{sha256}.incomplete")), "poison!").unwrap();
    let folder = online(dir.path(), with_tag(sha256, "weights")).resolve("org/name").unwrap();
    assert_eq!(fs::read_to_string(folder.join(SINGLE)).unwrap(), "weights");
}

#[test]
fn a_server_that_sends_something_else_is_not_believed() {
    // Other parts than were asked for, and more than was announced.
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("models--org--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("tag.incomplete"), "weig").unwrap();
    let endpoint = serve(|request| {
        let headers = format!("x-repo-commit: {COMMIT}\r\netag: \"tag\"\r\n");
        match (request.path.ends_with(SINGLE), request.headers.contains_key("range")) {
            (false, _) => answer(&BTreeMap::from(WHOLE), request),
            (true, true) => reply(request, 206, &format!("{headers}content-range: bytes 0-2/7\r\n"), "wei"),
            (true, false) => reply(request, 200, &headers, "weights"),
        }
    });
    let folder = online(dir.path(), endpoint).resolve("org/name").unwrap();
    assert_eq!(fs::read_to_string(folder.join(SINGLE)).unwrap(), "weights");
    let dir = tempfile::tempdir().unwrap();
    let endpoint = serve(|request| {
        if !request.path.ends_with(SINGLE) {
            return answer(&BTreeMap::from(WHOLE), request);
        }
        let headers = format!("x-repo-commit: {COMMIT}\r\netag: \"tag\"\r\nx-linked-size: 3\r\n");
        reply(request, 200, &headers, "weights")
    });
    let error = error(&online(dir.path(), endpoint), "org/name");
    assert!(error.contains("more bytes than it announced"), "{error}");
}

#[test]
fn what_the_server_refuses_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let refusals =
        [(404, "spelling"), (401, "set HF_TOKEN"), (403, "set HF_TOKEN"), (500, "Try again"), (200, "HF_ENDPOINT")];
    for (status, words) in refusals {
        let hub = online(dir.path(), serve(move |request| reply(request, status, "", "")));
        let error = error(&hub, "org/name@v2");
        assert!(error.contains(words) && error.contains("`org/name`"), "{status}: {error}");
    }
    let no_weights = serve(|request| {
        answer(&BTreeMap::from(WHOLE).into_iter().take(1).chain([("tokenizer.json", "{}")]).collect(), request)
    });
    assert!(error(&online(dir.path(), no_weights), "org/name").contains("safetensors weights"));
    let error = error(&online(dir.path(), "http://127.0.0.1:1".into()), "org/name");
    assert!(error.contains("cannot be downloaded") && error.contains("hf download org/name"), "{error}");
}

#[test]
fn a_file_of_a_data_set_is_downloaded_once() {
    let (dir, asked) = (tempfile::tempdir().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let log = asked.clone();
    let hub = online(
        dir.path(),
        serve(move |request| {
            log.lock().unwrap().push(format!("{} {}", request.method, request.path));
            let headers = format!("x-repo-commit: {COMMIT}\r\netag: \"tag\"\r\n");
            let known = request.path.starts_with("/datasets/org/name/resolve/") && request.path.ends_with("/a/b/0.csv");
            if known { reply(request, 200, &headers, "text\nx\n") } else { reply(request, 404, "", "") }
        }),
    );
    let reference = "hf://datasets/org/name@refs/convert/parquet/a/b/0.csv";
    let path = hub.resolve_file(reference).unwrap();
    assert_eq!(path, dir.path().join("datasets--org--name/snapshots").join(COMMIT).join("a/b/0.csv"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "text\nx\n");
    let first = "HEAD /datasets/org/name/resolve/refs%2Fconvert%2Fparquet/a/b/0.csv";
    assert_eq!(asked.lock().unwrap()[0], first);
    let before = asked.lock().unwrap().len();
    assert_eq!(hub.resolve_file(reference).unwrap(), path);
    assert_eq!(asked.lock().unwrap().len(), before);
    let offline = Hub { offline: true, ..hub };
    assert_eq!(offline.resolve_file(reference).unwrap(), path);
    let error = offline.resolve_file("hf://datasets/org/name/c.csv").unwrap_err().to_string();
    for word in
        ["`c.csv` of the data set `org/name` at `main`", "HF_HUB_OFFLINE", "/datasets/org/name/resolve/main/c.csv"]
    {
        assert!(error.contains(word), "{error}");
    }
    let online = Hub { offline: false, ..offline };
    let error = online.resolve_file("hf://datasets/org/name/c.csv").unwrap_err().to_string();
    assert!(error.contains("has no such file"), "{error}");
    assert!(online.resolve_file("hf://models/x").unwrap_err().to_string().contains("hf://datasets/ORG/NAME/FILE"));
    assert_eq!(online.resolve_file("~/x.csv").unwrap(), dir.path().join("home/x.csv"));
}

#[test]
fn all_files_of_a_split_are_found_and_downloaded() {
    let dir = tempfile::tempdir().unwrap();
    let hub = online(
        dir.path(),
        serve(move |request| {
            let headers =
                format!("x-repo-commit: {COMMIT}\r\netag: \"{}\"\r\n", request.path.replace(['/', '.', '%'], "-"));
            let entry = |kind: &str, path: &str| format!("{{\"type\":\"{kind}\",\"path\":\"{path}\",\"size\":1}}");
            let list = |entries: &[String]| reply(request, 200, "", &format!("[{}]", entries.join(",")));
            let tree = "/api/datasets/org/name/tree/refs%2Fconvert%2Fparquet";
            match request.path.strip_prefix(tree) {
                Some("") => {
                    list(&[entry("file", ".gitattributes"), entry("directory", "main"), entry("directory", "socratic")])
                }
                Some("/main") => list(&[entry("directory", "main/test"), entry("directory", "main/train")]),
                Some("/main/train") => {
                    list(&[entry("file", "main/train/0001.parquet"), entry("file", "main/train/0000.parquet")])
                }
                None if request.path.starts_with("/datasets/org/name/resolve/") => {
                    reply(request, 200, &headers, request.path.rsplit('/').next().unwrap())
                }
                _ => reply(request, 404, "", ""),
            }
        }),
    );
    let found = hub.resolve_split("hf://datasets/org/name/main", "train").unwrap();
    let texts: Vec<String> = found.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert_eq!(texts, ["0000.parquet", "0001.parquet"]);
    let snapshot = dir.path().join("datasets--org--name/snapshots").join(COMMIT);
    assert_eq!(found[1], snapshot.join("main/train/0001.parquet"));
    let error = |reference: &str, split: &str| hub.resolve_split(reference, split).unwrap_err().to_string();
    let several = error("hf://datasets/org/name", "train");
    assert!(several.contains("several configurations, main, socratic") && several.contains("name/main\""), "{several}");
    let none = error("hf://datasets/org/name/main", "dev");
    assert!(none.contains("`main` of the data set `org/name` has no split `dev`; it has test, train."), "{none}");
    for (wrong, split) in [
        ("hf://datasets/org", "train"),
        ("hf://datasets/org/name/a/b", "train"),
        ("x", "train"),
        ("hf://datasets/org/name", "../x"),
    ] {
        assert!(error(wrong, split).contains("is no part of a data set of the hub"), "{wrong} {split}");
    }
    // Without a network the cache is asked.
    let offline = Hub { offline: true, ..hub };
    assert_eq!(offline.resolve_split("hf://datasets/org/name", "train").unwrap(), found);
    let error = offline.resolve_split("hf://datasets/org/other", "train").unwrap_err().to_string();
    assert!(
        error.contains("HF_HUB_OFFLINE is set") && error.contains("/datasets/org/other/tree/refs%2Fconvert%2Fparquet/"),
        "{error}"
    );
}
