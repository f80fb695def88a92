//! Who works on what, where several processes, on one machine or on many, share a folder.
//!
//! A claim on `PATH` is a file `PATH.claim-N` that is created in one step, as only one process can. Of several the highest N
//! counts. Whoever takes over what a dead process left creates N + 1, so of two that try, one does; a claim is therefore never
//! removed before what it guarded is finished, but marked as released. A process of this machine is dead when the system
//! says so; one of another machine when its claim, which it rewrites every few seconds, has not changed for a minute by
//! the watcher's own clock. No lock of the file system is used: network file systems differ in what theirs are worth.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, bail};
use crate::files;
use crate::progress;

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(5);
/// Without a sign of life for so long, a process of another machine is taken for dead.
const SILENCE: Duration = Duration::from_secs(60);

/// A process that holds a claim: what the claim's file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// The machine's name.
    pub host: String,
    /// Tells machines of one name apart, and their restarts.
    machine: String,
    /// The process.
    pub pid: u32,
    /// When the system started it, so that another one with its number is not taken for it.
    started: String,
    /// When the claim was made.
    pub since: String,
    /// Rises with every sign of life.
    beat: u64,
    /// What it was doing at the last one, in a few words.
    pub doing: String,
    /// Whether it stopped before what it claimed was finished.
    released: bool,
}

impl Holder {
    /// This process.
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

    /// Whether the system says that the process is at work; none where it cannot say.
    fn is_running(&self, me: &Self) -> Option<bool> {
        (!me.started.is_empty() && self.machine == me.machine).then(|| {
            process(self.pid)
                .is_some_and(|(state, started)| started == self.started && !["Z", "X"].contains(&state.as_str()))
        })
    }
}

/// State and start of a process of this machine (Linux).
fn process(pid: u32) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.to_owned();
    Some((state, fields.nth(18)?.to_owned()))
}

/// The claims of this process, and what it has seen of others'.
pub struct Claims {
    me: Holder,
    held: Arc<Mutex<Vec<Held>>>,
    /// By file: what it said, and since when.
    seen: Mutex<HashMap<PathBuf, (String, Instant)>>,
}

struct Held {
    target: PathBuf,
    number: u64,
    holder: Holder,
    lost: bool,
}

/// What came of trying to claim something.
pub enum Attempt<'a> {
    /// It is this process's until the claim is dropped.
    Mine(Claim<'a>),
    /// Somebody else is at work on it.
    Busy(Holder),
}

/// Something that only this process works on.
pub struct Claim<'a> {
    claims: &'a Claims,
    target: PathBuf,
    number: u64,
    /// Nothing is left to guard.
    finished: bool,
}

impl Claims {
    /// For a process that claims; its signs of life end with the value, or with the process.
    pub fn new() -> Self {
        let held = Arc::new(Mutex::new(Vec::new()));
        let weak = Arc::downgrade(&held);
        std::thread::spawn(move || keep_alive(&weak));
        Self { held, ..Self::watching() }
    }

    /// For a process that only looks.
    pub fn watching() -> Self {
        Self { me: Holder::me(), held: Arc::default(), seen: Mutex::default() }
    }

    /// Claims `target` if nobody at work holds it.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn attempt(&self, target: &Path) -> Result<Attempt<'_>> {
        loop {
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
            // Whoever was slow to create an old number finds the newer one.
            if latest(target)?.is_none_or(|(highest, _)| highest != number) {
                remove(&file(target, number));
                continue;
            }
            (1..number).for_each(|older| remove(&file(target, older)));
            self.held().push(Held { target: target.to_owned(), number, holder, lost: false });
            return Ok(Attempt::Mine(Claim { claims: self, target: target.to_owned(), number, finished: false }));
        }
    }

    /// Claims `target`, waiting until whoever holds it is done.
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

    /// What others and this process hold in `folder`: what they claimed, by name.
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
    /// # Errors
    /// Where others took this process for dead, as after a machine slept, and work on it now.
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

    /// There is nothing left to guard: the claim leaves no file.
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
            // Where this fails, the process's end says the same.
            let _ = files::write_json(&path, &Holder { released: true, ..holder });
        }
    }
}

const MARK: &str = ".claim-";

fn file(target: &Path, number: u64) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}{MARK}{number}"))
}

/// A claim of another process may vanish at any moment; nothing depends on who removed it.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// The highest claim on `target`.
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
            entry.file_name().to_string_lossy().strip_prefix(&prefix).and_then(|number| number.parse::<u64>().ok())
        });
        let Some(number) = numbers.max() else { return Ok(None) };
        let path = file(target, number);
        match files::read_json(&path) {
            Ok(holder) => return Ok(Some((number, holder))),
            // It was finished meanwhile.
            Err(_) if !path.exists() => {}
            Err(e) => return Err(e),
        }
    }
}

/// Rewrites the claims of this process for as long as anyone holds them.
fn keep_alive(held: &Weak<Mutex<Vec<Held>>>) {
    loop {
        std::thread::sleep(BEAT);
        let Some(held) = held.upgrade() else { return };
        // Held while it is written, so that no claim is rewritten after it was given up.
        for held in held.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().filter(|held| !held.lost) {
            match latest(&held.target) {
                Ok(Some((number, _))) if number == held.number => {
                    held.holder.beat += 1;
                    held.holder.doing = progress::current();
                    // A disk that is full now may not be at the next beat.
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
        // A number that was another process's.
        let dead = Holder { started: "0".into(), ..Holder::me() };
        assert!(files::create_json(&file(&target, 3), &dead).unwrap());
        assert!(matches!(claims.attempt(&target).unwrap(), Attempt::Mine(claim) if claim.number == 4));
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
        // A sign of life begins a new minute.
        files::write_json(&file(&target, 1), &Holder { beat: 1, ..elsewhere }).unwrap();
        assert!(matches!(claims.attempt(&target).unwrap(), Attempt::Busy(_)));
        wind(&claims);
        let Attempt::Mine(claim) = claims.attempt(&target).unwrap() else { panic!("a minute has passed") };
        // Taken for dead in its turn.
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
