//! The one error type: a paragraph for the person who has to mend it.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// What went wrong, where, and what to do about it, as one paragraph of plain text.
///
/// Logic branches on [`Error::kind`], never on the words.
#[derive(Debug)]
pub struct Error {
    message: String,
    kind: ErrorKind,
}

/// What sort of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The work could not be done.
    Fault,
    /// The work was done, and what it was to check does not hold.
    CheckFailed,
    /// The user stopped the work; what was worth keeping is kept.
    Interrupted,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error whose paragraph is `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: ErrorKind::Fault }
    }

    /// A failed operation on `path`: `doing` completes "cannot ... PATH" (for instance "read", "write").
    ///
    /// An error of this crate that passed through `std::io` comes out as it was.
    pub fn io(doing: &str, path: impl AsRef<Path>, error: std::io::Error) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(own) => return own,
            Err(error) => error,
        };
        let advice = match error.kind() {
            std::io::ErrorKind::NotFound => " Check the path.",
            std::io::ErrorKind::PermissionDenied => " Check the permissions of the file and its folder.",
            std::io::ErrorKind::StorageFull => {
                " Free some space and start the command again; it goes on from the last complete file."
            }
            _ => "",
        };
        Self::new(format!("cannot {doing} {}: {error}.{advice}", path.as_ref().display()))
    }

    /// A check that was made and failed.
    pub fn check_failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: ErrorKind::CheckFailed }
    }

    /// The user's Ctrl-C, after everything worth keeping was saved; `message` says how to go on.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: ErrorKind::Interrupted }
    }

    /// The same error with `place` in front: "PLACE: message".
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Returns what sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// For code that writes with `std::io` while it reads with this crate; [`Error::io`] takes the error out again.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs code that, through a library, may panic on damaged input; none if it did. Nothing is said of that panic.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    let before = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(before);
    outcome.ok()
}

/// Whether this thread is in [`guarded`] code, whose panics are no bugs.
pub fn in_guarded_code() -> bool {
    GUARDED.get()
}

/// Returns early with an [`Error`] made from a format string.
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::Error::new(format!($($arg)*))) };
}
pub(crate) use bail;
