//! A model folder: weights, tokenizer and end-of-text ids that belong together.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::json;

use super::model_config::end_of_text;
use super::{Llama, ModelConfig};
use crate::config::StorageType;
use crate::error::{Result, bail};
use crate::files;
use crate::nn::{Init, collect_parameters, load_parameters, parameters_from_safetensors, parameters_to_safetensors};
use crate::text::Tokenizer;

/// A frozen language model with its tokenizer.
pub struct Backbone {
    /// The network.
    pub model: Llama,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Ids that end a text.
    pub end_of_text: Vec<u32>,
    /// BLAKE3 of weights, configuration and end-of-text ids.
    pub hash: String,
    /// Where it came from.
    pub path: PathBuf,
}

impl Backbone {
    /// Reads a Hugging Face folder onto `device`.
    ///
    /// # Errors
    /// A missing or truncated file, another architecture, a tensor missing, left over or of another shape, a tokenizer
    /// with ids beyond the embedding; each names the file.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let model = read_model(folder, device)?;
        let tokenizer = Tokenizer::load(folder)?;
        let config = model.config();
        if tokenizer.vocab_size() > config.vocab_size {
            bail!(
                "{}: the tokenizer has ids up to {}, but the model's vocabulary has {} entries. Use the tokenizer.json that belongs to these weights.",
                folder.display(),
                tokenizer.vocab_size() - 1,
                config.vocab_size
            );
        }
        let end_of_text = end_of_text(folder)?;
        let hash = hash_folder(folder, &end_of_text)?;
        Ok(Self { model, tokenizer, end_of_text, hash, path: folder.to_owned() })
    }
}

/// Reads configuration and weights of a folder, without its tokenizer.
pub fn read_model(folder: &Path, device: &Device) -> Result<Llama> {
    let config = ModelConfig::load(folder)?;
    let weights = folder.join("model.safetensors");
    let mut values = parameters_from_safetensors(&weights)?;
    if config.tie_word_embeddings {
        // Some exporters write the tied unembedding a second time.
        values.remove("lm_head.weight");
    }
    // Older exporters store the rotary frequencies, which follow from the configuration.
    values.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
    let model = Llama::new(&config, &mut Init::empty(device));
    load_parameters(model, values).map_err(|e| e.within(weights.display()))
}

/// Of everything that decides what the model writes.
fn hash_folder(folder: &Path, end_of_text: &[u32]) -> Result<String> {
    let parts = [folder.join("model.safetensors"), folder.join("config.json")];
    Ok(files::hash_json(&(files::hash_file(&parts[0])?, files::hash_file(&parts[1])?, end_of_text)))
}

/// Writes a model (not its tokenizer) as a Hugging Face folder.
pub fn save_model(folder: &Path, model: &Llama, end_of_text: u32, dtype: StorageType) -> Result<()> {
    let weights = collect_parameters(model);
    parameters_to_safetensors(&folder.join("model.safetensors"), &weights, dtype)?;
    files::write_json(
        &folder.join("generation_config.json"),
        &json!({"bos_token_id": end_of_text, "eos_token_id": end_of_text}),
    )?;
    files::write_json(&folder.join("config.json"), &model.config().to_json(end_of_text, dtype))
}
