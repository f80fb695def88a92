//! Draft heads on the frozen last hidden state: head j predicts the token j places on, head 1 being the backbone itself.
//!
//! [`FfnHeads`] are the heads of Stern et al. 2018 (arXiv 1811.03115); [`HeadTraining`] is what the training loop needs;
//! [`candidates`] turns hidden states into the top-k of every head, the stuff of lattices. Knows nothing of decoding.

mod candidates;
mod ffn;
mod saved;
mod task;

pub use candidates::{Candidates, candidates};
pub use ffn::FfnHeads;
pub use saved::{load_heads, save_heads};
pub use task::HeadTraining;
