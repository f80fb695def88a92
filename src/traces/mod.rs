//! What the backbone said, or read: per document its prompt, what follows it, and the hidden state of every token.
//!
//! With a frozen backbone these never change, so they are computed once ([`make`]), kept on disk and mapped into memory
//! ([`Trace::open`]); heads, rescorers and replay all read them. A trace is bound to the backbone, the tokenizer and the
//! data that made it. Knows nothing of heads or training.
//!
//! Making one takes the memory of some batches, whatever the corpus: `plan.rs` cuts documents into batches that depend on
//! corpus and configuration alone, `make.rs` computes them one by one, `partial.rs` keeps every finished one, so that a
//! process killed at any moment is gone on with and ends in the same bytes. [`Estimate`] says beforehand what it will take.

mod estimate;
mod format;
mod likely;
mod make;
mod partial;
mod plan;

pub use estimate::{Estimate, FreeSpace, free_space};
pub use format::{Trace, TraceDocument};
pub use likely::{Likely, with_likely};
pub use make::make;
pub use partial::{discard, documents_done};
pub use plan::{Sampling, TracePlan};
