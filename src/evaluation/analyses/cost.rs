//! The cost of an accepted token, computed from shapes and measured counts, on whatever machine (the cost table of
//! arXiv 2404.09221). The formulas are in `docs/cost.md`.

use super::Analysis;
use crate::backbone::Model;
use crate::error::Result;
use crate::evaluation::{EvaluatedSet, EvaluatedVariant};
use crate::heads::FrozenHeads;
use crate::rescorer::{BlockShape, Rescorer, RescoringCost};
use crate::tables::{Family, Record, Section, Table, record};

pub const ANALYSIS: Analysis = Analysis { id: "cost", title: "Cost", definition: CostRow::DEFINITION, fill };

record! {
    /// What one accepted token costs by the shapes of model, heads and rescorers and the measured nodes and tokens per call, whatever
    /// the machine; prefills are left out. The first row is decoding one token a call, without heads.
    struct CostRow in "cost", each "variant" {
        /// Bytes of all parameters that are held: the backbone's matrices, the heads, and the rescorers that have a say (n-gram
        /// models and token tables whole).
        parameter_bytes: f64 = "parameters" as Bytes;
        /// Bytes of weights read in a call, divided by block_efficiency: every matrix of backbone and heads once, a neural
        /// rescorer's once a slot; rows that are looked up (embeddings, n-grams, token tables) are left out.
        parameter_bytes_per_token: f64 = "weights read" as Bytes;
        /// Bytes of keys and values read in a call behind as many tokens as the column is named after, divided by
        /// block_efficiency: the backbone's once, a neural rescorer's once a slot.
        kv_bytes_per_token: Family<f64> = "KV read at {}" as Bytes;
        /// 2 x verified_tokens_per_call x (weights of the backbone's matrices, unembedding included + multiplications of
        /// attention behind 512 tokens), divided by block_efficiency.
        backbone_flops_per_token: f64 = "FLOPs, backbone" as Scaled;
        /// 2 x (the heads' parameters + for every head without an unembedding of its own, width x tokens drafted from), divided
        /// by block_efficiency.
        head_flops_per_token: f64 = "heads" as Scaled;
        /// Floating-point operations of the rescorers that have a say on one block, divided by block_efficiency; 0 for n-gram
        /// models, which look up.
        rescorer_flops_per_token: f64 = "rescorer" as Scaled;
        /// The sum of backbone_flops_per_token, head_flops_per_token and rescorer_flops_per_token; the search for drafts is left
        /// out.
        flops_per_token: f64 = "all" as Scaled;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let model = &set.evaluator.backbone.model;
    let plain = Parts { heads: None, rescorers: Vec::new(), slots: 1, candidates: 1, prefixes: 1 };
    let mut rows = vec![("token by token".to_owned(), cost(model, &plain, 1.0, 1.0))];
    for variant in &set.variants {
        let (nodes, accepted) = (variant.tally.verified().0, variant.tally.block_efficiency());
        rows.push((variant.name(), cost(model, &Parts::of(variant, set.evaluator.heads), nodes, accepted)));
    }
    section.notes.push("All columns but the first are for one accepted token.".into());
    section.tables.push(Table::of(rows));
    Ok(())
}

/// The context lengths in tokens for which the cost of reading keys and values is computed.
const KV_CONTEXTS: [usize; 4] = [128, 512, 1024, 2048];

/// The context length in tokens for which operations are counted.
const FLOPS_CONTEXT: usize = 512;

/// The parts that a variant uses besides the backbone.
struct Parts<'a> {
    /// The heads, or none if the variant drafts without them.
    heads: Option<&'a FrozenHeads>,
    /// The rescorers that count.
    rescorers: Vec<&'a dyn Rescorer>,
    /// The number of slots of a block.
    slots: usize,
    /// The number of candidates per slot that are considered.
    candidates: usize,
    /// The number of prefixes that a search from left to right keeps.
    prefixes: usize,
}

impl<'a> Parts<'a> {
    fn of(variant: &'a EvaluatedVariant, heads: &'a FrozenHeads) -> Self {
        let prepared = &variant.prepared;
        Self {
            heads: prepared.variant.reads_heads().then_some(heads),
            rescorers: variant.rescorers_with_a_say().collect(),
            slots: heads.count() + 1,
            candidates: variant.result.settings.top_k,
            prefixes: if prepared.reads_prefix() { prepared.drafts() } else { 1 },
        }
    }
}

/// Computes the cost of decoding with `model`, if a call verifies `nodes` nodes and yields `accepted` tokens on
/// average.
fn cost(model: &Model, parts: &Parts, nodes: f64, accepted: f64) -> CostRow {
    let config = model.config();
    let (layers, unembedding) = (config.layer_weights(), config.unembedding_weights());
    let embedding = if config.tie_word_embeddings { 0 } else { unembedding };
    let bytes = |weights: usize| (weights * model.weight_bytes()) as f64;
    let heads = parts.heads.map_or(0, |heads| heads.parameters() * heads.weights().bytes());
    let products = parts.heads.map_or(0, FrozenHeads::products);
    let rescoring = |context: usize| -> RescoringCost {
        let (slots, candidates, prefixes, committed) = (parts.slots, parts.candidates, parts.prefixes, accepted);
        let block = BlockShape { slots, candidates, prefixes, committed, context };
        parts.rescorers.iter().map(|rescorer| rescorer.cost(&block)).sum()
    };
    let cost = rescoring(FLOPS_CONTEXT);
    let kv_bytes =
        |context: usize| (config.cached_numbers(context) * model.state_bytes()) as f64 + rescoring(context).kv_bytes;
    let per_node = (layers + unembedding + config.attention_products(FLOPS_CONTEXT)) as f64;
    let backbone = 2.0 * nodes * per_node / accepted;
    let (heads_flops, rescorer) = (2.0 * products as f64 / accepted, cost.flops / accepted);
    CostRow {
        parameter_bytes: bytes(layers + unembedding + embedding) + heads as f64 + cost.held_bytes,
        parameter_bytes_per_token: (bytes(layers + unembedding) + heads as f64 + cost.read_bytes) / accepted,
        kv_bytes_per_token: KV_CONTEXTS.iter().map(|&n| (n.to_string(), kv_bytes(n) / accepted)).collect(),
        backbone_flops_per_token: backbone,
        head_flops_per_token: heads_flops,
        rescorer_flops_per_token: rescorer,
        flops_per_token: [backbone, heads_flops, rescorer].iter().sum(),
    }
}
