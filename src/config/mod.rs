//! What a user writes: one TOML file, every key documented here, unknown keys refused.
//!
//! A configuration is read, overridden (`--set key=value`) and validated once; everything after works on the typed value.
//! [`Config::to_toml`] gives the resolved file, which runs again as it is. The doc comments of the sections' fields are what
//! users read: in that file, in `docs/configuration.md` ([`reference()`]) and in their editors ([`json_schema()`]).

mod ablation;
mod check;
mod drafting;
mod evaluation;
mod heads;
mod keys;
mod lattice;
mod presets;
mod print;
mod read;
mod reference;
mod schema;
#[cfg(test)]
mod tests;
mod traces;
mod tuning;
mod variants;

pub use ablation::{AblationConfig, Cell, Grid};
pub use drafting::DraftingConfig;
pub use evaluation::EvaluationConfig;
pub use heads::{ChooseBy, HeadLoss, HeadPhase, HeadsConfig, LossWeights, VocabularyConfig};
pub use keys::json_schema;
pub use lattice::LatticeConfig;
pub use read::{Overrides, load};
pub use reference::reference;
pub use schema::{BackboneConfig, Config, DataConfig, LanguageModelConfig, OptimizationConfig, PretrainConfig};
pub use traces::{Keep, TraceText, TracesConfig};
pub use tuning::TuningConfig;
