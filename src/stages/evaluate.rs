//! `evaluate`: every variant by replay, scales tuned on dev, a sample checked live.

mod by_step;
mod live;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;
use rayon::prelude::*;

use super::variants::prepare;
use super::{CorpusTrace, FittedRescorer, Traces, TrainedHeads, Workspace, candidates};
use crate::config::Config;
use crate::drafting::{
    Drafter, LookupConfidence, PreparedVariant, Selection, Settings, StopRule, TunedSet, TunedVariant,
};
use crate::error::{Error, Result, bail};
use crate::evaluation::bootstrap::{Counts, intervals};
use crate::evaluation::{
    Axis, Coordinate, Drafting, Example, Examples, ReplayText, SameStarts, Step, StepRecord, Tally, Trial, axes,
    best_and_worst, block_efficiency, cost, coverage, drafts_of, example, head_qualities, loops, oracle_lengths,
    replay, replay_best_paths, replay_oracle, search, slot_temperatures,
};
use crate::files;
use crate::heads::{FrozenHeads, StoredCandidates};
use crate::lattice::{Lattice, oracle_dp};
use crate::progress::{self, Progress};
use crate::report::{
    self, BestPaths, Dataset, DocumentSet, Documents, Looping, ORACLE, OraclePoint, Report, SCHEMA_VERSION, Timing,
    TuningPoint, Variant, VariantTiming, read,
};

/// Evaluates unless that is done; gives the report and writes it to `report/`.
pub fn evaluate(
    workspace: &Workspace,
    traces: &Traces,
    heads: &TrainedHeads,
    rescorers: &BTreeMap<String, FittedRescorer>,
) -> Result<Report> {
    let folder = workspace.folder.join("report");
    let made_of: Vec<&str> = rescorers.values().map(|fitted| fitted.key.as_str()).collect();
    let key = key(workspace, &traces.key, &heads.key, &made_of);
    let tuned = workspace.folder.join(TUNED);
    // Without the settings it is not all there, whatever the mark says.
    if workspace.finished("evaluate", &folder, if tuned.exists() { &key } else { "" })? {
        return read(&folder.join("report.json"));
    }
    let (mut datasets, mut documents, stamp) = (Vec::new(), BTreeMap::new(), workspace.stamped(&key));
    let steps = folder.join(STEPS);
    if !workspace.config.evaluation.keep_steps && steps.exists() {
        // Those of an earlier evaluation.
        std::fs::remove_dir_all(&steps).map_err(|e| Error::io("remove", &steps, e))?;
    }
    if tuned.exists() {
        // Nobody decodes with settings that this evaluation may not choose.
        std::fs::remove_dir_all(&tuned).map_err(|e| Error::io("remove", &tuned, e))?;
    }
    let parts = folder.join("sets");
    std::fs::create_dir_all(&parts).map_err(|e| Error::io("create", &parts, e))?;
    let mut chosen = Vec::new();
    for test in &traces.test {
        let dev = traces.dev.iter().find(|dev| dev.corpus == test.corpus).expect("a configuration with test has dev");
        let evaluation = Evaluation { workspace, heads, rescorers };
        // What an interrupted evaluation finished is not done again.
        let finished = parts.join(format!("{}.json", test.corpus));
        let earlier = files::read_json::<(String, Dataset, DocumentSet, TunedSet)>(&finished).ok();
        let (set, of_set, settings) = match earlier.filter(|(made_by, ..)| *made_by == stamp) {
            Some((_, set, of_set, settings)) => {
                progress::say(format!("evaluate {}: finished earlier, skipped", test.corpus));
                (set, of_set, settings)
            }
            None => {
                let (set, of_set, settings) = evaluation.dataset(&test.corpus, dev, test)?;
                files::write_json(&finished, &(&stamp, &set, &of_set, &settings))?;
                (set, of_set, settings)
            }
        };
        documents.insert(set.name.clone(), of_set);
        datasets.push(set);
        chosen.push(settings);
    }
    std::fs::create_dir_all(&tuned).map_err(|e| Error::io("create", &tuned, e))?;
    for settings in chosen {
        settings.write(&tuned)?;
    }
    let report = Report::new(datasets, workspace.provenance());
    crate::report::write(&report, &folder)?;
    Documents::new(documents).write(&folder)?;
    workspace.finish(&folder, &key)?;
    // All of them are in the report.
    std::fs::remove_dir_all(&parts).map_err(|e| Error::io("remove", &parts, e))?;
    Ok(report)
}

