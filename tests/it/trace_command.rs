//! `trace` from outside: killed and interrupted, its estimate, and what the other commands make of its kinds of text.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{PROGRAM, inputs, run, succeed, untimed_bytes, untimed_report, world};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Every kind of trace, one document at a time: long enough to be hit in its middle.
const TRACE: [&str; 6] = [
    "trace",
    "run.toml",
    "--set",
    "traces.train_text=[\"greedy\", \"sampled\", \"corpus\"]",
    "--set",
    "traces.batch=1",
];

fn start(folder: &Path) -> Child {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(TRACE).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// The journals of traces and columns in the making: folder and text.
fn journals(folder: &Path) -> Vec<(PathBuf, String)> {
    let listing = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let read = |path: PathBuf| Some((path.clone(), fs::read_to_string(path.join("batches.jsonl")).ok()?));
    let store = folder.join("runs/store");
    listing(store.join("traces")).chain(listing(store.join("columns"))).filter_map(read).collect()
}

/// Names and bytes of a run's traces and of their columns.
fn traces(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let run = folder.join("runs/tiny");
    ["traces", "columns"].iter().flat_map(|name| untimed_bytes(&run.join(name))).collect()
}

/// Waits until so many batches are finished, or the process has ended.
fn wait_for_batches(folder: &Path, child: &mut Child, batches: usize) {
    let (mut seen, mut last) = (0, None);
    while seen < batches && child.try_wait().unwrap().is_none() {
        let now = journals(folder);
        seen += usize::from(last.as_ref() != Some(&now));
        last = Some(now);
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn a_killed_tracing_keeps_what_is_finished_and_ends_with_the_same_bytes() {
    let (mut folder, expected) = (inputs(), inputs());
    succeed(expected.path(), &TRACE);
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(std::process::id()));
    let (mut kills, mut resumed) = (0, 0);
    // More often where other programs keep this one from looking before the tracing has ended.
    while kills < 10 || (resumed == 0 && kills < 60) {
        kills += 1;
        let before = journals(folder.path());
        let mut child = start(folder.path());
        wait_for_batches(folder.path(), &mut child, rng.random_range(1..20));
        std::thread::sleep(Duration::from_micros(u64::from(rng.next_u32() % 3000)));
        child.kill().unwrap();
        if child.wait().unwrap().success() && resumed == 0 {
            folder = inputs();
            continue;
        }
        let after = journals(folder.path());
        for (partial, earlier) in &before {
            let whole = &earlier[..earlier.rfind('\n').map_or(0, |end| end + 1)];
            let kept = after.iter().find(|(name, _)| name == partial).map(|(_, now)| now.starts_with(whole));
            assert_ne!(kept, Some(false), "finished documents of {} stay", partial.display());
            resumed += usize::from(kept == Some(true) && !whole.is_empty());
        }
    }
    let outcome = succeed(folder.path(), &TRACE);
    assert!(resumed > 0, "no kill hit a trace's middle: {}", outcome.stderr);
    let (found, expected) = (traces(folder.path()), traces(expected.path()));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert!(found == expected, "{}", name.display());
    }
}

#[test]
fn an_interrupted_tracing_says_how_to_go_on() {
    let folder = inputs();
    let mut child = start(folder.path());
    wait_for_batches(folder.path(), &mut child, 4);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    // Columns that are made along may have a batch more than their trace.
    let (partial, journal) = journals(folder.path()).into_iter().next().expect("the interrupt hit a trace's middle");
    let name = partial.strip_prefix(folder.path()).unwrap().display();
    let paragraph = stderr.lines().last().unwrap();
    let kept =
        format!("{} documents are kept in {name}. Start the same command again to go on", journal.lines().count());
    assert!(paragraph.starts_with("error: interrupted") && paragraph.contains(&kept), "{stderr}");
    let went_on = succeed(folder.path(), &TRACE).stderr;
    assert!(went_on.contains(&format!("going on after {} documents", journal.lines().count())), "{went_on}");
}

#[test]
fn a_dry_run_bounds_what_comes_and_writes_no_trace() {
    let folder = inputs();
    let more = ["--set", "traces.train_text=[\"greedy\", \"corpus\"]", "--format", "json"];
    let dry = [&["trace", "run.toml", "--dry-run"][..], &more].concat();
    let estimate = succeed(folder.path(), &dry).json();
    let run = folder.path().join("runs/tiny");
    assert!(!folder.path().join("runs").exists(), "not even a folder or a lock");
    assert!(estimate["seconds"].as_f64().unwrap() > 0.0 && estimate["bytes_free"].as_u64().unwrap() > 0);
    succeed(folder.path(), &[&["trace", "run.toml"][..], &more].concat());
    let listed = estimate["traces"].as_array().unwrap();
    assert_eq!(listed.len(), 4);
    for one in listed {
        let size_of = |folder: PathBuf| -> u64 {
            let files = untimed_bytes(&folder);
            let all = files.iter().filter(|(name, _)| name != Path::new("stage.json"));
            all.map(|(_, bytes)| bytes.len() as u64).sum()
        };
        let (name, column) = (one["name"].as_str().unwrap(), &one["columns"][0]);
        let of_column = size_of(run.join("columns").join(name).join("last"));
        let most = column["bytes_at_most"].as_u64().unwrap();
        assert!(column["feature"] == "last" && of_column <= most && most < of_column * 3 / 2, "{one}: {of_column}");
        let size = size_of(run.join("traces").join(name)) + of_column;
        let most = one["bytes_at_most"].as_u64().unwrap();
        assert!(size <= most && most < size * 3 / 2, "{one}: {size}");
    }
    // Nor does it touch what is there, whatever it is asked.
    let run =
        || ["run.toml", "provenance.json"].map(|file| fs::read(folder.path().join("runs/tiny").join(file)).unwrap());
    let before = run();
    succeed(folder.path(), &["trace", "run.toml", "--dry-run", "--set", "seed=99"]);
    assert!(run() == before);
    let after = succeed(folder.path(), &dry).json();
    assert_eq!((after["bytes_at_most"].as_u64(), after["finished"].as_array().unwrap().len()), (Some(0), 4));
    // Of another type, only the columns are made.
    let half = succeed(folder.path(), &[&dry[..], &["--set", "traces.dtype=float16"]].concat()).json();
    for (half, whole) in half["traces"].as_array().unwrap().iter().zip(listed) {
        let bytes = |of: &Value| of["bytes_at_most"].as_u64().unwrap();
        assert_eq!(bytes(half), bytes(&half["columns"][0]));
        assert!(bytes(half) < bytes(&whole["columns"][0]) && half["seconds"].as_f64().unwrap() > 0.0, "{half}");
    }
    let table = succeed(folder.path(), &["trace", "run.toml", "--dry-run", "--set", "traces.max_new=5"]).stdout;
    for words in ["fables-train", "disk, at most", "are free in runs/store"] {
        assert!(table.contains(words), "{table}");
    }
    let tokens =
        succeed(folder.path(), &[&dry[..], &["--set", "traces.max_new=5", "--set", "traces.keep=tokens"]].concat());
    assert!(tokens.json()["traces"].as_array().unwrap().iter().all(|one| one["columns"] == json!([])));
}

#[test]
fn heads_train_on_every_kind_of_text_and_the_rescorers_on_the_backbones_own() {
    let folder = inputs();
    let kinds = "traces.train_text=[\"corpus\", \"sampled\", \"greedy\"]";
    let positions = |set: &[&str]| {
        let stderr = succeed(folder.path(), &[&["train-heads", "run.toml"][..], set].concat()).stderr;
        let line = stderr.lines().find(|line| line.contains(" positions of ")).unwrap().to_owned();
        line.split(" positions of ").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(positions(&["--set", kinds]), 3 * positions(&[]));
    let texts = |set: &[&str]| {
        let arguments =
            ["train-rescorer", "run.toml", "--only", "counts", "--set", "rescorer.counts.text=[\"traces\"]"];
        let stderr = succeed(folder.path(), &[&arguments[..], set].concat()).stderr;
        let line = stderr.lines().find(|line| line.starts_with("train-rescorer counts: ")).unwrap().to_owned();
        line.split(' ').nth(2).unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(texts(&["--set", kinds]), 2 * texts(&[]));
    let none = ["--set", "traces.train_text=[\"corpus\"]", "--set", "rescorer.counts.text=[\"traces\"]"];
    let refused = run(folder.path(), &[&["train-rescorer", "run.toml"][..], &none].concat());
    assert!(refused.stderr.contains("`rescorer.counts.text`") && refused.code == Some(2), "{}", refused.stderr);
}

#[test]
fn traces_of_tokens_alone_give_the_same_heads_rescorers_and_report() {
    let folder = inputs();
    let tokens = ["run", "run.toml", "--set", "traces.keep=tokens"];
    succeed(folder.path(), &tokens);
    assert!(!folder.path().join("runs/tiny/columns").exists());
    for file in ["heads/heads.safetensors", "heads/metrics.jsonl", "rescorers/turns/network.safetensors"] {
        let read = |folder: &Path| fs::read(folder.join("runs/tiny").join(file)).unwrap();
        assert!(read(folder.path()) == read(world()), "{file}: the states are the same bits");
    }
    assert_eq!(untimed_report(folder.path()), untimed_report(world()));
    // What is kept is no reason to make anything again.
    let kept = succeed(folder.path(), &["run", "run.toml"]).stderr;
    assert!(
        kept.contains("columns of fables train: last of ") && kept.contains("train-heads: finished earlier"),
        "{kept}"
    );
}

#[test]
fn wrong_keys_are_named() {
    let folder = inputs();
    for (set, words) in [
        ("traces.train_text=[]", "`traces.train_text` is []"),
        ("traces.train_text=[\"greedy\", \"greedy\"]", "different items"),
        ("traces.train_text=[\"gold\"]", "is \"gold\""),
        ("traces.temperature=0", "`traces.temperature` is 0"),
        ("traces.top_p=1.5", "`traces.top_p` is 1.5"),
    ] {
        let outcome = run(folder.path(), &["trace", "run.toml", "--set", set]);
        assert!(outcome.code == Some(2) && outcome.stderr.contains(words), "{set}: {}", outcome.stderr);
    }
}
