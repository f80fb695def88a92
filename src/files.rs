//! Files that are either complete or absent. They are written under a temporary name, flushed and renamed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result, bail};
use crate::progress;

/// Writes `path` atomically: after a crash, and for every reader, it has either the old content or the new one.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Does the same as [`write_atomic`], for content that is written piece by piece.
pub fn write_with(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        sweep_dead(folder);
        // On an error, dropping the temporary file removes it.
        let aside = aside(0o666).tempfile_in(folder)?;
        let mut buffer = BufWriter::new(aside.as_file());
        write(&mut buffer)?;
        buffer.flush()?;
        drop(buffer);
        aside.as_file().sync_all()?;
        aside.persist(path).map_err(|e| e.error)?;
        flush_names(folder)
    };
    whole().map_err(|e| Error::io("write", path, e))
}

/// Waits until the names in a folder are on disk, so that a renamed file has its name after a loss of power, too.
fn flush_names(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The prefix of the names of files and folders that are not complete yet.
const ASIDE: &str = ".aside-";

/// Returns how the names of this process's unfinished files begin: the start of the machine and the process are in them, so
/// that what a killed process has left is known.
fn own_prefix() -> &'static str {
    static PREFIX: LazyLock<String> = LazyLock::new(|| format!("{}{}-", machine_prefix(), std::process::id()));
    &PREFIX
}

fn machine_prefix() -> &'static str {
    static PREFIX: LazyLock<String> = LazyLock::new(|| {
        let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        format!("{ASIDE}{}-", &blake3::hash(start.trim().as_bytes()).to_hex()[..8])
    });
    &PREFIX
}

/// Removes what processes of this machine which are no longer there have left unfinished in `folder`, once in a process.
fn sweep_dead(folder: &Path) {
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    // Elsewhere nothing is known of other processes.
    if !Path::new("/proc/self").exists() || !SWEPT.lock().is_ok_and(|mut swept| swept.insert(folder.to_owned())) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(machine_prefix()).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // Whoever cannot remove it is not its owner.
            let _ = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
                _ => fs::remove_file(entry.path()),
            };
        }
    }
}

/// Returns the builder of temporary files and folders. By default these are private to the user. Here the umask
/// decides, as for any other file.
fn aside(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(own_prefix());
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// Removes what a killed process left unfinished in `folder` and below. No other process may be writing there.
pub fn sweep(folder: &Path) -> Result<()> {
    let Ok(listing) = fs::read_dir(folder) else { return Ok(()) };
    for entry in listing.flatten() {
        let path = entry.path();
        let left_over = entry.file_name().to_string_lossy().starts_with(ASIDE);
        // Links are not followed, because their targets do not belong to this folder.
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let done = match (left_over, folder) {
            (true, true) => fs::remove_dir_all(&path),
            (true, false) => fs::remove_file(&path),
            (false, true) => {
                sweep(&path)?;
                Ok(())
            }
            (false, false) => Ok(()),
        };
        done.map_err(|e| Error::io("remove", &path, e))?;
    }
    Ok(())
}

/// Opens a file of this program's own, to read and to write, after creating it if necessary. What is in it stays.
///
/// # Errors
/// When a link lies in its place: what the link names may be anybody's.
pub fn open_own(path: &Path) -> Result<File> {
    if path.is_symlink() {
        bail!(
            "{}: this is a link, where a file of the program's own belongs. Remove it and start the command again.",
            path.display()
        );
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    file.map_err(|e| Error::io("write", path, e))
}

/// Locks the folder for this process alone, after creating it if necessary. The lock is released when the process ends,
/// for whatever reason.
pub fn lock(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let path = folder.join(".lock");
    let file = open_own(&path)?;
    match file.try_lock() {
        Ok(()) => {
            sweep(folder)?;
            Ok(file)
        }
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another process is working on {}. Wait for it, or choose another one.", folder.display())
        }
        Err(fs::TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
    }
}

/// Locks the folder together with other processes that share it, so that none can have it alone; creates it if
/// necessary. The first process removes what killed processes left, unless `used_elsewhere` says that others are at
/// work.
pub fn share(folder: &Path, used_elsewhere: impl FnOnce() -> bool) -> Result<File> {
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let path = folder.join(".lock");
    let file = open_own(&path)?;
    let failed = |e| Error::io("lock", &path, e);
    if file.try_lock().is_ok() {
        if !used_elsewhere() {
            sweep(folder)?;
        }
        file.unlock().map_err(failed)?;
    }
    // The first process holds the lock exclusively for a moment.
    let tries = std::time::Instant::now();
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if tries.elapsed().as_secs() < 10 => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(fs::TryLockError::WouldBlock) => {
                bail!("another process is working on {}. Wait for it, or choose another one.", folder.display())
            }
            Err(fs::TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
}

/// Removes a folder and everything in it. It is not an error if the folder does not exist.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", folder, e)),
        _ => Ok(()),
    }
}

/// Writes `value` as indented JSON with a final newline, atomically.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_with(path, |mut file| {
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")
    })
}

