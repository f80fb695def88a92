//! Claims, by which processes that share a folder agree on who works on what. The processes may run on one machine or
//! on many.
//!
//! A claim on `PATH` is a file `PATH.claim-N`. It is created in one step, at which only one process can succeed. If
//! there are several, the highest N counts. A process that takes over the work of a dead one creates N + 1, so if two
//! processes try, only one succeeds. For this reason, a claim is never removed before the work that it guards is
//! finished; it is marked as released instead.
//!
//! A process of the same machine is dead when the operating system says so. A process of another machine rewrites its
//! claim every few seconds, and is considered dead when the claim has not changed for a minute by the watcher's own
//! clock. Locks of the file system are not used, because network file systems differ in how reliable theirs are.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, bail};
use crate::files;
use crate::progress;

/// The time between two signs of life.
const BEAT: Duration = Duration::from_secs(5);
/// The time without a sign of life after which a process of another machine is considered dead.
const SILENCE: Duration = Duration::from_secs(60);

/// A process that holds a claim; the content of the claim's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// The name of the machine.
    pub host: String,
    /// An identifier that differs between machines of the same name, and between restarts of a machine.
    machine: String,
    /// The process id.
    pub pid: u32,
    /// The time when the operating system started the process, which tells it from later processes with the same id.
    started: String,
    /// The time when the claim was made.
    pub since: String,
    /// A counter that increases with every sign of life.
    beat: u64,
    /// What the process was doing at its last sign of life, in a few words.
    pub doing: String,
    /// Whether the process stopped before its work was finished.
    released: bool,
}

impl Holder {
    /// Returns a description of this process.
    fn me() -> Self {
        let pid = std::process::id();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let host = [read("/proc/sys/kernel/hostname"), std::env::var("HOSTNAME").unwrap_or_default()];
        Self {
            host: host.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| "unknown".into()),
            machine: format!("{} {}", read("/proc/sys/kernel/random/boot_id"), space.display()).trim().to_owned(),
            pid,
            started: process(pid).map_or_else(String::new, |(_, started)| started),
            since: jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string(),
            beat: 0,
            doing: String::new(),
            released: false,
        }
    }

    /// Returns whether the process is running, or none if this machine cannot know.
    fn is_running(&self, me: &Self) -> Option<bool> {
        (!me.started.is_empty() && self.machine == me.machine).then(|| {
            process(self.pid)
                .is_some_and(|(state, started)| started == self.started && !["Z", "X"].contains(&state.as_str()))
        })
    }
}

/// Returns the state and the start time of a process of this machine (Linux only).
fn process(pid: u32) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The process name before the parenthesis may contain any characters.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.to_owned();
    Some((state, fields.nth(18)?.to_owned()))
}

/// The claims of this process, and what it has seen of others' claims.
pub struct Claims {
    me: Holder,
    held: Arc<Mutex<Vec<Held>>>,
    /// For each claim file of others, a hash of its content and the time since which it has not changed.
    seen: Mutex<HashMap<PathBuf, (String, Instant)>>,
}

struct Held {
    target: PathBuf,
    number: u64,
    holder: Holder,
    lost: bool,
}

/// The outcome of an attempt to claim something.
pub enum Attempt<'a> {
    /// The claim belongs to this process until it is dropped.
    Mine(Claim<'a>),
    /// Another process is working on it.
    Busy(Holder),
}

/// A claim that this process holds.
pub struct Claim<'a> {
    claims: &'a Claims,
    target: PathBuf,
    number: u64,
    /// Whether the work is finished, so that nothing is left to guard.
    finished: bool,
}

impl Claims {
    /// Makes the value for a process that claims things. Its signs of life end when the value is dropped or the process
    /// ends.
    pub fn new() -> Self {
        let held = Arc::new(Mutex::new(Vec::new()));
        let weak = Arc::downgrade(&held);
        std::thread::spawn(move || keep_alive(&weak));
        Self { held, ..Self::watching() }
    }

    /// Makes the value for a process that only looks.
    pub fn watching() -> Self {
        Self { me: Holder::me(), held: Arc::default(), seen: Mutex::default() }
    }