/// The folder of the settings that dev chose, a file for each data set.
pub(super) const TUNED: &str = "tuned";

/// The folder of the steps that are kept.
const STEPS: &str = "steps";

/// Hash of what an evaluation depends on: the traces' key, the heads', and by name those of the rescorers that are fitted.
pub(super) fn key(workspace: &Workspace, traces: &str, heads: &str, rescorers: &[&str]) -> String {
    let kinds: Vec<_> = workspace.config.rescorer.values().collect();
    let names: Vec<&String> =
        workspace.corpora.iter().map(|c| &c.name).chain(workspace.config.rescorer.keys()).collect();
    files::hash_json(&(
        SCHEMA_VERSION,
        (&workspace.config.lattice, &workspace.config.drafting, &workspace.config.tuning, &workspace.config.evaluation),
        workspace.config.seed,
        (traces, workspace.config.traces.dtype),
        heads,
        names,
        rescorers,
        kinds,
    ))
}

struct Evaluation<'a> {
    workspace: &'a Workspace,
    heads: &'a TrainedHeads,
    rescorers: &'a BTreeMap<String, FittedRescorer>,
}

/// A variant, switched off where it did not help on dev.
struct Walked<'a> {
    way: PreparedVariant<'a>,
    found: Arc<Found>,
}

/// What was found out about a variant; cells of an ablation that differ in nothing it depends on have it in common.
pub(super) struct Found {
    settings: Settings,
    /// Whether it is switched off.
    off: bool,
    tuning: Vec<TuningPoint>,
    /// As reported, but for the headroom.
    variant: Variant,
    best_paths: Vec<BestPaths>,
    /// By test document.
    documents: Vec<Counts>,
    /// Its walks over the test documents.
    steps: Vec<Vec<Step>>,
    /// What they took.
    seconds: f64,
}

/// Documents with their lattices cut to the evaluated k.
struct Texts {
    texts: Vec<ReplayText>,
    /// By stop rule, the lattices of every document, which end where the rule ends blocks.
    lattices: Vec<(StopRule, Vec<Vec<Lattice>>)>,
    /// Whether its continuation loops.
    looping: Vec<bool>,
    /// What building them from stored candidates took.
    seconds: f64,
}

impl Texts {
    /// Every document with the lattices that `stored` gives, cut to what `config` asks for.
    fn new(trace: &CorpusTrace, stored: &StoredCandidates, config: &Config) -> Result<Self> {
        let top_k = config.lattice.top_k;
        let (started, mut texts) = (Instant::now(), Vec::new());
        for (document, entry) in trace.trace.documents().iter().enumerate().filter(|(_, entry)| entry.continuation > 0)
        {
            let text = ReplayText::new(&trace.trace, document, stored, top_k);
            texts.push(text.map_err(|e| e.within(&entry.id))?);
        }
        if texts.is_empty() {
            bail!("no traced document has a continuation; there is nothing to evaluate.");
        }
        let mut lattices: Vec<(StopRule, Vec<Vec<Lattice>>)> = Vec::new();
        for stop in config.variants().into_iter().map(|variant| variant.stop) {
            if lattices.iter().all(|(known, _)| *known != stop) {
                lattices.push((stop, texts.iter().map(|text| text.narrowed(top_k, stop)).collect::<Result<_>>()?));
            }
        }
        let looping = texts.iter().map(|text| loops(text.continuation())).collect();
        Ok(Self { texts, lattices, looping, seconds: started.elapsed().as_secs_f64() })
    }