/// Does the same as [`write_json`] if the file does not exist, and returns whether it did. If several processes try,
/// only one succeeds.
pub fn create_json(path: &Path, value: &impl Serialize) -> Result<bool> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let create = || -> io::Result<bool> {
        fs::create_dir_all(folder)?;
        let aside = aside(0o666).tempfile_in(folder)?;
        serde_json::to_writer_pretty(aside.as_file(), value)?;
        aside.as_file().sync_all()?;
        match aside.persist_noclobber(path) {
            Ok(_) => Ok(true),
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e.error),
        }
    };
    create().map_err(|e| Error::io("write", path, e))
}

/// Makes `link` a symbolic link to `target`, a path relative to the link's folder. An existing link is replaced.
pub fn link(target: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    if link.is_dir() && !link.is_symlink() {
        bail!(
            "{0}: this is a folder, where a link to {1} belongs. Move {0} away and start the command again.",
            link.display(),
            target.display()
        );
    }
    let folder = link.parent().unwrap_or(Path::new("."));
    let make = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let aside = aside(0o777).tempdir_in(folder)?;
        let path = aside.path().join("link");
        #[cfg(unix)]
        std::os::unix::fs::symlink(target, &path)?;
        #[cfg(windows)]
        std::os::windows::fs::symlink_dir(target, &path)?;
        fs::rename(&path, link)
    };
    make().map_err(|e| Error::io("write", link, e))
}

/// Makes `here` a symbolic link to `place`. The link is relative, so that the folder above both can be moved. Both
/// paths must begin at the same folder.
pub fn link_to(place: &Path, here: &Path) -> Result<()> {
    let shared = place.components().zip(here.components()).take_while(|(a, b)| a == b).count();
    let up = here.components().count() - shared - 1;
    let mut target: PathBuf = std::iter::repeat_n("..", up).collect();
    target.extend(place.components().skip(shared));
    link(&target, here)
}

/// Reads a JSON file. The error names the file, the line and the column.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|e| {
        Error::new(format!("{e}. The file is not the JSON this program expects; restore it or make it again"))
            .within(path.display())
    })
}

/// Returns the paths in a folder, sorted.
pub fn listing(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Returns the size in bytes of a file, or of a folder with everything below it, and when something in there was last
/// written. Links in the folder do not count.
pub fn measure(path: &Path) -> Result<(u64, SystemTime)> {
    let data = path.metadata().map_err(|e| Error::io("read", path, e))?;
    let own = (data.len(), data.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    if !data.is_dir() {
        return Ok(own);
    }
    let inside = listing(path)?.into_iter().filter(|path| !path.is_symlink());
    inside.map(|path| measure(&path)).try_fold((0, own.1), |(bytes, latest), part| {
        let (more, modified) = part?;
        Ok((bytes + more, latest.max(modified)))
    })
}

/// Refuses what a path names if it is there and no file with an end, such as a pipe, on which a reader would wait.
fn has_an_end(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
            bail!("{}: this is no ordinary file. Put its content into one, and name that.", path.display())
        }
        _ => Ok(()),
    }
}

