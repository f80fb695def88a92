//! Every key of the configuration file, with its meaning, unit and default.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{
    AblationConfig, DraftingConfig, EvaluationConfig, HeadsConfig, LatticeConfig, StorageType, TraceText, TracesConfig,
    TuningConfig,
};
use crate::device::DeviceChoice;
use crate::drafting::Variant;
use crate::error::{Error, Result, bail};
use crate::rescorer::RescorerConfig;

/// The whole file; `extends = "other.toml"` at its top makes it a change of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names the run: results go to `runs/<name>`.
    pub name: String,
    /// Seed of every random choice: batches, initial weights, bootstrap.
    pub seed: u64,
    /// `auto`, `cpu`, `cuda[:N]` or `wgpu[:N]`.
    pub device: String,
    /// GPUs, by index, of the kind that `device` names: `train-heads` shares the batches of a step
    /// (`heads.training.accumulate`) out to all of them, the first does everything else. Empty: the one `device`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<usize>,
    /// The frozen language model.
    #[serde(deserialize_with = "BackboneConfig::read")]
    pub backbone: BackboneConfig,
    /// Corpora by name.
    pub data: BTreeMap<String, DataConfig>,
    /// Text with the backbone's hidden states.
    pub traces: TracesConfig,
    /// The prediction heads.
    pub heads: HeadsConfig,
    /// Rescorers by name; the name is the variant's name in the report.
    pub rescorer: BTreeMap<String, RescorerConfig>,
    /// The heads' candidates.
    pub lattice: LatticeConfig,
    /// Which drafts are made of them.
    pub drafting: DraftingConfig,
    /// The settings tried on dev.
    pub tuning: TuningConfig,
    /// Oracle, bootstrap, live check.
    pub evaluation: EvaluationConfig,
    /// Only for `ablate` and `plan`: what is varied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ablation: Option<AblationConfig>,
    /// Only for `pretrain`: the language model to train from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
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

/// `[backbone]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneConfig {
    /// A Hugging Face folder (`config.json`, `model.safetensors`, `tokenizer.json`) relative to the working directory, or a
    /// model of the hub, `org/name` or `org/name@revision`. `backbone = "..."` is short for this key alone.
    pub path: String,
    /// Type in which the CPU keeps the model's matrices, and to which they are rounded; the checkpoint's own where it is
    /// not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<StorageType>,
    /// Type of activations, keys and values (and, on accelerators, of the weights); the CPU computes in float32.
    pub compute: StorageType,
    /// How prompts are put to the model: raw where it is empty, "model" for the model's own chat template, else the path of
    /// a template. The prompt is the user's message; the tokenizer then adds no tokens of its own.
    pub chat_template: String,
}

