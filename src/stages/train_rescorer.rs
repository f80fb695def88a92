//! `train-rescorer`: n-gram counts, the small language model and the networks that read lattices, on the train split.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;

use super::pretrain::whole_text;
use super::workspace::Stage;
use super::{CorpusTrace, Traces, TrainedHeads, Workspace, candidates};
use crate::backbone::{Backbone, Checkpoint, ModelConfig, Precision, Transformer, save_model};
use crate::config::{Config, LatticeRescorerConfig, NeuralConfig, NgramConfig, RescorerConfig, TextSource, TraceText};
use crate::error::{Result, bail};
use crate::files;
use crate::heads::StoredCandidates;
use crate::ngram::{self, Counter, Ending, Memory, estimate};
use crate::nn::{Init, count_parameters};
use crate::progress::{self, Progress};
use crate::rescorer::{
    LanguageModelling, LatticeNetwork, LatticeTraining, Lava, LavaNetwork, NetworkShape, NeuralRescorer, Recorded,
    Rescorer, Transition, TransitionNetwork, load_network, load_ngram, ngram_vocabulary, save_network, save_ngram,
};
use crate::text::Split;
use crate::training::{TrainingContext, train};

/// A fitted rescorer.
pub struct FittedRescorer {
    /// It.
    pub rescorer: Box<dyn Rescorer>,
    /// Hash of what made it.
    pub key: String,
}

/// The rescorers to fit: all, or only those that the one called `only` needs.
fn wanted<'a>(config: &'a Config, only: Option<&'a str>) -> impl Iterator<Item = (&'a String, &'a RescorerConfig)> {
    let terms = only.map(|only| match &config.rescorer[only] {
        RescorerConfig::Sum(sum) => sum.of.iter().map(String::as_str).collect(),
        _ => vec![only],
    });
    config.rescorer.iter().filter(move |(name, _)| terms.as_ref().is_none_or(|terms| terms.contains(&name.as_str())))
}

/// Whether one of them reads the heads' lattices.
pub fn rescorers_need_heads(config: &Config, only: Option<&str>) -> bool {
    wanted(config, only).any(|(_, config)| config.reads_lattices())
}

/// Fits every rescorer that is not done (or only those that the one called `only` needs), and loads them by name; a sum's terms
/// are in place of the sum. `heads` are needed where [`rescorers_need_heads`].
pub fn train_rescorers(
    workspace: &Workspace,
    traces: &Traces,
    heads: Option<&TrainedHeads>,
    only: Option<&str>,
) -> Result<BTreeMap<String, FittedRescorer>> {
    let mut rescorers = BTreeMap::new();
    let slots = heads.map_or(0, |heads| heads.heads.count());
    for (name, config) in wanted(&workspace.config, only) {
        let (place, title) = (format!("rescorers/{name}"), format!("train-rescorer {name}"));
        let key = key(&workspace.config, config, &traces.fit_key, heads.map(|heads| heads.key.as_str()));
        if let RescorerConfig::Sum(_) = config {
            continue;
        }
        let stage = Stage { name: &place, key: &key, title: &title };
        let folder = workspace.stage(&stage, |folder| {
            let place = TrainingContext { folder, key: &key, title: &title, keep_checkpoints: false };
            let lattices =
                || LatticeFitting { workspace, traces, heads: heads.expect("as above"), kind: config.kind() };
            match config {
                RescorerConfig::Sum(_) => Ok(()),
                RescorerConfig::Ngram(options) => count(workspace, traces, options, folder, &title),
                RescorerConfig::Neural(options) => fit_language_model(workspace, traces, options, &place),
                RescorerConfig::Transition(options) => lattices().fit(TransitionNetwork::new, options, &place),
                RescorerConfig::Lava(options) => lattices().fit(LavaNetwork::new, options, &place),
            }
        })?;
        if let Some(rescorer) = load_rescorer(&folder, config, &workspace.backbone, &workspace.device.device, slots)? {
            rescorers.insert(name.clone(), FittedRescorer { rescorer, key });
        }
    }
    Ok(rescorers)
}

