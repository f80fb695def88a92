//! A run's folder, its inputs, and which stages are finished.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::evaluate::Found;
use crate::backbone::{Backbone, Checkpoint, Feature, Precision, resolve, resolve_file};
use crate::claims::Claims;
use crate::config::{Config, DataConfig};
use crate::device::Opened;
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files;
use crate::progress;
use crate::text::{ChatTemplate, Document, Split, SplitFractions, Tokenizer, read_corpus};

/// A run: configuration, device, folder, backbone and corpora. One process at a time works on a folder.
pub struct Workspace {
    /// The resolved configuration.
    pub config: Config,
    /// Where tensors live.
    pub device: Opened,
    /// `runs/<name>`, or a folder two below it: a cell's, or that of heads that were made elsewhere.
    pub folder: PathBuf,
    /// The frozen model.
    pub backbone: Arc<Backbone>,
    /// By the name in the configuration, in its order.
    pub corpora: Arc<Vec<Corpus>>,
    places: Places,
    /// Where heads come from that this run has not trained, and what they read.
    other_heads: Option<(PathBuf, Vec<Feature>)>,
}

/// Where stages are.
enum Places {
    /// In the run's folder, which is locked unless it is only looked at; what follows from other heads is in theirs.
    Own(#[expect(dead_code, reason = "held until the run is closed")] Option<File>),
    /// In a store, by key.
    Store(Store),
}

/// Where the cells of an ablation keep the stages that they share. A cell's folder has links to its own.
#[derive(Clone)]
pub struct Store {
    /// `runs/<name>/store`
    pub folder: PathBuf,
    /// Who makes which stage.
    pub claims: Arc<Claims>,
    /// What the cells ask of candidates, all together.
    pub reach: Reach,
    /// Stages that failed in this process, with the error: no other cell tries them again.
    failed: Arc<Mutex<HashMap<PathBuf, String>>>,
    /// What this process found out about variants, by key.
    found: Arc<Mutex<HashMap<String, Arc<Found>>>>,
}

impl Store {
    /// A store in `folder`.
    pub fn new(folder: PathBuf, claims: Arc<Claims>, reach: Reach) -> Self {
        Self { folder, claims, reach, failed: Arc::default(), found: Arc::default() }
    }
}

/// The largest k that is asked of candidates: they are computed once, and a smaller k is a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// By what drafts, and what learns from train.
    pub top_k: usize,
    /// By anything, the oracle included, on dev and test.
    pub widest: usize,
}

impl Reach {
    /// What a configuration asks for.
    pub fn of(config: &Config) -> Self {
        Self { top_k: config.lattice.top_k, widest: config.widest() }
    }
}

/// Backbone and corpora, which runs with the same sections have in common.
#[derive(Clone)]
pub struct Inputs {
    backbone: Arc<Backbone>,
    corpora: Arc<Vec<Corpus>>,
}

impl Inputs {
    /// Loads the backbone and reads the corpora.
    ///
    /// # Errors
    /// Anything wrong with either; a text of dev or test that also trains.
    pub fn read(config: &Config, device: &Device) -> Result<Self> {
        let (backbone, template) = load_backbone(config, device)?;
        let mut corpora = read_corpora(config)?;
        if let Some(template) = template {
            for (_, document) in corpora.iter_mut().flat_map(|corpus| &mut corpus.documents) {
                document.prompt = template.render(&document.prompt)?;
            }
        }
        for corpus in &mut corpora {
            if let Some(most) = corpus.config.max_tokens {
                corpus.keep_tokens(most, &backbone.tokenizer)?;
            }
        }
        Ok(Self { backbone: Arc::new(backbone), corpora: Arc::new(corpora) })
    }
}

/// A stage of a run.
pub struct Stage<'a> {
    /// Its place in a run's folder, such as `rescorers/ngram`.
    pub name: &'a str,
    /// Hash of everything it depends on.
    pub key: &'a str,
    /// What messages call it.
    pub title: &'a str,
}

