//! A tiny world, made by the program itself once per test process: a corpus, a model pretrained on it, a finished run.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;
use std::time::Duration;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Only a hang takes this long.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Tokens that a document of the tiny world can have.
pub const CONTEXT: usize = 96;

/// The resolved path of the program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_draftsmith");

const PRETRAIN: &str = r#"
name = "pretrain"
device = "cpu"
[data.fables]
path = "fables.jsonl"
separator = "\n"
dev = 0.2
test = 0.3
[pretrain]
output = "model"
vocab_size = 300
documents_per_step = 8
[pretrain.model]
hidden = 32
layers = 2
heads = 4
kv_heads = 2
intermediate = 64
context = 96
[pretrain.training]
steps = 12
learning_rate = 3e-2
warmup_steps = 2
dev_every = 6
checkpoint_every = 6
"#;

const RUN: &str = r#"
name = "tiny"
device = "cpu"
seed = 3
[backbone]
path = "model"
[data.fables]
path = "fables.jsonl"
separator = "\n"
dev = 0.2
test = 0.3
[traces]
max_new = 24
batch = 8
[heads]
block_size = 4
positions_per_step = 64
[heads.architecture]
kind = "ffn"
hidden = 16
[heads.training]
steps = 20
learning_rate = 1e-2
warmup_steps = 2
dev_every = 5
checkpoint_every = 4
[rescorer.counts]
kind = "ngram"
order = 3
[rescorer.small]
kind = "neural"
documents_per_step = 4
[rescorer.small.model]
hidden = 16
layers = 1
heads = 2
kv_heads = 2
intermediate = 32
context = 96
[rescorer.small.training]
steps = 30
learning_rate = 1e-2
warmup_steps = 2
dev_every = 5
[rescorer.turns]
kind = "transition"
rank = 8
blocks_per_step = 32
[rescorer.turns.training]
steps = 20
learning_rate = 1e-2
dev_every = 5
[rescorer.look]
kind = "lava"
rank = 8
blocks_per_step = 32
[rescorer.look.training]
steps = 20
learning_rate = 1e-2
dev_every = 5
[rescorer.mixed]
kind = "sum"
of = ["counts", "turns", "look"]
[rescorer.whole]
kind = "sum"
of = ["small", "counts"]
[lattice]
top_k = 6
[drafting]
paths = 5
nodes = 8
[tuning]
lm_scales = [0.3, 0.7]
decays = [0.8]
temperatures = [1.0, 0.5]
slot_tempering = [1.0]
gates = [2.0]
shares = [0.0, 0.5]
[evaluation]
curve_paths = [40, 1, 5]
oracle_top_k = [1, 2, 4, 8]
bootstrap = 200
live_documents = 4
"#;

/// Names of the stages of the run above, as the program says them.
const STAGES: [&str; 12] = [
    "trace fables train",
    "column last of fables train",
    "trace fables dev",
    "column last of fables dev",
    "trace fables test",
    "column last of fables test",
    "train-heads",
    "train-rescorer counts",
    "train-rescorer look",
    "train-rescorer small",
    "train-rescorer turns",
    "evaluate",
];

/// What a finished process left behind.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The one JSON value on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Panics unless every stage was skipped.
    pub fn assert_all_skipped(&self) {
        for stage in STAGES {
            assert!(self.stderr.contains(&format!("{stage}: finished earlier, skipped")), "{stage}: {}", self.stderr);
        }
    }
}

/// Runs the program in `folder`, whatever comes of it.
pub fn run(folder: &Path, arguments: &[&str]) -> Outcome {
    run_with(folder, arguments, &[])
}

/// As [`run`], with environment variables.
pub fn run_with(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(arguments).envs(variables.iter().copied()).timeout(TIMEOUT);
    let output = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Two orders, two k and two seeds: eight cells, two sets of heads, two n-gram models.
pub const GRID: &str = r#"
extends = "run.toml"
name = "grid"
[heads.training]
steps = 12
[evaluation]
live_documents = 0
[ablation.matrix]
"rescorer" = [{ counts = { kind = "ngram", order = 2 } }, { counts = { kind = "ngram", order = 3 } }]
"lattice.top_k" = [2, 4]
seed = [1, 2]
"#;

/// Runs the program in `folder` and panics unless it ends with 0.
pub fn succeed(folder: &Path, arguments: &[&str]) -> Outcome {
    let outcome = run(folder, arguments);
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
    outcome
}

/// Names the folder of the tiny world to a test that [`alone`] runs in a process of its own.
const WORLD: &str = "DRAFTSMITH_TEST_WORLD";

/// The finished tiny world. Tests read it; those that change something take [`inputs`] or [`finished`].
pub fn world() -> &'static Path {
    static MADE: OnceLock<(PathBuf, Option<File>)> = OnceLock::new();
    let (folder, _lock) = MADE.get_or_init(|| {
        if let Some(folder) = std::env::var_os(WORLD) {
            return (folder.into(), None);
        }
        // A static is never dropped, so the folder is one that the next process takes over.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("world");
        fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let lock = File::create(folder.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("fables.jsonl"), corpus()).unwrap();
        fs::write(folder.join("pretrain.toml"), PRETRAIN).unwrap();
        fs::write(folder.join("run.toml"), RUN).unwrap();
        succeed(&folder, &["pretrain", "pretrain.toml"]);
        succeed(&folder, &["run", "run.toml"]);
        (folder, Some(lock))
    });
    folder
}

