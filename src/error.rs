//! The one error type: a paragraph for the person who has to fix the problem.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// What went wrong, where, and what to do about it, as one paragraph of plain text.
///
/// Code decides by its [`Error::kind`], never by the words.
#[derive(Debug)]
pub struct Error {
    message: String,
    kind: ErrorKind,
}

/// The kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The work could not be done.
    Fault,
    /// The system does not permit it: a file or folder may not be touched, or its disk may only be read.
    NotPermitted,
    /// The work was done, and what it checked does not hold.
    CheckFailed,
    /// The user stopped the work, and what was worth keeping is kept.
    Interrupted,
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error whose paragraph is `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: ErrorKind::Fault }
    }

    /// Makes the error of a failed operation on `path`. `doing` completes "cannot ... PATH", for instance "read" or
    /// "write".
    ///
    /// An error of this crate that passed through `std::io` is returned as it was.
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
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::NotPermitted,
            _ => ErrorKind::Fault,
        };
        Self { message: format!("cannot {doing} {}: {error}.{advice}", path.as_ref().display()), kind }
    }

    /// Makes the error of a check that was carried out and failed.
    pub fn check_failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: ErrorKind::CheckFailed }
    }

    /// Makes the error of a command that the user stopped (Ctrl-C), after everything worth keeping was saved. `message`
    /// says how to resume.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: ErrorKind::Interrupted }
    }

    /// Puts `place` in front of the message: "PLACE: message".
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Returns the kind of the error.
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

/// Wraps an error for code that writes with `std::io` while it reads with this crate; [`Error::io`] unwraps it again.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs code that may panic on damaged input, inside a library; returns none if it did. The panic prints no message.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    let before = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(before);
    outcome.ok()
}

/// Returns whether this thread runs [`guarded`] code, whose panics are not bugs.
pub fn in_guarded_code() -> bool {
    GUARDED.get()
}

/// Returns early with an [`Error`] made from a format string.
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::Error::new(format!($($arg)*))) };
}
pub(crate) use bail;
