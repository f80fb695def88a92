//! The [`Report`] value: what `report.json` holds, field for field and in this order.
//!
//! The full definition of each number is the sentence of the same name in [`definitions()`](super::definitions()); the
//! comments here are reminders of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::timing::Timing;
use crate::drafting::LookupConfidence;
use crate::evaluation::{Cost, Examples, HeadQuality, Regression, h_max, regression};

/// The version that [`Report::new`] stamps. It rises whenever an older reader would misread a newer file.
pub const SCHEMA_VERSION: u64 = 5;

/// The variant that every gain is measured against: plain blockwise parallel decoding.
pub const BASELINE: &str = "bpd";
/// The variant that knows the answer: a bound for the others, no way to decode.
pub const ORACLE: &str = "oracle";

/// One evaluation: its numbers, their definitions, and where they came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u64,
    /// One sentence for each name below, carried in the file so that it explains itself.
    pub definitions: BTreeMap<String, String>,
    /// In the order in which they were evaluated.
    pub datasets: Vec<Dataset>,
    /// Block efficiency of the baseline on `h_max`, over the data sets; none of fewer than three, or where one of the two
    /// does not vary.
    #[serde(default)]
    pub efficiency_by_h_max: Option<Regression>,
    /// Version, command line, seed, device, start, backbone, and whatever else tells where the numbers come from.
    pub provenance: Map<String, Value>,
}

/// Every number about one split of one data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The data set, for instance `tales`.
    pub name: String,
    /// The split the variants were evaluated on; `tuning` is always about dev.
    pub split: String,
    /// Documents (prompts) evaluated.
    pub documents: u64,
    /// New tokens, end-of-text included, the prompt's excluded; the same for every lossless variant.
    pub decoded_tokens: u64,
    /// H: tokens proposed at once, head 1's included.
    pub block_size: u64,
    /// k: candidates kept per head.
    pub top_k: u64,
    /// On dev, by slot: how often the backbone's token is among the candidates, if it was in all slots before.
    #[serde(default)]
    pub coverage: Vec<f64>,
    /// On dev, by slot: the temperature that makes the head's scores most likely; empty where none was tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slot_temperatures: Vec<f64>,
    /// On dev: how often a copied token is right; empty where none was copied.
    #[serde(default, skip_serializing_if = "LookupConfidence::is_empty")]
    pub lookup_confidence: LookupConfidence,
    /// From head 1, the backbone, on; empty in older reports.
    #[serde(default)]
    pub heads: Vec<HeadQuality>,
    /// The largest i up to which the mean entropy rises from head 2 on.
    #[serde(default)]
    pub h_max: Option<u64>,
    /// What decoding token by token costs, to compare the variants' with.
    #[serde(default)]
    pub autoregressive_cost: Option<Cost>,
    /// In the order in which they should be read; the one named [`BASELINE`] is what gains refer to.
    pub variants: Vec<Variant>,
    /// Rising in `top_k`; empty where the oracle was not asked for.
    pub oracle: Vec<OraclePoint>,
    /// The search for each variant's settings on dev; empty where nothing was tuned.
    pub tuning: Vec<TuningPoint>,
    /// The heads of every checkpoint; none where only those of the best were evaluated.
    #[serde(default)]
    pub by_step: Option<BySteps>,
    /// What more drafts buy the `pbest-` variants; empty where none was tried.
    #[serde(default)]
    pub best_paths: Vec<BestPaths>,
    /// How much of the text is loops, which are easy to draft.
    pub looping: Looping,
    /// Documents written out block by block; none in older reports.
    #[serde(default)]
    pub examples: Option<Examples>,
    /// The check by live decoding, where one was made.
    pub live: Option<Live>,
    /// How long it took; none in older reports without a live check.
    #[serde(default)]
    pub timing: Option<Timing>,
}

