//! Heads other than a run's best: every checkpoint of them, and those that were trained elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{
    copy_folder, copy_traces, everything_below, finished, inputs, read_json, run, succeed, traced, untimed_report,
    world,
};
use serde_json::{Value, json};

const KEEP: [&str; 2] = ["--set", "heads.keep_checkpoints=true"];

fn evaluated(folder: &Path, arguments: &[&str]) -> Value {
    let arguments = [&["evaluate", "run.toml", "--format", "json"], arguments].concat();
    succeed(folder, &arguments).json()["datasets"][0].clone()
}

/// Block efficiency and interval of a variant, wherever it stands.
fn numbers(entry: &Value) -> (f64, Value) {
    (entry["block_efficiency"].as_f64().unwrap(), entry["ci95"].clone())
}

fn variant<'a>(set: &'a Value, name: &str) -> &'a Value {
    set["variants"].as_array().unwrap().iter().find(|variant| variant["name"] == name).unwrap()
}

#[test]
fn every_checkpoint_has_the_numbers_of_its_heads() {
    let folder = traced();
    let path = folder.path();
    let set = evaluated(path, &[&KEEP[..], &["--all-checkpoints"]].concat());
    let heads = path.join("runs/tiny/heads");
    for file in ["heads.safetensors", "metrics.jsonl"] {
        let same = fs::read(heads.join(file)).unwrap() == fs::read(world().join("runs/tiny/heads").join(file)).unwrap();
        assert!(same, "keeping checkpoints changes {file}");
    }
    let by_step = &set["by_step"];
    let points = by_step["points"].as_array().unwrap();
    let best = read_json(&heads.join("checkpoints/best.json"))["step"].clone();
    assert_eq!(by_step["chosen_step"], best);
    // A checkpoint every 4 of 20 steps, and the best one.
    let mut expected: Vec<u64> = (4..=20).step_by(4).chain(best.as_u64()).collect();
    expected.sort_unstable();
    expected.dedup();
    let mut steps: Vec<u64> = points.iter().map(|point| point["step"].as_u64().unwrap()).collect();
    steps.dedup();
    assert_eq!(steps, expected);
    let of = |step: &Value| points.iter().filter(|point| point["step"] == *step).collect::<Vec<_>>();
    let names: Vec<&str> = of(&best).iter().map(|point| point["variant"].as_str().unwrap()).collect();
    assert!(["bpd", "counts", "turns", "tree-mixed", "oracle"].iter().all(|name| names.contains(name)), "{names:?}");
    assert!(!names.contains(&"prompt-lookup"), "it reads no heads");
    for point in of(&best) {
        assert_eq!(numbers(point), numbers(variant(&set, point["variant"].as_str().unwrap())), "{point}");
    }
    // The heads of the first checkpoint, evaluated as any others.
    let (first, given) = (json!(expected[0]), path.join("first"));
    assert_ne!(numbers(of(&first)[0]), numbers(of(&best)[0]), "they are other heads");
    fs::create_dir(&given).unwrap();
    fs::copy(heads.join("heads.json"), given.join("heads.json")).unwrap();
    let weights = heads.join(format!("checkpoints/step-{:06}/model.safetensors", expected[0]));
    fs::copy(weights, given.join("heads.safetensors")).unwrap();
    let alone = evaluated(path, &["--heads", "first", "--set", "evaluation.live_documents=0"]);
    for point in of(&first).into_iter().filter(|point| ["bpd", "oracle"].contains(&point["variant"].as_str().unwrap()))
    {
        assert_eq!(numbers(point), numbers(variant(&alone, point["variant"].as_str().unwrap())), "{point}");
    }
    let page = fs::read_to_string(path.join("runs/tiny/report/report.html")).unwrap();
    assert!(page.contains("Block efficiency by training step on fables"));
    let text = fs::read_to_string(path.join("runs/tiny/report/report.md")).unwrap();
    assert!(text.contains("### By training step") && text.contains(" (chosen) | "), "{text}");
    // Candidates of checkpoints are not kept, and the weights alone of all but the latest and the best.
    assert!(everything_below(&path.join("runs/tiny/report")).iter().all(|p| !p.ends_with("candidates.bin")));
    let optimizers = everything_below(&heads).iter().filter(|p| p.ends_with("optimizer.safetensors")).count();
    assert!(optimizers <= 2, "{optimizers}");
}

