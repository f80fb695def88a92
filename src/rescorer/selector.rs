//! `kind = "selector"`: the scorer of neighbouring candidates that learnt with the heads (`[heads.selector]`). It drafts as a
//! transition rescorer that reads the heads' states does.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::kind::{FitContext, FitEstimate, FitSizes, LoadContext, RescorerKind};
use super::lattice_network::{LatticeLoss, NetworkShape, load_network, save_network};
use super::{Rescorer, Transition};
use crate::error::Result;
use crate::files;
use crate::heads::{SelectorConfig, load_selector};
use crate::nn::Init;

/// `kind = "selector"`, which has no keys of its own: those of `[heads.selector]` say what it is. Drafts that grow have no states of
/// heads, so the rescorer takes no part in them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelectorRescorerConfig {}

/// What the selector was made as.
const DESCRIPTION: &str = "selector.json";

impl RescorerKind for SelectorRescorerConfig {
    fn name(&self) -> &'static str {
        "selector"
    }

    fn validate(&self, _: &str, _: bool) -> Result<()> {
        Ok(())
    }

    fn fitted(&self) -> Value {
        json!(self)
    }

    fn uses_seed(&self) -> bool {
        false
    }

    fn learns_with_heads(&self) -> bool {
        true
    }

    fn reads_states(&self) -> bool {
        true
    }

    fn fit(&self, FitContext { backbone, place, data, .. }: &FitContext) -> Result<()> {
        let (config, network) = load_selector(data.heads(), backbone)?;
        let slots = network.slot_gates.val().dims()[0];
        let shape = NetworkShape { kind: self.name(), slots, rank: config.rank, backbone: &backbone.hash };
        files::write_json(&place.folder.join(DESCRIPTION), &config)?;
        save_network(place.folder, &network, shape)
    }

    fn load(&self, folder: &Path, context: &LoadContext) -> Result<Box<dyn Rescorer>> {
        let LoadContext { backbone, device, slots } = *context;
        let config: SelectorConfig = files::read_json(&folder.join(DESCRIPTION))?;
        let empty = config.network(slots, backbone.model.config(), &mut Init::empty(device));
        let shape = NetworkShape { kind: self.name(), slots, rank: config.rank, backbone: &backbone.hash };
        let network = load_network(folder, empty, shape)?;
        Ok(Box::new(Transition::new(&network, &backbone.model, LatticeLoss::CrossEntropy)))
    }

    fn estimate(&self, _: &FitSizes) -> FitEstimate {
        FitEstimate { operations: 0.0, bytes: 0 }
    }
}
