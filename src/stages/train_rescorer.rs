//! `train-rescorer`: n-gram counts and the small neural model, on text of the train split.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;

use super::language_model::LanguageModelling;
use super::pretrain::whole_text;
use super::{CorpusTrace, Traces, Workspace};
use crate::backbone::{Checkpoint, Model, ModelConfig, Precision, Transformer, save_model};
use crate::config::{NeuralConfig, NgramConfig, RescorerConfig, TextSource, TraceText};
use crate::error::{Result, bail};
use crate::files;
use crate::nn::{Init, count_parameters};
use crate::progress::{self, Progress};
use crate::rescorer::ngram::{self, Counter, Ending, Memory, estimate};
use crate::rescorer::{load_ngram, ngram_vocabulary, save_ngram};
use crate::text::Split;
use crate::training::{Place, train};

/// A fitted rescorer.
pub enum Rescorer {
    /// Global.
    Ngram(Box<ngram::Model>),
    /// Local.
    Neural(Box<Model>),
}

/// Fits every rescorer that is not done (or only the one called `only`), and loads them by name, each with the hash of
/// what made it.
pub fn train_rescorers(
    workspace: &Workspace,
    traces: &Traces,
    only: Option<&str>,
) -> Result<BTreeMap<String, (Rescorer, String)>> {
    let mut rescorers = BTreeMap::new();
    for (name, config) in &workspace.config.rescorer {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let folder = workspace.folder.join("rescorers").join(name);
        let title = format!("train-rescorer {name}");
        let key = files::hash_json(&(config, workspace.config.seed, &traces.fit_key));
        if !workspace.finished(&title, &folder, &key)? {
            match config {
                RescorerConfig::Ngram(options) => count(workspace, traces, options, &folder, &title)?,
                RescorerConfig::Neural(options) => fit(workspace, traces, options, &folder, &title, &key)?,
            }
            workspace.finish(&folder, &key)?;
        }
        let rescorer = match config {
            RescorerConfig::Ngram(_) => Rescorer::Ngram(Box::new(load_ngram(&folder, &workspace.backbone)?)),
            RescorerConfig::Neural(_) => {
                let model = Checkpoint::open(&folder)?.load(Precision::AS_STORED, &workspace.device.device)?;
                Rescorer::Neural(Box::new(model))
            }
        };
        rescorers.insert(name.clone(), (rescorer, key));
    }
    Ok(rescorers)
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

fn fit(
    workspace: &Workspace,
    traces: &Traces,
    options: &NeuralConfig,
    folder: &Path,
    title: &str,
    key: &str,
) -> Result<()> {
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
    let model = train(model, &task, &options.training, &Place { folder, key, title })?;
    let end = workspace.backbone.end_of_text.first().copied().unwrap_or(0);
    save_model(folder, &model.valid(), end, crate::config::StorageType::Float32)
}
