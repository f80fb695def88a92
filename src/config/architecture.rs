//! `[heads.architecture]`: what a head is made of.

use serde::{Deserialize, Serialize};

use super::schema::at_least;
use crate::error::Result;

/// `[heads.architecture]`, by its `kind`. All read the backbone's last hidden state h, end in its frozen unembedding, and
/// repeat its own prediction before they are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum HeadArchitecture {
    /// One hidden layer with a residual (Stern et al. 2018).
    Ffn(FfnConfig),
    /// Residual blocks (Medusa-1; Cai et al. 2024).
    Medusa(MedusaConfig),
    /// A linear probe.
    Linear(LinearConfig),
    /// Heads that read the tokens drafted before them (the token/embedding speculator; Wertheimer et al. 2024).
    Speculator(SpeculatorConfig),
}

impl Default for HeadArchitecture {
    fn default() -> Self {
        Self::Ffn(FfnConfig::default())
    }
}

/// `kind = "ffn"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FfnConfig {
    /// Units of the hidden layer per head.
    pub hidden: usize,
    /// "separate" or "shared".
    pub first_layer: FirstLayer,
}

impl Default for FfnConfig {
    fn default() -> Self {
        Self { hidden: 512, first_layer: FirstLayer::Separate }
    }
}

/// Which units of the hidden layer a head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstLayer {
    /// Its own `hidden` units.
    Separate,
    /// All (H - 1) x `hidden` units of all heads, as in the paper.
    Shared,
}

/// `kind = "medusa"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MedusaConfig {
    /// Residual blocks per head.
    pub blocks: usize,
    /// "frozen" or "own".
    pub unembedding: HeadUnembedding,
}

impl Default for MedusaConfig {
    fn default() -> Self {
        Self { blocks: 1, unembedding: HeadUnembedding::Frozen }
    }
}

/// What turns a head's state into logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadUnembedding {
    /// The backbone's, shared by all heads.
    Frozen,
    /// A copy of it per head, trained with the head: V x d more parameters a head.
    Own,
}

/// `kind = "linear"`, which has no keys of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearConfig {}

/// `kind = "speculator"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpeculatorConfig {
    /// Width of the state that is handed from head to head.
    pub inner: usize,
}

impl Default for SpeculatorConfig {
    fn default() -> Self {
        Self { inner: 512 }
    }
}

impl HeadArchitecture {
    pub(super) fn validate(&self) -> Result<()> {
        match self {
            Self::Ffn(ffn) => at_least("heads.architecture.hidden", ffn.hidden, 1),
            Self::Medusa(medusa) => at_least("heads.architecture.blocks", medusa.blocks, 1),
            Self::Linear(LinearConfig {}) => Ok(()),
            Self::Speculator(speculator) => at_least("heads.architecture.inner", speculator.inner, 1),
        }
    }
}