/// Returns true in a process that runs the test `name` only. Elsewhere, runs that process and panics unless the test
/// passes there: for tests that measure their process, which the tests beside them would disturb.
pub fn alone(name: &str) -> bool {
    if std::env::var_os(WORLD).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env(WORLD, world()).timeout(TIMEOUT);
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success() && stdout.contains("1 passed"), "{name}, alone: {stdout}{stderr}");
    false
}

/// A copy of corpus, configurations and model, without the run.
pub fn inputs() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["fables.jsonl", "pretrain.toml", "run.toml"] {
        fs::copy(world().join(name), copy.path().join(name)).unwrap();
    }
    copy_folder(&world().join("model"), &copy.path().join("model"));
    copy
}

/// A copy of corpus, configurations and model with the finished traces of the run: the heads are still to be trained.
pub fn traced() -> TempDir {
    let copy = inputs();
    copy_traces(&copy.path().join("runs"));
    copy
}

/// Copies the traces of the tiny world with their columns to other runs.
pub fn copy_traces(runs: &Path) {
    let kinds = ["traces", "columns"].map(|kind| Path::new("store").join(kind));
    kinds.iter().for_each(|kind| copy_folder(&world().join("runs").join(kind), &runs.join(kind)));
}

/// A copy of everything.
pub fn finished() -> TempDir {
    let copy = inputs();
    copy_folder(&world().join("runs"), &copy.path().join("runs"));
    copy
}

/// Copies a folder with all that is in it; links stay links.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if let Ok(link) = fs::read_link(&path) {
            std::os::unix::fs::symlink(link, target).unwrap();
        } else if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

/// Where a part of a run lies: what its link in the run's folder leads to.
pub fn place(folder: &Path, part: &str) -> PathBuf {
    fs::canonicalize(folder.join("runs/tiny").join(part)).unwrap()
}

/// Name and bytes of every file below `folder`, but for those that say how long something took.
pub fn untimed_bytes(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let timed = ["timings.jsonl", "took.json", "events.out.tfevents.draftsmith", "report.html"];
    let files = everything_below(folder).into_iter().filter(|path| path.is_file());
    let untimed = files.filter(|path| !timed.iter().any(|name| path.ends_with(name)));
    untimed.map(|path| (path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

/// Every file and folder below `folder`.
pub fn everything_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything_below(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

/// A JSON file.
pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The report of the run in `folder`.
pub fn report(folder: &Path) -> Value {
    read_json(&folder.join("runs/tiny/report/report.json"))
}

/// The rows of a table of a data set, each an object: its name, its cell in every column, and of every family an object of the
/// cells by key.
pub fn rows(set: &Value, table: &str) -> Vec<Value> {
    let table = find(set, table).unwrap_or_else(|| panic!("there is no table {table} in {set}"));
    let columns = table["columns"].as_array().unwrap();
    let row = |row: &Value| {
        let mut fields = json!({"name": row["name"], "mark": row["mark"], "best": row["best"]});
        for (column, cell) in columns.iter().zip(row["cells"].as_array().unwrap()) {
            let id = column["id"].as_str().unwrap();
            match column["key"].as_str() {
                Some(key) if fields[id].is_null() => fields[id] = json!({key: cell}),
                Some(key) => fields[id][key] = cell.clone(),
                None => fields[id] = cell.clone(),
            }
        }
        fields
    };
    table["rows"].as_array().unwrap().iter().map(row).collect()
}

/// The row of that name.
pub fn row(set: &Value, table: &str, name: &str) -> Value {
    rows(set, table).into_iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name} in {table}"))
}

/// The one row of a table that is about the whole data set.
pub fn only_row(set: &Value, table: &str) -> Value {
    let rows = rows(set, table);
    let [row] = &rows[..] else { panic!("{table}: {rows:?}") };
    row.clone()
}

/// Whether a data set has a table of that name.
pub fn has_table(set: &Value, table: &str) -> bool {
    find(set, table).is_some()
}

fn find<'a>(set: &'a Value, table: &str) -> Option<&'a Value> {
    let tables = set["sections"].as_array().unwrap().iter().flat_map(|section| section["tables"].as_array().unwrap());
    tables.into_iter().find(|found| found["id"] == table)
}

/// A data set without the sections of these ids.
pub fn without(set: &Value, sections: &[&str]) -> Value {
    let mut set = set.clone();
    set["sections"].as_array_mut().unwrap().retain(|section| sections.iter().all(|id| section["id"] != *id));
    set
}

/// The report of the run in `folder` as a text, number by number but for what no two evaluations have in common: the section
/// `timing` of every data set, and how the program was called.
pub fn untimed_report(folder: &Path) -> String {
    let mut report = report(folder);
    for set in report["datasets"].as_array_mut().unwrap() {
        assert!(has_table(set, "timing"), "{set}");
        *set = without(set, &["timing"]);
    }
    assert!(report["provenance"]["argv"].take().is_array());
    // Whether steps and states are kept changes no number.
    let configuration = &mut report["provenance"]["configuration"];
    configuration["evaluation"]["keep_steps"].take();
    configuration["traces"]["keep"].take();
    serde_json::to_string_pretty(&report).unwrap()
}

/// The shared folder beside the crate, or a visible line that it is absent.
pub fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !folder.join("vectors").is_dir() {
        skipped("../shared is absent");
        return None;
    }
    Some(folder)
}

