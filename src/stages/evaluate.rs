//! `evaluate`: every variant by replay, scales tuned on dev, a sample checked live.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{CorpusTrace, Rescorer, Traces, TrainedHeads, Workspace};
use crate::error::{Result, bail};
use crate::evaluation::bootstrap::{Counts, intervals};
use crate::evaluation::{
    LiveOutcome, ReplayText, Step, Tally, autoregressive_speed, block_efficiency, check_live, loops, oracle_lengths,
    replay, replay_oracle,
};
use crate::files;
use crate::lattice::{Lattice, oracle_dp};
use crate::progress::{self, Progress};
use crate::report::{Dataset, Live, LiveVariant, Looping, ORACLE, OraclePoint, Report, TuningPoint, Variant, read};
use crate::rescorer::{Bpd, Drafter, NeuralDrafter, NgramDrafter, PBestHeads};
use crate::traces::{Trace, TraceDocument};

/// Evaluates unless that is done; gives the report and writes it to `report/`.
pub fn evaluate(
    workspace: &Workspace,
    traces: &Traces,
    heads: &TrainedHeads,
    rescorers: &BTreeMap<String, (Rescorer, String)>,
) -> Result<Report> {
    let folder = workspace.folder.join("report");
    let made_of: Vec<&String> = rescorers.values().map(|(_, key)| key).collect();
    let names: Vec<&String> = workspace.corpora.iter().map(|c| &c.name).chain(rescorers.keys()).collect();
    let key = files::hash_json(&(
        &workspace.config.evaluation,
        workspace.config.seed,
        &traces.key,
        &heads.key,
        names,
        made_of,
    ));
    if workspace.finished("evaluate", &folder, &key)? {
        return read(&folder.join("report.json"));
    }
    let mut datasets = Vec::new();
    for CorpusTrace { corpus, trace: test } in &traces.test {
        let dev = traces.dev.iter().find(|dev| dev.corpus == *corpus).expect("a configuration with test has dev");
        let evaluation = Evaluation { workspace, heads, rescorers };
        datasets.push(evaluation.dataset(corpus, &dev.trace, test)?);
    }
    let report = Report::new(datasets, workspace.provenance());
    crate::report::write(&report, &folder)?;
    workspace.finish(&folder, &key)?;
    Ok(report)
}

struct Evaluation<'a> {
    workspace: &'a Workspace,
    heads: &'a TrainedHeads,
    rescorers: &'a BTreeMap<String, (Rescorer, String)>,
}

/// A variant before its scale is chosen.
struct Candidate<'a> {
    name: String,
    paths: usize,
    /// Whether it has a scale.
    rescored: bool,
    drafter: Box<dyn Fn(f64) -> Box<dyn Drafter + 'a> + 'a>,
}

/// A variant with its scale and its walk over every test document.
struct Walked<'a> {
    candidate: Candidate<'a>,
    scale: Option<f64>,
    steps: Vec<Vec<Step>>,
}

/// Documents with their lattices cut to the evaluated k.
struct Texts {
    texts: Vec<ReplayText>,
    lattices: Vec<Vec<Lattice>>,
}

