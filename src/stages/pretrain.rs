//! `pretrain`: a tokenizer and a small language model from scratch, written as a Hugging Face folder.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::language_model::LanguageModelling;
use super::workspace::lock;
use crate::backbone::{Llama, ModelConfig, save_model};
use crate::config::{Config, PretrainConfig, StorageType};
use crate::device::Opened;
use crate::error::{Result, bail};
use crate::files;
use crate::nn::{Init, count_parameters};
use crate::progress;
use crate::text::{Document, END_OF_TEXT, Split, Tokenizer, read_corpus};
use crate::training::{Place, train};

/// Dev documents that the loss is watched on while training; the final figures use all of them.
const WATCHED: usize = 48;

/// Fits tokenizer and model on the train split of every corpus; gives the folder written.
pub fn pretrain(config: &Config, device: &Opened) -> Result<PathBuf> {
    let run = &Path::new("runs").join(&config.name);
    let _lock = lock(run)?;
    let Some(options) = &config.pretrain else {
        bail!("the configuration has no [pretrain] section; add one with at least `output = \"checkpoints/mine\"`.");
    };
    let mut splits = [Vec::new(), Vec::new(), Vec::new()];
    for data in config.data.values() {
        for document in read_corpus(data)? {
            splits[data.fractions().split_of(&document.group) as usize].push(document);
        }
    }
    if splits.iter().any(Vec::is_empty) {
        bail!(
            "the corpora give {} train, {} dev and {} test documents; each split needs at least one.",
            splits[0].len(),
            splits[1].len(),
            splits[2].len()
        );
    }
    let output = PathBuf::from(&options.output);
    let texts = splits[Split::Train as usize].iter().flat_map(|d| [d.prompt.as_str(), d.completion.as_str()]);
    let tokenizer = Tokenizer::fit(texts, options.vocab_size, &output)?;
    let end = tokenizer.encode(END_OF_TEXT)?[0];
    let tokens = |split: Split| -> Result<Vec<Vec<u32>>> {
        splits[split as usize].iter().map(|d| whole_text(d, &tokenizer, Some(end))).collect()
    };
    let (train_text, dev, test) = (tokens(Split::Train)?, tokens(Split::Dev)?, tokens(Split::Test)?);
    let model = fit(config, options, device, run, &tokenizer, train_text, &dev)?;
    save_model(&output, &model, end, StorageType::Float16)?;
    let context = options.model.context;
    let held_out: Vec<_> = test
        .into_iter()
        .map(|mut d| {
            d.truncate(context);
            d
        })
        .collect();
    let loss = LanguageModelling::mean_loss(&model, &held_out);
    let figures = json!({
        "parameters": count_parameters(&model), "vocab_size": tokenizer.vocab_size(), "test_documents": held_out.len(),
        "test_loss_nats_per_token": loss, "test_perplexity": loss.exp(),
    });
    files::write_json(&run.join("pretrain.json"), &figures)?;
    progress::say(format!(
        "held-out perplexity {:.2} on {} test documents; wrote {}",
        loss.exp(),
        held_out.len(),
        output.display()
    ));
    Ok(output)
}

/// Prompt, completion and, where the text was not cut, its end, as tokens.
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
) -> Result<Llama> {
    let shape = ModelConfig::from_scratch(&options.model, tokenizer.vocab_size());
    let trained = device.device.clone().autodiff();
    let model = Llama::new(&shape, &mut Init::seeded(config.seed, &trained));
    progress::say(format!(
        "{} parameters, {} train documents of {} tokens",
        count_parameters(&model),
        train_text.len(),
        train_text.iter().map(Vec::len).sum::<usize>()
    ));
    let key = files::hash_json(&(options, config.seed, tokenizer.hash(), &train_text));
    let watched = dev[..dev.len().min(WATCHED)].to_vec();
    let task =
        LanguageModelling::new(train_text, watched, options.model.context, options.documents_per_step, config.seed);
    let place = Place { folder: run, key: &key, title: "pretrain" };
    let model = train(model, &task, &options.training, &place)?;
    Ok(burn::module::Module::valid(&model))
}