/// One `[data.NAME]`.
pub struct Corpus {
    /// NAME
    pub name: String,
    /// Its section.
    pub config: DataConfig,
    /// Every document with its split.
    pub documents: Vec<(Split, Document)>,
    /// BLAKE3 of the file.
    pub hash: String,
}

impl Corpus {
    /// Reads one corpus and splits it.
    fn read(name: &str, config: &DataConfig) -> Result<Self> {
        let fractions = SplitFractions::from(config);
        let found = resolve_file(&config.path).and_then(|path| {
            if !path.exists() {
                bail!("there is no file {}. Check `path`, or put the file there.", path.display());
            }
            Ok(path)
        });
        let origin = if config.origin.is_empty() { String::new() } else { format!(" {}", config.origin) };
        let path = found.map_err(|e| match e.kind() {
            ErrorKind::Fault => Error::new(format!("data.{name}: {e}{origin}")),
            _ => e,
        })?;
        let documents = read_corpus(&path, config)?.into_iter().map(|d| (fractions.split_of(&d.group), d)).collect();
        let hash = files::hash_file(&path)?;
        Ok(Self { name: name.to_owned(), config: config.clone(), documents, hash })
    }

    /// Keeps the first documents, up to the one with which prompts and completions have `most` tokens.
    fn keep_tokens(&mut self, most: usize, tokenizer: &Tokenizer) -> Result<()> {
        let (mut kept, mut tokens) = (0, 0);
        for (_, document) in &self.documents {
            if tokens >= most {
                break;
            }
            let completion = tokenizer.encode_continuation(&document.completion);
            let completion = completion.map_err(|e| e.within(&document.id))?;
            tokens += tokenizer.encode(&document.prompt).map_err(|e| e.within(&document.id))?.len() + completion.len();
            kept += 1;
        }
        self.documents.truncate(kept);
        Ok(())
    }

    /// Whether the configuration gives the split a share.
    pub fn has(&self, split: Split) -> bool {
        SplitFractions::from(&self.config).share(split) > 0.0
    }

    /// The documents of a split, in the file's order.
    pub fn split(&self, split: Split) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter(move |(s, _)| *s == split).map(|(_, d)| d)
    }
}

/// What marks a stage as finished: `stage.json` in its folder.
#[derive(PartialEq, Serialize, Deserialize)]
struct Mark {
    /// Hash of the stage's inputs.
    key: String,
    /// What another version of the program made is made again.
    program: String,
}

impl Mark {
    fn new(key: &str) -> Self {
        let program = format!("{} stages {STAGES}", env!("CARGO_PKG_VERSION"));
        Self { key: key.to_owned(), program }
    }
}

/// Raised when the same inputs begin to give other results.
const STAGES: u32 = 4;

impl Workspace {
    /// Opens `runs/<name>`, loads the backbone, reads the corpora.
    ///
    /// # Errors
    /// Another process on the folder; what [`Inputs::read`] refuses.
    pub fn open(config: Config, device: Opened) -> Result<Self> {
        let lock = files::lock(&folder_of(&config))?;
        Self::new(config, device, Some(lock))
    }

    /// As [`Workspace::open`], for work that writes nothing: no folder is made and none is locked.
    ///
    /// # Errors
    /// What [`Inputs::read`] refuses.
    pub fn look(config: Config, device: Opened) -> Result<Self> {
        Self::new(config, device, None)
    }

    fn new(config: Config, device: Opened, lock: Option<File>) -> Result<Self> {
        let folder = folder_of(&config);
        if let Some(note) = &device.note {
            progress::say(note);
        }
        let Inputs { backbone, corpora } = Inputs::read(&config, &device.device)?;
        Ok(Self { config, device, folder, backbone, corpora, places: Places::Own(lock), other_heads: None })
    }

