//! A run's folder, its inputs, and which stages are finished.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::backbone::{Backbone, Checkpoint, Precision, resolve, resolve_file};
use crate::config::{Config, DataConfig};
use crate::device::Opened;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::progress;
use crate::text::{ChatTemplate, Document, Split, SplitFractions, Tokenizer, read_corpus};

/// A run: configuration, device, folder, backbone and corpora. One process at a time works on a folder.
pub struct Workspace {
    /// The resolved configuration.
    pub config: Config,
    /// Where tensors live.
    pub device: Opened,
    /// `runs/<name>`
    pub folder: PathBuf,
    /// The frozen model.
    pub backbone: Backbone,
    /// By the name in the configuration, in its order.
    pub corpora: Vec<Corpus>,
    _lock: File,
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
        let path = found.map_err(|e| match e.exit_code() {
            2 => Error::new(format!("data.{name}: {e}{origin}")),
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
    /// Opens `runs/<name>`, loads the backbone, reads the corpora; writes `run.toml` and `provenance.json`.
    ///
    /// # Errors
    /// Another process on the folder; anything wrong with backbone or corpora; a text of dev or test that also trains.
    pub fn open(config: Config, device: Opened) -> Result<Self> {
        let folder = Path::new("runs").join(&config.name);
        let lock = files::lock(&folder)?;
        if let Some(note) = &device.note {
            progress::say(note);
        }
        let (backbone, template) = load_backbone(&config, &device.device)?;
        let mut corpora = read_corpora(&config)?;
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
        let workspace = Self { config, device, folder, backbone, corpora, _lock: lock };
        files::write_atomic(&workspace.folder.join("run.toml"), workspace.config.to_toml().as_bytes())?;
        let mut provenance = workspace.provenance();
        provenance.insert("started".into(), json!(jiff::Timestamp::now().to_string()));
        files::write_json(&workspace.folder.join("provenance.json"), &provenance)?;
        Ok(workspace)
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
        match fields {
            Value::Object(map) => map,
            _ => unreachable!("an object was written"),
        }
    }

    /// Whether the stage in `folder` was finished with the same inputs by the same program; says so if it was. If it was
    /// not, the mark of any earlier result is taken away before that result is overwritten.
    pub fn finished(&self, title: &str, folder: &Path, key: &str) -> Result<bool> {
        let path = folder.join("stage.json");
        let finished = self.is_finished(folder, key);
        if finished {
            progress::say(format!("{title}: finished earlier, skipped"));
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