impl Evaluation<'_> {
    fn dataset(&self, name: &str, dev: &Trace, test: &Trace) -> Result<Dataset> {
        let options = &self.workspace.config.evaluation;
        let candidates = self.candidates();
        let rescored = candidates.iter().filter(|c| c.rescored).count();
        let documents = dev.documents().len() + test.documents().len();
        // Lattices, points of the tuning curves, walks over test, live checks.
        let work = documents + rescored * options.scales().len() + 2 * candidates.len();
        let mut bar = Progress::new(format!("evaluate {name}"), work);
        let (dev, test) = (self.texts(dev, &mut bar)?, self.texts(test, &mut bar)?);
        let groups = groups(&test.texts);
        let mut set = Dataset {
            name: name.to_owned(),
            split: "test".into(),
            documents: test.texts.len() as u64,
            decoded_tokens: test.texts.iter().map(|t| t.continuation().len() as u64).sum(),
            block_size: self.heads.heads.count() as u64 + 1,
            top_k: options.top_k as u64,
            variants: Vec::new(),
            oracle: Vec::new(),
            tuning: Vec::new(),
            looping: Looping { documents: 0, share: 0.0, bpd_block_efficiency_without: None },
            live: None,
        };
        let mut base = None;
        let mut walked: Vec<Walked> = Vec::new();
        for candidate in candidates {
            progress::stop_if_interrupted("evaluating")?;
            let scale = if candidate.rescored {
                let curve = self.tune(&candidate, &dev, &mut bar)?;
                let best = choose_scale(&curve);
                set.tuning.extend(curve.into_iter().map(|(lm_scale, block_efficiency)| TuningPoint {
                    variant: candidate.name.clone(),
                    lm_scale,
                    block_efficiency,
                }));
                Some(best)
            } else {
                None
            };
            let steps = walk(&test, &*(candidate.drafter)(scale.unwrap_or(0.0)))?;
            bar.advance(|| format!("{} on test", candidate.name));
            let tally = tally(&steps);
            let base = base.get_or_insert_with(|| tally.documents.clone());
            set.variants.push(self.variant(&candidate.name, candidate.paths, scale, &tally, base, &groups)?);
            walked.push(Walked { candidate, scale, steps });
        }
        let base = base.expect("plain decoding is the first variant");
        let looping: Vec<bool> = test.texts.iter().map(|t| loops(t.continuation())).collect();
        set.looping = looping_text(&looping, &base);
        set.oracle = options.oracle_top_k.iter().map(|&k| oracle(&test.texts, k).0).collect();
        let (_, tally) = oracle(&test.texts, options.top_k);
        set.variants.push(self.variant(ORACLE, 1, None, &tally, &base, &groups)?);
        set.live = self.live(&test.texts, &walked, &mut set.variants, &mut bar)?;
        bar.finish(&format!("{} test documents, {} variants", set.documents, set.variants.len()));
        Ok(set)
    }

    /// Lattices of every document, wide enough for the largest k asked for.
    fn texts(&self, trace: &Trace, bar: &mut Progress) -> Result<Texts> {
        let options = &self.workspace.config.evaluation;
        let vocabulary = self.heads.heads.vocabulary();
        let widest = options.oracle_top_k.iter().copied().chain([options.top_k]).max().unwrap_or(1).min(vocabulary);
        let model = &self.workspace.backbone.model;
        let mut texts = Vec::new();
        for entry in trace.documents().iter().filter(|d: &&TraceDocument| d.continuation > 0) {
            progress::stop_if_interrupted("evaluating")?;
            let text = ReplayText::new(trace, entry, &self.heads.heads, model, widest, options.top_k);
            texts.push(text.map_err(|e| e.within(&entry.id))?);
            bar.advance(|| "lattices".into());
        }
        if texts.is_empty() {
            bail!("no traced document has a continuation; there is nothing to evaluate.");
        }
        let lattices = texts.iter().map(|text| text.narrowed(options.top_k)).collect::<Result<_>>()?;
        Ok(Texts { texts, lattices })
    }

    fn candidates(&self) -> Vec<Candidate<'_>> {
        let paths = self.workspace.config.evaluation.paths;
        let fixed = |name: &str, paths, make: fn(usize) -> Box<dyn Drafter>| Candidate {
            name: name.into(),
            paths,
            rescored: false,
            drafter: Box::new(move |_| make(paths)),
        };
        let mut candidates = vec![
            fixed("bpd", 1, |_| Box::new(Bpd)),
            fixed("pbest-0gram", paths, |paths| Box::new(PBestHeads { paths })),
        ];
        for (name, (rescorer, _)) in self.rescorers {
            match rescorer {
                Rescorer::Ngram(model) => {
                    for (name, paths) in [(name.clone(), 1), (format!("pbest-{name}"), paths)] {
                        let drafter = Box::new(move |scale| -> Box<dyn Drafter> {
                            Box::new(NgramDrafter { model, scale, paths })
                        });
                        candidates.push(Candidate { name, paths, rescored: true, drafter });
                    }
                }
                Rescorer::Neural(model) => {
                    let drafter =
                        Box::new(move |scale| -> Box<dyn Drafter> { Box::new(NeuralDrafter { model, scale }) });
                    candidates.push(Candidate { name: name.clone(), paths: 1, rescored: true, drafter });
                }
            }
        }
        // Single drafts first; the first of all is plain decoding.
        candidates.sort_by_key(|candidate| candidate.paths);
        candidates
    }

    /// Block efficiency on dev for every scale.
    fn tune(&self, candidate: &Candidate, dev: &Texts, bar: &mut Progress) -> Result<Vec<(f64, f64)>> {
        let one = |scale: f64| -> Result<(f64, f64)> {
            progress::stop_if_interrupted("evaluating")?;
            bar.advance(|| format!("tuning {} at {scale}", candidate.name));
            Ok((scale, tally(&walk(dev, &*(candidate.drafter)(scale))?).block_efficiency()))
        };
        self.workspace.config.evaluation.scales().into_iter().map(one).collect()
    }

    fn variant(
        &self,
        name: &str,
        drafts: usize,
        lm_scale: Option<f64>,
        tally: &Tally,
        base: &[Counts],
        groups: &[usize],
    ) -> Result<Variant> {
        let options = &self.workspace.config;
        let bands = intervals(groups, base, &tally.documents, options.evaluation.bootstrap, options.seed)?;
        let (mean_nodes, most_nodes) = tally.verified();
        Ok(Variant {
            name: name.to_owned(),
            block_efficiency: tally.block_efficiency(),
            ci95: bands.ratio,
            block_efficiency_document_mean: tally.document_mean(),
            backbone_calls: tally.total().calls,
            prefill_calls: tally.documents.len() as u64,
            verified_tokens_per_call: mean_nodes,
            verified_tokens_per_call_max: most_nodes as u64,
            relative_gain: tally.block_efficiency() / block_efficiency(base) - 1.0,
            relative_gain_ci95: bands.gain,
            lm_scale,
            drafts: drafts as u64,
            accept_rate_by_position: tally.accept_rates(self.heads.heads.count() + 1),
            // Greedy exact match emits the backbone's own text whatever the draft; the live check can take this back.
            lossless: true,
        })
    }

    fn live(
        &self,
        texts: &[ReplayText],
        walked: &[Walked],
        variants: &mut [Variant],
        bar: &mut Progress,
    ) -> Result<Option<Live>> {
        let options = &self.workspace.config.evaluation;
        let sample: Vec<&ReplayText> = texts.iter().take(options.live_documents).collect();
        if sample.is_empty() {
            return Ok(None);
        }
        let backbone = &self.workspace.backbone;
        let mut live = Live {
            documents: sample.len() as u64,
            mismatches: 0,
            near_ties: 0,
            near_ties_by_kind: BTreeMap::new(),
            tokens_per_s: 0.0,
            autoregressive_tokens_per_s: autoregressive_speed(backbone, &sample)?,
            variants: Vec::new(),
        };
        let mut sum = LiveOutcome::default();
        for Walked { candidate, scale, steps } in walked {
            progress::stop_if_interrupted("evaluating")?;
            bar.advance(|| format!("live {}", candidate.name));
            let drafter = (candidate.drafter)(scale.unwrap_or(0.0));
            let dtype = self.workspace.config.traces.dtype;
            let heads = &self.heads.heads;
            let outcome =
                check_live(backbone, heads, &*drafter, options.top_k, dtype, &sample, &steps[..sample.len()])?;
            live.mismatches += outcome.mismatches as u64;
            live.near_ties += outcome.near_ties as u64;
            for (kind, n) in outcome.by_kind {
                *live.near_ties_by_kind.entry(kind.to_owned()).or_default() += n;
            }
            sum.tokens += outcome.tokens;
            sum.seconds += outcome.seconds;
            if outcome.text_mismatches > 0
                && let Some(variant) = variants.iter_mut().find(|v| v.name == candidate.name)
            {
                variant.lossless = false;
            }
            live.variants.push(LiveVariant {
                name: candidate.name.clone(),
                mismatches: outcome.mismatches as u64,
                near_ties: outcome.near_ties as u64,
                tokens_per_s: outcome.tokens as f64 / outcome.seconds,
            });
        }
        live.tokens_per_s = sum.tokens as f64 / sum.seconds;
        Ok(Some(live))
    }
}

