//! Draft heads on the frozen last hidden state: head j predicts the token j places on, head 1 being the backbone itself.
//!
//! [`DraftHeads`] is what a head architecture offers, [`Heads`] is any of them; [`HeadTraining`] is what the training loop
//! needs; [`FrozenHeads`] turn hidden states into the top-k of every head, the stuff of lattices. Knows nothing of decoding.

mod candidates;
mod dev;
mod family;
mod ffn;
mod linear;
mod medusa;
mod positions;
mod saved;
mod shared_ffn;
mod speculator;
mod stored;
mod task;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod vocabulary;

pub use candidates::{Candidates, CandidatesAt, FrozenHeads};
pub use family::{DraftHeads, DraftedEmbeddings, Heads, States};
pub use ffn::FfnHeads;
pub use linear::LinearHeads;
pub use medusa::MedusaHeads;
pub use saved::{copy_heads, hash_heads, heads_folder, load_heads, load_heads_at, load_heads_to_train, save_heads};
pub use shared_ffn::SharedFfnHeads;
pub use speculator::SpeculatorHeads;
pub use stored::{StoredCandidates, block_starts};
pub use task::{HeadTraining, TrainingText};
