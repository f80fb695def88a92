//! The graph of a run, which lists its parts and what each part depends on. It is known before anything is made.
//!
//! The commands, the plan of an ablation and `status` all use this graph. There is no other list of the stages, of
//! their order or of their keys.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::{Corpus, Inputs};
use crate::backbone::{BackboneIdentity, Feature};
use crate::config::Config;
use crate::drafting::{GraphConfig, Variant};
use crate::error::{Result, bail};
use crate::evaluation::{EvaluationConfig, TuningConfig};
use crate::files;
use crate::heads::{HeadsConfig, hash_weights};
use crate::lattice::LatticeConfig;
use crate::report::SCHEMA_VERSION;
use crate::rescorer::{RescorerConfig, RescorerKind};
use crate::shard::Shard;
use crate::storage_type::StorageType;
use crate::store::{Artefact, Key, Store};
use crate::text::{Document, Split};
use crate::traces::{Keep, TraceText};

/// The artefacts of a run.
pub struct Graph {
    /// The traces: those of train first, then those of dev, then those of test.
    pub traces: Vec<TraceArtefacts>,
    /// The trained or given heads.
    pub heads: Artefact,
    /// The fitted rescorers by name, in the order of the configuration. A sum is not among them, since its terms are
    /// fitted.
    pub rescorers: Vec<(String, Artefact)>,
    /// The report, together with the settings that were tuned for it.
    pub evaluation: Artefact,
    /// Whether the heads' states are kept beside their candidates.
    pub keeps_states: bool,
}

/// The artefacts of a trace and of what is computed on it.
#[derive(Clone)]
pub struct TraceArtefacts {
    /// The index of its corpus among the corpora of the run.
    pub corpus: usize,
    /// The split that it is a trace of.
    pub split: Split,
    /// The kind of text that follows the prompts.
    pub text: TraceText,
    /// The number of documents.
    pub documents: usize,
    /// The name of the trace: `CORPUS-SPLIT`, followed by the kind of text if that is not the backbone's greedy output.
    pub name: String,
    /// The tokens of the prompts and of the texts behind them.
    pub tokens: Artefact,
    /// The kept states of the backbone.
    pub columns: Vec<Column>,
    /// The backbone's likeliest tokens, if training asks for them.
    pub likely: Option<Artefact>,
    /// The heads' candidates and their number per slot, if anything reads them.
    pub candidates: Option<(usize, Artefact)>,
}

/// A kept state of the backbone on a trace.
#[derive(Clone)]
pub struct Column {
    /// The state that is kept.
    pub feature: Feature,
    /// The stored numbers of the state.
    pub artefact: Artefact,
}

/// The largest numbers of candidates per slot that are asked for. Candidates are computed once: a smaller number of
/// them is a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The largest number that drafting and fitting ask for. It applies to train.
    pub top_k: usize,
    /// The largest number that anything asks for, including the oracle. It applies to dev and test.
    pub widest: usize,
    /// Whether a rescorer reads the heads' states, which are then kept beside the candidates.
    pub states: bool,
}

impl Reach {
    /// Returns the numbers that a configuration asks for.
    pub fn of(config: &Config) -> Self {
        let mut kinds = config.rescorer.values().filter_map(|rescorer| rescorer.kind());
        let states = kinds.any(|kind| kind.reads_states());
        Self { top_k: config.lattice.top_k, widest: config.widest(), states }
    }

    /// Returns what is enough for both.
    pub fn or(self, other: Self) -> Self {
        Self {
            top_k: self.top_k.max(other.top_k),
            widest: self.widest.max(other.widest),
            states: self.states || other.states,
        }
    }
}

