//! Every key of the configuration file, with its meaning, unit and default.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::read::resolve;
use crate::bounds::{above_zero, below_one};

use super::{
    AblationConfig, DraftingConfig, EvaluationConfig, HeadsConfig, LatticeConfig, TraceText, TracesConfig, TuningConfig,
};
use crate::device::DeviceChoice;
use crate::drafting::Variant;
use crate::error::{Error, Result, bail};
use crate::rescorer::RescorerConfig;
use crate::storage_type::StorageType;

/// The whole file; `extends = "other.toml"` at its top makes it a change of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name of the run, whose results go to `runs/NAME`.
    pub name: String,
    /// The seed of every random choice: batches, initial weights, bootstrap.
    pub seed: u64,
    /// Where to compute: "auto", "cpu", "cuda", "cuda:N", "wgpu" or "wgpu:N", with N the index of a GPU.
    pub device: String,
    /// The indices of several GPUs of the kind that `device` names. `train-heads` shares the batches of a step
    /// (`heads.training.accumulate`) out to all of them; the first GPU does everything else. Empty: `device` alone.
    #[schemars(extend("uniqueItems" = true))]
    pub devices: Vec<usize>,
    /// The frozen language model.
    pub backbone: BackboneConfig,
    /// The corpora, by name.
    pub data: BTreeMap<String, DataConfig>,
    /// What is recorded of the backbone: text and hidden states.
    pub traces: TracesConfig,
    /// The prediction heads and their training.
    pub heads: HeadsConfig,
    /// The rescorers, by name. The name is also the name of the rescorer's variant in the report.
    pub rescorer: BTreeMap<String, RescorerConfig>,
    /// The heads' candidates.
    pub lattice: LatticeConfig,
    /// Which drafts are made of the candidates.
    pub drafting: DraftingConfig,
    /// The settings tried on dev.
    pub tuning: TuningConfig,
    /// What is measured and reported.
    pub evaluation: EvaluationConfig,
    /// What `ablate` varies.
    pub ablation: Option<AblationConfig>,
    /// The tokenizer and language model that `pretrain` fits from scratch on the train split of all corpora.
    pub pretrain: Option<PretrainConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "default".into(),
            seed: 1,
            device: "auto".into(),
            devices: Vec::new(),
            backbone: BackboneConfig::default(),
            data: BTreeMap::new(),
            traces: TracesConfig::default(),
            heads: HeadsConfig::default(),
            rescorer: BTreeMap::new(),
            lattice: LatticeConfig::default(),
            drafting: DraftingConfig::default(),
            tuning: TuningConfig::default(),
            evaluation: EvaluationConfig::default(),
            ablation: None,
            pretrain: None,
        }
    }
}

/// `[backbone]`; `backbone = "..."` is short for its `path`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneConfig {
    /// A Hugging Face folder (`config.json`, `model.safetensors`, `tokenizer.json`) or a `.gguf` file, relative to the working
    /// directory, or a model of the hub, `org/name` or `org/name@revision`.
    pub path: String,
    /// The type to which the model's matrices are rounded, and in which the CPU keeps them; the checkpoint's own type where it
    /// is not given.
    pub weights: Option<StorageType>,
    /// The type of activations, keys and values and, on accelerators, of the weights. The CPU computes in float32.
    pub compute: StorageType,
    /// How prompts are put to the model. Empty: as they are. "model": in the model's own chat template. Anything else: in the
    /// template at this path. The prompt is the user's message, and the tokenizer then adds no tokens of its own.
    pub chat_template: String,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self {
            path: "checkpoints/tales".into(),
            weights: None,
            compute: StorageType::Float32,
            chat_template: String::new(),
        }
    }
}