    /// Claims `target` unless a running process holds it.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be read or written.
    pub fn attempt(&self, target: &Path) -> Result<Attempt<'_>> {
        loop {
            progress::stop_if_interrupted("waiting for another process")?;
            let last = latest(target)?;
            if let Some((number, holder)) = &last
                && self.is_alive(&file(target, *number), holder)
            {
                return Ok(Attempt::Busy(holder.clone()));
            }
            let number = last.map_or(1, |(number, _)| number + 1);
            let since = Holder::me().since;
            let holder = Holder { since, ..self.me.clone() };
            if !files::create_json(&file(target, number), &holder)? {
                continue;
            }
            // A process that was slow may have created an outdated number. It then finds the newer one here.
            if latest(target)?.is_none_or(|(highest, _)| highest != number) {
                remove(&file(target, number));
                continue;
            }
            (1..number).for_each(|older| remove(&file(target, older)));
            self.held().push(Held { target: target.to_owned(), number, holder, lost: false });
            return Ok(Attempt::Mine(Claim { claims: self, target: target.to_owned(), number, finished: false }));
        }
    }

    /// Claims `target`, waiting for as long as another process holds it.
    pub fn wait(&self, target: &Path, stage: &str) -> Result<Claim<'_>> {
        let mut said = false;
        loop {
            match self.attempt(target)? {
                Attempt::Mine(claim) => return Ok(claim),
                Attempt::Busy(holder) => {
                    if !said {
                        progress::detail(format!(
                            "{stage}: process {} on {} is at it; waiting",
                            holder.pid, holder.host
                        ));
                        said = true;
                    }
                    progress::stop_if_interrupted(stage)?;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// Returns the claims of all running processes in `folder`, this one included, by the name of what they claimed.
    pub fn in_folder(&self, folder: &Path) -> HashMap<String, Holder> {
        let mut found: HashMap<String, (u64, Holder)> = HashMap::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((target, number)) = name.rsplit_once(MARK) else { continue };
            let (Ok(number), Ok(holder)) = (number.parse(), files::read_json::<Holder>(&entry.path())) else {
                continue;
            };
            if found.get(target).is_none_or(|(earlier, _)| *earlier < number) {
                found.insert(target.to_owned(), (number, holder));
            }
        }
        let alive = |(name, (number, holder)): (String, (u64, Holder))| {
            self.is_alive(&file(&folder.join(&name), number), &holder).then_some((name, holder))
        };
        found.into_iter().filter_map(alive).collect()
    }

    fn is_alive(&self, file: &Path, holder: &Holder) -> bool {
        if holder.released {
            return false;
        }
        if let Some(running) = holder.is_running(&self.me) {
            return running;
        }
        let says = files::hash_json(holder);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, since) = seen.entry(file.to_owned()).or_insert_with(|| (says.clone(), Instant::now()));
        if *last != says {
            (*last, *since) = (says, Instant::now());
        }
        since.elapsed() < SILENCE
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Claims {
    fn default() -> Self {
        Self::new()
    }
}

impl Claim<'_> {
    /// Checks that this process still holds the claim.
    ///
    /// # Errors
    /// Returns an error if another process took over the work because it considered this one dead, for instance after
    /// the machine slept.
    pub fn still_mine(&self) -> Result<()> {
        let lost = self.claims.held().iter().any(|held| held.target == self.target && held.lost);
        if lost || latest(&self.target)?.is_none_or(|(number, _)| number != self.number) {
            bail!(
                "{}: this process gave no sign of life for a while, so another one took this over. Start the command again if it is to go on here too.",
                self.target.display()
            );
        }
        Ok(())
    }

    /// Ends the claim of finished work and removes its file.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut held = self.claims.held();
        let Some(place) = held.iter().position(|held| held.target == self.target) else { return };
        let Held { holder, lost, .. } = held.swap_remove(place);
        if lost {
            return;
        }
        let path = file(&self.target, self.number);
        if self.finished {
            remove(&path);
        } else {
            // If this fails, others still see that the process has ended.
            let _ = files::write_json(&path, &Holder { released: true, ..holder });
        }
    }
}

const MARK: &str = ".claim-";

fn file(target: &Path, number: u64) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}{MARK}{number}"))
}

/// Removes a claim file. Errors are ignored: any process may remove an old claim, and it does not matter which one
/// does.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Returns the highest claim on `target`, if there is one.
fn latest(target: &Path) -> Result<Option<(u64, Holder)>> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let prefix = format!("{}{MARK}", target.file_name().unwrap_or_default().to_string_lossy());
    loop {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", folder, e)),
        };
        let numbers = entries.flatten().filter_map(|entry| {
            let number = entry.file_name().to_string_lossy().strip_prefix(&prefix)?.parse::<u64>().ok()?;
            // No process counts that far, so it is nobody's claim, and one more must still be a number.
            (number <= u64::from(u32::MAX)).then_some(number)
        });
        let Some(number) = numbers.max() else { return Ok(None) };
        let path = file(target, number);
        match files::read_json(&path) {
            Ok(holder) => return Ok(Some((number, holder))),
            // The work was finished in the meantime.
            Err(_) if path.symlink_metadata().is_err() => {}
            Err(e) => return Err(e.within("no claim of a process; remove it")),
        }
    }
}