    /// The lattices of every document under a stop rule that one of the variants has.
    fn lattices(&self, stop: StopRule) -> &[Vec<Lattice>] {
        let found = self.lattices.iter().find(|(known, _)| *known == stop);
        &found.expect("the lattices of every variant's rule were built").1
    }
}

impl Walked<'_> {
    /// Whether it runs a language model of its own, which has a say.
    fn is_neural(&self, heads: &FrozenHeads) -> bool {
        Drafting::of(&self.way, heads, &self.found.settings).rescorers.iter().any(|rescorer| rescorer.reads_prefix())
    }
}

impl Evaluation<'_> {
    fn dataset(&self, name: &str, dev: &CorpusTrace, test: &CorpusTrace) -> Result<(Dataset, DocumentSet, TunedSet)> {
        let config = &self.workspace.config;
        let (options, top_k) = (&config.evaluation, config.lattice.top_k);
        let ways: Vec<PreparedVariant> =
            config.variants().into_iter().map(|variant| prepare(variant, config, self.rescorers)).collect();
        let (dev_key, test_key, test_trace) = (&dev.key, &test.key, test);
        let widest = self.workspace.reach().widest;
        let stored = candidates(self.workspace, self.heads, dev, widest)?;
        let dev = Texts::new(dev, &stored, config)?;
        let stored = candidates(self.workspace, self.heads, test, widest)?;
        let test = Texts::new(test, &stored, config)?;
        // Searches, walks over test, live checks.
        let mut bar = Progress::new(format!("evaluate {name}"), 3 * ways.len());
        let mut start = Settings::new(top_k, coverage(&dev.texts, top_k), 1.0);
        if !config.tuning.slot_tempering.is_empty() {
            start.slot_temperatures = slot_temperatures(&dev.texts, top_k);
        }
        if !config.tuning.lookup.is_empty() {
            let texts = dev.texts.iter().map(|text| (&text.tokens[..], text.prompt));
            start.confidence = LookupConfidence::measured(texts, self.heads.heads.count() + 1);
        }
        let mut set = Dataset {
            name: name.to_owned(),
            split: "test".into(),
            documents: test.texts.len() as u64,
            decoded_tokens: test.texts.iter().map(|t| t.continuation().len() as u64).sum(),
            block_size: self.heads.heads.count() as u64 + 1,
            top_k: top_k as u64,
            coverage: start.calibration.coverage.clone(),
            slot_temperatures: start.slot_temperatures.clone(),
            lookup_confidence: start.confidence.clone(),
            heads: Vec::new(),
            h_max: None,
            autoregressive_cost: None,
            variants: Vec::new(),
            oracle: Vec::new(),
            tuning: Vec::new(),
            by_step: None,
            best_paths: Vec::new(),
            examples: None,
            looping: Looping { documents: 0, share: 0.0, bpd_block_efficiency_without: None },
            live: None,
            timing: None,
        };
        let model = &self.workspace.backbone.model;
        set.set_heads(head_qualities(&test.texts, model, top_k));
        set.autoregressive_cost = Some(cost(model, &Drafting::none(), 1.0, 1.0));
        let mut documents = DocumentSet {
            ids: test.texts.iter().map(|text| text.entry.id.clone()).collect(),
            groups: test.texts.iter().map(|text| text.entry.group.clone()).collect(),
            ..DocumentSet::default()
        };
        let mut walked: Vec<Walked> = Vec::new();
        let mut singles = BTreeMap::new();
        for way in ways {
            progress::stop_if_interrupted("evaluating")?;
            let name = way.variant.to_string();
            let single = way.variant.rescorer.as_ref().and_then(|rescorer| singles.get(rescorer));
            let (from, axes) = (way.start(&start, single), axes(&way, top_k, &config.tuning));
            let key = self.key_of(&way, &from, &axes, dev_key, test_key);
            let plain = walked.first().map(|plain| &*plain.found);
            let found = self.workspace.found(&key, || self.find(&way, from, &axes, plain, &dev, &test, &mut bar))?;
            let way = if found.off { way.switched_off() } else { way };
            if let (Selection::BestPath, Some(rescorer)) = (way.variant.selection, &way.variant.rescorer) {
                singles.insert(rescorer.clone(), found.settings.clone());
            }
            set.tuning.extend(found.tuning.iter().cloned());
            set.best_paths.extend(found.best_paths.iter().cloned());
            documents.add(&name, &found.documents);
            set.variants.push(found.variant.clone());
            walked.push(Walked { way, found });
            bar.update(2 * walked.len(), || format!("{name} on test"));
        }
        let tuned = walked.iter().map(|Walked { way, found }| TunedVariant {
            variant: way.variant.clone(),
            switched_off: found.off,
            dev_block_efficiency: found.variant.dev_block_efficiency.unwrap_or_default(),
            settings: found.settings.clone(),
        });
        let tuned = TunedSet::new(name, tuned.collect());
        let base = walked.first().expect("plain decoding is the first variant").found.documents.clone();
        set.looping = looping_text(&test.looping, &base);
        set.oracle = options.oracle_top_k.iter().map(|&k| oracle(&test.texts, k).0).collect();
        let (_, tally) = oracle(&test.texts, top_k);
        documents.add(ORACLE, &tally.documents);
        set.variants.push(self.variant(ORACLE, 1, &tally, &base, &test)?);
        let (plain, most) = (block_efficiency(&base), tally.block_efficiency());
        if most > plain {
            set.variants
                .iter_mut()
                .for_each(|v| v.headroom_closed = Some((v.block_efficiency - plain) / (most - plain)));
        }
        set.examples = set
            .best()
            .map(|best| best.name.clone())
            .and_then(|best| {
                let walked = walked.iter().find(|walked| walked.way.variant.to_string() == best)?;
                Some(self.examples(&test, walked))
            })
            .transpose()?;
        if options.keep_steps {
            self.write_steps(name, &test, &walked)?;
        }
        let replayed = |walked: &Walked| {
            let neural = walked.is_neural(&self.heads.heads);
            VariantTiming::replayed(&walked.way.variant.to_string(), neural, set.decoded_tokens, walked.found.seconds)
        };
        set.timing = Some(Timing {
            candidates_seconds: stored.seconds(),
            lattices_seconds: Some(test.seconds),
            variants: walked.iter().map(replayed).collect(),
            ..Timing::default()
        });
        self.live(&test.texts, &walked, &mut set, &mut bar)?;
        bar.finish(&format!("{} test documents, {} variants", set.documents, set.variants.len()));
        if options.all_checkpoints {
            set.by_step = Some(self.by_step(test_trace, &walked)?);
        }
        Ok((set, documents, tuned))
    }

    /// Writes every step of every variant but the oracle, a JSON object a line.
    fn write_steps(&self, set: &str, texts: &Texts, walked: &[Walked]) -> Result<()> {
        let path = self.workspace.folder.join("report").join(STEPS).join(format!("{set}.jsonl.gz"));
        files::write_with(&path, |file| {
            let mut file = GzEncoder::new(file, Compression::default());
            for Walked { way, found } in walked {
                let Found { settings, steps, .. } = &**found;
                let (name, drafter) = (way.variant.to_string(), way.drafter(settings));
                let drafts = of_each(texts, way.variant.stop, &*drafter, |number, text, lattices| {
                    drafts_of(text, lattices, &steps[number], &*drafter)
                })?;
                for (text, (steps, drafts)) in texts.texts.iter().zip(steps.iter().zip(drafts)) {
                    for (step, drafts) in steps.iter().zip(drafts) {
                        let &Step { start, accepted, slots, nodes, .. } = step;
                        let (variant, document) = (&*name, &text.entry.id);
                        let record = StepRecord { set, variant, document, start, accepted, slots, nodes, drafts };
                        serde_json::to_writer(&mut file, &record)?;
                        file.write_all(b"\n")?;
                    }
                }
            }
            file.finish().map(|_| ())
        })
    }

    /// Hash of what [`Evaluation::find`] depends on.
    fn key_of(&self, way: &PreparedVariant, from: &Settings, axes: &[Axis], dev: &str, test: &str) -> String {
        let Config { lattice, drafting, tuning, evaluation, rescorer, traces, seed, .. } = &self.workspace.config;
        let terms: Vec<_> = way.terms().iter().map(|(term, _)| (&self.rescorers[term].key, &rescorer[term])).collect();
        let options =
            (lattice, drafting.include_top1, drafting.stop, tuning, evaluation.bootstrap, &evaluation.curve_paths);
        files::hash_json(&(
            (dev, test, &self.heads.key, terms, options, seed, traces.dtype),
            (&way.variant, way.selection(), from, axes),
        ))
    }

    /// Chooses a variant's settings on dev, from `from` on, and walks over test with them; beside `plain`, unless it is that.
    #[expect(clippy::too_many_arguments, reason = "one caller, and each is a thing of its own")]
    fn find(
        &self,
        way: &PreparedVariant,
        from: Settings,
        axes: &[Axis],
        plain: Option<&Found>,
        dev: &Texts,
        test: &Texts,
        bar: &mut Progress,
    ) -> Result<Found> {
        let tuned = search(from, axes, |settings| {
            progress::stop_if_interrupted("evaluating")?;
            Ok(tally(&walk(dev, way.variant.stop, &*way.drafter(settings))?).block_efficiency())
        })?;
        bar.advance(|| format!("{} on dev", way.variant));
        let plain_dev = plain.and_then(|plain| plain.variant.dev_block_efficiency).unwrap_or(tuned.block_efficiency);
        // What does not help on dev is switched off.
        let off = !axes.is_empty() && tuned.block_efficiency < plain_dev;
        let switched = off.then(|| way.clone().switched_off());
        let way = switched.as_ref().unwrap_or(way);
        let settings = tuned.settings;
        let started = Instant::now();
        let steps = walk(test, way.variant.stop, &*way.drafter(&settings))?;
        let seconds = started.elapsed().as_secs_f64();
        let tally = tally(&steps);
        let base = plain.map_or(&tally.documents, |plain| &plain.documents);
        let mut variant = self.variant(&way.variant.to_string(), way.drafts(), &tally, base, test)?;
        let values = axes.iter().map(|axis| (axis.name.clone(), axis.coordinate.get(&settings)));
        variant.tuned = if off { BTreeMap::new() } else { values.filter(|(_, value)| value.is_finite()).collect() };
        variant.lm_scale = axes.iter().any(|axis| axis.coordinate == Coordinate::Scale).then_some(if off {
            0.0
        } else {
            settings.weighting.scale
        });
        variant.dev_block_efficiency = Some(if off { plain_dev } else { tuned.block_efficiency });
        let plain_steps = plain.map_or(&steps, |plain| &plain.steps);
        variant.same_starts = Some(same_starts(test, plain_steps, way, &settings)?);
        variant.choice_share =
            way.variant.reads_heads().then(|| choice_share(test.lattices(way.variant.stop), &steps, &settings));
        let best_paths = best_paths(test, way, &settings, &self.workspace.config)?;
        let drafting = Drafting::of(way, &self.heads.heads, &settings);
        let (nodes, accepted) = (variant.verified_tokens_per_call, variant.block_efficiency);
        variant.cost = Some(cost(&self.workspace.backbone.model, &drafting, nodes, accepted));
        let point = |trial: Trial| TuningPoint {
            variant: way.variant.to_string(),
            parameter: trial.parameter,
            value: trial.value,
            block_efficiency: trial.block_efficiency,
        };
        let tuning = tuned.curve.into_iter().map(point).collect();
        Ok(Found { settings, off, tuning, variant, best_paths, documents: tally.documents, steps, seconds })
    }

    fn variant(&self, name: &str, drafts: usize, tally: &Tally, base: &[Counts], texts: &Texts) -> Result<Variant> {
        let options = &self.workspace.config;
        let bands =
            intervals(&groups(&texts.texts), base, &tally.documents, options.evaluation.bootstrap, options.seed)?;
        let (mean_nodes, most_nodes) = tally.verified();
        Ok(Variant {
            name: name.to_owned(),
            block_efficiency: tally.block_efficiency(),
            ci95: bands.ratio,
            block_efficiency_document_mean: tally.document_mean(),
            block_efficiency_without_loops: without_loops(&texts.looping, &tally.documents),
            backbone_calls: tally.total().calls,
            prefill_calls: tally.documents.len() as u64,
            verified_tokens_per_call: mean_nodes,
            verified_tokens_per_call_max: most_nodes as u64,
            relative_gain: tally.block_efficiency() / block_efficiency(base) - 1.0,
            relative_gain_ci95: bands.gain,
            lm_scale: None,
            tuned: BTreeMap::new(),
            dev_block_efficiency: None,
            headroom_closed: None,
            same_starts: None,
            choice_share: None,
            cost: None,
            drafts: drafts as u64,
            accept_rate_by_position: tally.accept_rates(self.heads.heads.count() + 1),
            conditional_accept_rate_by_position: tally.conditional_accept_rates(self.heads.heads.count() + 1),
            // Greedy exact match emits the backbone's own text whatever the draft; the live check can take this back.
            lossless: true,
        })
    }

    /// The documents that a variant decodes best and worst.
    fn examples(&self, texts: &Texts, walked: &Walked) -> Result<Examples> {
        let Found { settings, steps, .. } = &*walked.found;
        let drafter = walked.way.drafter(settings);
        let of = |numbers: Vec<usize>| -> Result<Vec<Example>> {
            let one = |&n: &usize| {
                let (text, lattices) = (&texts.texts[n], &texts.lattices(walked.way.variant.stop)[n]);
                example(text, lattices, &steps[n], &*drafter, &self.workspace.backbone.tokenizer)
            };
            numbers.iter().map(one).collect()
        };
        let [best, worst] = best_and_worst(steps);
        Ok(Examples { variant: walked.way.variant.to_string(), best: of(best)?, worst: of(worst)? })
    }
}