/// A corpus. The name of its file tells the format: plain text for `.txt`, tables for `.csv`, `.tsv` and `.parquet`, and JSON
/// lines for anything else. All but Parquet may be compressed with gzip (`.gz`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A public data set, such as "samsum" or "samsum/train" (`docs/data.md` lists them), from which keys that are not given are
    /// taken.
    pub preset: Option<String>,
    /// The file, relative to the working directory, or a file of a data set of the Hugging Face hub,
    /// `hf://datasets/ORG/NAME[@REVISION]/FILE`, which is looked up in the local cache and downloaded if it is not there.
    pub path: String,
    /// Where the file comes from, for the message that it is missing.
    pub origin: String,
    /// The field with the document's name. Records without it are named by their line or row.
    pub id: String,
    /// The field with the prompt, or a template with fields in braces, such as `"Dialogue:\n{dialogue}\n\nSummary:"`. `{a.b.0}`
    /// goes into objects and lists; `{text|words 400}`, `{text|trim}`, `{text|before_last_word}` and `{text|last_word}` take
    /// a part; `{{` and `}}` are braces.
    pub prompt: String,
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
            origin: String::new(),
            id: "id".into(),
            prompt: "prompt".into(),
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

/// `[*.training]`: AdamW with linear warm-up and a cosine to the final rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizationConfig {
    /// The number of optimizer steps.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// The highest learning rate, reached after the warm-up.
    #[schemars(transform = above_zero)]
    pub learning_rate: f64,
    /// The number of steps of linear warm-up.
    pub warmup_steps: usize,
    /// The last learning rate, as a share of the highest. The rate falls to it along a cosine.
    pub final_rate: f64,
    /// AdamW's decoupled weight decay of matrices. Biases and norms have none.
    pub weight_decay: f64,
    /// The largest global L2 norm of the gradient; a larger gradient is scaled down to it.
    #[schemars(transform = above_zero)]
    pub clip_norm: f64,
    /// AdamW's decay rates of the first and second moments.
    #[schemars(inner(range(min = 0.0)), transform = below_one)]
    pub betas: [f64; 2],
    /// The number of steps between evaluations on dev.
    #[schemars(range(min = 1))]
    pub dev_every: usize,
    /// The number of steps between checkpoints.
    #[schemars(range(min = 1))]
    pub checkpoint_every: usize,
    /// The number of batches whose gradients make one step: a batch this many times as large in the memory of one.
    #[schemars(range(min = 1))]
    pub accumulate: usize,
    /// The decay of the moving average of the weights, such as 0.99; 0 for none. The average is what is evaluated on dev and
    /// what is kept.
    #[schemars(range(min = 0.0), transform = below_one)]
    pub average: f64,
    /// The number of evaluations on dev in a row without a new best after which training ends; 0: it never ends early.
    pub patience: usize,
}

impl Default for OptimizationConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            learning_rate: 1e-3,
            warmup_steps: 20,
            final_rate: 0.1,
            weight_decay: 0.01,
            clip_norm: 1.0,
            betas: [0.9, 0.98],
            dev_every: 50,
            checkpoint_every: 50,
            accumulate: 1,
            average: 0.0,
            patience: 0,
        }
    }
}

/// The size of a Llama-architecture language model trained from scratch, whose unembedding is tied to its embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageModelConfig {
    /// The width of the hidden states.
    #[schemars(range(min = 2))]
    pub hidden: usize,
    /// The number of decoder layers.
    #[schemars(range(min = 1))]
    pub layers: usize,
    /// The number of attention heads; divides `hidden` into even widths.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// The number of key/value heads; divides `heads`.
    #[schemars(range(min = 1))]
    pub kv_heads: usize,
    /// The width of the gated MLP.
    #[schemars(range(min = 1))]
    pub intermediate: usize,
    /// The length of the longest text, in tokens.
    #[schemars(range(min = 2))]
    pub context: usize,
}

impl Default for LanguageModelConfig {
    fn default() -> Self {
        Self { hidden: 256, layers: 4, heads: 4, kv_heads: 2, intermediate: 704, context: 512 }
    }
}

/// `[pretrain]`: a tokenizer and a language model fitted from scratch on the train split of `[data.*]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// The folder where the model is written, in the layout of Hugging Face.
    pub output: String,
    /// The number of token types of the byte-level BPE.
    #[schemars(range(min = 257))]
    pub vocab_size: usize,
    /// The size of the model.
    pub model: LanguageModelConfig,
    /// The number of documents per training step.
    #[schemars(range(min = 1))]
    pub documents_per_step: usize,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            output: "checkpoints/new".into(),
            vocab_size: 2048,
            model: LanguageModelConfig::default(),
            documents_per_step: 16,
            training: OptimizationConfig::default(),
        }
    }
}

