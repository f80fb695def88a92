//! Ablations: cells share stages, each is made once by whoever comes first, and the table is the same bytes however often
//! processes are killed and however many there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::common::{
    GRID, PROGRAM, copy_folder, everything_below, has_table, inputs, read_json, row, run, succeed, without,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::TempDir;

const FILES: [&str; 4] = ["ablation.json", "ablation.csv", "ablation.md", "ablation.html"];

/// Inputs and the configuration of the grid.
pub fn grid() -> TempDir {
    let folder = inputs();
    fs::write(folder.path().join("grid.toml"), GRID).unwrap();
    folder
}

/// Inputs and the configuration of a grid of four steps of training, whose cells vary the keys of `matrix`.
fn quick_grid(matrix: &str) -> TempDir {
    let folder = inputs();
    let text =
        "extends = \"run.toml\"\nname = \"grid\"\n[heads.training]\nsteps = 4\n[evaluation]\nlive_documents = 0\n";
    fs::write(folder.path().join("grid.toml"), format!("{text}[ablation.matrix]\n{matrix}\n")).unwrap();
    folder
}

/// The table in every format.
pub fn report(folder: &Path) -> Vec<String> {
    FILES.map(|file| fs::read_to_string(folder.join("runs/grid/report").join(file)).unwrap()).to_vec()
}

/// What an undisturbed process makes of it, and the folder.
pub fn undisturbed() -> &'static Path {
    static DONE: OnceLock<PathBuf> = OnceLock::new();
    DONE.get_or_init(|| {
        let folder = grid();
        succeed(folder.path(), &["ablate", "grid.toml"]);
        folder.keep()
    })
}

