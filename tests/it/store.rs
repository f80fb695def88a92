//! Finished work is never lost: what other settings make lies beside it, runs share it, and only what nobody refers to is removed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{finished, place, run, succeed, untimed_bytes};
use serde_json::Value;

const OTHER: [&str; 2] = ["--set", "heads.training.steps=24"];

/// The parts of a run by what `status` calls their state.
fn parts(folder: &Path, state: &str) -> Vec<String> {
    let status = succeed(folder, &["status", "runs/tiny", "--format", "json"]).json();
    let parts = status["parts"].as_array().unwrap().iter().filter(|part| part["state"] == state);
    parts.map(|part| part["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn another_setting_makes_another_artefact_beside_the_earlier_one() {
    let folder = finished();
    let path = folder.path();
    let (first, bytes) = (place(path, "heads"), untimed_bytes(&place(path, "heads")));
    let said = succeed(path, &[&["train-heads", "run.toml", "-v"][..], &OTHER].concat()).stderr;
    let why = "train-heads: differs from what is finished in heads.training.steps = 24 (there 20)";
    assert!(said.lines().any(|line| line == why), "{said}");
    let second = place(path, "heads");
    assert!(second != first && untimed_bytes(&first) == bytes);
    // The command without the setting finds what the setting has not touched.
    succeed(path, &["run", "run.toml"]).assert_all_skipped();
    assert_eq!(place(path, "heads"), first);
    // And with it once more, nothing is trained again.
    let said = succeed(path, &[&["train-heads", "run.toml"][..], &OTHER].concat()).stderr;
    assert!(said.contains("train-heads: finished earlier, skipped"), "{said}");
    assert_eq!(place(path, "heads"), second);
}

#[test]
fn status_says_what_is_stale_and_why() {
    let folder = finished();
    let path = folder.path();
    assert!(parts(path, "stale").is_empty() && parts(path, "finished").contains(&"report".to_owned()));
    let text = fs::read_to_string(path.join("run.toml")).unwrap();
    fs::write(path.join("changed.toml"), text.replace("block_size = 4", "block_size = 5")).unwrap();
    let before = untimed_bytes(&path.join("runs"));
    let status = succeed(path, &["status", "changed.toml"]).stdout;
    let line = |name: &str| {
        let found = status.lines().find(|line| line.split_whitespace().any(|word| word == name));
        found.unwrap_or_else(|| panic!("{name}: {status}")).to_owned()
    };
    assert!(line("traces/fables-train").starts_with("finished"), "{status}");
    assert!(line("heads").starts_with("stale") && line("heads").contains("heads.block_size = 5 (there 4)"), "{status}");
    assert!(line("candidates/fables-dev").contains("other heads"), "{status}");
    assert!(line("report").starts_with("stale"), "{status}");
    assert!(untimed_bytes(&path.join("runs")) == before, "status writes nothing");
    fs::remove_dir_all(place(path, "rescorers/counts")).unwrap();
    assert_eq!(parts(path, "missing"), ["rescorers/counts"]);
}

#[test]
fn runs_share_what_they_have_in_common() {
    let folder = finished();
    let path = folder.path();
    let said = succeed(path, &["run", "run.toml", "--set", "name=twin", "--set", "tuning.decays=[0.7]"]).stderr;
    for stage in ["trace fables train", "train-heads", "train-rescorer small"] {
        assert!(said.contains(&format!("{stage}: finished earlier, skipped")), "{said}");
    }
    assert!(!said.contains("evaluate: finished earlier"), "{said}");
    let real = |name: &str| fs::canonicalize(path.join("runs").join(name)).unwrap();
    assert_eq!(real("twin/heads"), real("tiny/heads"));
    assert_ne!(real("twin/report"), real("tiny/report"));
    // Of a copy that stands alone.
    let copied = std::process::Command::new("cp").args(["-rL", "runs/twin", "alone"]).current_dir(path).status();
    assert!(copied.unwrap().success());
    fs::remove_dir_all(path.join("runs")).unwrap();
    succeed(path, &["generate", "--run", "alone", "--prompt", "Tell of the fox", "--max-new", "8"]);
}

#[test]
fn only_what_no_run_refers_to_is_cleaned_away() {
    let folder = finished();
    let path = folder.path();
    let first = place(path, "heads");
    let nothing = succeed(path, &["clean"]).stdout;
    assert!(nothing.starts_with("0 removed"), "{nothing}");
    succeed(path, &[&["train-heads", "run.toml"][..], &OTHER].concat());
    let names = |removed: &Value| -> Vec<String> {
        removed["removed"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let name = format!("heads/{}", first.file_name().unwrap().to_str().unwrap());
    let dry = succeed(path, &["clean", "--dry-run", "--format", "json"]).json();
    assert!(names(&dry) == [name] && dry["bytes"].as_u64().unwrap() > 1000, "{dry}");
    assert!(first.exists());
    let table = succeed(path, &["clean"]).stdout;
    assert!(table.contains(&names(&dry)[0]) && table.contains("1 removed"), "{table}");
    assert!(!first.exists() && place(path, "heads").exists());
    // A run that was removed gives up its parts; the claim of another one on what they share stays.
    succeed(path, &["run", "run.toml", "--set", "name=twin", "--set", "seed=4"]);
    fs::remove_dir_all(path.join("runs/tiny")).unwrap();
    succeed(path, &["clean"]);
    assert!(path.join("runs/twin/report/report.json").exists() && path.join("runs/twin/traces/fables-dev").exists());
    fs::remove_dir_all(path.join("runs/twin")).unwrap();
    succeed(path, &["clean"]);
    let left = |kind: PathBuf| fs::read_dir(kind).unwrap().count();
    for kind in ["traces", "columns", "heads", "candidates", "rescorers", "reports"] {
        assert_eq!(left(path.join("runs/store").join(kind)), 0, "{kind}");
    }
}

#[test]
fn nothing_is_cleaned_away_while_somebody_works() {
    let folder = finished();
    let held = fs::File::open(folder.path().join("runs/store/.lock")).unwrap();
    held.lock_shared().unwrap();
    let outcome = run(folder.path(), &["clean"]);
    assert!(
        outcome.code == Some(2) && outcome.stderr.contains("another process is working on runs/store"),
        "{outcome:?}"
    );
    drop(held);
    succeed(folder.path(), &["clean"]);
}

#[test]
fn a_folder_in_the_place_of_a_link_is_left_alone() {
    let folder = finished();
    let heads = folder.path().join("runs/tiny/heads");
    fs::remove_file(&heads).unwrap();
    fs::create_dir(&heads).unwrap();
    fs::write(heads.join("mine"), "dear").unwrap();
    let outcome = run(folder.path(), &["run", "run.toml"]);
    assert!(outcome.code == Some(2) && outcome.stderr.contains("where a link to"), "{outcome:?}");
    assert_eq!(fs::read_to_string(heads.join("mine")).unwrap(), "dear");
}