    /// A cell of an ablation; nothing is written.
    pub fn cell(config: Config, device: Opened, folder: PathBuf, inputs: &Inputs, store: &Store) -> Self {
        let Inputs { backbone, corpora } = inputs.clone();
        Self { config, device, folder, backbone, corpora, places: Places::Store(store.clone()), other_heads: None }
    }

    /// The same run with the heads in `path`, which `key` tells from others and which read `features`. What follows from them
    /// goes into a folder of their own, which has links to what does not.
    pub fn with_other_heads(self, path: &Path, key: &str, features: Vec<Feature>) -> Result<Self> {
        let folder = self.folder.join("other-heads").join(&key[..12]);
        let workspace = Self { folder, other_heads: Some((path.to_owned(), features)), ..self };
        workspace.describe()?;
        Ok(workspace)
    }

    /// Writes `run.toml` and `provenance.json`.
    pub fn describe(&self) -> Result<()> {
        files::write_atomic(&self.folder.join("run.toml"), self.config.to_toml().as_bytes())?;
        let mut provenance = self.provenance();
        provenance.insert("started".into(), json!(jiff::Timestamp::now().to_string()));
        files::write_json(&self.folder.join("provenance.json"), &provenance)
    }

    /// Returns the backbone's states that something reads, in their order: those of the heads, and `last`, which rescorers of
    /// lattices and the report read as well.
    ///
    /// # Errors
    /// Heads that read a layer that the backbone does not have.
    pub fn features(&self) -> Result<Vec<Feature>> {
        let of_heads = match &self.other_heads {
            Some((_, features)) => features.clone(),
            None => self.config.heads.architecture.kind().features(),
        };
        let layers = self.backbone.model.config().num_hidden_layers;
        let checked = of_heads.iter().try_for_each(|feature| feature.validate(layers));
        checked.map_err(|e| e.within("heads.architecture.features"))?;
        Ok(of_heads.into_iter().chain([Feature::Last]).collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// The largest k that is asked of candidates.
    pub fn reach(&self) -> Reach {
        match &self.places {
            Places::Own(_) => Reach::of(&self.config),
            Places::Store(store) => store.reach,
        }
    }

    /// Where a stage is.
    pub fn place(&self, stage: &Stage) -> PathBuf {
        match &self.places {
            Places::Own(_) if self.other_heads.is_none() || self.follows_from_heads(stage.name) => {
                self.folder.join(stage.name)
            }
            Places::Own(_) => self.two_above().join(stage.name),
            Places::Store(store) => {
                let sort = stage.name.split('/').next().unwrap_or_default();
                store.folder.join(format!("{sort}-{}", &stage.key[..12]))
            }
        }
    }

    /// The run's folder, of one two below it.
    fn two_above(&self) -> &Path {
        self.folder.ancestors().nth(2).unwrap_or(&self.folder)
    }

    fn follows_from_heads(&self, stage: &str) -> bool {
        match stage.split_once('/') {
            Some(("traces" | "columns" | "likely", _)) => false,
            Some(("rescorers", name)) => self.config.rescorer[name].kind().is_some_and(|kind| kind.reads_lattices()),
            _ => true,
        }
    }

    /// Gives the folder of a stage, which `make` fills unless it is finished. The mark of an earlier result is taken away before
    /// that is overwritten.
    pub fn stage(&self, stage: &Stage, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        self.stage_with_mark(stage, |folder| {
            let mark = folder.join("stage.json");
            if mark.exists() {
                std::fs::remove_file(&mark).map_err(|e| Error::io("remove", &mark, e))?;
            }
            make(folder)?;
            self.finish(folder, stage.key)
        })
    }

    /// As [`Workspace::stage`], for a stage that puts its mark in place itself.
    pub fn stage_with_mark(&self, stage: &Stage, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let folder = self.place(stage);
        if self.is_finished(&folder, stage.key) {
            self.say_finished(stage.title);
        } else {
            self.alone(&folder, stage.title, || {
                if self.is_finished(&folder, stage.key) {
                    return Ok(());
                }
                let started = Instant::now();
                self.once(&folder, || make(&folder))?;
                self.note_seconds(&folder, started)
            })?;
        }
        let here = self.folder.join(stage.name);
        if folder != here {
            let up: PathBuf = stage.name.split('/').map(|_| "..").chain([".."]).collect();
            let below = folder.strip_prefix(self.two_above()).unwrap_or(&folder);
            files::link(&up.join(below), &here)?;
        }
        Ok(folder)
    }

    /// Makes a stage, unless that has failed for another cell of this process.
    fn once(&self, folder: &Path, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let Places::Store(store) = &self.places else { return make() };
        let failed = || store.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failed().get(folder) {
            return Err(Error::new(error.clone()));
        }
        make().inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                failed().insert(folder.to_owned(), error.to_string());
            }
        })
    }

    /// Works on a stage's folder while no other process does.
    pub fn alone<R>(&self, folder: &Path, title: &str, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let Places::Store(store) = &self.places else { return work() };
        let claim = store.claims.wait(folder, title)?;
        files::sweep(folder)?;
        let result = work()?;
        claim.still_mine()?;
        claim.finish();
        Ok(result)
    }

    /// What is found out about a variant, once for all cells of this process.
    pub(super) fn found(&self, key: &str, find: impl FnOnce() -> Result<Found>) -> Result<Arc<Found>> {
        let Places::Store(store) = &self.places else { return find().map(Arc::new) };
        let known = || store.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(key) {
            return Ok(found.clone());
        }
        let found = Arc::new(find()?);
        known().insert(key.to_owned(), found.clone());
        Ok(found)
    }

    /// How long a cell's stage took, for those who plan: not kept in a run's own folder.
    pub fn note_seconds(&self, folder: &Path, started: Instant) -> Result<()> {
        match self.places {
            Places::Own(_) => Ok(()),
            Places::Store(_) => {
                files::write_json(&folder.join("took.json"), &json!({"seconds": started.elapsed().as_secs_f64()}))
            }
        }
    }

    /// Says so where a person asked for this very stage.
    fn say_finished(&self, title: &str) {
        let words = format!("{title}: finished earlier, skipped");
        match self.places {
            Places::Own(_) => progress::say(words),
            Places::Store(_) => progress::detail(words),
        }
    }

    /// Everything a result depends on, without times.
    pub fn provenance(&self) -> Map<String, Value> {
        let argv: Vec<String> = std::env::args().collect();
        let backbone = &self.backbone;
        let fields = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "argv": argv,
            "seed": self.config.seed,
            "device": self.device.choice.to_string(),
            "backbone": {
                "path": backbone.path.display().to_string(),
                "hash": backbone.hash,
                "parameters": backbone.model.parameters(),
            },
            "tokenizer": {"hash": backbone.tokenizer.hash(), "vocab_size": backbone.tokenizer.vocab_size()},
            "data": self.corpora.iter().map(|c| (c.name.clone(), json!({"path": c.config.path, "hash": c.hash})))
                .collect::<Map<_, _>>(),
        });
        let Value::Object(mut fields) = fields else { unreachable!("an object was written") };
        if let Some((path, _)) = &self.other_heads {
            fields.insert("heads".into(), json!({"path": path.display().to_string()}));
        }
        fields
    }

    /// Whether the stage in `folder` was finished with the same inputs by the same program; says so if it was. If it was
    /// not, the mark of any earlier result is taken away before that result is overwritten.
    pub fn finished(&self, title: &str, folder: &Path, key: &str) -> Result<bool> {
        let path = folder.join("stage.json");
        let finished = self.is_finished(folder, key);
        if finished {
            self.say_finished(title);
        } else if path.exists() {
            std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(finished)
    }

    /// Whether the stage in `folder` was finished with the same inputs by the same program.
    pub fn is_finished(&self, folder: &Path, key: &str) -> bool {
        // A mark that cannot be read is another version's, or damaged: the stage is done again.
        files::read_json::<Mark>(&folder.join("stage.json")).is_ok_and(|mark| mark == Mark::new(key))
    }

    /// `key` together with the program that works under it, for what is gone on with only by the same one.
    pub fn stamped(&self, key: &str) -> String {
        files::hash_json(&Mark::new(key))
    }

    /// Marks the stage in `folder` as finished.
    pub fn finish(&self, folder: &Path, key: &str) -> Result<()> {
        files::write_json(&folder.join("stage.json"), &Mark::new(key))
    }
}

