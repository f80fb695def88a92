//! What a run starts from: the backbone and the corpora.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;

use crate::backbone::{Backbone, Checkpoint, Precision, resolve, resolve_file};
use crate::config::{Config, DataConfig};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files;
use crate::text::{ChatTemplate, Document, Split, SplitFractions, Tokenizer, read_corpus};

/// Backbone and corpora, which runs with the same sections have in common.
#[derive(Clone)]
pub struct Inputs {
    /// The frozen model.
    pub backbone: Arc<Backbone>,
    /// By the name in the configuration, in its order.
    pub corpora: Arc<Vec<Corpus>>,
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
    /// See [`Corpus::documents_hash`].
    hashes: Mutex<HashMap<(Split, usize), String>>,
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
        Ok(Self { name: name.to_owned(), config: config.clone(), documents, hash, hashes: Mutex::default() })
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

    /// Hash of what the first `most` documents of a split say, computed once.
    pub fn documents_hash(&self, split: Split, most: usize) -> String {
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = || files::hash_json(&self.split(split).take(most).collect::<Vec<_>>());
        hashes.entry((split, most)).or_insert_with(hash).clone()
    }

    /// The documents of a split, in the file's order.
    pub fn split(&self, split: Split) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter(move |(s, _)| *s == split).map(|(_, d)| d)
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
        let corpus = |documents| Corpus {
            name: "x".into(),
            config: DataConfig::default(),
            documents,
            hash: String::new(),
            hashes: Mutex::default(),
        };
        let leak = corpus(vec![(Split::Train, document("a")), (Split::Test, document("b"))]);
        let error = refuse_leaks(&[leak]).unwrap_err().to_string();
        assert!(error.contains("`b` (test)") && error.contains("`a` (train)"), "{error}");
        let across = [corpus(vec![(Split::Dev, document("a"))]), corpus(vec![(Split::Test, document("b"))])];
        assert!(refuse_leaks(&across).is_err());
        refuse_leaks(&[corpus(vec![(Split::Test, document("a")), (Split::Test, document("b"))])]).unwrap();
    }
}
