//! Drafting, which makes drafts from the heads, the rescorers and the text itself.
//!
//! A [`Variant`] says which drafts are proposed. [`Settings`] are the numbers that are chosen for it on dev. A
//! [`PreparedVariant`] is a variant together with its rescorers. A [`Drafter`] opens a [`Session`] on a text, and the
//! session turns the context of a block into [`Drafts`]; a [`GrowingSession`] does it level by level. This module does not deal with verification or metrics.

mod config;
mod drafter;
mod drawn;
mod growth;
mod local;
mod lookup;
mod prepared;
mod rescoring;
mod settings;
mod sourced;
mod stop;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod tuned_stop;
mod variant;

pub use config::{DraftingConfig, GraphConfig};
pub use drafter::{Bpd, Decision, Drafter, Drafts, GrowingSession, Origin, Session, TightestMargin, grow_together};
pub use drawn::{DRAFT_DICE, DrawnDrafter, DrawnTokens};
pub use growth::{Grown, GrowthLimits, GrowthPolicy};
pub use lookup::{LONGEST_SUFFIX, LookupConfidence, PromptLookup};
pub use prepared::{PreparedVariant, Proposer, SizedSelection};
pub use rescoring::Rescoring;
pub(crate) use settings::null_is_infinite;
pub use settings::{Settings, TunedSet, TunedVariant};
pub use sourced::Sourced;
pub use stop::{StopMeasure, StopRule, early_stop_len};
pub use tuned_stop::TunedStop;
pub use variant::{Selection, Source, Variant};