impl Config {
    /// The largest k that anything asks of a lattice.
    pub fn widest(&self) -> usize {
        self.evaluation.oracle_top_k.iter().copied().fold(self.lattice.top_k, usize::max)
    }

    /// The device of the run, then the others that the heads train on as well.
    ///
    /// # Errors
    /// No such device; several of a kind that is not a GPU's.
    pub fn device_choices(&self) -> Result<Vec<DeviceChoice>> {
        let one: DeviceChoice = self.device.parse().map_err(|e: Error| e.within("`device`"))?;
        if self.devices.is_empty() {
            return Ok(vec![one]);
        }
        self.devices.iter().map(|&index| one.numbered(index)).collect()
    }

    /// Checks the value of every key, and what keys demand of each other. Errors begin with the key.
    pub fn validate(&self) -> Result<()> {
        let table = Table::try_from(self)
            .map_err(|_| Error::new(format!("`seed` is {}; it must be at most {}.", self.seed, i64::MAX)))?;
        resolve(table).map_err(|fault| Error::new(fault.what))?;
        names_a_folder("name", &self.name)?;
        let devices = self.device_choices()?.len();
        if devices > self.heads.training.accumulate {
            bail!(
                "`devices` names {devices} GPUs, but a step of the heads has {} batches to share out. Set `heads.training.accumulate` to a multiple of {devices}.",
                self.heads.training.accumulate
            );
        }
        if self.data.is_empty() {
            bail!("no corpus: add a section such as [data.mine] with `path = \"mine.jsonl\"`.");
        }
        for (name, data) in &self.data {
            names_a_folder(&format!("data.{name}"), name)?;
            if data.path.is_empty() {
                bail!("`data.{name}.path` is missing; it names the corpus file. (A `preset` has one.)");
            }
            if data.dev + data.test > 1.0 {
                bail!("`data.{name}.dev` and `data.{name}.test` are shares with a sum of at most 1.");
            }
            if data.test > 0.0 && data.dev <= 0.0 {
                bail!(
                    "`data.{name}` has a `test` share and no `dev` share; what is tested is tuned on dev. Give it one, or set `test` to 0."
                );
            }
        }
        if !self.data.values().any(|data| data.dev + data.test < 1.0) {
            bail!(
                "every corpus is all dev and test; at least one needs documents to train on, so `dev` + `test` below 1."
            );
        }
        if !self.data.values().any(|data| data.dev > 0.0) {
            bail!("no corpus has a `dev` share; checkpoints are chosen on dev.");
        }
        self.heads.validate(self)?;
        for (name, rescorer) in &self.rescorer {
            let key = format!("rescorer.{name}");
            names_a_folder(&key, name)?;
            if !Variant::allows_rescorer(name) {
                bail!(
                    "`{key}`: this name is taken by a built-in variant (bpd, prompt-lookup, 0gram, and all that begin with pbest-, beam-, path- or tree- or contain +); choose another."
                );
            }
            let own_text = self.traces.train_text != [TraceText::Corpus];
            rescorer.validate(&key, &self.rescorer, own_text)?;
        }
        if let Some(pretrain) = &self.pretrain {
            pretrain.model.validate("pretrain.model")?;
        }
        self.validate_variants()?;
        self.grid().map(|_| ())
    }
}

impl OptimizationConfig {
    /// Batches that all steps together take.
    pub(crate) fn batches(&self) -> usize {
        self.steps * self.accumulate
    }
}

impl LanguageModelConfig {
    pub(crate) fn validate(&self, key: &str) -> Result<()> {
        if !self.hidden.is_multiple_of(self.heads)
            || !self.heads.is_multiple_of(self.kv_heads)
            || !(self.hidden / self.heads).is_multiple_of(2)
        {
            bail!(
                "`{key}`: heads ({}) must divide hidden ({}) into even widths, and kv_heads ({}) must divide heads.",
                self.heads,
                self.hidden,
                self.kv_heads
            );
        }
        Ok(())
    }
}

fn names_a_folder(key: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
        bail!(
            "`{key}` is named `{name}`; the name becomes a folder, so it must be non-empty, without slashes and without a leading dot."
        );
    }
    Ok(())
}
