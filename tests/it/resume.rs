//! Stopping at any moment changes nothing: killed and resumed trainings, and two of the same seed, are the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{
    Outcome, PROGRAM, everything_below, finished, inputs, place, read_json, run, run_with, succeed, traced,
    untimed_bytes, untimed_report, world,
};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tempfile::TempDir;

/// Long enough to be hit in its middle, with checkpoints at other steps than evaluations.
const STEPS: usize = 400;
const TRAIN: [&str; 22] = [
    "train-heads",
    "run.toml",
    "--set",
    "heads.training.steps=400",
    "--set",
    "heads.training.dev_every=15",
    "--set",
    "heads.training.checkpoint_every=4",
    "--set",
    "heads.training.accumulate=2",
    "--set",
    "heads.training.average=0.9",
    "--set",
    "heads.keep_checkpoints=true",
    "--set",
    "traces.probabilities=4",
    "--set",
    "heads.loss={annealed=300}",
    "--set",
    "heads.choose_by=dev-block-efficiency",
    "--set",
    "heads.phase=[{steps=150,soft_targets=0.5,learning_rate=0.02},{steps=250}]",
];

fn heads(folder: &Path) -> PathBuf {
    folder.join("runs/tiny/heads")
}

fn start(folder: &Path, sets: &[&str]) -> Child {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(TRAIN).args(sets).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// Waits until `metrics.jsonl` has grown by `lines` lines or the process has ended.
fn wait_for_progress(folder: &Path, child: &mut Child, lines: usize) {
    let count = || fs::read_to_string(heads(folder).join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    let before = count();
    // A resumed training first cuts the file.
    while count().abs_diff(before) < lines && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts the training, kills it once `metrics.jsonl` has grown by `lines` lines, and waits for its end.
fn kill_training_at(folder: &Path, sets: &[&str], lines: usize) {
    let mut child = start(folder, sets);
    wait_for_progress(folder, &mut child, lines);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The step in `latest.json`; none before the first checkpoint.
fn latest(folder: &Path) -> Option<u64> {
    let path = heads(folder).join("checkpoints/latest.json");
    path.exists().then(|| read_json(&path)["step"].as_u64().unwrap())
}

/// Name and bytes of everything of the heads but the timings.
fn bytes(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    untimed_bytes(&heads(folder))
}

/// Panics unless both folders hold the same heads, metrics and checkpoints.
fn assert_same_heads(found: &Path, expected: &Path) {
    let (found, expected) = (bytes(found), bytes(expected));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for name in ["heads.safetensors", "metrics.jsonl", "checkpoints/latest.json", "checkpoints/best.json"] {
        assert!(found.iter().any(|(found, _)| found == Path::new(name)), "{name}");
    }
    // Nothing goes on from the last step, so its averaged weights are what is left of it.
    for (name, kept) in [("average", true), ("model", false), ("optimizer", false)] {
        let last = PathBuf::from(format!("checkpoints/step-{STEPS:06}/{name}.safetensors"));
        assert_eq!(found.iter().any(|(found, _)| *found == last), kept, "{name}");
    }
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert!(found == expected, "{}", name.display());
    }
}

fn uninterrupted() -> TempDir {
    let folder = traced();
    succeed(folder.path(), &TRAIN);
    folder
}

#[test]
fn a_damaged_checkpoint_of_a_killed_training_is_named() {
    let folder = traced();
    kill_training_at(folder.path(), &[], 6);
    let step = latest(folder.path()).expect("it came as far as a checkpoint");
    assert!(step < STEPS as u64, "it came to its end");
    for name in ["model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"] {
        let file = format!("checkpoints/step-{step:06}/{name}");
        let path = heads(folder.path()).join(&file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let refused = run(folder.path(), &TRAIN);
        assert!(refused.code == Some(2) && refused.stderr.contains(&file), "{}", refused.stderr);
        fs::write(&path, whole).unwrap();
    }
    succeed(folder.path(), &TRAIN);
    assert_same_heads(folder.path(), uninterrupted().path());
}

#[test]
fn a_killed_training_ends_with_the_bytes_of_an_uninterrupted_one() {
    let folder = traced();
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(std::process::id()));
    let mut resumable = 0;
    for _ in 0..6 {
        let mut child = start(folder.path(), &[]);
        wait_for_progress(folder.path(), &mut child, rng.random_range(3..60));
        // Anywhere within a few steps, in the midst of a checkpoint as well.
        std::thread::sleep(Duration::from_micros(u64::from(rng.next_u32() % 5000)));
        child.kill().unwrap();
        child.wait().unwrap();
        resumable += usize::from(latest(folder.path()).is_some_and(|step| step < STEPS as u64));
    }
    let outcome = succeed(folder.path(), &TRAIN);
    assert!(resumable > 0, "no kill hit the training's middle: {}", outcome.stderr);
    assert_same_heads(folder.path(), uninterrupted().path());
}

/// Several heads' gradients meet in a shared first layer, and blocks follow one another: neither may depend on the run.
#[test]
fn so_do_heads_of_other_architectures() {
    for architecture in [
        "{kind=\"ffn\",hidden=8,first_layer=\"shared\"}",
        "{kind=\"medusa\",blocks=2}",
        "{kind=\"attention\",layers=2}",
    ] {
        let set = format!("heads.architecture={architecture}");
        let sets = ["--set", &set, "--set", "heads.loss_weights={decay=0.8}"];
        let (killed, whole) = (traced(), traced());
        kill_training_at(killed.path(), &sets, 30);
        assert!(latest(killed.path()).is_some_and(|step| step < STEPS as u64), "the kill hit the training's middle");
        for folder in [&killed, &whole] {
            succeed(folder.path(), &[&TRAIN[..], &sets].concat());
        }
        assert_same_heads(killed.path(), whole.path());
    }
}

#[test]
fn an_interrupt_saves_and_says_how_to_go_on() {
    let folder = traced();
    let mut child = start(folder.path(), &[]);
    wait_for_progress(folder.path(), &mut child, 6);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    let step = latest(folder.path()).unwrap();
    let paragraph = stderr.lines().last().unwrap();
    assert!(paragraph.starts_with("error: interrupted"), "{stderr}");
    assert!(paragraph.contains(&format!("saved after step {step} of {STEPS} in runs/store/heads/")), "{stderr}");
    assert!(paragraph.contains("Start the same command again to go on"), "{stderr}");
    assert!(step < STEPS as u64, "the interrupt hit the training's middle");
    let went_on = succeed(folder.path(), &TRAIN);
    assert!(went_on.stderr.contains(&format!("going on from step {step}")), "{}", went_on.stderr);
    assert_same_heads(folder.path(), uninterrupted().path());
}

/// Whatever was found out about a variant when the evaluation was killed is not found out again, and changes no byte.
#[test]
fn a_killed_evaluation_keeps_its_finished_variants() {
    let folder = finished();
    let report = place(folder.path(), "report");
    fs::remove_dir_all(&report).unwrap();
    let found = || {
        let files = fs::read_dir(report.join("findings")).into_iter().flatten().flatten();
        files.filter(|file| file.file_name().to_string_lossy().ends_with(".json.gz")).count()
    };
    let mut killed = 0;
    for enough in [4, 10, 20] {
        let mut command = Command::new(PROGRAM);
        command.current_dir(folder.path()).args(["evaluate", "run.toml"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        while found() < enough && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 0 && found() >= 4, "no kill hit the evaluation's middle");
    let outcome = succeed(folder.path(), &["evaluate", "run.toml"]);
    assert!(outcome.stderr.contains(" variants finished earlier"), "{}", outcome.stderr);
    assert!(untimed_report(folder.path()) == untimed_report(world()));
    assert!(!report.join("findings").exists(), "all of it is in the report");
}

/// What another configuration made lies beside what the earlier one made, unfinished or not.
#[test]
fn going_back_to_an_earlier_configuration_gives_its_bytes_again() {
    let folder = finished();
    kill_training_at(folder.path(), &[], 30);
    succeed(folder.path(), &["run", "run.toml"]).assert_all_skipped();
    assert!(bytes(folder.path()) == bytes(world()));
}

#[test]
fn what_a_killed_process_left_aside_goes() {
    let folder = finished();
    let run = folder.path().join("runs/tiny");
    fs::write(run.join("heads/checkpoints/.aside-abc"), "half").unwrap();
    fs::create_dir_all(run.join("traces/.aside-def/inner")).unwrap();
    fs::create_dir_all(folder.path().join("runs/store/traces/.aside-ghi/inner")).unwrap();
    succeed(folder.path(), &["run", "run.toml"]).assert_all_skipped();
    let left: Vec<_> = everything_below(&folder.path().join("runs"))
        .into_iter()
        .filter(|p| p.to_string_lossy().contains(".aside-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A crash after `latest.json` and before `best.json` was written leaves a best checkpoint that only its own state points
/// at; going on must not remove it.
#[test]
fn a_crash_between_the_two_pointers_loses_no_checkpoint() {
    let crashed = traced();
    kill_training_at(crashed.path(), &[], 40);
    assert!(latest(crashed.path()).is_some_and(|step| step < STEPS as u64), "it was killed in its midst");
    let checkpoints = heads(crashed.path()).join("checkpoints");
    // `latest.json` was written, and `best.json` is still that of the evaluation before.
    fs::write(checkpoints.join("best.json"), json!({"step": 1}).to_string()).unwrap();
    succeed(crashed.path(), &TRAIN);
    assert_same_heads(crashed.path(), uninterrupted().path());
}

#[test]
fn two_runs_of_one_seed_are_the_same_bytes() {
    let folder = inputs();
    succeed(folder.path(), &["run", "run.toml"]);
    for file in [
        "columns/fables-train/last/rows.bin",
        "traces/fables-test/tokens.bin",
        "heads/heads.safetensors",
        "heads/metrics.jsonl",
        "rescorers/small/model.safetensors",
        "rescorers/small/metrics.jsonl",
        "rescorers/counts/model.ngram",
    ] {
        let read = |folder: &Path| fs::read(folder.join("runs/tiny").join(file)).unwrap();
        assert!(read(folder.path()) == read(world()), "{file}");
    }
    assert!(untimed_report(folder.path()) == untimed_report(world()), "report.json");
}

#[test]
fn two_pretrainings_of_one_seed_are_the_same_bytes() {
    let folder = inputs();
    fs::remove_dir_all(folder.path().join("model")).unwrap();
    succeed(folder.path(), &["pretrain", "pretrain.toml"]);
    for file in ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json"] {
        let read = |folder: &Path| fs::read(folder.join("model").join(file)).unwrap();
        assert!(read(folder.path()) == read(world()), "{file}");
    }
}

/// Larger matrices than the tiny world's, so that the work is in fact split.
#[test]
fn the_number_of_threads_changes_no_byte() {
    let trained = |threads: &str| -> Vec<(PathBuf, Vec<u8>)> {
        let folder = traced();
        let sizes = ["heads.architecture.hidden=512", "heads.positions_per_step=1024", "heads.training.steps=4"];
        let sets = sizes.iter().flat_map(|size| ["--set", size]);
        let arguments: Vec<&str> = ["train-heads", "run.toml"].into_iter().chain(sets).collect();
        let Outcome { code, stderr, .. } = run_with(folder.path(), &arguments, &[("RAYON_NUM_THREADS", threads)]);
        assert_eq!(code, Some(0), "{stderr}");
        bytes(folder.path())
    };
    let one = trained("1");
    assert!(one.iter().any(|(name, _)| name == Path::new("heads.safetensors")));
    for threads in ["2", "5"] {
        for ((name, found), (_, expected)) in trained(threads).iter().zip(&one) {
            assert!(found == expected, "{threads} threads: {}", name.display());
        }
    }
}
