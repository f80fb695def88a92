//! From heads, rescorers and the text itself to drafts.
//!
//! A [`Variant`] says which drafts are proposed, [`Settings`] are what dev chooses for it, and a [`PreparedVariant`] has its
//! rescorers as well. A [`Drafter`] opens a [`Session`] on a text, and a session turns the context of a block into [`Drafts`].
//! Knows nothing of verification or metrics.

mod drafter;
mod drawn;
mod local;
mod lookup;
mod prepared;
mod rescoring;
mod settings;
mod stop;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod variant;

pub use drafter::{Bpd, Decision, Drafter, Drafts, Origin, Session, TightestMargin};
pub use drawn::DrawnDrafter;
pub use lookup::{LookupConfidence, PromptLookup};
pub use prepared::{PreparedVariant, SizedSelection};
pub use rescoring::Rescoring;
pub(crate) use settings::null_is_infinite;
pub use settings::{Settings, TunedSet, TunedVariant};
pub use stop::{StopRule, early_stop_len};
pub use variant::{Selection, Source, Variant};