fn start(folder: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(["ablate", "grid.toml"]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Lines of progress that say that a stage was made.
fn made(log: &str) -> Vec<String> {
    let is = |line: &&str| {
        (line.ends_with(" s)") && !line.starts_with("cell "))
            || (line.starts_with("cell ") && line.contains(" left, about "))
    };
    // Without times, and what else differs from process to process.
    let plain = |line: &str| match line.strip_prefix("cell ") {
        Some(cell) => cell.split_once(' ').unwrap().1.split("): ").next().unwrap().to_owned(),
        None => line.rsplit_once(" (").unwrap().0.to_owned(),
    };
    log.lines().filter(is).map(plain).collect()
}

/// The artefacts of all runs, and what is left beside them.
fn stored(folder: &Path) -> Vec<PathBuf> {
    let listing = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    listing(folder.join("runs/store")).filter(|kind| kind.is_dir()).flat_map(listing).collect()
}

#[test]
fn a_plan_counts_what_cells_share_and_makes_nothing() {
    let folder = grid();
    let plan = succeed(folder.path(), &["plan", "grid.toml", "--format", "json"]).json();
    assert!(!folder.path().join("runs").exists());
    assert_eq!(plan["cells"].as_array().unwrap().len(), 8);
    let count = |makes: &str, what: &str| {
        let stages = plan["stages"].as_array().unwrap();
        stages.iter().find(|stage| stage["makes"] == makes).unwrap()[what].as_u64().unwrap()
    };
    // Train, dev and test; candidates of dev and test for two sets of heads, for whichever k.
    for (makes, needed, different) in
        [("traces", 24, 3), ("heads", 8, 2), ("candidates", 16, 4), ("rescorers", 8, 2), ("evaluation", 8, 8)]
    {
        assert_eq!((count(makes, "needed"), count(makes, "different")), (needed, different), "{makes}");
        assert_eq!(count(makes, "finished"), 0);
    }
    assert!(plan["seconds"].as_f64().unwrap() > 0.0 && plan["bytes"].as_u64().unwrap() > 0);
    // It foresaw what is made: a folder for each.
    let store: Vec<PathBuf> = stored(undisturbed());
    assert_eq!(store.len(), 2 * 3 + 2 + 4 + 2 + 8, "{store:?}");
    let plan = succeed(undisturbed(), &["plan", "grid.toml", "--format", "json"]).json();
    assert!(plan["cells"].as_array().unwrap().iter().all(|cell| cell["state"] == "done"));
    assert_eq!((&plan["seconds"], &plan["bytes"]), (&0.0.into(), &0.into()));
}

#[test]
fn the_table_is_made_of_the_cells_reports() {
    let folder = undisturbed();
    let table = read_json(&folder.join("runs/grid/report/ablation.json"));
    let axes: Vec<&str> =
        table["axes"].as_array().unwrap().iter().map(|axis| axis["label"].as_str().unwrap()).collect();
    assert_eq!(axes, ["top_k", "rescorer", "seed"]);
    let set = &table["datasets"][0];
    let settings = set["settings"].as_array().unwrap();
    assert_eq!(settings.len(), 4);
    let mut best = ("", f64::NEG_INFINITY, 0.0);
    for setting in settings {
        for variant in setting["variants"].as_array().unwrap() {
            let name = variant["variant"].as_str().unwrap();
            let cells =
                table["cells"].as_array().unwrap().iter().filter(|cell| {
                    cell["values"].as_array().unwrap()[..2] == setting["values"].as_array().unwrap()[..]
                });
            let of_cell = |cell: &Value, what: &str| {
                let key = &cell["key"].as_str().unwrap()[..12];
                let report = read_json(&folder.join("runs/grid/cells").join(key).join("report/report.json"));
                row(&report["datasets"][0], "block-efficiency", name)[what].as_f64()
            };
            let pairs: Vec<(f64, Option<f64>)> = cells
                .map(|cell| (of_cell(cell, "block_efficiency").unwrap(), of_cell(cell, "dev_block_efficiency")))
                .collect();
            let [(a, dev_a), (b, dev_b)] = pairs[..] else { panic!("two seeds") };
            let mean = variant["block_efficiency"].as_f64().unwrap();
            assert!((mean - (a + b) / 2.0).abs() < 1e-12);
            // Two values: the standard error is half their distance.
            let half = 12.7062 * (a - b).abs() / 2.0;
            let high = variant["interval"][1].as_f64().unwrap();
            assert!((high - mean - half).abs() < 1e-9, "{name}: {high} {mean} {half}");
            if let (Some(a), Some(b)) = (dev_a, dev_b)
                && (a + b) / 2.0 > best.1
            {
                best = (name, (a + b) / 2.0, mean);
            }
        }
    }
    assert_eq!(set["best"]["variant"]["variant"], best.0);
    assert_eq!(set["best"]["variant"]["block_efficiency"], best.2);
    let csv = &report(folder)[1];
    let rows = |cell: &Value| cell["datasets"][0]["variants"].as_array().unwrap().len();
    assert_eq!(csv.lines().count(), 1 + table["cells"].as_array().unwrap().iter().map(rows).sum::<usize>());
    let fields = |line: &str| line.split(',').count();
    assert!(csv.lines().all(|line| fields(line) == fields(csv.lines().next().unwrap())));
}

/// Candidates are as wide as any cell asks for, and rescorers and heads are others' as well: that must change nothing.
#[test]
fn a_cell_is_a_run_like_any_other() {
    let folder = undisturbed();
    let table = read_json(&folder.join("runs/grid/report/ablation.json"));
    let key = &table["cells"][0]["key"].as_str().unwrap()[..12];
    let cell = format!("runs/grid/cells/{key}");
    // Where there is nothing to share.
    let elsewhere = inputs();
    fs::copy(folder.join(&cell).join("run.toml"), elsewhere.path().join("cell.toml")).unwrap();
    let alone = succeed(elsewhere.path(), &["run", "cell.toml", "--format", "json"]).json();
    assert!(alone["provenance"].is_object());
    let shared = read_json(&folder.join(&cell).join("report/report.json"));
    let untimed = |report: &Value| {
        assert!(has_table(&report["datasets"][0], "timing"));
        without(&report["datasets"][0], &["timing"])
    };
    assert_eq!(untimed(&alone), untimed(&shared));
    succeed(folder, &["report", &cell]);
    let written = succeed(folder, &["generate", "--run", &cell, "--prompt", "Tell of the fox.", "--max-new", "8"]);
    assert!(!written.stdout.is_empty());
    let told = succeed(folder, &["inspect", &cell, "--format", "json"]).json();
    let variants = told["variants"].as_array().unwrap();
    assert!(!variants.is_empty() && variants.iter().all(|variant| variant["block_efficiency"].is_number()), "{told}");
    // What cells share lies in the store, once.
    let told = succeed(folder, &["inspect", "runs/grid", "--format", "json"]).json();
    let below = everything_below(&folder.join("runs/grid")).into_iter().filter(|path| path.is_file());
    let files: BTreeSet<PathBuf> = below.map(|path| path.canonicalize().unwrap()).collect();
    assert_eq!(told["bytes"], files.iter().map(|file| file.metadata().unwrap().len()).sum::<u64>());
    let parts = told["parts"].as_array().unwrap().iter().map(|part| part["finished"].as_str().unwrap());
    assert_eq!(parts.filter(|part| part.ends_with("/heads")).count(), 2, "{told}");
}

/// Files and folders below `folder`.
fn entries(folder: &Path) -> usize {
    let listing = fs::read_dir(folder).into_iter().flatten().flatten();
    listing
        .map(|entry| 1 + if entry.file_type().is_ok_and(|kind| kind.is_dir()) { entries(&entry.path()) } else { 0 })
        .sum()
}

#[test]
fn killed_processes_leave_a_folder_that_ends_in_the_same_bytes() {
    let folder = grid();
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(std::process::id()));
    let mut unfinished = 0;
    for round in 0..8 {
        let jobs = ["--jobs", "2"];
        let mut children: Vec<Child> =
            (0..2).map(|_| start(folder.path(), if round % 4 == 3 { &jobs } else { &[] })).collect();
        // By what was written and not by the clock: on a fast machine the whole grid takes less than a second.
        let enough = entries(&folder.path().join("runs")) + rng.random_range(1..25);
        while entries(&folder.path().join("runs")) < enough
            && children.iter_mut().any(|child| child.try_wait().unwrap().is_none())
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        for child in &mut children {
            unfinished += usize::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    assert!(unfinished > 0, "no kill hit anything");
    succeed(folder.path(), &["ablate", "grid.toml"]);
    assert_eq!(report(folder.path()), report(undisturbed()));
    let status = succeed(folder.path(), &["status", "runs/grid", "--format", "json"]).json();
    assert_eq!((&status["done"], &status["waiting"]), (&8.into(), &0.into()));
}

#[test]
fn two_processes_at_once_make_nothing_twice() {
    let folder = grid();
    let children = [start(folder.path(), &[]), start(folder.path(), &[])];
    let outputs = children.map(|child| child.wait_with_output().unwrap());
    let logs: Vec<String> = outputs.iter().map(|output| String::from_utf8(output.stderr.clone()).unwrap()).collect();
    assert!(outputs.iter().all(|output| output.status.success()), "{logs:?}");
    // Both wait for the whole table and print it.
    assert_eq!(outputs[0].stdout, outputs[1].stdout);
    let mut all: Vec<String> = logs.iter().flat_map(|log| made(log)).collect();
    all.sort();
    let cells = all.iter().filter(|line| line.starts_with('(')).count();
    assert_eq!(cells, 8, "{all:?}");
    // A line each for three traces, with their columns; of two sets of heads, their candidates, two models, eight evaluations.
    assert_eq!(all.len() - cells, 3 + 2 + 4 + 2 + 8, "{all:?}");
    assert_eq!(report(folder.path()), report(undisturbed()));
    let left = stored(folder.path());
    assert!(!left.iter().any(|path| path.to_string_lossy().contains(".claim-")), "{left:?}");
}

#[test]
fn jobs_and_shards_make_the_same_table() {
    let folder = grid();
    let first = succeed(folder.path(), &["ablate", "grid.toml", "--shard", "1/3"]);
    assert!(first.stdout.contains("5 not computed yet"), "{}", first.stdout);
    let status = succeed(folder.path(), &["status", "grid.toml"]);
    assert!(status.stdout.starts_with("grid: 3 of 8 cells done, 0 running, 0 failed, 5 waiting"), "{}", status.stdout);
    succeed(folder.path(), &["ablate", "grid.toml", "--shard", "2/3"]);
    succeed(folder.path(), &["ablate", "grid.toml", "--shard", "3/3", "--jobs", "2"]);
    assert_eq!(report(folder.path()), report(undisturbed()));
    // An ordinary run does not come in between.
    let again = succeed(folder.path(), &["ablate", "grid.toml"]);
    assert!(made(&again.stderr).is_empty(), "{}", again.stderr);
}

/// One pass over a text makes the states that any of the cells reads.
#[test]
fn states_that_other_cells_read_are_kept_along() {
    let folder = quick_grid("\"heads.architecture.features\" = [[\"last\"], [\"layer-1\", \"last\"]]");
    succeed(folder.path(), &["ablate", "grid.toml", "--shard", "1/2"]);
    let columns = || fs::read_dir(folder.path().join("runs/store/columns")).unwrap().count();
    assert_eq!(columns(), 2 * 3);
    let plan = succeed(folder.path(), &["plan", "grid.toml", "--format", "json"]).json();
    let traces = plan["stages"].as_array().unwrap().iter().find(|stage| stage["makes"] == "traces").unwrap();
    assert_eq!([&traces["needed"], &traces["different"], &traces["finished"]], [6, 3, 3]);
    succeed(folder.path(), &["ablate", "grid.toml"]);
    assert_eq!(columns(), 2 * 3);
}

#[test]
fn a_failed_cell_is_named_and_tried_again_and_the_rest_go_on() {
    let folder =
        quick_grid("\"rescorer\" = [{ counts = { kind = \"ngram\" } }]\n\"heads.init_from\" = [\"absent\", \"\"]");
    for jobs in ["1", "2"] {
        let outcome = run(folder.path(), &["ablate", "grid.toml", "--jobs", jobs]);
        assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("1 of 2 cells failed"), "{}", outcome.stderr);
        assert!(
            outcome.stdout.contains("init_from=absent") && outcome.stdout.contains("heads.safetensors"),
            "{}",
            outcome.stdout
        );
        let status = succeed(folder.path(), &["status", "runs/grid", "--format", "json"]).json();
        assert_eq!((&status["done"], status["failed"].as_array().unwrap().len()), (&1.into(), 1));
    }
    let heads = fs::read_dir(folder.path().join("runs/store/heads")).unwrap().next().unwrap().unwrap().path();
    copy_folder(&heads, &folder.path().join("absent"));
    let mended = succeed(folder.path(), &["ablate", "grid.toml"]);
    assert!(!mended.stdout.contains("failed"), "{}", mended.stdout);
    assert_eq!(
        read_json(&folder.path().join("runs/grid/report/ablation.json"))["datasets"][0]["settings"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn bad_ablations_are_explained() {
    let folder = grid();
    for (arguments, expected) in [
        (vec!["ablate", "run.toml"], "no [ablation] section"),
        (vec!["plan", "run.toml"], "no [ablation] section"),
        (vec!["status", "grid.toml"], "nothing has been started yet"),
        (vec!["status", "model"], "is no run"),
        (vec!["ablate", "grid.toml", "--jobs", "0"], "at least 1"),
        (vec!["ablate", "grid.toml", "--shard", "3/2"], "no shard"),
        (vec!["ablate", "grid.toml", "--set", "ablation.matrix={\"heads.blok_size\"=[3]}"], "unknown key `blok_size`"),
    ] {
        let outcome = run(folder.path(), &arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{arguments:?}: {}", outcome.stderr);
    }
}