/// Something of every document; documents are independent, so threads change nothing.
fn of_each<R: Send>(
    texts: &Texts,
    stop: StopRule,
    drafter: &dyn Drafter,
    work: impl Fn(usize, &ReplayText, &[Lattice]) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let lattices = texts.lattices(stop);
    let one = |number: usize| work(number, &texts.texts[number], &lattices[number]);
    let numbers = 0..texts.texts.len();
    // Where drafting at all starts at once is better, the device parallelises inside.
    if drafter.prefers_all_starts() { numbers.map(one).collect() } else { numbers.into_par_iter().map(one).collect() }
}

/// Walks every document.
fn walk(texts: &Texts, stop: StopRule, drafter: &dyn Drafter) -> Result<Vec<Vec<Step>>> {
    of_each(texts, stop, drafter, |_, text, lattices| replay(text, lattices, drafter))
}

fn tally(walks: &[Vec<Step>]) -> Tally {
    let mut tally = Tally::default();
    walks.iter().for_each(|steps| tally.add(steps));
    tally
}

/// Block efficiency of a `pbest-` variant by the number of paths; nothing of others.
fn best_paths(texts: &Texts, way: &PreparedVariant, settings: &Settings, config: &Config) -> Result<Vec<BestPaths>> {
    let counts = &config.evaluation.curve_paths;
    let Some(&most) = counts.iter().max() else { return Ok(Vec::new()) };
    let Some(drafter) = way.best_paths(most, settings) else { return Ok(Vec::new()) };
    let of_text = |_, text: &ReplayText, lattices: &[Lattice]| {
        replay_best_paths(text, lattices, &*drafter, counts, config.drafting.include_top1)
    };
    let mut tallies = vec![Tally::default(); counts.len()];
    for walks in of_each(texts, way.variant.stop, &*drafter, of_text)? {
        tallies.iter_mut().zip(&walks).for_each(|(tally, steps)| tally.add(steps));
    }
    let point = |(&paths, tally): (&usize, &Tally)| BestPaths {
        variant: way.variant.to_string(),
        paths: paths as u64,
        block_efficiency: tally.block_efficiency(),
        verified_tokens_per_call: tally.verified().0,
    };
    Ok(counts.iter().zip(&tallies).map(point).collect())
}

