//! `[data.NAME]`: a corpus.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, bail};

/// A corpus. The name of its file tells the format: plain text for `.txt`, tables for `.csv`, `.tsv` and `.parquet`, and JSON
/// lines for anything else. All but Parquet may be compressed with gzip (`.gz`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A public data set, such as "samsum" or "samsum/train" (`docs/data.md` lists them), from which keys that are not given are
    /// taken.
    pub preset: Option<String>,
    /// The file, relative to the working directory, or a file of a data set of the Hugging Face hub,
    /// `hf://datasets/ORG/NAME[@REVISION]/FILE`, which is looked up in the local cache and downloaded if it is not there; or, with
    /// `split`, a data set without a file.
    pub path: String,
    /// The split of the data set `path`, `hf://datasets/ORG/NAME` or `hf://datasets/ORG/NAME/CONFIGURATION`: all Parquet files that
    /// the hub keeps of it, such as those of "train", in their order. Empty: `path` is a file.
    pub split: String,
    /// Where the file comes from, for the message that it is missing.
    pub origin: String,
    /// The field with the document's name. Records without it are named by their line or row.
    pub id: String,
    /// The field with the prompt, or a template with fields in braces, such as `"Dialogue:\n{dialogue}\n\nSummary:"`. `{a.b.0}`
    /// goes into objects and lists; `{text|words 400}`, `{text|trim}`, `{text|before_last_word}` and `{text|last_word}` take
    /// a part; `{{` and `}}` are braces.
    pub prompt: String,
    /// The field with a conversation: a list of messages with `role` and `content` (or `from` and `value`). Every answer of the
    /// assistant is then a document: the messages before it, in the template that `backbone.chat_template` names, are its prompt,
    /// and `prompt`, `completion` and `separator` are not read. Empty: records have prompts.
    pub chat: String,
    /// The field or template of the text that follows the prompt. Empty: the corpus has prompts only.
    pub completion: String,
    /// The field or template whose equal values form a group: documents that stay in one split and are resampled together.
    /// Empty: the prompt.
    pub group: String,
    /// The text before whose first occurrence a group's value ends: where several questions are asked about one passage, their
    /// prompts then form one group. Empty: the whole value counts.
    pub group_until: String,
    /// The ids of documents to leave out, such as those that another corpus has as well.
    pub exclude: Vec<String>,
    /// The field that says how the text ended. Where it is "length", the text was cut, and no end-of-text token follows it.
    pub finish: String,
    /// The text between prompt and completion; it ends what the backbone is given.
    pub separator: String,
    /// For plain text: the number of paragraphs in a document, the first of which is the prompt. Blank lines separate
    /// paragraphs.
    #[schemars(range(min = 1))]
    pub paragraphs: usize,
    /// The number of documents after which the rest of the file is left out.
    #[schemars(range(min = 1))]
    pub max_documents: Option<usize>,
    /// The number of tokens after which the rest of the file is left out: documents are taken in the file's order, up to the one
    /// with which prompts and completions have this many tokens of the backbone.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<usize>,
    /// The share of groups on which scales and checkpoints are chosen. `dev` and `test` have a sum of at most 1, and nothing is
    /// trained on where it is 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub dev: f64,
    /// The share of groups to report on; 0: the corpus is not reported on.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub test: f64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            preset: None,
            path: String::new(),
            split: String::new(),
            origin: String::new(),
            id: "id".into(),
            prompt: "prompt".into(),
            chat: String::new(),
            completion: "completion".into(),
            group: String::new(),
            group_until: String::new(),
            exclude: Vec::new(),
            finish: "finish".into(),
            separator: String::new(),
            paragraphs: 8,
            max_documents: None,
            max_tokens: None,
            dev: 0.1,
            test: 0.2,
        }
    }
}

impl DataConfig {
    /// Checks what the types cannot express. `key` is the section's name in messages.
    ///
    /// # Errors
    /// Returns an error if the file is missing or the shares do not fit together. The message names the key.
    pub(crate) fn validate(&self, key: &str) -> Result<()> {
        if self.path.is_empty() {
            bail!("`{key}.path` is missing; it names the corpus file. (A `preset` has one.)");
        }
        if !self.split.is_empty() && !self.path.starts_with("hf://datasets/") {
            bail!(
                "`{key}.split` is of a data set of the hub, `hf://datasets/ORG/NAME`, and `{key}.path` is \"{}\". Leave `split` out for a file.",
                self.path
            );
        }
        if !self.chat.is_empty() && !self.separator.is_empty() {
            bail!(
                "`{key}.separator` stands between prompt and completion, and `{key}.chat` leaves that to the chat template. Leave one of them out."
            );
        }
        if self.dev + self.test > 1.0 {
            bail!("`{key}.dev` and `{key}.test` are shares with a sum of at most 1.");
        }
        if self.test > 0.0 && self.dev <= 0.0 {
            bail!(
                "`{key}` has a `test` share and no `dev` share; what is tested is tuned on dev. Give it one, or set `test` to 0."
            );
        }
        Ok(())
    }
}
