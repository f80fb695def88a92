//! What a user writes: one TOML file, every key documented here, unknown keys refused.
//!
//! A configuration is read, overridden (`--set key=value`) and validated once; everything after works on the typed value.
//! [`Config::to_toml`] gives the resolved file, which runs again as it is.

mod ablation;
mod drafting;
mod evaluation;
mod heads;
mod lattice;
mod presets;
mod read;
mod schema;
mod storage;
mod traces;
mod tuning;
mod variants;

pub use ablation::{AblationConfig, Cell, Grid};
pub use drafting::DraftingConfig;
pub use evaluation::EvaluationConfig;
pub use heads::{ChooseBy, HeadLoss, HeadPhase, HeadsConfig, LossWeights, VocabularyConfig};
pub use lattice::LatticeConfig;
pub use read::{Overrides, load};
pub(crate) use schema::at_least;
pub use schema::{BackboneConfig, Config, DataConfig, LanguageModelConfig, OptimizationConfig, PretrainConfig};
pub use storage::StorageType;
pub use traces::{Keep, TraceText, TracesConfig};
pub use tuning::TuningConfig;
