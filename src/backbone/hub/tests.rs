//! Tests of lookups in caches that they write.

mod online;

use std::collections::BTreeMap;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SHARDS: &str =
    r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;
const WHOLE: [(&str, &str); 3] = [("config.json", "{}"), ("tokenizer.json", "{}"), (SINGLE, "weights")];
const SHARDED: [(&str, &str); 5] = [
    ("config.json", "{}"),
    ("tokenizer.json", "{}"),
    (INDEX, SHARDS),
    ("model-1.safetensors", "first"),
    ("model-2.safetensors", "second one"),
];

fn hub(cache: &Path) -> Hub {
    let (home, cache, endpoint) = (cache.join("home"), cache.to_owned(), ENDPOINT.to_owned());
    Hub { home, cache, endpoint, token: None, offline: true, needed: &NEEDED }
}

/// Writes a snapshot of org/name that is known as main and as a pull request.
fn snapshot(cache: &Path, files: &[(&str, &str)]) -> PathBuf {
    let repository = cache.join("models--org--name");
    let folder = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    fs::create_dir_all(repository.join("refs/refs/pr")).unwrap();
    fs::write(repository.join("refs/main"), COMMIT).unwrap();
    fs::write(repository.join("refs/v1.0"), format!("{COMMIT}\n")).unwrap();
    fs::write(repository.join("refs/refs/pr/1"), COMMIT).unwrap();
    folder
}

fn error(hub: &Hub, reference: &str) -> String {
    hub.resolve(reference).unwrap_err().to_string()
}

#[test]
fn branches_tags_and_commits_lead_to_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let folder = snapshot(dir.path(), &WHOLE);
    for revision in ["", "@main", "@v1.0", "@refs/pr/1", &format!("@{COMMIT}")] {
        assert_eq!(hub(dir.path()).resolve(&format!("org/name{revision}")).unwrap(), folder, "{revision}");
    }
    fs::write(dir.path().join("models--org--name/refs/main"), &COMMIT[..9]).unwrap();
    for revision in ["@v2", "@main", "@ffffffffffffffffffffffffffffffffffffffff"] {
        let error = error(&hub(dir.path()), &format!("org/name{revision}"));
        assert!(error.contains(&format!("`{}`", &revision[1..])) && error.contains("HF_HUB_OFFLINE"), "{error}");
    }
}

#[test]
fn a_snapshot_counts_only_with_all_that_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = snapshot(dir.path(), &SHARDED);
    assert_eq!(hub(dir.path()).resolve("org/name").unwrap(), folder);
    for needed in ["model-2.safetensors", "tokenizer.json", "config.json"] {
        fs::remove_file(folder.join(needed)).unwrap();
        assert!(error(&hub(dir.path()), "org/name").contains(needed));
    }
    fs::remove_file(folder.join(INDEX)).unwrap();
    let error_without_weights = error(&hub(dir.path()), "org/name");
    assert!(error_without_weights.contains(SINGLE), "{error_without_weights}");
    for broken in
        ["{", "{}", r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": "../x"}}"#, r#"{"weight_map": {"a": ".."}}"#]
    {
        fs::write(folder.join(INDEX), broken).unwrap();
        assert!(error(&hub(dir.path()), "org/name").contains(INDEX), "{broken}");
    }
}

#[test]
fn offline_the_error_says_what_where_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = error(&hub(dir.path()), "org/name@v2");
    let cache = dir.path().display().to_string();
    for words in
        ["`org/name` at `v2`", &cache, "hf download org/name --revision v2", "models--org--name", "give a folder"]
    {
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn paths_win_and_other_words_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(dir.path());
    fs::create_dir_all(dir.path().join("home/models/mine")).unwrap();
    fs::write(dir.path().join("model.gguf"), "").unwrap();
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    assert_eq!(hub.resolve("~/models/mine").unwrap(), dir.path().join("home/models/mine"));
    assert_eq!(hub.resolve(&path("home")).unwrap(), dir.path().join("home"));
    assert_eq!(hub.resolve(&path("model.gguf")).unwrap(), dir.path().join("model.gguf"));
    assert!(error(&hub, &path("notes.txt")).contains("is a file"));
    // A folder of this crate whose name could also be org/name.
    assert_eq!(hub.resolve("src/backbone").unwrap(), Path::new("src/backbone"));
    for reference in
        ["./absent", "../absent", "/no/where", "~/none", "~", "no/such/folder", "no/such.gguf", "none.GGUF", r"no\such"]
    {
        assert!(error(&hub, reference).contains("Check the path"), "{reference}");
    }
    assert!(error(&hub, "gpt2").contains("openai-community/gpt2"));
    for reference in
        ["no/such@../c", "no/such@", "no/", "no/such--one", ".no/such", "no such/one", "no/such@x?y", "@", ""]
    {
        let error = error(&hub, reference);
        assert!(error.contains("org/name"), "{reference}: {error}");
    }
}

#[test]
fn variables_count_in_the_order_of_the_python_library() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let read = |variables: &[(&str, &str)]| {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        Hub::from_variables(|name| variables.get(name).map(|v| (*v).to_owned()), Some(home.to_owned()))
    };
    assert_eq!(read(&[]).cache, home.join(".cache/huggingface/hub"));
    assert_eq!(read(&[("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
    assert_eq!(read(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/c")]).cache, home.join("hf/hub"));
    assert_eq!(read(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/cache")]).cache, Path::new("/cache"));
    assert_eq!(read(&[("HF_ENDPOINT", "http://mirror/ ")]).endpoint, "http://mirror");
    assert!(read(&[("HF_HUB_OFFLINE", "1")]).offline && read(&[("HF_HUB_OFFLINE", "True")]).offline);
    assert!(!read(&[("HF_HUB_OFFLINE", "0")]).offline && !read(&[]).offline);
    fs::write(home.join("token"), "kept\n").unwrap();
    let base = home.to_string_lossy();
    assert_eq!(read(&[("HF_HOME", &base)]).token.as_deref(), Some("kept"));
    assert_eq!(read(&[("HF_HOME", &base), ("HF_TOKEN", "mine")]).token.as_deref(), Some("mine"));
}
