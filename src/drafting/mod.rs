//! From heads, rescorers and the text itself to drafts.
//!
//! A [`Drafter`] opens a [`Session`] on a text, and a session turns the context of a block into [`Drafts`]. Knows nothing of
//! verification or metrics.

mod drafter;
mod drawn;
mod local;
mod lookup;
mod rescoring;
#[cfg(all(test, feature = "cpu"))]
mod tests;

pub use drafter::{Bpd, Decision, Drafter, Drafts, Origin, Session, TightestMargin};
pub use drawn::DrawnDrafter;
pub use lookup::{LookupConfidence, PromptLookup};
pub use rescoring::{Rescoring, Selection, Settings};
