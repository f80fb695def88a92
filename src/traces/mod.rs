//! What the backbone said, or read: per document its prompt, what follows it, and the backbone's states at every token.
//!
//! With a frozen backbone these never change, so they are computed once, kept on disk and mapped into memory; heads,
//! rescorers and replay all read them. [`make`] writes a trace's tokens, [`make_columns`] beside them a column for every
//! [`Feature`](crate::backbone::Feature) that somebody reads, each in a folder of its own: another column is added without
//! making the rest again. [`Trace::open`] maps the tokens, [`Trace::with_column`] a column; where there are none,
//! [`Trace::recomputing`] has the backbone read the texts again, and everything else works the same. A trace is bound to
//! the backbone, the tokenizer and the data that made it. Knows nothing of heads or training.
//!
//! Making one takes the memory of some batches, whatever the corpus: `plan.rs` cuts documents into batches that depend on
//! corpus and configuration alone, `make.rs` computes them one by one, `partial.rs` keeps every finished one, so that a
//! process killed at any moment is gone on with and ends in the same bytes. [`Estimate`] says beforehand what it will take.

mod column;
mod config;
mod estimate;
mod forced;
mod format;
mod likely;
mod make;
mod make_columns;
mod partial;
mod plan;
mod recomputed;
mod states;

pub use config::{Keep, TraceText, TracesConfig};
pub use estimate::{ColumnEstimate, Columns, Estimate, FreeSpace, free_space};
pub use format::{Trace, TraceDocument};
pub use likely::{Likely, make_likely};
pub use make::make;
pub use make_columns::{ColumnPlan, make_columns};
pub use partial::{discard, documents_done};
pub use plan::{Sampling, TracePlan};
pub use states::{Place, states_at};
