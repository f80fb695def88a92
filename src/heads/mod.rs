//! Draft heads on the frozen last hidden state: head j predicts the token j places on, head 1 being the backbone itself.
//!
//! A kind of heads has its file: its section of the configuration ([`HeadKind`]) and its network ([`DraftHeads`]);
//! [`HeadArchitecture`] lists them. [`HeadTraining`] is what the training loop needs; [`FrozenHeads`] turn the backbone's states
//! into the top-k of every head, the stuff of lattices. Knows nothing of decoding.

mod candidates;
mod dev;
mod feature_sum;
mod ffn;
mod kind;
mod kinds;
mod linear;
mod medusa;
mod network;
mod positions;
mod saved;
mod speculator;
mod stored;
mod task;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod vocabulary;

pub use candidates::{Candidates, CandidatesAt, FrozenHeads};
pub use feature_sum::FeatureSum;
pub use ffn::{FfnConfig, FfnHeads, FirstLayer};
pub use kind::{AnyHeadKind, FitHeads, HeadKind, HeadShape};
pub use kinds::HeadArchitecture;
pub use linear::{LinearConfig, LinearHeads};
pub use medusa::{HeadUnembedding, MedusaConfig, MedusaHeads};
pub use network::{DraftHeads, DraftedEmbeddings, States};
pub use saved::{Binding, copy_heads, hash_heads, hash_weights, heads_folder, load_heads, load_heads_at};
pub use speculator::{SpeculatorConfig, SpeculatorHeads};
pub use stored::{StoredCandidates, block_starts};
pub use task::{HeadTraining, TrainingText};