/// Rewrites the claims of this process until the value that holds them is dropped.
fn keep_alive(held: &Weak<Mutex<Vec<Held>>>) {
    loop {
        std::thread::sleep(BEAT);
        let Some(held) = held.upgrade() else { return };
        // The lock is held while the files are written, so that no claim is rewritten after it was given up.
        for held in held.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().filter(|held| !held.lost) {
            match latest(&held.target) {
                Ok(Some((number, _))) if number == held.number => {
                    held.holder.beat += 1;
                    held.holder.doing = progress::current();
                    // Errors are ignored, because a disk that is full now may have space at the next beat.
                    let _ = files::write_json(&file(&held.target, number), &held.holder);
                }
                Ok(_) => held.lost = true,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder_of(target: &Path) -> Holder {
        latest(target).unwrap().unwrap().1
    }

    #[test]
    fn one_holder_at_a_time_and_a_finished_claim_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("heads-1");
        let (one, two) = (Claims::new(), Claims::new());
        let Attempt::Mine(claim) = one.attempt(&target).unwrap() else { panic!("nobody else") };
        assert!(matches!(two.attempt(&target).unwrap(), Attempt::Busy(holder) if holder.pid == std::process::id()));
        assert_eq!(two.in_folder(dir.path()).len(), 1);
        claim.still_mine().unwrap();
        drop(claim);
        assert!(two.in_folder(dir.path()).is_empty());
        let Attempt::Mine(claim) = two.attempt(&target).unwrap() else { panic!("it was released") };
        claim.finish();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_process_holds_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        let claims = Claims::new();
        // A process id that belonged to an earlier process.
        let dead = Holder { started: "0".into(), ..Holder::me() };
        assert!(files::create_json(&file(&target, 3), &dead).unwrap());
        assert!(matches!(claims.attempt(&target).unwrap(), Attempt::Mine(claim) if claim.number == 4));
    }

    #[test]
    fn what_is_no_claim_is_ignored_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        fs::write(file(&target, u64::MAX), "{}").unwrap();
        let claims = Claims::new();
        assert!(matches!(claims.attempt(&target).unwrap(), Attempt::Mine(claim) if claim.number == 1));
        // A link that leads to itself.
        #[cfg(unix)]
        {
            let link = file(&dir.path().join("y"), 1);
            std::os::unix::fs::symlink(&link, &link).unwrap();
            let error = claims.attempt(&dir.path().join("y")).err().unwrap().to_string();
            assert!(error.contains("y.claim-1") && error.contains("remove it"), "{error}");
        }
    }

    #[test]
    fn a_silent_process_elsewhere_is_believed_for_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        let elsewhere = Holder { machine: "another".into(), ..Holder::me() };
        assert!(files::create_json(&file(&target, 1), &elsewhere).unwrap());
        let claims = Claims::new();
        assert!(matches!(claims.attempt(&target).unwrap(), Attempt::Busy(_)));
        let wind = |claims: &Claims| {
            claims
                .seen
                .lock()
                .unwrap()
                .values_mut()
                .for_each(|(_, since)| *since = Instant::now().checked_sub(SILENCE).unwrap());
        };
        wind(&claims);
        // After a sign of life, a new minute begins.
        files::write_json(&file(&target, 1), &Holder { beat: 1, ..elsewhere }).unwrap();
        assert!(matches!(claims.attempt(&target).unwrap(), Attempt::Busy(_)));
        wind(&claims);
        let Attempt::Mine(claim) = claims.attempt(&target).unwrap() else { panic!("a minute has passed") };
        // Another process considers this one dead and takes over.
        assert!(files::create_json(&file(&target, 3), &holder_of(&target)).unwrap());
        assert!(claim.still_mine().unwrap_err().to_string().contains("took this over"));
    }

    #[test]
    fn of_many_that_try_at_once_one_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let target = dir.path().join(format!("x{round}"));
            if round % 2 == 1 {
                let dead = Holder { started: "0".into(), ..Holder::me() };
                files::create_json(&file(&target, 1), &dead).unwrap();
            }
            let all: Vec<Claims> = (0..8).map(|_| Claims::watching()).collect();
            let mine = std::thread::scope(|scope| {
                let tries: Vec<_> = all.iter().map(|claims| scope.spawn(|| claims.attempt(&target).unwrap())).collect();
                let attempts: Vec<Attempt> = tries.into_iter().map(|attempt| attempt.join().unwrap()).collect();
                attempts.iter().filter(|attempt| matches!(attempt, Attempt::Mine(_))).count()
            });
            assert_eq!(mine, 1);
        }
    }
}
