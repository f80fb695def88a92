//! The stage `train-rescorer`, which fits every rescorer of the configuration on the train split.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;

use super::pretrain::whole_text;
use super::{CorpusTrace, Traces, TrainedHeads, Workspace, candidates};
use crate::backbone::Backbone;
use crate::config::Config;
use crate::error::Result;
use crate::ngram::Ending;
use crate::rescorer::{FitContext, FitData, FitLattices, LoadContext, Recorded, Rescorer, RescorerKind, TextSource};
use crate::store;
use crate::text::Split;
use crate::traces::TraceText;
use crate::training::TrainingContext;

/// Fitted rescorers that are ready to score, by name. Sums are not among them, but their terms are.
pub type FittedRescorers = BTreeMap<String, Box<dyn Rescorer>>;

/// Returns the rescorers to fit, with their names: all, or only those that the one called `only` needs. For a sum,
/// these are its terms.
fn wanted<'a>(config: &'a Config, only: Option<&'a str>) -> impl Iterator<Item = (&'a String, &'a dyn RescorerKind)> {
    let terms = only.map(|only| config.terms(only));
    let wanted = move |name: &String| terms.as_ref().is_none_or(|terms| terms.contains(&name.as_str()));
    config
        .rescorer
        .iter()
        .filter(move |(name, _)| wanted(name))
        .filter_map(|(name, rescorer)| Some((name, rescorer.kind()?)))
}

/// Returns whether any of the rescorers to fit needs the heads. With `only`, these are the ones that the rescorer of that
/// name needs.
pub fn rescorers_need_heads(config: &Config, only: Option<&str>) -> bool {
    wanted(config, only).any(|(_, kind)| kind.needs_heads())
}

/// Fits every rescorer that is not fitted yet, or only those that the one called `only` needs, and loads them. `heads`
/// are needed if [`rescorers_need_heads`] returns true.
///
/// # Errors
/// Fails if a rescorer cannot be fitted on the available data, or on an interrupt.
pub fn train_rescorers(
    workspace: &Workspace,
    traces: &Traces,
    heads: Option<&TrainedHeads>,
    only: Option<&str>,
) -> Result<FittedRescorers> {
    let mut rescorers = BTreeMap::new();
    let (backbone, device) = (workspace.backbone(), &workspace.device.device);
    let data = RunData { workspace, traces, heads };
    for (name, kind) in wanted(&workspace.config, only) {
        let artefact = workspace.graph.rescorer(name);
        let folder = workspace.make(artefact, |folder| {
            let (key, title) = (artefact.key.hash(), artefact.title.as_str());
            let place = TrainingContext { folder, key, title, keep_checkpoints: false };
            kind.fit(&FitContext { backbone, device, seed: workspace.config.seed, place, data: &data })
        })?;
        let slots = heads.map_or(0, |heads| heads.heads.count());
        rescorers.insert(name.clone(), kind.load(&folder, &LoadContext { backbone, device, slots })?);
    }
    Ok(rescorers)
}

/// Loads every rescorer of the configuration from its folder in `rescorers`, for blocks with `slots` slots behind the
/// pinned one.
///
/// # Errors
/// Fails if a rescorer cannot be loaded.
pub(super) fn load_rescorers(
    rescorers: &Path,
    config: &Config,
    backbone: &Backbone,
    device: &Device,
    slots: usize,
) -> Result<FittedRescorers> {
    let load = |(name, kind): (&String, &dyn RescorerKind)| {
        let folder = rescorers.join(name);
        store::verify(&folder)?;
        Ok((name.clone(), kind.load(&folder, &LoadContext { backbone, device, slots })?))
    };
    wanted(config, None).map(load).collect()
}

/// The data that the rescorers of a run are fitted on.
struct RunData<'a> {
    workspace: &'a Workspace,
    traces: &'a Traces,
    /// The heads, which must be there if a rescorer needs them.
    heads: Option<&'a TrainedHeads>,
}

impl<'a> FitData for RunData<'a> {
    fn texts(&self, sources: &[TextSource]) -> Result<Vec<(Vec<u32>, Ending)>> {
        let (corpora, backbone) = (self.workspace.corpora(), self.workspace.backbone());
        let ending = |cut| if cut { Ending::Cut } else { Ending::Complete };
        let mut texts = Vec::new();
        if sources.contains(&TextSource::Gold) {
            let documents = corpora.iter().flat_map(|corpus| corpus.split(Split::Train));
            for document in documents.filter(|document| !document.completion.is_empty()) {
                let tokens = whole_text(document, &backbone.tokenizer, backbone.end_of_text.first().copied())?;
                texts.push((tokens, ending(document.cut)));
            }
        }
        if sources.contains(&TextSource::Traces) {
            // Traces of the corpus's own text are left out, since that text is a source of its own.
            let traces = self.traces.train.iter().map(|trace| &trace.trace);
            for trace in traces.filter(|trace| trace.text() != TraceText::Corpus) {
                for document in trace.documents() {
                    let tokens = trace.tokens(document).to_vec();
                    let ended = tokens.last().is_some_and(|token| backbone.end_of_text.contains(token));
                    texts.push((tokens, ending(!ended)));
                }
            }
        }
        Ok(texts)
    }

    fn dev_texts(&self) -> Vec<Vec<u32>> {
        let traces = self.traces.dev.iter().map(|trace| &trace.trace);
        traces.flat_map(|trace| trace.documents().iter().map(|document| trace.tokens(document).to_vec())).collect()
    }

    fn longest(&self) -> usize {
        let Traces { train, dev, test, .. } = self.traces;
        let documents = [train, dev, test].into_iter().flatten().flat_map(|trace| trace.trace.documents());
        documents.map(|document| document.prompt + document.limit).max().unwrap_or(0)
    }

    fn heads(&self) -> &Path {
        &self.heads.expect("whoever fits a rescorer that needs heads has trained them").folder
    }

    fn lattices(&self) -> Result<FitLattices<'a>> {
        let heads = self.heads.expect("whoever fits a rescorer of lattices has trained the heads");
        let recorded = |trace: &'a CorpusTrace| -> Result<Recorded<'a>> {
            Ok(Recorded { trace: &trace.trace, candidates: candidates(self.workspace, heads, trace)? })
        };
        Ok(FitLattices {
            train: self.traces.train.iter().map(recorded).collect::<Result<_>>()?,
            dev: self.traces.dev.iter().map(recorded).collect::<Result<_>>()?,
            slots: heads.heads.count(),
            top_k: self.workspace.config.lattice.top_k,
        })
    }
}