/// Hash of what makes a rescorer of `config`, on traces whose fit key is `traces` and, where it reads lattices, of the heads with
/// the key `heads`.
pub(super) fn key(config: &Config, rescorer: &RescorerConfig, traces: &str, heads: Option<&str>) -> String {
    let fitted = rescorer.fitted();
    match rescorer {
        RescorerConfig::Transition(_) | RescorerConfig::Lava(_) => {
            let heads = heads.expect("whoever fits a rescorer of lattices has trained the heads");
            files::hash_json(&(fitted, config.seed, traces, heads, config.lattice.top_k))
        }
        // Nothing is drawn.
        RescorerConfig::Ngram(_) => files::hash_json(&(fitted, traces)),
        RescorerConfig::Neural(_) | RescorerConfig::Sum(_) => files::hash_json(&(fitted, config.seed, traces)),
    }
}

/// Loads the fitted rescorer in `folder`, for blocks of `slots` slots behind the pinned one; a sum has none.
///
/// # Errors
/// Files that are missing, damaged, or of another backbone or tokenizer.
pub(super) fn load_rescorer(
    folder: &Path,
    config: &RescorerConfig,
    backbone: &Backbone,
    device: &Device,
    slots: usize,
) -> Result<Option<Box<dyn Rescorer>>> {
    let (model, width) = (&backbone.model, backbone.model.config().hidden_size);
    let init = || Init::empty(device);
    let shape = |rank| NetworkShape { kind: config.kind(), slots, rank, backbone: &backbone.hash };
    Ok(match config {
        RescorerConfig::Sum(_) => None,
        RescorerConfig::Ngram(_) => Some(Box::new(load_ngram(folder, backbone)?)),
        RescorerConfig::Neural(options) => {
            let language = Checkpoint::open(folder)?.load(Precision::AS_STORED, device)?;
            let (found, expected) = (language.config().vocab_size, model.config().vocab_size);
            if found != expected {
                bail!(
                    "{}: this rescorer has {found} tokens and the backbone {expected}: it was trained with another tokenizer. Train it on this one with `draftsmith train-rescorer`.",
                    folder.display()
                );
            }
            Some(Box::new(NeuralRescorer { model: language, normalise: options.normalise }))
        }
        RescorerConfig::Transition(options) => {
            let empty = TransitionNetwork::new(slots, width, options.rank, &mut init());
            let network = load_network(folder, empty, shape(options.rank))?;
            Some(Box::new(Transition::new(&network, model, options.loss)))
        }
        RescorerConfig::Lava(options) => {
            let empty = LavaNetwork::new(slots, width, options.rank, &mut init());
            let network = load_network(folder, empty, shape(options.rank))?;
            Some(Box::new(Lava::new(&network, model)))
        }
    })
}

/// Fitting a network that reads lattices.
struct LatticeFitting<'a> {
    workspace: &'a Workspace,
    traces: &'a Traces,
    heads: &'a TrainedHeads,
    kind: &'a str,
}

impl LatticeFitting<'_> {
    /// Trains a network and writes it.
    fn fit<N: Module + LatticeNetwork>(
        &self,
        new: impl Fn(usize, usize, usize, &mut Init) -> N,
        options: &LatticeRescorerConfig,
        place: &TrainingContext,
    ) -> Result<()> {
        let Self { workspace, traces, heads, kind } = self;
        let (backbone, slots, rank) = (&workspace.backbone, heads.heads.count(), options.rank);
        let width = backbone.model.config().hidden_size;
        let reach = workspace.reach();
        let of = |traces: &[CorpusTrace], k: usize| -> Result<Vec<StoredCandidates>> {
            traces.iter().map(|trace| candidates(workspace, heads, trace, k)).collect()
        };
        // Those of dev are the ones that the evaluation reads.
        let (train_candidates, dev_candidates) = (of(&traces.train, reach.top_k)?, of(&traces.dev, reach.widest)?);
        fn pair<'a>(traces: &'a [CorpusTrace], found: &'a [StoredCandidates]) -> Vec<Recorded<'a>> {
            traces.iter().map(|trace| &trace.trace).zip(found).collect()
        }
        let task = LatticeTraining::new(
            pair(&traces.train, &train_candidates),
            pair(&traces.dev, &dev_candidates),
            &backbone.model,
            workspace.config.lattice.top_k,
            options,
            workspace.config.seed,
        )?;
        let device = workspace.device.device.clone().autodiff();
        let network = new(slots, width, rank, &mut Init::seeded(workspace.config.seed, &device));
        progress::say(format!("{}: {} parameters", place.title, count_parameters(&network)));
        let network = train(network, &task, &[], &options.training, place)?;
        save_network(place.folder, &network.valid(), NetworkShape { kind, slots, rank, backbone: &backbone.hash })
    }
}