/// Drafts beside plain decoding's, at the starts that plain decoding visits.
fn same_starts(
    texts: &Texts,
    plain: &[Vec<Step>],
    way: &PreparedVariant,
    settings: &Settings,
) -> Result<report::SameStarts> {
    let drafter = way.drafter(settings);
    let of_text = |number: usize, text: &ReplayText, lattices: &[Lattice]| {
        SameStarts::of(text, lattices, &plain[number], &*drafter)
    };
    let counts: SameStarts = of_each(texts, way.variant.stop, &*drafter, of_text)?.into_iter().sum();
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    Ok(report::SameStarts {
        wins: counts.wins,
        ties: counts.ties,
        losses: counts.losses,
        repairs: counts.repairs,
        repetition: share(counts.repeats, counts.pairs),
        longest_run: share(counts.longest_runs, counts.blocks()),
    })
}

/// Of the slots behind the pinned one in visited blocks, the share with more than one candidate that was looked at.
fn choice_share(lattices: &[Vec<Lattice>], walks: &[Vec<Step>], settings: &Settings) -> f64 {
    let (mut open, mut all) = (0u64, 0u64);
    for (lattices, steps) in lattices.iter().zip(walks) {
        for lattice in steps.iter().map(|step| &lattices[step.start]) {
            for scores in (1..lattice.slots()).map(|slot| lattice.scores(slot)) {
                let second = scores.get(1).filter(|_| settings.top_k > 1);
                open += u64::from(second.is_some_and(|second| f64::from(scores[0] - second) <= settings.gate));
                all += 1;
            }
        }
    }
    open as f64 / all.max(1) as f64
}