impl Graph {
    /// Makes the graph of a configuration on its inputs. `features` are the states of the backbone that something
    /// reads. If `given` is set, it is the hash of the heads that are used. Otherwise, heads are trained.
    ///
    /// # Errors
    /// Fails if a split has no documents, or if the heads that training starts from cannot be read.
    pub fn new(
        config: &Config,
        inputs: &Inputs,
        reach: Reach,
        features: &[Feature],
        given: Option<&str>,
    ) -> Result<Self> {
        let from = Some(Path::new(&config.traces.from)).filter(|from| !from.as_os_str().is_empty());
        let responses = from.map(files::hash_file).transpose().map_err(|e| e.within("`traces.from`"))?;
        let mut traces = Vec::new();
        for (split, most, texts) in [
            (Split::Train, config.traces.train_documents, config.traces.train_text.as_slice()),
            (Split::Dev, config.traces.dev_documents, &[TraceText::Greedy]),
            (Split::Test, config.traces.test_documents, &[TraceText::Greedy]),
        ] {
            for (number, corpus) in inputs.corpora.iter().enumerate().filter(|(_, corpus)| corpus.has(split)) {
                for &text in texts {
                    let of = (split, most, text);
                    let trace = trace(config, &inputs.backbone.identity(), (number, corpus), of, responses.as_deref())?;
                    traces.push(trace.with_states(config, features));
                }
            }
        }
        let fitted_on = || traces.iter().filter(|trace| trace.split != Split::Test).map(TraceArtefacts::input);
        let heads = Artefact {
            name: "heads".to_owned(),
            title: "train-heads".to_owned(),
            key: match given {
                Some(hash) => Key::new("heads", &GivenHeads { given: hash }, []),
                None => Key::new("heads", &HeadsKey::new(config)?, fitted_on()),
            },
        };
        let kinds: Vec<(&String, &dyn RescorerKind)> =
            config.rescorer.iter().filter_map(|(name, rescorer)| Some((name, rescorer.kind()?))).collect();
        let rescorers = kinds.iter().map(|&(name, kind)| {
            let settings = RescorerKey {
                kind: kind.name(),
                options: kind.fitted(),
                seed: kind.uses_seed().then_some(config.seed),
                top_k: kind.reads_lattices().then_some(config.lattice.top_k),
                dtype: kind.reads_lattices().then_some(config.traces.dtype),
                weights: kind.reads_lattices().then_some(config.heads.weights),
            };
            let above = kind.needs_heads().then_some((heads.name.as_str(), &heads.key));
            let key = Key::new("rescorers", &settings, fitted_on().chain(above));
            let (place, title) = (format!("rescorers/{name}"), format!("train-rescorer {name}"));
            (name.clone(), Artefact { name: place, title, key })
        });
        let rescorers: Vec<(String, Artefact)> = rescorers.collect();
        let train_is_read = kinds.iter().any(|(_, kind)| kind.reads_lattices());
        for trace in &mut traces {
            let k = match trace.split {
                Split::Train if !train_is_read => continue,
                Split::Train => reach.top_k,
                Split::Dev | Split::Test => reach.widest,
            };
            trace.candidates = Some((k, trace.candidates(config, &heads, (k, reach.states))));
        }
        let evaluation = evaluation(config, &traces, &heads, &rescorers);
        Ok(Self { traces, heads, rescorers, evaluation, keeps_states: reach.states })
    }

    /// Returns all parts in the order in which they are made.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let candidates = self.traces.iter().filter_map(|trace| {
            let (k, artefact) = trace.candidates.as_ref()?;
            Some(Part::Candidates { trace, k: *k, artefact })
        });
        let rescorers = self.rescorers.iter().map(|(name, artefact)| Part::Rescorer { name, artefact });
        let traces = self.traces.iter().map(Part::Trace).chain([Part::Heads(&self.heads)]);
        traces.chain(candidates).chain(rescorers).chain([Part::Evaluation(&self.evaluation)])
    }

    /// Returns the artefact of the fitted rescorer called `name`.
    ///
    /// # Panics
    /// Panics if the configuration has no rescorer of that name, or if it is a sum.
    pub fn rescorer(&self, name: &str) -> &Artefact {
        let (_, artefact) = self.rescorers.iter().find(|(other, _)| other == name).expect("a rescorer that is fitted");
        artefact
    }
}

