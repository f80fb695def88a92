//! A model folder: weights, tokenizer and end-of-text ids that belong together.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::architectures::{Architecture, Keys, architecture, config_json};
use super::gguf::{GgufFile, Tensor, llama, tokenizer};
use super::sketch::ValueSketch;
use super::weights::{Weights, weight_files};
use super::{Model, ModelConfig, Precision, Transformer};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::nn::{collect_parameters, parameters_to_safetensors};
use crate::storage_type::StorageType;
use crate::text::{ChatTemplate, TEMPLATE_DATE, Tokenizer};

/// A frozen language model with its tokenizer.
pub struct Backbone {
    /// The network.
    pub model: Model,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The ids that end a text.
    pub end_of_text: Vec<u32>,
    /// The hash (BLAKE3) of weights, configuration, end-of-text ids and precision.
    pub hash: String,
    /// The folder or file that it was loaded from.
    pub path: PathBuf,
}

impl Backbone {
    /// Loads a Hugging Face folder or a GGUF file onto `device`.
    ///
    /// # Errors
    /// When a file is missing or truncated, the architecture is unknown, a tensor is missing, left over or of another
    /// shape, or the tokenizer has ids beyond the embedding. The error names the file.
    pub fn load(folder: &Path, precision: Precision, device: &Device) -> Result<Self> {
        let (checkpoint, of_weights) = (Checkpoint::open(folder)?, Checkpoint::open(folder)?);
        let vocabulary = checkpoint.config.vocab_size;
        let precision = Precision { weights: Some(precision.weights.unwrap_or(checkpoint.storage())), ..precision };
        let (model, (identity, tokenizer)) = rayon::join(
            || of_weights.load(precision, device),
            || (checkpoint.identity(precision), checkpoint.tokenizer()),
        );
        let (CheckpointIdentity { end_of_text, hash, .. }, tokenizer) = (identity?, tokenizer?);
        if tokenizer.vocab_size() > vocabulary {
            bail!(
                "{}: the tokenizer has ids up to {}, but the model's vocabulary has {vocabulary} entries. Use the tokenizer.json that belongs to these weights.",
                folder.display(),
                tokenizer.vocab_size() - 1,
            );
        }
        Ok(Self { model: model?, tokenizer, end_of_text, hash, path: folder.to_owned() })
    }

    /// Returns the identity that everything made with this backbone is bound to.
    pub fn identity(&self) -> BackboneIdentity {
        BackboneIdentity { backbone: self.hash.clone(), tokenizer: self.tokenizer.hash().to_owned() }
    }
}

/// The backbone and the tokenizer that something was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackboneIdentity {
    /// The backbone's [`Backbone::hash`].
    pub backbone: String,
    /// The tokenizer's [`Tokenizer::hash`](crate::text::Tokenizer::hash).
    pub tokenizer: String,
}

/// What decides what a model writes, besides its architecture.
pub struct CheckpointIdentity {
    /// The ids that end a text: those of `generation_config.json`, or else of `config.json`.
    pub end_of_text: Vec<u32>,
    /// The type that matrices are rounded to.
    pub weights: StorageType,
    /// The hash (BLAKE3) of weights, configuration, end-of-text ids and precision.
    pub hash: String,
}

/// A checkpoint that is open but not read: a Hugging Face folder or a GGUF file.
pub struct Checkpoint {
    path: PathBuf,
    architecture: &'static dyn Architecture,
    /// The `config.json`, or what a GGUF file says in its place.
    json: Map<String, Value>,
    /// The shape of the model.
    pub config: ModelConfig,
    weights: Source,
}

/// The weights of a checkpoint.
enum Source {
    Folder(Weights),
    Gguf(GgufFile),
}

