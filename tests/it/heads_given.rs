//! Heads other than a run's best: every checkpoint of them, and those that were trained elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{
    copy_folder, everything_below, finished, has_table, inputs, mark_anew, only_row, place, read_json, row, rows, run,
    succeed, traced, untimed_report, without, world,
};
use draftsmith::nn::{parameters_from_safetensors, parameters_to_safetensors};
use draftsmith::storage_type::StorageType;
use serde_json::{Value, json};

const KEEP: [&str; 2] = ["--set", "heads.keep_checkpoints=true"];

fn evaluated(folder: &Path, arguments: &[&str]) -> Value {
    let arguments = [&["evaluate", "run.toml", "--format", "json"], arguments].concat();
    succeed(folder, &arguments).json()["datasets"][0].clone()
}

/// Block efficiency of a variant with its interval, as the table by training step has it.
fn estimate(set: &Value, name: &str) -> Value {
    let row = row(set, "block-efficiency", name);
    json!({"value": row["block_efficiency"], "interval": row["ci95"]})
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
    let by_step = rows(&set, "by-step");
    let best = read_json(&heads.join("checkpoints/best.json"))["step"].clone();
    let chosen: Vec<&Value> = by_step.iter().filter(|row| row["chosen"] == true).collect();
    assert_eq!(chosen.len(), 1);
    assert_eq!(chosen[0]["name"], best.to_string());
    // A checkpoint every 4 of 20 steps, and the best one.
    let mut expected: Vec<u64> = (4..=20).step_by(4).chain(best.as_u64()).collect();
    expected.sort_unstable();
    expected.dedup();
    let steps: Vec<u64> = by_step.iter().map(|row| row["name"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(steps, expected);
    let of_best = chosen[0]["block_efficiency"].as_object().unwrap();
    assert!(["bpd", "counts", "turns", "tree-mixed", "oracle"].iter().all(|name| of_best.contains_key(*name)));
    assert!(!of_best.contains_key("prompt-lookup"), "it reads no heads");
    for (name, found) in of_best {
        assert_eq!(*found, estimate(&set, name), "{name}");
    }
    // The heads of the first checkpoint, evaluated as any others.
    let (first, given) = (&by_step[0]["block_efficiency"], path.join("first"));
    assert_ne!(first["bpd"], of_best["bpd"], "they are other heads");
    fs::create_dir(&given).unwrap();
    fs::copy(heads.join("heads.json"), given.join("heads.json")).unwrap();
    let weights = heads.join(format!("checkpoints/step-{:06}/model.safetensors", expected[0]));
    fs::copy(weights, given.join("heads.safetensors")).unwrap();
    let alone = evaluated(path, &["--heads", "first", "--set", "evaluation.live_documents=0"]);
    for name in ["bpd", "oracle"] {
        assert_eq!(first[name], estimate(&alone, name), "{name}");
    }
    let page = fs::read_to_string(path.join("runs/tiny/report/report.html")).unwrap();
    assert!(page.contains("Block efficiency by training step on fables"));
    let text = fs::read_to_string(path.join("runs/tiny/report/report.md")).unwrap();
    assert!(text.contains("### By training step") && text.contains(&format!("| {best} | yes | ")), "{text}");
    // Candidates of checkpoints are not kept, and of the checkpoints themselves the weights alone.
    assert!(everything_below(&path.join("runs/tiny/report")).iter().all(|p| !p.ends_with("candidates.bin")));
    assert!(everything_below(&heads).iter().all(|p| !p.ends_with("optimizer.safetensors")));
}

#[test]
fn checkpoints_that_were_not_kept_are_asked_for() {
    let asked = ["evaluate", "run.toml", "--all-checkpoints"];
    // Before anything is trained for nothing.
    let untrained = traced();
    assert_eq!(run(untrained.path(), &asked).code, Some(2));
    assert!(!untrained.path().join("runs/tiny/heads").exists());
    let folder = finished();
    let outcome = run(folder.path(), &asked);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("unless `heads.keep_checkpoints = true`. Set it"), "{}", outcome.stderr);
    // Heads with all their checkpoints are made beside those that there are.
    let weights = place(folder.path(), "heads").join("heads.safetensors");
    let before = fs::metadata(&weights).unwrap().modified().unwrap();
    assert!(has_table(&evaluated(folder.path(), &[&KEEP[..], &["--all-checkpoints"]].concat()), "by-step"));
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), before);
    assert_ne!(place(folder.path(), "heads"), weights.parent().unwrap());
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
    let expected = evaluated(path, &other);
    let before = own(path);
    let found = evaluated(path, &["--heads", "runs/other/heads"]);
    assert_eq!(without(&found, &["timing"]), without(&expected, &["timing"]));
    assert_eq!(only_row(&found, "live-totals")["mismatches"], 0);
    assert!(own(path) == before, "something of the run's own has changed");
    let folders: Vec<PathBuf> =
        fs::read_dir(path.join("runs/tiny/other-heads")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [given] = &folders[..] else { panic!("{folders:?}") };
    assert_eq!(read_json(&given.join("report/report.json"))["provenance"]["heads"]["path"], "runs/other/heads");
    // Other names for the same heads; a second time nothing is left to do.
    for name in ["runs/other", "runs/other/heads/heads.safetensors"] {
        let again = succeed(path, &["evaluate", "run.toml", "--heads", name]);
        assert!(again.stderr.contains("evaluate: finished earlier, skipped"), "{}", again.stderr);
        assert!(again.stderr.contains("trained for blocks of 6 tokens"), "{}", again.stderr);
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

/// Saves the tiny model once more in `folder`, its values changed by `change` and stored in a type.
fn saved_again(folder: &Path, dtype: StorageType, change: impl Fn(&mut Vec<f32>)) {
    fs::create_dir(folder).unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json"] {
        fs::copy(world().join("model").join(file), folder.join(file)).unwrap();
    }
    let mut values = parameters_from_safetensors(&world().join("model/model.safetensors")).unwrap();
    values.values_mut().for_each(|(_, numbers)| change(numbers));
    parameters_to_safetensors(&folder.join("model.safetensors"), &values, dtype).unwrap();
}

#[test]
fn heads_are_bound_to_the_values_of_their_backbone() {
    let folder = finished();
    let path = folder.path();
    saved_again(&path.join("wide"), StorageType::Float32, |_| ());
    saved_again(&path.join("rough"), StorageType::Bfloat16, |_| ());
    saved_again(&path.join("tuned"), StorageType::Float16, |values| values.iter_mut().for_each(|value| *value *= 1.05));
    let arguments = |model: &str| {
        let (name, backbone) = (format!("name={model}"), format!("backbone.path={model}"));
        let arguments = ["evaluate", "run.toml", "--heads", "runs/tiny/heads", "--set", &name, "--set", &backbone];
        arguments.map(str::to_owned).to_vec()
    };
    let of = |model: &str, more: &[&str]| {
        let arguments: Vec<String> =
            arguments(model).into_iter().chain(more.iter().map(|&word| word.to_owned())).collect();
        run(path, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for model in ["wide", "rough"] {
        let outcome = of(model, &[]);
        assert!(outcome.code == Some(0) && !outcome.stderr.contains("warning"), "{model}: {}", outcome.stderr);
    }
    let refused = of("tuned", &[]);
    let why = ["another backbone", "differ by more than their types round", "--accept-backbone"];
    assert!(refused.code == Some(2) && why.iter().all(|words| refused.stderr.contains(words)), "{}", refused.stderr);
    let accepted = of("tuned", &["--accept-backbone"]);
    assert!(accepted.code == Some(0) && accepted.stderr.contains("warning: "), "{}", accepted.stderr);
}

#[test]
fn heads_that_do_not_fit_are_refused_before_anything_is_made() {
    let folder = inputs();
    let path = folder.path();
    let given = path.join("given");
    copy_folder(&world().join("runs/tiny/heads"), &given);
    fs::remove_file(given.join("backbone.json")).unwrap();
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
        mark_anew(&given);
        let error = refused("given");
        assert!(error.contains("given/heads.json") && error.contains(words), "{key}: {error}");
    }
    assert!(refused("fables.jsonl").contains("no trained heads"));
    assert!(refused("nowhere").contains("nowhere: no trained heads"));
}