/// A part of a run.
#[derive(Clone, Copy)]
pub enum Part<'a> {
    /// A trace with its states and its likeliest tokens.
    Trace(&'a TraceArtefacts),
    /// The heads.
    Heads(&'a Artefact),
    /// The `k` best tokens of every head on a trace.
    Candidates {
        /// The trace that the candidates are computed on.
        trace: &'a TraceArtefacts,
        /// The number of candidates per slot.
        k: usize,
        /// The artefact of the candidates.
        artefact: &'a Artefact,
    },
    /// A fitted rescorer.
    Rescorer {
        /// The name of the rescorer, as in `[rescorer.NAME]`.
        name: &'a str,
        /// The artefact of the rescorer.
        artefact: &'a Artefact,
    },
    /// The report.
    Evaluation(&'a Artefact),
}

impl<'a> Part<'a> {
    /// Returns the name that tables use for all parts of this sort.
    pub fn sort(self) -> &'static str {
        match self {
            Self::Trace(_) => "traces",
            Self::Heads(_) => "heads",
            Self::Candidates { .. } => "candidates",
            Self::Rescorer { .. } => "rescorers",
            Self::Evaluation(_) => "evaluation",
        }
    }

    /// Returns the artefacts of the part. A trace may have several, of which the tokens come first.
    pub fn artefacts(self) -> Vec<&'a Artefact> {
        match self {
            Self::Trace(trace) => {
                let columns = trace.columns.iter().map(|column| &column.artefact);
                [&trace.tokens].into_iter().chain(columns).chain(&trace.likely).collect()
            }
            Self::Heads(artefact)
            | Self::Candidates { artefact, .. }
            | Self::Rescorer { artefact, .. }
            | Self::Evaluation(artefact) => vec![artefact],
        }
    }

    /// Returns whether all artefacts of the part are finished.
    pub fn is_finished(self, store: &Store) -> bool {
        self.artefacts().iter().all(|artefact| store.is_finished(&artefact.key))
    }
}

impl TraceArtefacts {
    /// Returns the corpus, the split and the kind of text in words, as messages show them.
    pub fn words(&self) -> String {
        self.name.replace('-', " ")
    }

    /// Returns the name and the key of the tokens, which become inputs of every artefact that is made from them.
    pub fn input(&self) -> (&str, &Key) {
        (&self.tokens.name, &self.tokens.key)
    }

    /// Returns the artefacts of a shard of the trace: its share of the documents, with what is computed on these.
    pub fn shard(&self, shard: Shard) -> Self {
        let column = |column: &Column| Column { feature: column.feature, artefact: column.artefact.shard(shard) };
        Self {
            tokens: self.tokens.shard(shard),
            columns: self.columns.iter().map(column).collect(),
            likely: self.likely.as_ref().map(|likely| likely.shard(shard)),
            candidates: None,
            ..self.clone()
        }
    }

    /// Adds columns of `features` if states are kept, and likeliest tokens if they are asked for and this is a trace of
    /// train.
    fn with_states(mut self, config: &Config, features: &[Feature]) -> Self {
        let dtype = config.traces.dtype;
        if config.traces.keep == Keep::Features {
            let column = |&feature: &Feature| {
                let key = Key::new("columns", &ColumnKey { feature, dtype }, [self.input()]);
                let name = format!("columns/{}/{feature}", self.name);
                Column {
                    feature,
                    artefact: Artefact { name, title: format!("column {feature} of {}", self.words()), key },
                }
            };
            self.columns = features.iter().map(column).collect();
        }
        if self.split == Split::Train && config.traces.probabilities > 0 {
            let settings = LikelyKey { dtype, probabilities: config.traces.probabilities };
            let (name, title) = (format!("likely/{}", self.name), format!("probabilities of {}", self.words()));
            self.likely = Some(Artefact { name, title, key: Key::new("likely", &settings, [self.input()]) });
        }
        self
    }