/// Tokenised text of a split from the chosen sources, and whether each text was cut by a length limit.
fn texts(
    workspace: &Workspace,
    traces: &[CorpusTrace],
    split: Split,
    sources: &[TextSource],
) -> Result<Vec<(Vec<u32>, bool)>> {
    let mut texts = Vec::new();
    if sources.contains(&TextSource::Gold) {
        for document in workspace.corpora.iter().flat_map(|c| c.split(split)).filter(|d| !d.completion.is_empty()) {
            texts.push((
                whole_text(document, &workspace.backbone.tokenizer, workspace.backbone.end_of_text.first().copied())?,
                document.cut,
            ));
        }
    }
    if sources.contains(&TextSource::Traces) {
        // The corpus's own text is another source.
        for trace in traces.iter().map(|t| &t.trace).filter(|trace| trace.text() != TraceText::Corpus) {
            for document in trace.documents() {
                let tokens = trace.tokens(document).to_vec();
                let ended = tokens.last().is_some_and(|t| workspace.backbone.end_of_text.contains(t));
                texts.push((tokens, !ended));
            }
        }
    }
    Ok(texts)
}

fn count(workspace: &Workspace, traces: &Traces, options: &NgramConfig, folder: &Path, title: &str) -> Result<()> {
    let bar = Progress::new(title, 1);
    let texts = texts(workspace, &traces.train, Split::Train, &options.text)?;
    std::fs::create_dir_all(folder).map_err(|e| crate::Error::io("create", folder, e))?;
    let memory = Memory::new(options.memory_mb << 20, folder);
    let mut counter = Counter::new(options.order, ngram_vocabulary(&workspace.backbone), &memory)?;
    for (tokens, cut) in &texts {
        counter.add(tokens, if *cut { Ending::Cut } else { Ending::Complete })?;
    }
    let counts = counter.finish().map_err(|e| e.within(title))?;
    let settings = ngram::Options {
        smoothing: options.smoothing,
        discount_fallback: Some(options.discount_fallback),
        prune: options.prune.clone(),
    };
    let estimated = estimate(&counts, &settings, &memory).map_err(|e| e.within(title))?;
    save_ngram(folder, &estimated.listing)?;
    let tokens: usize = texts.iter().map(|(t, _)| t.len()).sum();
    let sizes: Vec<String> = estimated.listing.sizes().iter().map(ToString::to_string).collect();
    bar.finish(&format!("{} texts, {tokens} tokens, n-grams by order {}", texts.len(), sizes.join(" ")));
    Ok(())
}

fn fit_language_model(
    workspace: &Workspace,
    traces: &Traces,
    options: &NeuralConfig,
    place: &TrainingContext,
) -> Result<()> {
    let title = place.title;
    let seed = workspace.config.seed;
    let tokens = |traces: &[CorpusTrace], split| -> Result<Vec<Vec<u32>>> {
        Ok(texts(workspace, traces, split, &options.text)?.into_iter().map(|(tokens, _)| tokens).collect())
    };
    // Dev is what it will rescore: the backbone's own text.
    let dev: Vec<Vec<u32>> =
        traces.dev.iter().flat_map(|t| t.trace.documents().iter().map(|d| t.trace.tokens(d).to_vec())).collect();
    let traces_of_all = [&traces.train, &traces.dev, &traces.test];
    let longest =
        traces_of_all.into_iter().flatten().flat_map(|t| t.trace.documents()).map(|d| d.prompt + d.limit).max();
    if let Some(longest) = longest
        && longest > options.model.context
    {
        bail!(
            "{title}: it will have to read texts of up to {longest} tokens, but `model.context` of this rescorer is {}. Raise it.",
            options.model.context
        );
    }
    let task = LanguageModelling::new(
        tokens(&traces.train, Split::Train)?,
        dev,
        options.model.context,
        options.documents_per_step,
        seed,
    )
    .map_err(|e| e.within(title))?;
    let shape = ModelConfig::from_scratch(&options.model, workspace.backbone.model.config().vocab_size);
    let model = Transformer::new(&shape, &mut Init::seeded(seed, &workspace.device.device.clone().autodiff()));
    progress::say(format!("{title}: {} parameters", count_parameters(&model)));
    let model = train(model, &task, &[], &options.training, place)?;
    let end = workspace.backbone.end_of_text.first().copied().unwrap_or(0);
    save_model(place.folder, &model.valid(), end, crate::config::StorageType::Float32)
}