/// One way of drafting and verifying, measured over a whole data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// What the tables and legends call it.
    pub name: String,
    /// Decoded tokens / backbone calls: a ratio of sums over the whole set.
    pub block_efficiency: f64,
    /// 95 % bootstrap interval of `block_efficiency`, low end first.
    pub ci95: [f64; 2],
    /// Unweighted mean over documents of each document's own ratio.
    pub block_efficiency_document_mean: f64,
    /// Over the documents that do not loop; none where all do, and in older reports.
    #[serde(default)]
    pub block_efficiency_without_loops: Option<f64>,
    /// Verification forwards; prefills are not among them.
    pub backbone_calls: u64,
    /// Forwards over prompts.
    pub prefill_calls: u64,
    /// Mean number of draft nodes in a verification forward.
    pub verified_tokens_per_call: f64,
    /// The largest number of draft nodes in one forward.
    pub verified_tokens_per_call_max: u64,
    /// Block efficiency over the baseline's, minus 1: 0.14 is 14 % more.
    pub relative_gain: f64,
    /// 95 % paired bootstrap interval of `relative_gain`, low end first.
    pub relative_gain_ci95: [f64; 2],
    /// a: weight of the rescorer, tuned on dev; none without a rescorer.
    pub lm_scale: Option<f64>,
    /// Everything that was chosen on dev, by the names in [`TuningPoint::parameter`]; empty where nothing was, or where the
    /// rescorer did not help on dev and was switched off.
    #[serde(default)]
    pub tuned: BTreeMap<String, f64>,
    /// Block efficiency on dev with these settings.
    #[serde(default)]
    pub dev_block_efficiency: Option<f64>,
    /// The share of the way from the baseline to the oracle of `top_k`.
    #[serde(default)]
    pub headroom_closed: Option<f64>,
    /// Beside the baseline at the same starts; none for the oracle.
    #[serde(default)]
    pub same_starts: Option<SameStarts>,
    /// Share of slots that were left more than one candidate.
    #[serde(default)]
    pub choice_share: Option<f64>,
    /// What a token costs by the shapes of everything; none for the oracle.
    #[serde(default)]
    pub cost: Option<Cost>,
    /// p: drafts verified in one call.
    pub drafts: u64,
    /// Entry j - 1 is the share of blocks with a slot j whose slot j was accepted; `block_size` entries.
    pub accept_rate_by_position: Vec<f64>,
    /// The same among the blocks whose slot before was accepted.
    #[serde(default)]
    pub conditional_accept_rate_by_position: Vec<f64>,
    /// Whether the emitted text is the backbone's own by construction.
    pub lossless: bool,
}

/// A variant's drafts beside the baseline's, at the starts that the baseline visits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SameStarts {
    /// Blocks with a longer accepted length.
    pub wins: u64,
    /// Equally long.
    pub ties: u64,
    /// Shorter.
    pub losses: u64,
    /// Wins where the baseline's first rejected token repeats the one before it.
    pub repairs: u64,
    /// Share of neighbouring tokens that are equal, in the first drafts.
    pub repetition: f64,
    /// Mean length of a first draft's longest run of equal tokens.
    pub longest_run: f64,
}

/// What the best choice from the top-k lattice would have reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OraclePoint {
    /// Candidates kept per head.
    pub top_k: u64,
    /// Taking, at each step, the path with the longest accepted prefix.
    pub block_efficiency: f64,
    /// Taking the accepted lengths that need the fewest calls over the text: the strict bound.
    pub block_efficiency_dp: f64,
}

/// One trial in the search for a variant's settings, on dev.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TuningPoint {
    /// The name of the variant, as in [`Variant::name`].
    pub variant: String,
    /// What was varied, the rest held still: `lm_scale`, `decay`, `temperature`, `gate` or a share.
    #[serde(default = "lm_scale")]
    pub parameter: String,
    /// The value tried; null is infinity.
    #[serde(alias = "lm_scale", with = "null_is_infinite")]
    #[schemars(with = "Option<f64>")]
    pub value: f64,
    /// What it reached on dev.
    pub block_efficiency: f64,
}

/// Block efficiency in the course of the heads' training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BySteps {
    /// The step of the heads that everything else is about.
    pub chosen_step: u64,
    /// By rising step, at each in the order of [`Dataset::variants`].
    pub points: Vec<StepPoint>,
}

impl BySteps {
    /// The variants, in their order.
    pub fn variants(&self) -> Vec<&str> {
        let first = self.points.first().map(|point| point.step);
        let of_first = self.points.iter().filter(|point| Some(point.step) == first);
        of_first.map(|point| point.variant.as_str()).collect()
    }
}

