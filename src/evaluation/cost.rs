//! What an accepted token costs by shapes and measured counts, whatever machine runs it (the cost table of arXiv 2404.09221).
//! The formulas are written down in `docs/cost.md`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::Model;
use crate::drafting::{PreparedVariant, Settings};
use crate::heads::FrozenHeads;
use crate::rescorer::{BlockShape, Rescorer, RescoringCost};

/// Tokens of context at which reading keys and values is priced.
pub const KV_CONTEXTS: [usize; 4] = [128, 512, 1024, 2048];

/// Tokens of context at which operations are priced.
const FLOPS_CONTEXT: usize = 512;

/// Heads are computed in float32.
const HEAD_BYTES: usize = 4;

/// What decoding with a variant costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Bytes of all parameters that are held.
    pub parameter_bytes: f64,
    /// Bytes of weights read for an accepted token.
    pub parameter_bytes_per_token: f64,
    /// Bytes of keys and values read for an accepted token, at 128, 512, 1,024 and 2,048 tokens of context.
    pub kv_bytes_per_token: Vec<f64>,
    /// Operations of the backbone for an accepted token.
    pub backbone_flops_per_token: f64,
    /// Of the heads.
    pub head_flops_per_token: f64,
    /// Of the rescorers.
    pub rescorer_flops_per_token: f64,
}

/// What a variant uses besides the backbone.
pub struct Drafting<'a> {
    /// None where it drafts without them.
    pub heads: Option<&'a FrozenHeads>,
    /// Those with a say.
    pub rescorers: Vec<&'a dyn Rescorer>,
    /// Candidates per slot that are looked at.
    pub candidates: usize,
    /// Prefixes that a search from left to right keeps.
    pub prefixes: usize,
}

impl<'a> Drafting<'a> {
    /// What a variant uses under `settings`.
    pub fn of(variant: &'a PreparedVariant, heads: &'a FrozenHeads, settings: &Settings) -> Self {
        let rescores = variant.searches() && settings.weighting.scale != 0.0;
        let rescorers = variant.terms().iter().zip(&settings.shares).filter(|(_, share)| rescores && **share != 0.0);
        Self {
            heads: variant.variant.reads_heads().then_some(heads),
            rescorers: rescorers.map(|((_, rescorer), _)| *rescorer).collect(),
            candidates: settings.top_k,
            prefixes: if variant.reads_prefix() { variant.drafts() } else { 1 },
        }
    }

    /// No drafts: one token a call.
    pub fn none() -> Self {
        Self { heads: None, rescorers: Vec::new(), candidates: 1, prefixes: 1 }
    }
}

/// The cost of decoding with `model`, when a call verifies `nodes` nodes and yields `accepted` tokens on average.
pub fn cost(model: &Model, drafting: &Drafting, nodes: f64, accepted: f64) -> Cost {
    let config = model.config();
    let (layers, unembedding) = (config.layer_weights(), config.unembedding_weights());
    let embedding = if config.tie_word_embeddings { 0 } else { unembedding };
    let bytes = |weights: usize| (weights * model.weight_bytes()) as f64;
    let heads = drafting.heads.map_or(0, FrozenHeads::parameters) * HEAD_BYTES;
    let products = drafting.heads.map_or(0, FrozenHeads::products);
    let rescoring = |context: usize| -> RescoringCost {
        let slots = drafting.heads.map_or(1, |heads| heads.count() + 1);
        let (candidates, prefixes, committed) = (drafting.candidates, drafting.prefixes, accepted);
        let block = BlockShape { slots, candidates, prefixes, committed, context };
        drafting.rescorers.iter().map(|rescorer| rescorer.cost(&block)).sum()
    };
    let cost = rescoring(FLOPS_CONTEXT);
    let kv_bytes =
        |context: usize| (config.cached_numbers(context) * model.state_bytes()) as f64 + rescoring(context).kv_bytes;
    let per_node = (layers + unembedding + config.attention_products(FLOPS_CONTEXT)) as f64;
    Cost {
        parameter_bytes: bytes(layers + unembedding + embedding) + heads as f64 + cost.held_bytes,
        parameter_bytes_per_token: (bytes(layers + unembedding) + heads as f64 + cost.read_bytes) / accepted,
        kv_bytes_per_token: KV_CONTEXTS.iter().map(|&context| kv_bytes(context) / accepted).collect(),
        backbone_flops_per_token: 2.0 * nodes * per_node / accepted,
        head_flops_per_token: 2.0 * products as f64 / accepted,
        rescorer_flops_per_token: cost.flops / accepted,
    }
}