impl BackboneConfig {
    /// A table, or the path alone.
    fn read<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = BackboneConfig;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the path or hub id of a model, or a table")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<BackboneConfig, E> {
                Ok(BackboneConfig { path: path.into(), ..BackboneConfig::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BackboneConfig, A::Error> {
                BackboneConfig::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Either)
    }
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

/// `[data.NAME]`: a corpus. The file's name tells the format: plain text where it ends in `.txt`, `.csv`, `.tsv`,
/// `.parquet`, else JSON lines; all but Parquet may be gzip (`.gz`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A public data set by name, `"samsum"` or `"samsum/train"`: keys that are not given are taken from it (`docs/data.md`
    /// lists them).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The file, relative to the working directory; or one of a data set of the Hugging Face hub,
    /// `hf://datasets/ORG/NAME[@REVISION]/FILE`, looked up in the local cache and downloaded if it is not there.
    pub path: String,
    /// Where the file comes from, said when it is not there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub origin: String,
    /// Field with the document's name; records without it are named by their line or row.
    pub id: String,
    /// Field with the prompt, or a template with fields in braces, such as `"Dialogue:\n{dialogue}\n\nSummary:"`. `{a.b.0}`
    /// goes into objects and lists; `{text|words 400}`, `{text|trim}`, `{text|before_last_word}` and `{text|last_word}` take
    /// a part; `{{` and `}}` are braces.
    pub prompt: String,
    /// Field or template of the text that follows; empty when the corpus has prompts only.
    pub completion: String,
    /// Field or template whose equal values stay in one split and are resampled together; empty for the prompt.
    pub group: String,
    /// Groups end before the first occurrence of this text: where one passage is asked several questions, its prompts are then
    /// one group. Empty for the whole field.
    pub group_until: String,
    /// Ids of documents to leave out, such as those that another corpus has as well.
    pub exclude: Vec<String>,
    /// Field that says how the text ended: where it is "length", the text was cut and no end-of-text follows it.
    pub finish: String,
    /// Put between prompt and completion, and so at the end of what the backbone is given.
    pub separator: String,
    /// Plain text: paragraphs of a document, the first of which is the prompt. Blank lines are between paragraphs.
    pub paragraphs: usize,
    /// The first documents of the file, at most, that are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_documents: Option<usize>,
    /// Documents are taken, in the file's order, up to the one with which prompts and completions have this many of the
    /// backbone's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Share of groups held out to choose scales and checkpoints on. With a `dev` and a `test` of 0.25 and 0.75, nothing is
    /// trained on.
    pub dev: f64,
    /// Share of groups held out to report on; a corpus without is not reported on.
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
    /// Optimizer steps in all.
    pub steps: usize,
    /// The highest learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// The last learning rate as a share of the highest.
    pub final_rate: f64,
    /// Decoupled weight decay of matrices; biases and norms have none.
    pub weight_decay: f64,
    /// The gradient's global L2 norm is scaled down to this.
    pub clip_norm: f64,
    /// AdamW's decay of the first and second moments.
    pub betas: [f64; 2],
    /// Steps between evaluations on dev.
    pub dev_every: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Batches whose gradients make one step: as many times the batch without more memory.
    pub accumulate: usize,
    /// Decay of the moving average of the weights, which is then what dev evaluates and what is kept: 0 for none, 0.99 or so.
    pub average: f64,
    /// Training ends when so many evaluations on dev in a row have not been better than the best; 0 for never.
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

/// Size of a Llama-architecture language model trained from scratch; unembedding tied to the embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageModelConfig {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of the gated MLP.
    pub intermediate: usize,
    /// Longest text in tokens.
    pub context: usize,
}

impl Default for LanguageModelConfig {
    fn default() -> Self {
        Self { hidden: 256, layers: 4, heads: 4, kv_heads: 2, intermediate: 704, context: 512 }
    }
}

/// `[pretrain]`: a tokenizer and a language model fitted from scratch on the train split of `[data.*]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// Where the Hugging Face folder is written.
    pub output: String,
    /// Types of the byte-level BPE.
    pub vocab_size: usize,
    /// Size of the model.
    pub model: LanguageModelConfig,
    /// Documents per training step.
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
        if self.devices.iter().enumerate().any(|(place, index)| self.devices[..place].contains(index)) {
            bail!("`devices` is {:?}; name every GPU once.", self.devices);
        }
        self.devices.iter().map(|&index| one.numbered(index)).collect()
    }

    /// Checks what types cannot: ranges, and what must not be empty. Errors name the key.
    pub fn validate(&self) -> Result<()> {
        names_a_folder("name", &self.name)?;
        if i64::try_from(self.seed).is_err() {
            bail!("`seed` is {}; it must be at most {}.", self.seed, i64::MAX);
        }
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
            at_least(&format!("data.{name}.paragraphs"), data.paragraphs, 1)?;
            for (key, limit) in [("max_documents", data.max_documents), ("max_tokens", data.max_tokens)] {
                at_least(&format!("data.{name}.{key}"), limit.unwrap_or(1), 1)?;
            }
            let shares = [data.dev, data.test];
            if shares.iter().any(|s| !(0.0..=1.0).contains(s)) || data.dev + data.test > 1.0 {
                bail!("`data.{name}.dev` and `data.{name}.test` are shares from 0 to 1 with a sum of at most 1.");
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
        self.traces.validate()?;
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
            at_least("pretrain.vocab_size", pretrain.vocab_size, 257)?;
            at_least("pretrain.documents_per_step", pretrain.documents_per_step, 1)?;
            pretrain.model.validate("pretrain.model")?;
            pretrain.training.validate("pretrain.training")?;
        }
        self.lattice.validate()?;
        self.drafting.validate()?;
        self.validate_variants()?;
        self.tuning.validate()?;
        self.evaluation.validate()?;
        self.grid().map(|_| ())
    }
}

impl OptimizationConfig {
    /// Batches that all steps together take.
    pub(crate) fn batches(&self) -> usize {
        self.steps * self.accumulate
    }

    pub(crate) fn validate(&self, key: &str) -> Result<()> {
        at_least(&format!("{key}.steps"), self.steps, 1)?;
        at_least(&format!("{key}.dev_every"), self.dev_every, 1)?;
        at_least(&format!("{key}.checkpoint_every"), self.checkpoint_every, 1)?;
        at_least(&format!("{key}.accumulate"), self.accumulate, 1)?;
        for (name, value) in [("learning_rate", self.learning_rate), ("clip_norm", self.clip_norm)] {
            if !(value > 0.0 && value.is_finite()) {
                bail!("`{key}.{name}` is {value}; it must be above 0.");
            }
        }
        if !(0.0..1.0).contains(&self.average) {
            bail!("`{key}.average` is {}; it must be at least 0 and below 1.", self.average);
        }
        if self.betas.iter().any(|b| !(0.0..1.0).contains(b)) {
            bail!("`{key}.betas` must be at least 0 and below 1.");
        }
        Ok(())
    }
}

impl LanguageModelConfig {
    pub(crate) fn validate(&self, key: &str) -> Result<()> {
        for (name, value, least) in
            [("layers", self.layers, 1), ("intermediate", self.intermediate, 1), ("context", self.context, 2)]
        {
            at_least(&format!("{key}.{name}"), value, least)?;
        }
        let divides = |small: usize, large: usize| small > 0 && large.is_multiple_of(small);
        if !divides(self.heads, self.hidden)
            || !divides(self.kv_heads, self.heads)
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

pub(crate) fn at_least(key: &str, value: usize, least: usize) -> Result<()> {
    if value < least {
        bail!("`{key}` is {value}; it must be at least {least}.");
    }
    Ok(())
}
