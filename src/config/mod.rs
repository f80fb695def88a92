//! What a user writes: one TOML file, every key documented here, unknown keys refused.
//!
//! A configuration is read, overridden (`--set key=value`) and validated once; everything after works on the typed value.
//! [`Config::to_toml`] gives the resolved file, which runs again as it is.

mod heads;
mod read;
mod schema;
mod storage;
mod traces;

pub use heads::{
    FfnConfig, FirstLayer, HeadArchitecture, HeadLoss, HeadsConfig, LinearConfig, LossWeights, MedusaConfig,
};
pub use read::{Overrides, load};
pub use schema::{
    BackboneConfig, Config, DataConfig, EvaluationConfig, LanguageModelConfig, NeuralConfig, NgramConfig,
    OptimizationConfig, PretrainConfig, RescorerConfig, Smoothing, TextSource,
};
pub use storage::StorageType;
pub use traces::{TraceText, TracesConfig};