/// Documents numbered by group, in order of appearance.
fn groups(texts: &[ReplayText]) -> Vec<usize> {
    let mut numbers = BTreeMap::new();
    texts
        .iter()
        .map(|text| {
            let next = numbers.len();
            *numbers.entry(text.entry.group.as_str()).or_insert(next)
        })
        .collect()
}

fn oracle(texts: &[ReplayText], k: usize) -> (OraclePoint, Tally) {
    let lengths: Vec<Vec<usize>> = texts.iter().map(|text| oracle_lengths(text, k)).collect();
    let mut tally = Tally::default();
    texts.iter().zip(&lengths).for_each(|(text, lengths)| tally.add(&replay_oracle(text, lengths)));
    let fewest: usize = lengths.iter().map(|lengths| oracle_dp(lengths)).sum();
    let point = OraclePoint {
        top_k: k as u64,
        block_efficiency: tally.block_efficiency(),
        block_efficiency_dp: tally.total().tokens as f64 / fewest as f64,
    };
    (point, tally)
}

fn looping_text(looping: &[bool], base: &[Counts]) -> Looping {
    let documents = looping.iter().filter(|&&l| l).count();
    Looping {
        documents: documents as u64,
        share: documents as f64 / looping.len() as f64,
        bpd_block_efficiency_without: without_loops(looping, base),
    }
}

/// Over the documents that do not loop.
fn without_loops(looping: &[bool], documents: &[Counts]) -> Option<f64> {
    let rest = documents.iter().zip(looping).filter(|(_, looping)| !**looping);
    let rest: Vec<Counts> = rest.map(|(counts, _)| *counts).collect();
    (!rest.is_empty()).then(|| block_efficiency(&rest))
}