/// Reads a UTF-8 text file.
pub fn read_text(path: &Path) -> Result<String> {
    has_an_end(path)?;
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    String::from_utf8(bytes)
        .map_err(|e| Error::new(format!("{}: not UTF-8 text ({e}). Convert it to UTF-8.", path.display())))
}

/// The most bytes that a line of text may have. Whoever reads lines keeps one in memory, and a compressed file of a few megabytes
/// can hold a line of many gigabytes.
const LONGEST_LINE: usize = 256 << 20;

/// A reader of text that ends with an error where a line is too long, or after an interrupt.
struct Lines<R> {
    inner: R,
    /// The number of the present line, from 1 on, and its bytes so far.
    line: usize,
    bytes: usize,
}

impl<R> Lines<R> {
    fn new(inner: R) -> Self {
        Self { inner, line: 1, bytes: 0 }
    }
}

impl<R: BufRead> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Lines<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if progress::interrupted() {
            let words = "interrupted while reading text. Start the same command again; finished stages are skipped.";
            return Err(io::Error::other(Error::interrupted(words)));
        }
        if self.bytes > LONGEST_LINE {
            let most = LONGEST_LINE >> 20;
            return Err(io::Error::other(format!(
                "line {} has more than {most} MiB, which is more than one document. Check the file, and break the line",
                self.line
            )));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        if let Ok(available) = self.inner.fill_buf() {
            let taken = &available[..count.min(available.len())];
            match taken.iter().rposition(|&byte| byte == b'\n') {
                Some(end) => {
                    self.line += taken.iter().filter(|&&byte| byte == b'\n').count();
                    self.bytes = taken.len() - end - 1;
                }
                None => self.bytes += taken.len(),
            }
        }
        self.inner.consume(count);
    }
}

/// Opens a file for reading, and decompresses it if its name ends in .gz. Reading fails at a line of more than 256 MiB, and after an
/// interrupt.
pub fn open_text(path: &Path) -> Result<Box<dyn BufRead>> {
    has_an_end(path)?;
    let mut file = BufReader::with_capacity(1 << 18, File::open(path).map_err(|e| Error::io("read", path, e))?);
    if !is_gzip_name(path) {
        return Ok(Box::new(Lines::new(file)));
    }
    let head = file.fill_buf().map_err(|e| Error::io("read", path, e))?;
    if !head.starts_with(b"\x1f\x8b") {
        bail!("{}: the name ends in .gz, but this is not a gzip file. Rename it without .gz.", path.display());
    }
    Ok(Box::new(Lines::new(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(file)))))
}

/// Returns whether the name says that the file is compressed with gzip.
pub fn is_gzip_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

/// A folder that gets its final name only when [`StagedDir::commit`] is called. If it is dropped before, it is removed.
pub struct StagedDir {
    aside: tempfile::TempDir,
    target: PathBuf,
}

impl StagedDir {
    /// Creates a temporary folder next to `target`, which it is to become, on the same file system.
    pub fn new(target: &Path) -> Result<Self> {
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let make = || -> io::Result<tempfile::TempDir> {
            fs::create_dir_all(folder)?;
            sweep_dead(folder);
            aside(0o777).tempdir_in(folder)
        };
        Ok(Self { aside: make().map_err(|e| Error::io("create a folder in", folder, e))?, target: target.into() })
    }

    /// Returns the temporary folder, to write into.
    pub fn path(&self) -> &Path {
        self.aside.path()
    }

    /// Replaces `target` by the temporary folder.
    pub fn commit(self) -> Result<()> {
        replace_folder(self.aside.path(), &self.target)?;
        let _ = self.aside.keep();
        Ok(())
    }
}