    fn candidates(&self, config: &Config, heads: &Artefact, (k, states): (usize, bool)) -> Artefact {
        let (dtype, weights) = (config.traces.dtype, config.heads.weights);
        let settings = CandidatesKey { layout: CANDIDATES, k, dtype, weights, states };
        let inputs = [self.input(), (&heads.name, &heads.key)];
        let (name, title) = (format!("candidates/{}", self.name), format!("candidates {}", self.words()));
        Artefact { name, title, key: Key::new("candidates", &settings, inputs) }
    }
}

/// The version of the layout of candidates, to be raised when the layout changes.
const CANDIDATES: u32 = 3;

#[derive(Serialize)]
struct TraceKey<'a> {
    backbone: &'a BackboneIdentity,
    documents: usize,
    /// The hash of the documents' contents, which does not depend on where they were read from.
    documents_hash: String,
    text: TraceText,
    #[serde(rename = "traces.max_new")]
    max_new: usize,
    #[serde(rename = "traces.batch")]
    batch: usize,
    sampling: Option<SamplingKey>,
    /// The hash of the file with a serving engine's responses, if greedy text is taken from there.
    #[serde(rename = "traces.from", skip_serializing_if = "Option::is_none")]
    responses: Option<String>,
}

#[derive(Serialize)]
struct SamplingKey {
    temperature: f64,
    top_p: f64,
    seed: u64,
}

#[derive(Serialize)]
struct ColumnKey {
    feature: Feature,
    #[serde(rename = "traces.dtype")]
    dtype: StorageType,
}

#[derive(Serialize)]
struct LikelyKey {
    #[serde(rename = "traces.dtype")]
    dtype: StorageType,
    #[serde(rename = "traces.probabilities")]
    probabilities: usize,
}

#[derive(Serialize)]
struct GivenHeads<'a> {
    given: &'a str,
}

#[derive(Serialize)]
struct HeadsKey {
    heads: HeadsConfig,
    /// The hash of the weights that training starts from, if any.
    #[serde(rename = "heads.init_from")]
    init_from: Option<String>,
    /// The number of likeliest tokens per position, if training reads them.
    #[serde(rename = "traces.probabilities")]
    probabilities: Option<usize>,
    #[serde(rename = "traces.dtype")]
    dtype: StorageType,
    seed: u64,
}

impl HeadsKey {
    fn new(config: &Config) -> Result<Self> {
        let from = Some(&config.heads.init_from).filter(|from| !from.is_empty());
        let soft = config.heads.phases().iter().any(|stage| stage.soft_targets > Some(0.0));
        Ok(Self {
            // The heads depend on the weights that training starts from, and not on the path of these weights, nor on
            // how their own are kept while they draft.
            heads: HeadsConfig {
                init_from: String::new(),
                from: String::new(),
                accept_backbone: false,
                weights: HeadsConfig::default().weights,
                ..config.heads.clone()
            },
            init_from: from.map(|from| hash_weights(Path::new(from))).transpose()?,
            probabilities: soft.then_some(config.traces.probabilities),
            dtype: config.traces.dtype,
            seed: config.seed,
        })
    }
}

#[derive(Serialize)]
struct CandidatesKey {
    layout: u32,
    k: usize,
    #[serde(rename = "traces.dtype")]
    dtype: StorageType,
    #[serde(rename = "heads.weights")]
    weights: StorageType,
    states: bool,
}

#[derive(Serialize)]
struct RescorerKey<'a> {
    kind: &'a str,
    options: Value,
    /// The seed, if fitting draws random numbers.
    seed: Option<u64>,
    /// The number of candidates per slot, if fitting reads the heads' lattices.
    #[serde(rename = "lattice.top_k")]
    top_k: Option<usize>,
    /// The type of the states that the heads and the rescorer read, if fitting reads the heads' lattices.
    #[serde(rename = "traces.dtype")]
    dtype: Option<StorageType>,
    /// The type of the heads' matrices, if fitting reads the heads' lattices.
    #[serde(rename = "heads.weights")]
    weights: Option<StorageType>,
}