/// A variant with the heads of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepPoint {
    /// Steps that the heads were trained for.
    pub step: u64,
    /// As in [`Variant::name`].
    pub variant: String,
    /// On the evaluated split.
    pub block_efficiency: f64,
    /// As in [`Variant::ci95`].
    pub ci95: [f64; 2],
}

/// A `pbest-` variant with another number of drafts, its settings kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BestPaths {
    /// As in [`Variant::name`].
    pub variant: String,
    /// p
    pub paths: u64,
    /// On the evaluated split.
    pub block_efficiency: f64,
    /// As in [`Variant::verified_tokens_per_call`].
    pub verified_tokens_per_call: f64,
}

/// Text in which a short n-gram repeats three times or more in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Looping {
    /// Documents whose decoded text loops.
    pub documents: u64,
    /// Those documents as a share of all.
    pub share: f64,
    /// The baseline's block efficiency on the other documents; none when there are none.
    pub bpd_block_efficiency_without: Option<f64>,
}

/// Documents decoded step by step with the real backbone and compared with replay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// Documents decoded live, each with every variant listed.
    pub documents: u64,
    /// Documents decoded side by side.
    #[serde(default = "one")]
    pub batch: u64,
    /// Documents that differ from replay for no good reason, summed over variants. Anything but 0 is a bug.
    pub mismatches: u64,
    /// Documents whose first difference is a near-tie, summed over variants.
    pub near_ties: u64,
    /// The same, by the kind of decision that was nearly tied.
    pub near_ties_by_kind: BTreeMap<String, u64>,
    /// In the order of [`Dataset::variants`].
    pub variants: Vec<LiveVariant>,
}

/// The live check of one variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LiveVariant {
    /// As in [`Variant::name`].
    pub name: String,
    /// As in [`Live::mismatches`], of this variant alone.
    pub mismatches: u64,
    /// As in [`Live::near_ties`], of this variant alone.
    pub near_ties: u64,
}

/// How older reports decoded.
fn one() -> u64 {
    1
}

/// What older reports varied.
fn lm_scale() -> String {
    "lm_scale".into()
}

/// JSON has no infinity.
mod null_is_infinite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}

impl Report {
    /// A report of today's schema with the written definitions, and what follows from all data sets together.
    pub fn new(datasets: Vec<Dataset>, provenance: Map<String, Value>) -> Self {
        let point = |set: &Dataset| Some([set.h_max? as f64, set.baseline()?.block_efficiency]);
        let efficiency_by_h_max = regression(&datasets.iter().filter_map(point).collect::<Vec<_>>());
        let definitions = super::definitions();
        Self { schema_version: SCHEMA_VERSION, definitions, datasets, efficiency_by_h_max, provenance }
    }
}

impl Dataset {
    /// Takes the heads in, and what follows from them.
    pub fn set_heads(&mut self, heads: Vec<HeadQuality>) {
        let entropies: Vec<f64> = heads.iter().skip(1).map(|head| head.entropy).collect();
        self.h_max = (!heads.is_empty()).then(|| h_max(&entropies) as u64);
        self.heads = heads;
    }

    /// The variants that can decode: all but the [`ORACLE`].
    pub fn decoders(&self) -> impl Iterator<Item = &Variant> {
        self.variants.iter().filter(|v| v.name != ORACLE)
    }

    /// The variant named [`BASELINE`], if it was evaluated.
    pub fn baseline(&self) -> Option<&Variant> {
        self.variants.iter().find(|v| v.name == BASELINE)
    }

    /// The lossless variant with the highest block efficiency, or of the lossy ones when there are no others.
    ///
    /// Of equals the baseline wins, then the first: a tie is no gain.
    pub fn best(&self) -> Option<&Variant> {
        let any_lossless = self.decoders().any(|v| v.lossless);
        let mut eligible: Vec<_> = self.decoders().filter(|v| v.lossless == any_lossless).collect();
        eligible.sort_by_key(|v| v.name != BASELINE);
        eligible.into_iter().reduce(|best, v| if v.block_efficiency > best.block_efficiency { v } else { best })
    }
}
