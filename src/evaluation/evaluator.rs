//! The evaluation itself: from traces, candidates, heads and rescorers to an evaluated set.

use std::collections::BTreeMap;
use std::path::Path;

use super::set::{EvaluatedSet, EvaluatedVariant};
use super::variant::VariantKey;
use super::{
    EvaluationConfig, Findings, LiveCheck, Tally, Texts, TuningConfig, analyses, autoregressive_speed, axes,
    check_live, coverage, rank_rates, slot_temperatures, stop_if_interrupted,
};
use crate::backbone::Backbone;
use crate::decoding::{Decoding, Verification};
use crate::drafting::{LookupConfidence, PreparedVariant, Selection, Settings, StopRule};
use crate::error::Result;
use crate::heads::{FrozenHeads, StoredCandidates};
use crate::progress::{self, Progress};
use crate::storage_type::StorageType;
use crate::traces::Trace;
use crate::training::KeptCheckpoints;

/// Everything that all data sets of a run are evaluated with.
pub struct Evaluator<'a> {
    /// The frozen model.
    pub backbone: &'a Backbone,
    /// The heads.
    pub heads: &'a FrozenHeads,
    /// A hash of everything that made the heads.
    pub heads_key: &'a str,
    /// The folder in which the heads were trained, and the checkpoints that are kept there. None unless every
    /// checkpoint is to be evaluated.
    pub checkpoints: Option<(&'a Path, KeptCheckpoints)>,
    /// The variants, plain decoding first.
    pub variants: Vec<PreparedVariant<'a>>,
    /// For the name of each rescorer that is a term of a variant, a hash of everything that its scores depend on.
    pub rescorer_keys: BTreeMap<String, String>,
    /// The number k of candidates per slot.
    pub top_k: usize,
    /// Whether plain decoding's draft is always included when there are several drafts.
    pub include_top1: bool,
    /// The type to which the numbers of a trace are rounded.
    pub dtype: StorageType,
    /// The values that are tried on dev.
    pub tuning: &'a TuningConfig,
    /// The options of the evaluation.
    pub options: &'a EvaluationConfig,
    /// The seed of the bootstrap.
    pub seed: u64,
    /// Results that are known already.
    pub findings: &'a Findings,
    /// A folder for temporary files.
    pub scratch: &'a Path,
}

/// A traced split of a data set, with the heads' candidates.
pub struct TracedSplit<'a> {
    /// The trace.
    pub trace: &'a Trace,
    /// A hash of everything that made the trace.
    pub key: &'a str,
    /// The candidates of the heads.
    pub candidates: StoredCandidates,
}

/// How much longer a walk takes in which a model runs, or a live check, than one that only searches lattices: about so much on a
/// CPU. The time that is left follows from it.
const MODEL: f64 = 20.0;

/// Returns how long a walk of a variant takes beside others.
fn walk_cost(prepared: &PreparedVariant, settings: &Settings) -> f64 {
    let drafter = prepared.drafter(settings);
    if drafter.grows() || drafter.prefers_all_starts() { MODEL } else { 1.0 }
}

