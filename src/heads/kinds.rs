//! The kinds of heads. A new kind needs its own file and a line in each of the two lists here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AnyHeadKind, AttentionConfig, ChimeraConfig, DflashConfig, Eagle1Config, Eagle3Config, FfnConfig, GlideConfig,
    HiddenTransferConfig, HydraConfig, LavaHeadsConfig, LinearConfig, MedusaConfig, MtpConfig, RedrafterConfig,
    SpeculatorConfig,
};

/// `[heads.architecture]`, by its `kind`. All end in the backbone's frozen unembedding or in one of their own. Before they are
/// trained they repeat the backbone's own prediction, but for those that begin at random as their papers have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum HeadArchitecture {
    /// One hidden layer with a residual (Stern et al. 2018).
    Ffn(FfnConfig),
    /// Residual blocks (Medusa-1; Cai et al. 2024).
    Medusa(MedusaConfig),
    /// A linear probe, which has no keys of its own.
    Linear(LinearConfig),
    /// Heads that read the tokens drafted before them (the token/embedding speculator; Wertheimer et al. 2024).
    Speculator(SpeculatorConfig),
    /// Residual blocks that read all tokens drafted before them (Hydra; Ankner et al. 2024).
    Hydra(HydraConfig),
    /// A recurrent head (ReDrafter; Zhang et al. 2024).
    Redrafter(RedrafterConfig),
    /// Heads that attend to the vocabulary and predict their neighbours (LAVA; Li et al. 2020).
    Lava(LavaHeadsConfig),
    /// Decoder layers that attend to the text, warm from the backbone's uppermost ones.
    Attention(AttentionConfig),
    /// Pseudo states that run through the backbone's upper layers (Hidden Transfer; Wu et al. 2024).
    #[serde(rename = "hidden-transfer")]
    HiddenTransfer(HiddenTransferConfig),
    /// Decoder layers that draft a block in one pass (DFlash).
    Dflash(DflashConfig),
    /// A decoder layer over joined tokens and states (EAGLE; Li et al. 2024).
    Eagle1(Eagle1Config),
    /// The same over states of several layers (EAGLE-3; Li et al. 2025), and P-EAGLE.
    Eagle3(Eagle3Config),
    /// A decoder layer over trigrams of tokens and the backbone's states (Chimera; Zeng et al. 2024).
    Chimera(ChimeraConfig),
    /// A decoder layer that also attends to the backbone's keys and values (GLIDE; Du et al. 2024).
    Glide(GlideConfig),
    /// The module for multi-token prediction of DeepSeek-V3 (2024).
    Mtp(MtpConfig),
}

impl HeadArchitecture {
    /// Returns the kind, which can be trained and loaded.
    pub fn kind(&self) -> &dyn AnyHeadKind {
        match self {
            Self::Ffn(kind) => kind,
            Self::Medusa(kind) => kind,
            Self::Linear(kind) => kind,
            Self::Speculator(kind) => kind,
            Self::Hydra(kind) => kind,
            Self::Redrafter(kind) => kind,
            Self::Lava(kind) => kind,
            Self::Attention(kind) => kind,
            Self::HiddenTransfer(kind) => kind,
            Self::Dflash(kind) => kind,
            Self::Eagle1(kind) => kind,
            Self::Eagle3(kind) => kind,
            Self::Chimera(kind) => kind,
            Self::Glide(kind) => kind,
            Self::Mtp(kind) => kind,
        }
    }
}

impl Default for HeadArchitecture {
    fn default() -> Self {
        Self::Ffn(FfnConfig::default())
    }
}
