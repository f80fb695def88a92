//! Traces, which record texts that the backbone wrote or read. For each document, a trace has the prompt, the text
//! after it, and the backbone's states at every token.
//!
//! With a frozen backbone the states never change, so they are computed once, kept on disk and mapped into memory.
//! Heads, rescorers and replay all read them. [`make`] writes the tokens of a trace. [`make_columns`] adds a column for
//! each [`Feature`](crate::backbone::Feature) that is read. Every column has its own folder, so a column can be added
//! without making the rest again. [`Trace::open`] maps the tokens, and [`Trace::with_column`] maps a column. With
//! [`Trace::recomputing`], a trace needs no columns: the backbone reads the texts again, and everything else works the
//! same. A trace is bound to the backbone, the tokenizer and the data that made it. Nothing here knows about heads or
//! training.
//!
//! Making a trace takes the memory of a few batches, however large the corpus is. `plan.rs` cuts the documents into
//! batches, which depend only on the corpus and the configuration. `make.rs` computes the batches one by one, and
//! `partial.rs` keeps every finished one. A process that was killed can therefore be resumed at any point, and the
//! result is the same to the byte. Several processes can each make a shard of the batches, and the shards, as
//! [`FinishedTraces`], are then merged into the trace that one process makes. [`Responses`] are greedy texts that a serving
//! engine wrote, which take the place of decoding. [`Estimate`] tells in advance how much disk and time a trace will take.

mod column;
mod config;
mod estimate;
mod finished;
mod forced;
mod format;
mod likely;
mod make;
mod make_columns;
mod partial;
mod plan;
mod recomputed;
mod responses;
mod states;

pub use config::{Keep, TraceText, TracesConfig};
pub use estimate::{ColumnEstimate, Columns, Estimate, FreeSpace, free_space};
pub use finished::FinishedTraces;
pub use format::{Trace, TraceDocument};
pub use likely::{Likely, make_likely, merge_likely};
pub use make::make;
pub use make_columns::{ColumnPlan, ColumnPlans, make_columns};
pub use partial::{discard, documents_done};
pub use plan::{Prompt, Sampling, Supply, TracePlan};
pub use responses::Responses;
pub use states::{Place, states_at};