/// Walks every document; documents are independent, so threads change nothing.
fn walk(texts: &Texts, drafter: &dyn Drafter) -> Result<Vec<Vec<Step>>> {
    if drafter.prefers_all_starts() {
        // The device parallelises inside.
        return texts.texts.iter().zip(&texts.lattices).map(|(t, l)| replay(t, l, drafter)).collect();
    }
    texts.texts.par_iter().zip(&texts.lattices).map(|(t, l)| replay(t, l, drafter)).collect()
}

fn tally(walks: &[Vec<Step>]) -> Tally {
    let mut tally = Tally::default();
    walks.iter().for_each(|steps| tally.add(steps));
    tally
}

/// The scale of the highest block efficiency; of equal ones the smallest.
fn choose_scale(curve: &[(f64, f64)]) -> f64 {
    curve.iter().copied().reduce(|best, point| if point.1 > best.1 { point } else { best }).map_or(0.0, |best| best.0)
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
    let rest: Vec<Counts> = base.iter().zip(looping).filter(|(_, looping)| !**looping).map(|(c, _)| *c).collect();
    Looping {
        documents: documents as u64,
        share: documents as f64 / looping.len() as f64,
        bpd_block_efficiency_without: (!rest.is_empty()).then(|| block_efficiency(&rest)),
    }
}