/// Says, past the test harness's capture, why a test did nothing.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = std::io::stderr().write_all(format!("skipped: {why} ({test})\n").as_bytes());
}

/// Runs Python (`DRAFTSMITH_PYTHON`, else `python3`) in `folder`, whatever comes of it; none if there is no Python.
fn python(folder: &Path, arguments: &[&str]) -> Option<Output> {
    let program = std::env::var_os("DRAFTSMITH_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(program);
    command.current_dir(folder).args(arguments).timeout(TIMEOUT);
    // Spark names itself after the host otherwise, which not every machine can resolve.
    command.env("SPARK_LOCAL_IP", "127.0.0.1").env_remove("SPARK_HOME").output().ok()
}

/// Runs Python in `folder`, panics unless it ends with 0, and gives what it printed.
pub fn python_succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = python(folder, arguments).expect("Python starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether Python has these packages; says so if not.
pub fn has_packages(folder: &Path, packages: &str) -> bool {
    let found = python(folder, &["-c", &format!("import {packages}")]).is_some_and(|output| output.status.success());
    if !found {
        skipped(&format!("Python cannot import {packages}"));
    }
    found
}

/// Short fables from a few templates: 60 of ordinary length, seven whose prompts nearly fill the context, and one
/// whose prompt does not fit.
fn corpus() -> String {
    let animals = ["fox", "crow", "mouse", "lion", "bear"];
    let places = ["wood", "barn", "mill", "lake"];
    let things = ["cheese", "grain", "honey"];
    let mut lines = String::new();
    let mut add = |id: String, prompt: String, completion: String, finish: &str| {
        let line = json!({"id": id, "prompt": prompt, "completion": completion, "finish": finish});
        lines += &format!("{line}\n");
    };
    for (a, animal) in animals.iter().enumerate() {
        for (p, place) in places.iter().enumerate() {
            for (t, thing) in things.iter().enumerate() {
                let other = animals[(a + p + t + 1) % animals.len()];
                let prompt = format!("Tell of the {animal} in the {place} and the {thing}.");
                let completion = match (a + t) % 3 {
                    0 => format!("The {animal} went to the {place}. The {other} had the {thing}."),
                    1 => format!("In the {place} the {animal} met a {other} and ate the {thing}."),
                    _ => format!("The {thing} was gone. The {animal} and the {other} left the {place}."),
                };
                add(format!("{animal}-{place}-{thing}"), prompt, completion, if p == 3 { "length" } else { "stop" });
            }
        }
    }
    for (n, words) in [36, 37, 38, 39, 40, 41, 42, 200].into_iter().enumerate() {
        add(format!("long-{n}"), format!("{n} {}", "the fox ".repeat(words)), "It went on.".into(), "stop");
    }
    lines
}

/// Writes the hashes of the files that an artefact has now into its mark, as if the program had made them.
pub fn mark_anew(folder: &Path) {
    let mark = folder.join("stage.json");
    let Ok(text) = fs::read_to_string(&mark) else { return };
    let mut json: Value = serde_json::from_str(&text).unwrap();
    let files = json["files"].as_object_mut().unwrap();
    files.retain(|name, _| folder.join(name).exists());
    for (name, hash) in files {
        *hash = json!(blake3::hash(&fs::read(folder.join(name)).unwrap()).to_hex().to_string());
    }
    fs::write(&mark, json.to_string()).unwrap();
}