/// Everything that a report depends on, apart from the artefacts that are made before it.
#[derive(Serialize)]
struct EvaluationKey<'a> {
    report: u64,
    lattice: &'a LatticeConfig,
    #[serde(rename = "drafting.variants")]
    variants: Vec<Variant>,
    #[serde(rename = "drafting.paths")]
    paths: usize,
    #[serde(rename = "drafting.nodes")]
    nodes: usize,
    #[serde(rename = "drafting.include_top1")]
    include_top1: bool,
    #[serde(rename = "drafting.frontier")]
    frontier: usize,
    #[serde(rename = "drafting.branching")]
    branching: &'a [usize],
    #[serde(rename = "drafting.confidence_widths")]
    confidence_widths: &'a [usize],
    #[serde(rename = "drafting.graph")]
    graph: &'a GraphConfig,
    tuning: &'a TuningConfig,
    evaluation: &'a EvaluationConfig,
    rescorer: &'a BTreeMap<String, RescorerConfig>,
    #[serde(rename = "traces.dtype")]
    dtype: StorageType,
    #[serde(rename = "heads.weights")]
    weights: StorageType,
    seed: u64,
}

fn trace(
    config: &Config,
    backbone: &BackboneIdentity,
    (number, corpus): (usize, &Corpus),
    (split, most, text): (Split, usize, TraceText),
    responses: Option<&str>,
) -> Result<TraceArtefacts> {
    let options = &config.traces;
    let kind = (text != TraceText::Greedy).then(|| text.name());
    let parts = [Some(corpus.name.as_str()), Some(split.name()), kind];
    let name = parts.into_iter().flatten().collect::<Vec<_>>().join("-");
    let title = format!("trace {}", name.replace('-', " "));
    let documents: Vec<&Document> = corpus.split(split).take(most).collect();
    if documents.is_empty() {
        bail!(
            "{title}: the split has no documents. Give a larger corpus, or other shares `data.{0}.dev` and `data.{0}.test`.",
            corpus.name
        );
    }
    let sampled = SamplingKey { temperature: options.temperature, top_p: options.top_p, seed: config.seed };
    let settings = TraceKey {
        backbone,
        documents: documents.len(),
        documents_hash: corpus.documents_hash(split, most),
        text,
        max_new: options.max_new,
        batch: options.batch,
        sampling: (text == TraceText::Sampled).then_some(sampled),
        responses: responses.filter(|_| text == TraceText::Greedy).map(str::to_owned),
    };
    Ok(TraceArtefacts {
        corpus: number,
        split,
        text,
        documents: documents.len(),
        tokens: Artefact { name: format!("traces/{name}"), title, key: Key::new("traces", &settings, []) },
        name,
        columns: Vec::new(),
        likely: None,
        candidates: None,
    })
}

fn evaluation(
    config: &Config,
    traces: &[TraceArtefacts],
    heads: &Artefact,
    rescorers: &[(String, Artefact)],
) -> Artefact {
    let settings = EvaluationKey {
        report: SCHEMA_VERSION,
        lattice: &config.lattice,
        variants: config.variants(),
        paths: config.drafting.paths,
        nodes: config.drafting.nodes,
        include_top1: config.drafting.include_top1,
        frontier: config.drafting.frontier,
        branching: &config.drafting.branching,
        confidence_widths: &config.drafting.confidence_widths,
        graph: &config.drafting.graph,
        tuning: &config.tuning,
        evaluation: &config.evaluation,
        rescorer: &config.rescorer,
        dtype: config.traces.dtype,
        weights: config.heads.weights,
        seed: config.seed,
    };
    let made = rescorers.iter().map(|(_, artefact)| artefact).chain([heads]);
    let inputs = traces.iter().map(TraceArtefacts::input).chain(made.map(|made| (made.name.as_str(), &made.key)));
    let key = Key::new("reports", &settings, inputs);
    Artefact { name: "report".to_owned(), title: "evaluate".to_owned(), key }
}