/// Renames the folder `from` to `target`, on the same file system. Whatever was there is removed.
pub fn replace_folder(from: &Path, target: &Path) -> Result<()> {
    let replace = || -> io::Result<()> {
        // The old folder is moved away in one step as well, and then removed.
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let old = aside(0o777).tempdir_in(folder)?;
        if target.exists() {
            fs::rename(target, old.path().join("old"))?;
        }
        fs::rename(from, target)?;
        flush_names(folder)
    };
    replace().map_err(|e| Error::io("write", target, e))
}

/// Returns the BLAKE3 hash of a file's bytes, in hexadecimal.
pub fn hash_file(path: &Path) -> Result<String> {
    has_an_end(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).map_err(|e| Error::io("read", path, e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Returns the BLAKE3 hash of a value's JSON form, in hexadecimal.
pub fn hash_json(value: &(impl Serialize + ?Sized)) -> String {
    let text = serde_json::to_vec(value).expect("keys of stages serialise");
    blake3::hash(&text).to_hex().to_string()
}

/// Implements serde's traits for a type that files contain as text, using its [`Display`](std::fmt::Display) and
/// [`FromStr`](std::str::FromStr).
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_json(&path, &vec![1, 2]).unwrap();
        // A file cannot replace a folder, so the write fails at its last step.
        let blocked = dir.path().join("blocked");
        fs::create_dir(&blocked).unwrap();
        assert!(write_atomic(&blocked, b"x").is_err());
        assert_eq!(read_json::<Vec<i32>>(&path).unwrap(), [1, 2]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    /// A small compressed file, of which one line is longer than memory should be asked for.
    #[test]
    fn a_line_without_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bomb.jsonl.gz");
        let mut file = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        file.write_all(b"first\nsecond\n").unwrap();
        let block = vec![b'a'; 1 << 20];
        (0..300).for_each(|_| file.write_all(&block).unwrap());
        file.finish().unwrap();
        let mut text = open_text(&path).unwrap();
        let mut line = Vec::new();
        for expected in ["first\n", "second\n"] {
            line.clear();
            text.read_until(b'\n', &mut line).unwrap();
            assert_eq!(line, expected.as_bytes());
        }
        let error = text.read_until(b'\n', &mut line).unwrap_err().to_string();
        assert!(error.contains("line 3 has more than 256 MiB"), "{error}");
    }

    #[test]
    fn a_staged_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("made");
        let staged = StagedDir::new(&target).unwrap();
        fs::write(staged.path().join("x"), "1").unwrap();
        drop(staged);
        assert!(!target.exists());
        let staged = StagedDir::new(&target).unwrap();
        fs::write(staged.path().join("x"), "2").unwrap();
        staged.commit().unwrap();
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_killed_process_left_goes_and_what_a_living_one_writes_stays() {
        let dir = tempfile::tempdir().unwrap();
        let of = |process: u32| dir.path().join(format!("{}{process}-abcdef", machine_prefix()));
        // No process has a number this large.
        let (dead, living, other) = (of(u32::MAX), of(std::process::id()), dir.path().join(".aside-of-somebody"));
        fs::create_dir(&dead).unwrap();
        [&dead.join("half"), &living, &other].iter().for_each(|path| fs::write(path, "x").unwrap());
        write_atomic(&dir.path().join("new"), b"whole").unwrap();
        assert_eq!([&dead, &living, &other].map(|path| path.exists()), [false, true, true]);
    }

    /// A link in the place of a lock names a file that keeps what it has.
    #[cfg(unix)]
    #[test]
    fn links_are_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (other, run) = (dir.path().join("precious"), dir.path().join("run"));
        fs::write(&other, "kept").unwrap();
        fs::create_dir(&run).unwrap();
        std::os::unix::fs::symlink(&other, run.join(".lock")).unwrap();
        for error in [lock(&run).err().unwrap(), share(&run, || false).err().unwrap()] {
            assert!(error.to_string().contains("run/.lock: this is a link"), "{error}");
        }
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(lock(dir.path()).err().unwrap().to_string().contains("another process"));
        drop(held);
        lock(dir.path()).unwrap();
    }
}
