//! What a user writes: one TOML file, whose unknown keys are refused.
//!
//! [`Config`] puts the sections of all rooms together. A configuration is read, overridden (`--set key=value`) and validated once; everything after works on the typed value.
//! [`Config::to_toml`] gives the resolved file, which runs again as it is. The doc comments of the sections' fields are what
//! users read: in that file, in `docs/configuration.md` ([`reference()`]) and in their editors ([`json_schema()`]).

mod ablation;
mod check;
mod keys;
mod presets;
mod pretrain;
mod print;
mod read;
mod reference;
mod schema;
#[cfg(test)]
mod tests;
mod variants;

pub use ablation::{AblationConfig, Cell, Grid};
pub use keys::json_schema;
pub use pretrain::PretrainConfig;
pub use read::{Overrides, load};
pub use reference::reference;
pub use schema::Config;
