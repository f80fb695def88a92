//! The stage `pretrain`, which trains a tokenizer and a small language model from scratch and writes them as a Hugging
//! Face folder.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Runs;
use super::inputs::read_corpora;
use crate::backbone::{ModelConfig, Transformer, save_model};
use crate::config::{Config, PretrainConfig};
use crate::device::Opened;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::nn::{Init, count_parameters};
use crate::progress;
use crate::rescorer::LanguageModelling;
use crate::storage_type::StorageType;
use crate::text::{Document, END_OF_TEXT, Split, Tokenizer};
use crate::training::{TrainingContext, train};

/// The largest number of dev documents on which the loss is measured during training. The held-out
/// perplexity at the end is measured on all test documents.
const WATCHED: usize = 48;

/// Fits the tokenizer and the model on the train split of every corpus, and returns the folder that they are written
/// to.
pub fn pretrain(config: &Config, device: &Opened, runs: &Runs) -> Result<PathBuf> {
    let run = &runs.run(&config.name);
    let _lock = files::lock(run)?;
    let Some(options) = &config.pretrain else {
        bail!("the configuration has no [pretrain] section; add one with at least `output = \"checkpoints/mine\"`.");
    };
    if let Some(name) = config.data.iter().find_map(|(name, data)| data.max_tokens.and(Some(name))) {
        bail!("`data.{name}.max_tokens` counts a backbone's tokens, and pretrain has none. Use `max_documents`.");
    }
    if let Some(note) = &device.note {
        progress::say(note);
    }
    files::write_atomic(&run.join("run.toml"), config.to_toml().as_bytes())?;
    let corpora = read_corpora(config)?;
    let documents = |split: Split| corpora.iter().flat_map(move |corpus| corpus.split(split));
    let texts = documents(Split::Train).flat_map(|d| [d.prompt.as_str(), d.completion.as_str()]);
    let tokenizer = Tokenizer::fit(texts, options.vocab_size, run)?;
    let end = tokenizer.encode(END_OF_TEXT)?[0];
    let tokens = |split: Split| -> Result<Vec<Vec<u32>>> {
        documents(split).map(|d| whole_text(d, &tokenizer, Some(end))).collect()
    };
    let (train_text, dev, mut test) = (tokens(Split::Train)?, tokens(Split::Dev)?, tokens(Split::Test)?);
    if test.is_empty() {
        bail!("the corpora have no test documents to state the held-out perplexity on; give a larger `test` share.");
    }
    let model = fit(config, options, device, run, &tokenizer, train_text, &dev)?;
    test.iter_mut().for_each(|text| text.truncate(options.model.context));
    let loss = LanguageModelling::mean_loss(&model, &test);
    let figures = json!({
        "parameters": count_parameters(&model), "vocab_size": tokenizer.vocab_size(), "test_documents": test.len(),
        "test_loss_nats_per_token": loss, "test_perplexity": loss.exp(),
    });
    files::write_json(&run.join("pretrain.json"), &figures)?;
    let output = PathBuf::from(&options.output);
    write_folder(&output, run, &model, end)?;
    progress::say(format!(
        "held-out perplexity {:.2} on {} test documents; wrote {}",
        loss.exp(),
        test.len(),
        output.display()
    ));
    Ok(output)
}

/// Writes the tokenizer and the model to the output folder, with `config.json` last. If writing is cut short, the
/// folder has no `config.json` and fails to load, instead of mixing an old model with a new tokenizer.
fn write_folder(output: &Path, run: &Path, model: &Transformer, end: u32) -> Result<()> {
    let config = output.join("config.json");
    if config.exists() {
        std::fs::remove_file(&config).map_err(|e| Error::io("replace", &config, e))?;
    }
    files::write_atomic(&output.join("tokenizer.json"), files::read_text(&run.join("tokenizer.json"))?.as_bytes())?;
    save_model(output, model, end, StorageType::Float16)
}

/// Returns the tokens of the prompt and the completion, followed by `end` if the text was not cut.
pub(super) fn whole_text(document: &Document, tokenizer: &Tokenizer, end: Option<u32>) -> Result<Vec<u32>> {
    let mut tokens = tokenizer.encode(&document.prompt)?;
    tokens.extend(tokenizer.encode_continuation(&document.completion)?);
    if !document.cut {
        tokens.extend(end);
    }
    Ok(tokens)
}

fn fit(
    config: &Config,
    options: &PretrainConfig,
    device: &Opened,
    run: &Path,
    tokenizer: &Tokenizer,
    train_text: Vec<Vec<u32>>,
    dev: &[Vec<u32>],
) -> Result<Transformer> {
    let shape = ModelConfig::from_scratch(&options.model, tokenizer.vocab_size());
    let trained = device.device.clone().autodiff();
    let init = &mut Init::seeded(config.seed, &trained);
    let model = Transformer::new(&shape, init);
    init.require_room("the model, its gradients and the optimizer's moments", "Make `pretrain.model` smaller.")?;
    progress::say(format!(
        "{} parameters, {} train documents of {} tokens",
        count_parameters(&model),
        train_text.len(),
        train_text.iter().map(Vec::len).sum::<usize>()
    ));
    let watched = dev[..dev.len().min(WATCHED)].to_vec();
    let key = files::hash_json(&(options, config.seed, tokenizer.hash(), &train_text, &watched));
    let task =
        LanguageModelling::new(train_text, watched, options.model.context, options.documents_per_step, config.seed)?;
    let place = TrainingContext { folder: run, key: &key, title: "pretrain", keep_checkpoints: false };
    let model = train(model, &task, &[], &options.training, &place)?;
    Ok(burn::module::Module::valid(&model))
}
