//! A process that is killed at any rename, flush or removal of a file loses nothing that was finished: started again, it comes to the
//! same bytes. strace kills it there; without strace these tests say that they did nothing. `DRAFTSMITH_CRASHES` is the number of
//! points to be killed at in each, or `all` for every one; by default there are a few.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::ablation;
use crate::common::{PROGRAM, inputs, place, skipped, succeed, traced, untimed_bytes, untimed_report, world};

/// What makes a file whole, present or absent.
const CALLS: &str = "rename,renameat,renameat2,link,linkat,fsync,fdatasync,unlink,unlinkat,rmdir";
const SIGKILL: i32 = 9;

/// Starts the program in `folder` under strace, with more of its options. Only the main thread is watched, which writes all results.
fn watched(folder: &Path, arguments: &[&str], options: &[&str]) -> Child {
    let mut command = Command::new("strace");
    command.current_dir(folder).args(["-qq", "-o", "calls.txt", "-e"]).arg(format!("trace={CALLS}")).args(options);
    command.arg(PROGRAM).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("strace starts")
}

/// Lets so many processes work side by side, kills them at changes of files that are spread over the work, each time in a folder
/// that `begin` makes anew, and starts the program again. `check` then compares what is there with what it should be.
fn survives(arguments: &[&str], processes: usize, begin: impl Fn() -> TempDir, check: impl Fn(&Path, &str)) {
    let folder = begin();
    assert!(watched(folder.path(), arguments, &[]).wait().unwrap().success());
    check(folder.path(), "no kill");
    let written = fs::read_to_string(folder.path().join("calls.txt")).unwrap();
    let calls: Vec<&str> = written.lines().map(|line| line.split('(').next().unwrap()).collect();
    assert!(calls.len() > 50, "{} changes of files", calls.len());
    let points: usize = match std::env::var("DRAFTSMITH_CRASHES").as_deref() {
        Ok("all") => calls.len(),
        Ok(number) => number.parse().expect("DRAFTSMITH_CRASHES is a number or `all`"),
        Err(_) => 4,
    };
    let mut kills = 0;
    for point in 0..points {
        let folder = begin();
        let (mut children, mut places) = (Vec::new(), Vec::new());
        for process in 0..processes {
            // Others for every number of points, within the share of a process. strace counts each kind of call apart.
            let part = 2 * (point * processes + process) + 1;
            let number = part * calls.len() / (2 * points * processes * processes);
            let kind = calls[number];
            let nth = calls[..=number].iter().filter(|call| **call == kind).count();
            let kill = format!("inject={kind}:signal=KILL:when={nth}");
            children.push(watched(folder.path(), arguments, &["-e", &kill]));
            places.push(format!("{kind} {nth}, number {number} of {}", calls.len()));
        }
        let place = places.join(", and ");
        for mut child in children {
            let ended = child.wait().unwrap();
            let killed = ended.signal() == Some(SIGKILL);
            // One of several may have had little to do.
            assert!(killed || (processes > 1 && ended.success()), "{place}: {ended}");
            kills += usize::from(killed);
        }
        succeed(folder.path(), arguments);
        check(folder.path(), &place);
    }
    assert!(kills >= points, "{kills} kills at {points} points");
}

fn may_watch() -> bool {
    let status = Command::new("strace").args(["-e", "trace=none", "true"]).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

const NO_STRACE: &str = "there is no strace, or it may not watch";

#[test]
fn a_run_that_is_killed_at_any_change_of_a_file_loses_nothing() {
    if !may_watch() {
        return skipped(NO_STRACE);
    }
    survives(&["run", "run.toml"], 1, inputs, |folder, when| {
        assert!(untimed_report(folder) == untimed_report(world()), "the report, after {when}");
        for part in ["traces/fables-train", "columns/fables-train/last", "heads", "rescorers/small", "rescorers/turns"]
        {
            let bytes = |folder: &Path| untimed_bytes(&place(folder, part));
            assert!(bytes(folder) == bytes(world()), "{part}, after {when}");
        }
    });
}

/// Checkpoints that are kept, an average of the weights and gathered batches are more to lose.
#[test]
fn a_training_that_is_killed_at_any_change_of_a_file_loses_nothing() {
    if !may_watch() {
        return skipped(NO_STRACE);
    }
    let sets = [
        "heads.training.steps=24",
        "heads.training.dev_every=5",
        "heads.training.checkpoint_every=4",
        "heads.training.accumulate=2",
        "heads.training.average=0.9",
        "heads.keep_checkpoints=true",
    ];
    let arguments: Vec<&str> =
        ["train-heads", "run.toml"].into_iter().chain(sets.iter().flat_map(|set| ["--set", set])).collect();
    let uninterrupted = traced();
    succeed(uninterrupted.path(), &arguments);
    let bytes = |folder: &Path| untimed_bytes(&place(folder, "heads"));
    survives(&arguments, 1, traced, |folder, when| {
        assert!(bytes(folder) == bytes(uninterrupted.path()), "the heads, after {when}");
    });
}

/// Each takes over what the other had begun, and the last one what both had.
#[test]
fn an_ablation_whose_processes_are_killed_at_any_change_of_a_file_loses_nothing() {
    if !may_watch() {
        return skipped(NO_STRACE);
    }
    let expected = ablation::report(ablation::undisturbed());
    survives(&["ablate", "grid.toml"], 2, ablation::grid, |folder, when| {
        assert!(ablation::report(folder) == expected, "the table, after {when}");
    });
}
