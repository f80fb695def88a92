//! Draft heads on the frozen last hidden state: head j predicts the token j places on, head 1 being the backbone itself.
//!
//! [`DraftHeads`] is what a head architecture offers, [`Heads`] is any of them; [`HeadTraining`] is what the training loop
//! needs; [`candidates`] turns hidden states into the top-k of every head, the stuff of lattices. Knows nothing of decoding.

mod candidates;
mod family;
mod ffn;
mod linear;
mod medusa;
mod positions;
mod saved;
mod shared_ffn;
mod task;
#[cfg(all(test, feature = "cpu"))]
mod tests;

pub use candidates::{Candidates, candidates};
pub use family::{DraftHeads, HeadInput, Heads, States};
pub use ffn::FfnHeads;
pub use linear::LinearHeads;
pub use medusa::MedusaHeads;
pub use saved::{load_heads, save_heads};
pub use shared_ffn::SharedFfnHeads;
pub use task::HeadTraining;