#[test]
fn checkpoints_that_were_not_kept_are_asked_for() {
    let asked = ["evaluate", "run.toml", "--all-checkpoints"];
    // Before anything is trained for nothing.
    let untrained = traced();
    assert_eq!(run(untrained.path(), &asked).code, Some(2));
    assert!(!untrained.path().join("runs/tiny/heads").exists());
    let folder = finished();
    let refused = |arguments: &[&str]| {
        let outcome = run(folder.path(), &[&asked[..], arguments].concat());
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        let error = outcome.stderr.lines().find(|line| line.starts_with("error: ")).unwrap().to_owned();
        assert!(error.contains("Set it, remove the run's folder `heads`"), "{error}");
        error
    };
    assert!(refused(&[]).contains("unless `heads.keep_checkpoints = true` was set"));
    // Heads that are trained already are not trained again because of the key.
    let weights = folder.path().join("runs/tiny/heads/heads.safetensors");
    let before = fs::metadata(&weights).unwrap().modified().unwrap();
    assert!(refused(&KEEP).contains("runs/tiny/heads has not every checkpoint"));
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), before);
    fs::remove_dir_all(folder.path().join("runs/tiny/heads")).unwrap();
    assert!(evaluated(folder.path(), &[&KEEP[..], &["--all-checkpoints"]].concat())["by_step"].is_object());
}

/// Every file of the run `tiny` with its bytes.
fn own(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let run = folder.join("runs/tiny");
    let is_own = |path: &PathBuf| path.is_file() && !path.starts_with(run.join("other-heads"));
    everything_below(&run).into_iter().filter(is_own).map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

#[test]
fn heads_of_another_run_give_its_numbers_and_leave_ones_own_alone() {
    let folder = finished();
    let path = folder.path();
    let other = ["--set", "name=other", "--set", "heads.block_size=6"];
    copy_traces(&path.join("runs/tiny"), &path.join("runs/other"));
    let expected = evaluated(path, &other);
    let before = own(path);
    let found = evaluated(path, &["--heads", "runs/other/heads"]);
    for name in ["variants", "oracle", "heads", "tuning", "decoded_tokens", "block_size"] {
        assert_eq!(found[name], expected[name], "{name}");
    }
    assert_eq!(found["live"]["mismatches"], 0);
    assert!(own(path) == before, "something of the run's own has changed");
    let folders: Vec<PathBuf> =
        fs::read_dir(path.join("runs/tiny/other-heads")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [given] = &folders[..] else { panic!("{folders:?}") };
    assert_eq!(read_json(&given.join("report/report.json"))["provenance"]["heads"]["path"], "runs/other/heads");
    // Other names for the same heads; a second time nothing is left to do.
    for name in ["runs/other", "runs/other/heads/heads.safetensors"] {
        let again = succeed(path, &["evaluate", "run.toml", "--heads", name]);
        assert!(again.stderr.contains("evaluate: finished earlier, skipped"), "{}", again.stderr);
    }
    // The folder is as a run of its own, even without the heads where they were.
    fs::remove_dir_all(path.join("runs/other")).unwrap();
    let given = given.strip_prefix(path).unwrap().to_str().unwrap();
    let text = succeed(path, &["generate", "--run", given, "--prompt", "Tell of the fox", "--max-new", "8"]).stdout;
    assert!(!text.trim().is_empty());
    let compared = succeed(path, &["report", "runs/tiny", given]).stdout;
    assert!(compared.contains("2 against 1"), "{compared}");
    // The run's own report is what it was, and is still up to date.
    let before = untimed_report(path);
    let again = succeed(path, &["run", "run.toml"]);
    again.assert_all_skipped();
    assert!(untimed_report(path) == before);
}

#[test]
fn heads_that_do_not_fit_are_refused_before_anything_is_made() {
    let folder = inputs();
    let path = folder.path();
    let given = path.join("given");
    copy_folder(&world().join("runs/tiny/heads"), &given);
    let description = read_json(&given.join("heads.json"));
    let refused = |heads: &str| {
        let outcome = run(path, &["evaluate", "run.toml", "--heads", heads]);
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        assert!(!path.join("runs/tiny/other-heads").exists() && !path.join("runs/tiny/traces").exists());
        outcome.stderr
    };
    for (key, value, words) in [
        ("width", json!(64), "expect hidden states of width 64, but the backbone's have 32"),
        ("backbone", json!("0123456789abcdef"), "trained on another backbone (its hash begins 0123456789ab"),
        ("tokenizer", json!("another"), "trained with another tokenizer on the same weights"),
        ("schema_version", json!(99), "these heads have layout 99, this program reads 1"),
    ] {
        let mut changed = description.clone();
        changed[key] = value;
        fs::write(given.join("heads.json"), changed.to_string()).unwrap();
        let error = refused("given");
        assert!(error.contains("given/heads.json") && error.contains(words), "{key}: {error}");
    }
    assert!(refused("fables.jsonl").contains("no trained heads"));
    assert!(refused("nowhere").contains("nowhere: no trained heads"));
}