impl Checkpoint {
    /// Reads the configuration and the headers of the weights.
    ///
    /// # Errors
    /// When `path` is neither a model's folder nor a GGUF file, or the architecture or one of its features is not
    /// supported.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = path.join("config.json");
        let (origin, json, weights) = if is_gguf(path) {
            let file = GgufFile::open(path)?;
            (path, llama::config_json(&file)?, Source::Gguf(file))
        } else if folder.exists() {
            (folder.as_path(), files::read_json(&folder)?, Source::Folder(Weights::open(path)?))
        } else {
            bail!(
                "{} is no model folder: it has no config.json. Give a Hugging Face folder with config.json, model.safetensors and tokenizer.json, or a .gguf file.",
                path.display()
            );
        };
        let architecture = architecture(&Keys(&json)).map_err(|e| e.within(origin.display()))?;
        let config = architecture.config(&Keys(&json)).map_err(|e| e.within(origin.display()))?;
        Ok(Self { path: path.to_owned(), architecture, json, config, weights })
    }

    /// Returns the `model_type` of the architecture.
    pub fn model_type(&self) -> &'static str {
        self.architecture.model_type()
    }

    /// Returns the name, type and shape of every tensor, sorted by name.
    pub fn tensors(&self) -> Vec<(String, String, Vec<usize>)> {
        match &self.weights {
            Source::Folder(weights) => weights.describe(),
            Source::Gguf(file) => {
                let describe =
                    |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.kind.to_string(), tensor.shape.clone());
                file.tensors().iter().map(describe).collect()
            }
        }
    }

    /// Returns the type that keeps the weights as they are: float32, unless all matrices are of one smaller type.
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
    ///
    /// # Errors
    /// When a tensor is missing, of another shape, or left over.
    pub fn load(mut self, precision: Precision, device: &Device) -> Result<Model> {
        let (architecture, config, json) = (self.architecture, &self.config, &self.json);
        match &mut self.weights {
            Source::Folder(weights) => {
                let model =
                    Model::load(config, precision, device, &mut |name| weights.read(architecture, config, name))
                        .map_err(|e| e.within(weights.origin()))?;
                weights.finish(architecture, config)?;
                Ok(model)
            }
            Source::Gguf(file) => {
                let mut unused: BTreeSet<&String> = file.tensors().keys().collect();
                let model = Model::load(config, precision, device, &mut |name| {
                    if let Some(own) = llama::gguf_name(name) {
                        unused.remove(&own);
                    }
                    llama::read_parameter(file, json, name)
                })?;
                // The factors of the rotary frequencies are read as a part of the configuration.
                match unused.into_iter().find(|name| *name != "rope_freqs.weight") {
                    None => Ok(model),
                    Some(name) => bail!("{}: the tensor `{name}` has no place in a Llama.", self.path.display()),
                }
            }
        }
    }

    /// Returns the tokenizer that belongs to the model: `tokenizer.json` in the folder or beside a GGUF file, or else
    /// the one in the GGUF file.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.weights {
            Source::Folder(_) => Tokenizer::load(&self.path),
            Source::Gguf(file) => {
                let folder = self.path.parent().unwrap_or(Path::new("."));
                if folder.join("tokenizer.json").exists() {
                    return Tokenizer::load(folder);
                }
                let inner = tokenizer::tokenizer(file)?;
                let bos = self.special_id("bos_token_id").filter(|_| tokenizer::adds_bos(file));
                let key = inner.to_string(false).map_err(|e| Error::new(format!("{}: {e}.", self.path.display())))?;
                Ok(Tokenizer::from_parts(inner, bos, &key))
            }
        }
    }

    /// Loads the chat template that `which` names: the model's own for "model", none if it is empty, or else the file
    /// `which`.
    pub fn chat_template(&self, which: &str) -> Result<Option<ChatTemplate>> {
        match &self.weights {
            Source::Gguf(file) if which == "model" => {
                let origin = self.path.display().to_string();
                let Some(source) = tokenizer::chat_template(file) else {
                    bail!("{origin}: the file has no chat template; give the path of one.");
                };
                let texts = file.texts("tokenizer.ggml.tokens").unwrap_or_default();
                let text = |key: &str| Some((*texts.get(self.special_id(key)? as usize)?).to_owned());
                let named = [("bos_token", "bos_token_id"), ("eos_token", "eos_token_id")];
                let tokens = named.into_iter().filter_map(|(name, key)| Some((name, text(key)?))).collect();
                ChatTemplate::new(&origin, source.to_owned(), tokens, TEMPLATE_DATE).map(Some)
            }
            _ => ChatTemplate::load(&self.path, which, TEMPLATE_DATE),
        }
    }

    /// Returns the id of a special token, or the first of several.
    fn special_id(&self, key: &str) -> Option<u32> {
        let value = self.json.get(key)?;
        value.as_u64().or_else(|| value.get(0)?.as_u64()).map(|id| id as u32)
    }

    /// Returns the end-of-text ids: those of `generation_config.json`, or else of the configuration.
    pub fn end_of_text(&self) -> Result<Vec<u32>> {
        let generation = self.path.join("generation_config.json");
        let other: Map<String, Value> = if generation.exists() { files::read_json(&generation)? } else { Map::new() };
        let own = self.path.join("config.json");
        for (path, json) in [(&generation, &other), (&own, &self.json)] {
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

    /// What the values of the weights are, in a few numbers, by which the same model is known in another float type; none for a GGUF file.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn sketch(&self) -> Result<Option<ValueSketch>> {
        match &self.weights {
            Source::Folder(weights) => weights.sketch(self.storage()).map(Some),
            Source::Gguf(_) => Ok(None),
        }
    }

    /// End-of-text ids, type of the weights, and the hash of all that decides what the model writes with `precision`.
    pub fn identity(&self, precision: Precision) -> Result<CheckpointIdentity> {
        let end_of_text = self.end_of_text()?;
        let weights = precision.weights.unwrap_or(self.storage());
        let parts = match &self.weights {
            Source::Folder(_) => {
                let mut parts = weight_files(&self.path)?;
                parts.push(self.path.join("config.json"));
                parts
            }
            Source::Gguf(_) => vec![self.path.clone()],
        };
        let hashes: Vec<String> = parts.iter().map(|path| files::hash_file(path)).collect::<Result<_>>()?;
        let hash = files::hash_json(&(hashes, &end_of_text, weights, precision.compute));
        Ok(CheckpointIdentity { end_of_text, weights, hash })
    }
}

/// Returns whether a path is that of a GGUF file.
fn is_gguf(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// Writes a Llama that was trained here, without its tokenizer, as a Hugging Face folder.
pub fn save_model(folder: &Path, model: &Transformer, end_of_text: u32, dtype: StorageType) -> Result<()> {
    let weights = collect_parameters(model);
    parameters_to_safetensors(&folder.join("model.safetensors"), &weights, dtype)?;
    files::write_json(
        &folder.join("generation_config.json"),
        &json!({"bos_token_id": end_of_text, "eos_token_id": end_of_text}),
    )?;
    files::write_json(&folder.join("config.json"), &config_json(model.config(), end_of_text, dtype))
}
