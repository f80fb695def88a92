//! What the backbone said: per document its prompt, its own greedy continuation, and the hidden state of every token.
//!
//! With a frozen backbone these never change, so they are computed once ([`make`]), kept on disk and mapped into memory
//! ([`Trace::open`]); heads, rescorers and replay all read them. A trace is bound to the backbone, the tokenizer and the
//! data that made it. Knows nothing of heads or training.

mod format;
mod make;

pub use format::{Identity, Trace, TraceDocument};
pub use make::{Plan, make};
