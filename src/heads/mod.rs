//! Draft heads on the backbone's frozen last hidden state. Head j predicts the j-th next token; head 1 is the backbone
//! itself.
//!
//! Each kind of heads has its own file, which contains its section of the configuration ([`HeadKind`]) and its network
//! ([`DraftHeads`]). [`HeadArchitecture`] lists the kinds. [`HeadTraining`] is the task that the training loop works
//! on. [`FrozenHeads`] turn the backbone's states into the k best tokens of every head, from which lattices are made.
//! Nothing here knows about decoding.

mod attention;
mod bias;
mod candidates;
mod carried;
mod config;
mod dev;
mod feature_sum;
mod ffn;
mod growth;
mod hydra;
mod kind;
mod kinds;
mod lava;
mod linear;
mod medusa;
mod network;
mod positions;
mod read_documents;
mod redrafter;
#[cfg(all(test, feature = "cpu"))]
mod reference;
mod saved;
mod selector;
mod speculator;
mod stored;
mod task;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod unembedding;
mod vocabulary;

pub use attention::{
    AttentionConfig, AttentionContext, AttentionHeads, ChimeraConfig, DflashConfig, Eagle1Config, Eagle3Config,
    GlideConfig, HiddenTransferConfig, MtpConfig, PrefixLayerConfig, RowOrder,
};
pub use bias::{BiasConfig, BiasForm, BiasedHeads};
pub use candidates::{BlockStarts, Candidates, CandidatesAt, FrozenHeads, SlotStats, Wanted};
pub use config::{ChooseBy, Feed, HeadLoss, HeadPhase, HeadsConfig, LossWeights, VocabularyConfig};
pub use feature_sum::FeatureSum;
pub use ffn::{FfnConfig, FfnHeads, FirstLayer};
pub use growth::{GrowingBlocks, Growth};
pub use hydra::{HydraConfig, HydraHeads};
pub use kind::{AnyHeadKind, FitHeads, HeadKind, HeadShape, Trained};
pub use kinds::HeadArchitecture;
pub use lava::{LavaHeads, LavaHeadsConfig};
pub use linear::{LinearConfig, LinearHeads};
pub use medusa::{MedusaConfig, MedusaHeads};
pub use network::{Begun, Context, DraftHeads, DraftedTokens, Learning, Rows, Starts, States};
pub use read_documents::ReadDocuments;
pub use redrafter::{RedrafterConfig, RedrafterHeads};
pub use saved::{
    Binding, PlainHeads, WEIGHTS, copy_heads, hash_heads, hash_weights, heads_folder, load_again, load_heads,
    load_selector,
};
pub use selector::{SelectingHeads, SelectorConfig};
pub use speculator::{SpeculatorConfig, SpeculatorHeads, SpeculatorWeights};
pub use stored::{StoredCandidates, block_starts};
pub use task::{HeadTraining, TrainingText};
pub use unembedding::HeadUnembedding;
