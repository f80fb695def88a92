//! A process that is killed at any rename, flush or removal of a file loses nothing that was finished: started again, it comes to the
//! same bytes. strace kills it there; without strace this test says that it did nothing. `DRAFTSMITH_CRASHES` is the number of points
//! to be killed at, of which there are a few by default.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::common::{PROGRAM, inputs, place, skipped, succeed, untimed_bytes, untimed_report, world};

/// What makes a file whole, present or absent.
const CALLS: &str = "rename,renameat,renameat2,link,linkat,fsync,fdatasync,unlink,unlinkat,rmdir";
const SIGKILL: i32 = 9;

/// Does everything in `folder` under strace, with more of its options. Only the main thread is watched, which writes all results.
fn traced(folder: &Path, options: &[&str]) -> ExitStatus {
    let mut command = Command::new("strace");
    command.current_dir(folder).args(["-qq", "-o", "calls.txt", "-e"]).arg(format!("trace={CALLS}")).args(options);
    command.arg(PROGRAM).args(["run", "run.toml"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("strace starts")
}

#[test]
fn a_kill_at_any_change_of_a_file_loses_nothing() {
    let watched = Command::new("strace").args(["-e", "trace=none", "true"]).stderr(Stdio::null()).status();
    if !watched.is_ok_and(|status| status.success()) {
        return skipped("there is no strace, or it may not watch");
    }
    let folder = inputs();
    assert!(traced(folder.path(), &[]).success());
    let written = fs::read_to_string(folder.path().join("calls.txt")).unwrap();
    let calls: Vec<&str> = written.lines().map(|line| line.split('(').next().unwrap()).collect();
    assert!(calls.len() > 100, "{} changes of files", calls.len());
    let points: usize = std::env::var("DRAFTSMITH_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    for point in 0..points {
        // Spread over the whole run, and others for every number of points. strace counts each kind of call apart.
        let number = (2 * point + 1) * calls.len() / (2 * points);
        let kind = calls[number];
        let nth = calls[..=number].iter().filter(|call| **call == kind).count();
        let folder = inputs();
        let killed = traced(folder.path(), &["-e", &format!("inject={kind}:signal=KILL:when={nth}")]);
        let place_of = format!("{kind} {nth}, number {number} of {}", calls.len());
        assert_eq!(killed.signal(), Some(SIGKILL), "{place_of}: {killed}");
        succeed(folder.path(), &["run", "run.toml"]);
        assert!(untimed_report(folder.path()) == untimed_report(world()), "the report, after {place_of}");
        for part in ["traces/fables-train", "columns/fables-train/last", "heads", "rescorers/small", "rescorers/turns"]
        {
            let bytes = |folder: &Path| untimed_bytes(&place(folder, part));
            assert!(bytes(folder.path()) == bytes(world()), "{part}, after {place_of}");
        }
    }
}
