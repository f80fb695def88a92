//! The inputs of a run: the backbone and the corpora.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;

use crate::backbone::{Backbone, Checkpoint, Precision, resolve, resolve_files};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files;
use crate::text::{ChatTemplate, DataConfig, Document, Message, Split, SplitFractions, Tokenizer, read_corpus_files};
use crate::traces::TraceText;

/// The backbone and the corpora. Runs with the same sections of the configuration can share them.
#[derive(Clone)]
pub struct Inputs {
    /// The frozen model.
    pub backbone: Arc<Backbone>,
    /// The template that prompts are put in, if there is one.
    pub template: Option<Arc<ChatTemplate>>,
    /// The corpora, in the order of the configuration.
    pub corpora: Arc<Vec<Corpus>>,
}

impl Inputs {
    /// Loads the backbone and reads the corpora.
    ///
    /// # Errors
    /// Fails if the backbone or a corpus cannot be read, or if the same text occurs in two splits.
    pub fn read(config: &Config, device: &Device) -> Result<Self> {
        let (backbone, template) = load_backbone(config, device)?;
        let mut corpora = read_corpora(config)?;
        for corpus in &mut corpora {
            let Some(template) = &template else {
                if corpus.config.chat.is_empty() {
                    continue;
                }
                bail!(
                    "`data.{}.chat` has conversations, which only a chat template turns into text. Set `backbone.chat_template` to \"model\", or to the path of one.",
                    corpus.name
                );
            };
            for (_, document) in &mut corpus.documents {
                let rendered = match &document.messages[..] {
                    [] => template.render(&document.prompt),
                    messages => template.render_messages(messages),
                };
                let rendered = rendered.map_err(|e| e.within(&document.id))?;
                if config.traces.train_text.contains(&TraceText::Corpus) && !document.completion.is_empty() {
                    let asked = [Message { role: "user".to_owned(), content: document.prompt.clone() }];
                    let messages = if document.messages.is_empty() { &asked } else { &document.messages[..] };
                    let checked = template.check_answer(messages, &rendered, &document.completion);
                    checked.map_err(|e| e.within(&document.id))?;
                }
                document.prompt = rendered;
            }
        }
        for corpus in &mut corpora {
            if let Some(most) = corpus.config.max_tokens {
                corpus.keep_tokens(most, &backbone.tokenizer)?;
            }
        }
        Ok(Self { backbone: Arc::new(backbone), template: template.map(Arc::new), corpora: Arc::new(corpora) })
    }
}

/// A corpus of the configuration, with its documents.
pub struct Corpus {
    /// The name of the corpus, as in `[data.NAME]`.
    pub name: String,
    /// The section of the configuration that describes it.
    pub config: DataConfig,
    /// All documents in the order of the file, each with its split.
    pub documents: Vec<(Split, Document)>,
    /// The BLAKE3 hash of the file, or that of the hashes of several.
    pub hash: String,
    /// The results of [`Corpus::documents_hash`] so far, by its arguments.
    hashes: Mutex<HashMap<(Split, usize), String>>,
}

impl Corpus {
    /// Reads one corpus and splits it.
    fn read(name: &str, config: &DataConfig) -> Result<Self> {
        let fractions = SplitFractions::from(config);
        let found =
            resolve_files(&config.path, &config.split).and_then(|paths| match paths.iter().find(|p| !p.exists()) {
                Some(path) => bail!("there is no file {}. Check `path`, or put the file there.", path.display()),
                None => Ok(paths),
            });
        let origin = if config.origin.is_empty() { String::new() } else { format!(" {}", config.origin) };
        let paths = found.map_err(|e| match e.kind() {
            ErrorKind::Fault | ErrorKind::NotPermitted => Error::new(format!("data.{name}: {e}{origin}")),
            _ => e,
        })?;
        let documents =
            read_corpus_files(&paths, config)?.into_iter().map(|d| (fractions.split_of(&d.group), d)).collect();
        let hashes: Vec<String> = paths.iter().map(|path| files::hash_file(path)).collect::<Result<_>>()?;
        let hash = match &hashes[..] {
            [hash] => hash.clone(),
            several => files::hash_json(several),
        };
        Ok(Self { name: name.to_owned(), config: config.clone(), documents, hash, hashes: Mutex::default() })
    }

    /// Keeps only the first documents, up to and including the one with which their prompts and completions reach
    /// `most` tokens.
    ///
    /// # Errors
    /// Fails if the tokenizer cannot encode a text.
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

    /// Returns the corpus with the first `most` documents of each split alone.
    pub fn first(&self, most: usize) -> Self {
        let of = |split| self.split(split).take(most).map(move |document| (split, document.clone()));
        let documents = [Split::Train, Split::Dev, Split::Test].into_iter().flat_map(of).collect();
        let (name, config, hash) = (self.name.clone(), self.config.clone(), self.hash.clone());
        Self { name, config, documents, hash, hashes: Mutex::default() }
    }

    /// Returns whether the configuration gives the split a share of the documents.
    pub fn has(&self, split: Split) -> bool {
        SplitFractions::from(&self.config).share(split) > 0.0
    }

    /// Returns the hash of the contents of the first `most` documents of a split. It is computed once.
    pub fn documents_hash(&self, split: Split, most: usize) -> String {
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = || files::hash_json(&self.split(split).take(most).collect::<Vec<_>>());
        hashes.entry((split, most)).or_insert_with(hash).clone()
    }

    /// Returns the documents of a split, in the order of the file.
    pub fn split(&self, split: Split) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter(move |(s, _)| *s == split).map(|(_, d)| d)
    }
}

/// Loads the configured backbone and the chat template that its prompts are put in, if any. The backbone's tokenizer is
/// then the one for that template.
///
/// # Errors
/// Fails if there is no such model, or if its files are damaged.
pub fn load_backbone(config: &Config, device: &Device) -> Result<(Backbone, Option<ChatTemplate>)> {
    let precision = Precision { weights: config.backbone.weights, compute: config.backbone.compute };
    let load = || {
        let path = resolve(&config.backbone.path)?;
        let backbone = Backbone::load(&path, precision, device)?;
        let template = Checkpoint::open(&path)?.chat_template(&config.backbone.chat_template)?;
        let arguments = &config.backbone.chat_arguments;
        Ok((backbone, template.map(|template| template.with_arguments(arguments)).transpose()?))
    };
    let (mut backbone, template) = load().map_err(|e: Error| e.within("backbone"))?;
    if let Some(template) = &template {
        backbone.tokenizer = backbone.tokenizer.for_chat(&template.key());
    }
    Ok((backbone, template))
}

/// Reads every corpus of the configuration, and refuses them if a text occurs in two splits.
pub(super) fn read_corpora(config: &Config) -> Result<Vec<Corpus>> {
    let corpora: Vec<Corpus> =
        config.data.iter().map(|(name, data)| Corpus::read(name, data)).collect::<Result<_>>()?;
    refuse_leaks(&corpora)?;
    Ok(corpora)
}

/// The number of bytes below which a completion counts as a short answer, which may well recur under another prompt. A
/// longer completion must not occur in two splits.
const SHORT_ANSWER: usize = 200;

/// Fails if a prompt or a longer completion occurs in two splits, whether in one corpus or in two.
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
            messages: Vec::new(),
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