/// The folder of a run.
fn folder_of(config: &Config) -> PathBuf {
    Path::new("runs").join(&config.name)
}

/// The configured model, and the chat template that its prompts are put in, if any; its tokenizer is then that template's.
pub(super) fn load_backbone(config: &Config, device: &Device) -> Result<(Backbone, Option<ChatTemplate>)> {
    let precision = Precision { weights: config.backbone.weights, compute: config.backbone.compute };
    let load = || {
        let path = resolve(&config.backbone.path)?;
        let backbone = Backbone::load(&path, precision, device)?;
        let template = Checkpoint::open(&path)?.chat_template(&config.backbone.chat_template)?;
        Ok((backbone, template))
    };
    let (mut backbone, template) = load().map_err(|e: Error| e.within("backbone"))?;
    if let Some(template) = &template {
        backbone.tokenizer = backbone.tokenizer.for_chat(&template.key());
    }
    Ok((backbone, template))
}

/// Every corpus of the configuration, with no text in two splits.
pub(super) fn read_corpora(config: &Config) -> Result<Vec<Corpus>> {
    let corpora: Vec<Corpus> =
        config.data.iter().map(|(name, data)| Corpus::read(name, data)).collect::<Result<_>>()?;
    refuse_leaks(&corpora)?;
    Ok(corpora)
}

