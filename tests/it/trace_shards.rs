//! `trace --shard` and `trace --merge`: shards of several machines are the very traces that one process makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{PROGRAM, copy_folder, inputs, run, succeed, traced, untimed_bytes};

/// Every kind of text, two columns and probabilities, in small batches.
const SETS: [&str; 4] = [
    "traces.train_text=[\"greedy\", \"sampled\", \"corpus\"]",
    "traces.batch=2",
    "traces.probabilities=4",
    "heads.architecture={kind=\"dflash\",context=[\"layer-1\",\"last\"]}",
];

fn trace(more: &[&str]) -> Vec<String> {
    let sets = SETS.iter().flat_map(|set| ["--set", set]);
    ["trace", "run.toml"].into_iter().chain(sets).chain(more.iter().copied()).map(str::to_owned).collect()
}

fn succeeds(folder: &Path, more: &[&str]) -> String {
    succeed(folder, &trace(more).iter().map(String::as_str).collect::<Vec<_>>()).stderr
}

fn fails(folder: &Path, more: &[&str]) -> String {
    let outcome = run(folder, &trace(more).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(outcome.code, Some(2), "{more:?}: {}", outcome.stderr);
    outcome.stderr
}

/// Names and bytes of a run's traces, keys included.
fn traces(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let kinds = ["traces", "columns", "likely"].map(|kind| folder.join("runs/tiny").join(kind));
    kinds.iter().filter(|kind| kind.exists()).flat_map(|kind| untimed_bytes(kind)).collect()
}

fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (traces(found), traces(expected));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert!(found == expected, "{}", name.display());
    }
}

/// The number of finished batches of shards in the making.
fn batches(folder: &Path) -> usize {
    let listing = fs::read_dir(folder.join("runs/store/shards")).into_iter().flatten().flatten();
    let lines = listing.filter_map(|entry| fs::read_to_string(entry.path().join("batches.jsonl")).ok());
    lines.map(|text| text.lines().count()).sum()
}

#[test]
fn three_shards_are_merged_to_the_bytes_of_one_process() {
    let (whole, here, there) = (inputs(), inputs(), inputs());
    succeeds(whole.path(), &[]);
    succeeds(here.path(), &["--shard", "1/3"]);
    // The second is killed in its middle, and goes on.
    let mut command = Command::new(PROGRAM);
    command.current_dir(here.path()).args(trace(&["--shard", "2/3"])).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    while batches(here.path()) < 3 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let error = fails(here.path(), &["--merge", "3"]);
    assert!(error.contains(", shard 2/3 is not finished") && error.contains("`--shard 2/3`"), "{error}");
    assert!(!here.path().join("runs/tiny/traces").exists(), "nothing is merged as long as a shard is missing");
    let went_on = succeeds(here.path(), &["--shard", "2/3"]);
    assert!(went_on.contains("going on after") || went_on.contains("finished earlier"), "{went_on}");
    // The third comes from another machine.
    succeeds(there.path(), &["--shard", "3/3"]);
    copy_folder(&there.path().join("runs/store/shards"), &here.path().join("runs/store/shards"));

    let error = fails(here.path(), &["--merge", "3", "--set", "traces.max_new=5"]);
    assert!(error.contains("shard 1/3 is not finished") && error.contains("traces.max_new = 5 (there 24)"), "{error}");
    let error = fails(here.path(), &["--merge", "2"]);
    assert!(error.contains("shard 1/2 is not finished"), "{error}");

    succeeds(here.path(), &["--merge", "3"]);
    assert_same(here.path(), whole.path());
    let again = succeeds(here.path(), &[]);
    for trace in ["fables train", "fables train sampled", "fables train corpus", "fables dev", "fables test"] {
        assert!(again.contains(&format!("trace {trace}: finished earlier, skipped")), "{again}");
    }
    let unused = succeed(here.path(), &["clean", "--dry-run"]).stdout;
    assert!(unused.lines().filter(|line| line.contains("shards/")).count() >= 3 * 5, "{unused}");
    // What is finished needs no shards.
    assert!(succeeds(here.path(), &["--shard", "1/3"]).contains("trace fables dev: finished earlier, skipped"));
    succeeds(here.path(), &["--merge", "7"]);
}

#[test]
fn shards_of_missing_columns_decode_nothing() {
    let (whole, here) = (traced(), traced());
    let half = ["trace", "run.toml", "--set", "traces.dtype=float16"];
    succeed(whole.path(), &half);
    for shard in ["1/2", "2/2"] {
        succeed(here.path(), &[&half[..], &["--shard", shard]].concat());
    }
    succeed(here.path(), &[&half[..], &["--merge", "2"]].concat());
    assert_same(here.path(), whole.path());
}

#[test]
fn more_shards_than_batches_are_some_that_are_empty() {
    let (whole, here) = (traced(), inputs());
    succeed(whole.path(), &["trace", "run.toml"]);
    for shard in 1..=7 {
        succeed(here.path(), &["trace", "run.toml", "--shard", &format!("{shard}/7")]);
    }
    succeed(here.path(), &["trace", "run.toml", "--merge", "7"]);
    assert_same(here.path(), whole.path());
    for wrong in [["--shard", "3/2"], ["--shard", "0/2"], ["--merge", "0"]] {
        assert_eq!(run(here.path(), &[&["trace", "run.toml"][..], &wrong].concat()).code, Some(2), "{wrong:?}");
    }
    let both = run(here.path(), &["trace", "run.toml", "--shard", "1/2", "--merge", "2"]);
    assert!(both.code == Some(2) && both.stderr.contains("cannot be used with"), "{both:?}");
}