impl<'a> Evaluator<'a> {
    /// Evaluates every variant on the data set `name`. Settings are chosen on `dev`; all other results are about
    /// `test`.
    ///
    /// # Errors
    /// Returns an error if a split has no continuation, if a drafter fails, or after an interrupt. Results are kept, so
    /// the next evaluation continues where this one ended.
    pub fn evaluate(&'a self, name: &str, dev: TracedSplit<'a>, test: TracedSplit<'a>) -> Result<EvaluatedSet<'a>> {
        let stops = self.stops();
        let heads = (self.heads, self.backbone);
        let dev_texts = Texts::new(dev.trace, &dev.candidates, heads, self.top_k, &stops)?;
        let texts = Texts::new(test.trace, &test.candidates, heads, self.top_k, &stops)?;
        let start = self.start(&dev_texts);
        // The searches, the walks over test, and the live checks.
        let walks = self.variants.iter().flat_map(|prepared| [walk_cost(prepared, &start); 2]);
        let live = self.variants.iter().map(|_| if self.options.live_documents > 0 { MODEL } else { 0.0 });
        let mut bar = Progress::with_costs(format!("evaluate {name}"), 0, walks.chain(live));
        let heads = analyses::heads::measure(self, test.key, &texts)?;
        let (mut variants, mut earlier): (Vec<EvaluatedVariant>, _) = (Vec::new(), 0);
        let mut singles: BTreeMap<String, Settings> = BTreeMap::new();
        for prepared in &self.variants {
            stop_if_interrupted()?;
            let rescorer = prepared.variant.rescorer.as_ref();
            let mut from = prepared.start(&start, rescorer.and_then(|rescorer| singles.get(rescorer)));
            if prepared.variant.selection == Selection::FixedTree {
                let key = self.findings.key("rank-rates", &(dev.key, self.heads_key, self.top_k));
                let (texts, stop) = (&dev_texts.texts, prepared.variant.stop);
                let rates = || rank_rates(texts, dev_texts.lattices(stop), self.top_k);
                from.rank_rates.clone_from(&*self.findings.find(&key, rates)?);
            }
            let axes = axes(prepared, self.top_k, self.tuning);
            let key = self.findings.key(
                "variant",
                &VariantKey {
                    dev: dev.key,
                    test: test.key,
                    heads: self.heads_key,
                    top_k: self.top_k,
                    variant: &prepared.variant,
                    selection: prepared.selection(),
                    include_top1: self.include_top1,
                    rescorers: prepared.rescorers().map(|name| (name, &*self.rescorer_keys[name])).collect(),
                    start: &from,
                    axes: &axes,
                    stop: (prepared.variant.stop.is_tuned())
                        .then_some((&self.tuning.stop_bounds[..], self.tuning.stop_loss)),
                },
            );
            earlier += usize::from(self.findings.has(&key));
            let plain = variants.first().map(|plain| plain.result.dev_block_efficiency);
            bar.update(2 * variants.len(), || format!("{} on dev", prepared.variant));
            let result =
                self.findings.find(&key, || self.measure(prepared, from, &axes, plain, [&dev_texts, &texts]))?;
            let prepared = prepared.clone();
            let prepared = if result.switched_off { prepared.switched_off() } else { prepared };
            if let (Selection::BestPath, Some(rescorer)) = (prepared.variant.selection, &prepared.variant.rescorer) {
                singles.insert(rescorer.clone(), result.settings.clone());
            }
            bar.update(2 * (variants.len() + 1), || format!("{} on test", prepared.variant));
            variants.push(EvaluatedVariant { tally: Tally::of(&result.steps), prepared, axes, key, result });
        }
        if earlier > 0 {
            progress::say(format!("evaluate {name}: {earlier} of {} variants finished earlier", variants.len()));
        }
        let live = self.live(&texts, &variants, &mut bar)?;
        bar.finish(&format!("{} test documents, {} variants", texts.texts.len(), variants.len() + 1));
        let oracle = Tally::of(&analyses::oracle::oracle_walks(&texts, self.top_k));
        let name = name.to_owned();
        Ok(EvaluatedSet { evaluator: self, name, test, texts, start, heads, variants, oracle, live })
    }

    /// Returns the stop rules of the variants.
    pub(super) fn stops(&self) -> Vec<StopRule> {
        self.variants.iter().map(|prepared| prepared.variant.stop).collect()
    }

    /// Returns the settings from which every search begins. They contain what is measured on dev, and rescorers do not
    /// count yet.
    fn start(&self, dev: &Texts) -> Settings {
        let mut start = Settings::new(self.top_k, coverage(&dev.texts, self.top_k), 1.0);
        if !self.tuning.slot_tempering.is_empty() {
            start.slot_temperatures = slot_temperatures(&dev.texts, self.top_k);
        }
        if !self.tuning.lookup.is_empty() {
            let texts = dev.texts.iter().map(|text| (&text.tokens[..], text.prompt));
            start.confidence = LookupConfidence::measured(texts, self.block_size());
        }
        start
    }

    /// Returns the block size H, which is the number of tokens proposed at once.
    pub fn block_size(&self) -> usize {
        self.heads.count() + 1
    }

    /// Decodes the first test documents with every variant. Returns none if no documents are to be decoded live.
    fn live(&self, texts: &Texts, variants: &[EvaluatedVariant], bar: &mut Progress) -> Result<Option<LiveCheck>> {
        let sample: Vec<_> = texts.texts.iter().take(self.options.live_documents).collect();
        if sample.is_empty() {
            return Ok(None);
        }
        let (documents, batch) = (sample.len(), self.options.live_batch);
        let key = self.findings.key("autoregressive", &(&variants[0].key, documents, batch));
        let autoregressive = self.findings.find(&key, || autoregressive_speed(self.backbone, &sample, batch))?;
        let mut outcomes = Vec::new();
        for EvaluatedVariant { prepared, key, result, .. } in variants {
            stop_if_interrupted()?;
            bar.update(2 * variants.len() + outcomes.len(), || format!("live {}", prepared.variant));
            let decoding = Decoding {
                top_k: self.top_k,
                dtype: self.dtype,
                stop: prepared.variant.stop,
                verification: Verification::GREEDY,
            };
            let (drafter, steps) = (prepared.drafter(&result.settings), &result.steps[..documents]);
            let check = || check_live(self.backbone, self.heads, &*drafter, decoding, batch, &sample, steps);
            outcomes.push(self.findings.find(&self.findings.key("live", &(key, documents, batch)), check)?);
        }
        Ok(Some(LiveCheck { documents, batch: batch.min(documents), outcomes, autoregressive }))
    }
}