/// A completion of fewer bytes is an answer that may well recur under another prompt; a longer one is a text.
const SHORT_ANSWER: usize = 200;

/// No text may lie in two splits: not a prompt, not a completion, in whatever corpus.
fn refuse_leaks(corpora: &[Corpus]) -> Result<()> {
    let mut seen: HashMap<blake3::Hash, (Split, &str)> = HashMap::new();
    for corpus in corpora {
        for (split, document) in &corpus.documents {
            for (what, text) in [("prompt", &document.prompt), ("completion", &document.completion)] {
                let text = text.trim();
                if text.is_empty() || (what == "completion" && text.len() < SHORT_ANSWER) {
                    continue;
                }
                let (first, id) = *seen.entry(blake3::hash(text.as_bytes())).or_insert((*split, &document.id));
                if first != *split {
                    bail!(
                        "data.{}: the {what} of `{}` ({}) also occurs in `{id}` ({}), so results would not be held out. Name one of them in `exclude` of its corpus, or name a `group` field whose equal values keep them in one split.",
                        corpus.name,
                        document.id,
                        split.name(),
                        first.name()
                    );
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_prompt_is_refused() {
        let document = |id: &str| Document {
            id: id.into(),
            group: id.into(),
            prompt: "same".into(),
            completion: String::new(),
            cut: false,
        };
        let corpus =
            |documents| Corpus { name: "x".into(), config: DataConfig::default(), documents, hash: String::new() };
        let leak = corpus(vec![(Split::Train, document("a")), (Split::Test, document("b"))]);
        let error = refuse_leaks(&[leak]).unwrap_err().to_string();
        assert!(error.contains("`b` (test)") && error.contains("`a` (train)"), "{error}");
        let across = [corpus(vec![(Split::Dev, document("a"))]), corpus(vec![(Split::Test, document("b"))])];
        assert!(refuse_leaks(&across).is_err());
        refuse_leaks(&[corpus(vec![(Split::Test, document("a")), (Split::Test, document("b"))])]).unwrap();
    }
}
