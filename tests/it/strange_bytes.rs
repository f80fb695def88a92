//! Files that others have made may hold anything. Whatever is changed in one, reading it comes to an end, in a value or in an error,
//! and never in a panic. `DRAFTSMITH_STRANGE` is the number of changed files of each kind, of which there are a few by default; the
//! same number gives the same files.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;

use draftsmith::files;
use draftsmith::report::{self, Documents};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::{copy_folder, place, skipped, world};
use crate::strange_files::{Files, KINDS, Kind};

/// Words that files hold where a reader expects something smaller, larger, or else.
const WORDS: [&str; 12] = [
    "18446744073709551615",
    "-1",
    "1e999",
    "0",
    "null",
    "\"\"",
    "[]",
    "{}",
    "\u{fffd}",
    "\n",
    "\0",
    "9999999999999999999999",
];

/// Changes a file in one to three places.
fn changed(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=3) {
        if bytes.is_empty() {
            break;
        }
        // Most of what can go wrong is said in the beginning of a file.
        let most = if rng.random_bool(0.5) { bytes.len().min(400) } else { bytes.len() };
        let at = rng.random_range(0..most);
        let to = (at + rng.random_range(1..=16usize)).min(bytes.len());
        let word = WORDS[rng.random_range(0..WORDS.len())].bytes();
        match rng.random_range(0..7) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes[at..to].fill(0xff),
            3 => bytes.truncate(at),
            4 => drop(bytes.splice(at..to, word)),
            5 => {
                let copy = bytes[at..to].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                // A number becomes another one.
                let digits = |byte: &u8| byte.is_ascii_digit();
                let Some(first) = bytes[at..].iter().position(digits).map(|found| at + found) else { continue };
                let end =
                    bytes[first..].iter().position(|byte| !digits(byte)).map_or(bytes.len(), |found| first + found);
                bytes.splice(first..end, word);
            }
        }
    }
    bytes
}

/// Reads changed copies of a file, whose name is for messages. `read` is given what then lies in its place.
fn read_changed(name: &str, whole: &[u8], read: impl Fn(&[u8]) -> bool) {
    assert!(read(whole), "{name} can be read as it is");
    let count = std::env::var("DRAFTSMITH_STRANGE").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let mut rng = ChaCha8Rng::seed_from_u64(name.bytes().map(u64::from).sum());
    for number in 0..count {
        let bytes = changed(&mut rng, whole);
        if catch_unwind(AssertUnwindSafe(|| read(&bytes))).is_err() {
            let kept = std::env::temp_dir().join(format!("strange-{}", name.replace('/', "-")));
            fs::write(&kept, bytes).unwrap();
            panic!("{name}: change {number} of {count} ends in a panic; it is kept in {}", kept.display());
        }
    }
}

/// Reads what the target of a kind has been left with (`fuzz/README.md`), and then changed copies of its whole files.
fn read_kind(kind: &Kind) {
    let files = Files::new(kind);
    for path in in_repository(&format!("fuzz/corpus/{}", kind.name)) {
        let input = fs::read(&path).unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| files.read(&input))).is_ok(), "{}", path.display());
    }
    for (name, input) in files.inputs() {
        let (number, whole) = (input[0], &input[1..]);
        let read = |bytes: &[u8]| files.read(&[&[number], bytes].concat()).is_ok();
        read_changed(&format!("{}/{name}", kind.name), whole, read);
    }
}

/// The files of a folder of the repository; none where it is not there.
fn in_repository(folder: &str) -> Vec<PathBuf> {
    files::listing(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap_or_default()
}

#[test]
fn what_others_have_made() {
    thread::scope(|scope| KINDS.iter().for_each(|kind| drop(scope.spawn(move || read_kind(kind)))));
}

#[test]
fn every_kind_has_a_target() {
    let targets = in_repository("fuzz/fuzz_targets");
    if targets.is_empty() {
        return skipped("this is a package, which has no fuzz/");
    }
    let names: Vec<_> = targets.iter().map(|path| path.file_stem().unwrap().to_string_lossy()).collect();
    assert_eq!(names, KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>());
}

#[test]
fn reports() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&place(world(), "report"), folder.path());
    // With its mark, a changed file would be found out by its hash.
    fs::remove_file(folder.path().join("stage.json")).unwrap();
    let report: fn(&Path) -> bool = |path| report::read(path).is_ok_and(|report| report::html(&report).is_ok());
    let documents: fn(&Path) -> bool = |path| Documents::read(path.parent().unwrap()).is_ok();
    for (name, read) in [("report.json", report), ("documents.json", documents)] {
        let path = folder.path().join(name);
        let whole = fs::read(&path).unwrap();
        read_changed(name, &whole, |bytes| {
            fs::write(&path, bytes).unwrap();
            read(&path)
        });
        fs::write(&path, whole).unwrap();
    }
}
