//! A model folder: weights, tokenizer and end-of-text ids that belong together.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Map, Value, json};

use super::architectures::{Architecture, Keys, architecture, config_json};
use super::weights::{Weights, weight_files};
use super::{Model, ModelConfig, Precision, Transformer};
use crate::config::StorageType;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::nn::{collect_parameters, parameters_to_safetensors};
use crate::text::Tokenizer;

/// A frozen language model with its tokenizer.
pub struct Backbone {
    /// The network.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Ids that end a text.
    pub end_of_text: Vec<u32>,
    /// BLAKE3 of weights, configuration, end-of-text ids and precision.
    pub hash: String,
    /// Where it came from.
    pub path: PathBuf,
}

impl Backbone {
    /// Reads a Hugging Face folder onto `device`.
    ///
    /// # Errors
    /// A missing or truncated file, an unknown architecture, a tensor missing, left over or of another shape, a tokenizer
    /// with ids beyond the embedding; each names the file.
    pub fn load(folder: &Path, precision: Precision, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let Identity { end_of_text, weights, hash } = checkpoint.identity(precision)?;
        let precision = Precision { weights: Some(weights), ..precision };
        let tokenizer = Tokenizer::load(folder)?;
        let vocabulary = checkpoint.config.vocab_size;
        if tokenizer.vocab_size() > vocabulary {
            bail!(
                "{}: the tokenizer has ids up to {}, but the model's vocabulary has {vocabulary} entries. Use the tokenizer.json that belongs to these weights.",
                folder.display(),
                tokenizer.vocab_size() - 1,
            );
        }
        Ok(Self { model: checkpoint.load(precision, device)?, tokenizer, end_of_text, hash, path: folder.to_owned() })
    }
}

/// What decides what a model writes, besides its architecture.
pub struct Identity {
    /// Ids that end a text: those of `generation_config.json`, else of `config.json`.
    pub end_of_text: Vec<u32>,
    /// The type that matrices are rounded to.
    pub weights: StorageType,
    /// BLAKE3 of weights, configuration, end-of-text ids and precision.
    pub hash: String,
}

/// A checkpoint, opened but not read.
pub struct Checkpoint {
    folder: PathBuf,
    architecture: &'static dyn Architecture,
    /// Its shape.
    pub config: ModelConfig,
    weights: Weights,
}

impl Checkpoint {
    /// Reads `config.json` and the headers of the weights.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        if !path.exists() {
            bail!(
                "{} is no model folder: it has no config.json. Give a Hugging Face folder with config.json, model.safetensors and tokenizer.json.",
                folder.display()
            );
        }
        let json: Map<String, Value> = files::read_json(&path)?;
        let keys = Keys(&json);
        let architecture = architecture(&keys).map_err(|e| e.within(path.display()))?;
        let config = architecture.config(&keys).map_err(|e| e.within(path.display()))?;
        Ok(Self { folder: folder.to_owned(), architecture, config, weights: Weights::open(folder)? })
    }

    /// `model_type`
    pub fn model_type(&self) -> &'static str {
        self.architecture.model_type()
    }

    /// Name, type and shape of every tensor, sorted by name.
    pub fn tensors(&self) -> Vec<(String, String, Vec<usize>)> {
        self.weights.describe()
    }

    /// The type that keeps weights as they are: float32 unless all matrices are of one smaller type.
    fn storage(&self) -> StorageType {
        let tensors = self.tensors();
        let all = |kind: &str| tensors.iter().filter(|t| t.2.len() == 2).all(|t| t.1 == kind);
        match () {
            () if all("F16") => StorageType::Float16,
            () if all("BF16") => StorageType::Bfloat16,
            () => StorageType::Float32,
        }
    }

    /// Reads the weights onto `device`.
    pub fn load(mut self, precision: Precision, device: &Device) -> Result<Model> {
        let (architecture, config) = (self.architecture, self.config);
        let model = Model::load(&config, precision, device, &mut |name| self.weights.read(architecture, &config, name))
            .map_err(|e| e.within(self.weights.place()))?;
        self.weights.finish(architecture, &config)?;
        Ok(model)
    }

    fn end_of_text(&self) -> Result<Vec<u32>> {
        for name in ["generation_config.json", "config.json"] {
            let path = self.folder.join(name);
            if !path.exists() {
                continue;
            }
            let json: Map<String, Value> = files::read_json(&path)?;
            let id = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
            let ids: Option<Vec<u32>> = match json.get("eos_token_id") {
                None | Some(Value::Null) => continue,
                Some(Value::Array(ids)) => ids.iter().map(id).collect(),
                Some(one) => id(one).map(|id| vec![id]),
            };
            let wrong = || Error::new(format!("{}: `eos_token_id` must be an id or a list of ids.", path.display()));
            return ids.ok_or_else(wrong);
        }
        Ok(Vec::new())
    }

    /// End-of-text ids, type of the weights, and the hash of all that decides what the model writes with `precision`.
    pub fn identity(&self, precision: Precision) -> Result<Identity> {
        let end_of_text = self.end_of_text()?;
        let weights = precision.weights.unwrap_or(self.storage());
        let mut parts = weight_files(&self.folder)?;
        parts.push(self.folder.join("config.json"));
        let hashes: Vec<String> = parts.iter().map(|path| files::hash_file(path)).collect::<Result<_>>()?;
        let hash = files::hash_json(&(hashes, &end_of_text, weights, precision.compute));
        Ok(Identity { end_of_text, weights, hash })
    }
}

/// Writes a Llama that was trained here (not its tokenizer) as a Hugging Face folder.
pub fn save_model(folder: &Path, model: &Transformer, end_of_text: u32, dtype: StorageType) -> Result<()> {
    let weights = collect_parameters(model);
    parameters_to_safetensors(&folder.join("model.safetensors"), &weights, dtype)?;
    files::write_json(
        &folder.join("generation_config.json"),
        &json!({"bos_token_id": end_of_text, "eos_token_id": end_of_text}),
    )?;
    files::write_json(&folder.join("config.json"), &config_json(model.config(), end_of_text, dtype))
}
