//! `kind = "neural"`: a small decoder-only language model that is used as a rescorer (arXiv 2404.09221). It reads the
//! whole prefix.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::kind::{FitContext, FitEstimate, FitSizes, LoadContext, RescorerKind, TextSource};
use super::scoring::{PrefixReader, PrefixToken, Rescorer, Scoring};
use super::{BlockShape, LanguageModelling, RescoringCost};
use crate::backbone::{
    Checkpoint, KvCache, LanguageModelConfig, Model, ModelConfig, Precision, Span, Transformer, save_model,
};
use crate::error::{Result, bail};
use crate::kernels::{exponentiate, largest};
use crate::nn::{Init, count_parameters};
use crate::progress;
use crate::storage_type::StorageType;
use crate::training::{OptimizationConfig, kept_bytes, train};

/// `kind = "neural"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NeuralConfig {
    /// The text that the model is trained on, always of the train split.
    #[schemars(length(min = 1))]
    pub text: Vec<TextSource>,
    /// The size of the model.
    pub model: LanguageModelConfig,
    /// The number of documents per training step.
    #[schemars(range(min = 1, max = 65_536))]
    pub documents_per_step: usize,
    /// The number of prefixes that the variant `beam-NAME` keeps, and so of its drafts; 1: there is no such variant.
    #[schemars(range(min = 1))]
    pub beam: usize,
    /// The tokens whose probabilities sum to 1 where a beam compares its prefixes.
    pub normalise: Normalisation,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
}

impl Default for NeuralConfig {
    fn default() -> Self {
        Self {
            text: vec![TextSource::Gold, TextSource::Traces],
            model: LanguageModelConfig {
                hidden: 128,
                layers: 2,
                heads: 4,
                kv_heads: 4,
                intermediate: 352,
                context: 512,
            },
            documents_per_step: 16,
            beam: 4,
            normalise: Normalisation::Vocabulary,
            training: OptimizationConfig { steps: 200, learning_rate: 3e-3, ..OptimizationConfig::default() },
        }
    }
}

/// The tokens whose probabilities sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    /// All tokens of the vocabulary.
    Vocabulary,
    /// The slot's candidates.
    Candidates,
}

impl RescorerKind for NeuralConfig {
    fn name(&self) -> &'static str {
        "neural"
    }

    fn validate(&self, key: &str, own_text: bool) -> Result<()> {
        TextSource::validate(&self.text, &format!("{key}.text"), own_text)?;
        self.model.validate(&format!("{key}.model"))
    }

    /// Returns all options except those that only drafting reads.
    fn fitted(&self) -> Value {
        let Self { text, model, documents_per_step, training, beam: _, normalise: _ } = self;
        json!({"text": text, "model": model, "documents_per_step": documents_per_step, "training": training})
    }

    fn beam(&self) -> Option<usize> {
        Some(self.beam)
    }

    fn scores_paths(&self) -> bool {
        true
    }

    fn is_language_model(&self) -> bool {
        true
    }

    fn fit(&self, context: &FitContext) -> Result<()> {
        let FitContext { backbone, seed, place, data, .. } = context;
        let longest = data.longest();
        if longest > self.model.context {
            bail!(
                "{}: it will have to read texts of up to {longest} tokens, but `model.context` of this rescorer is {}. Raise it.",
                place.title,
                self.model.context
            );
        }
        let train_texts = data.texts(&self.text)?.into_iter().map(|(tokens, _)| tokens).collect();
        let (dev_texts, length) = (data.dev_texts(), self.model.context);
        let task = LanguageModelling::new(train_texts, dev_texts, length, self.documents_per_step, *seed)
            .map_err(|e| e.within(place.title))?;
        let shape = ModelConfig::from_scratch(&self.model, backbone.model.config().vocab_size);
        let init = &mut Init::seeded(*seed, &context.device.clone().autodiff());
        let model = Transformer::new(&shape, init);
        init.require_room("the model, its gradients and the optimizer's moments", "Make its `model` smaller.")
            .map_err(|e| e.within(place.title))?;
        progress::say(format!("{}: {} parameters", place.title, count_parameters(&model)));
        let model = train(model, &task, &[], &self.training, place)?;
        let end = backbone.end_of_text.first().copied().unwrap_or(0);
        save_model(place.folder, &model.valid(), end, StorageType::Float32)
    }

    fn load(&self, folder: &Path, context: &LoadContext) -> Result<Box<dyn Rescorer>> {
        let model = Checkpoint::open(folder)?.load(Precision::AS_STORED, context.device)?;
        let (found, expected) = (model.config().vocab_size, context.backbone.model.config().vocab_size);
        if found != expected {
            bail!(
                "{}: this rescorer has {found} tokens and the backbone {expected}: it was trained with another tokenizer. Train it on this one with `draftsmith train-rescorer`.",
                folder.display()
            );
        }
        Ok(Box::new(NeuralRescorer { model, normalise: self.normalise }))
    }

    fn estimate(&self, sizes: &FitSizes) -> FitEstimate {
        let LanguageModelConfig { hidden, layers, intermediate, .. } = self.model;
        let layer = 4 * hidden * hidden + 3 * hidden * intermediate;
        let parameters = layers * layer + sizes.vocabulary * hidden;
        // A prompt is assumed to be as long as the text after it.
        let tokens = self.training.batches() * self.documents_per_step * sizes.new_tokens * 2;
        FitEstimate { operations: tokens as f64 * 6.0 * parameters as f64, bytes: kept_bytes(parameters) }
    }
}

/// A language model that has the backbone's tokenizer, used as a rescorer.
pub struct NeuralRescorer {
    /// The language model.
    pub model: Model,
    /// The tokens whose probabilities sum to 1 when prefixes are compared.
    pub normalise: Normalisation,
}

impl Rescorer for NeuralRescorer {
    fn scoring(&self) -> Scoring<'_> {
        Scoring::Local(Box::new(NeuralReader { rescorer: self, committed: Vec::new(), cache: None }))
    }

    /// Returns the cost of one forward pass over the committed tokens, followed by one for each slot but the last over
    /// the newest tokens of all kept prefixes. Only the logits of the candidates are computed, unless prefixes are
    /// compared by probabilities over the vocabulary: that takes the logits of all tokens.
    fn cost(&self, block: &BlockShape) -> RescoringCost {
        let config = self.model.config();
        let forwards = block.slots as f64;
        let kept = block.prefixes.min(block.candidates);
        // The pinned token is the only prefix at first. The tokens of the last slot are not read, because nothing
        // follows them.
        let fed = if block.slots < 2 { 0.0 } else { (1 + (block.slots - 2) * kept) as f64 };
        let over_vocabulary = block.prefixes > 1 && self.normalise == Normalisation::Vocabulary;
        let logits = if over_vocabulary { config.vocab_size } else { block.candidates.min(config.vocab_size) };
        let (layers, unembedding) = (config.layer_weights(), config.unembedding_weights());
        let embedding = if config.tie_word_embeddings { 0 } else { unembedding };
        let bytes = |weights: usize| (weights * self.model.weight_bytes()) as f64;
        let unembedded = if over_vocabulary { bytes(unembedding) * (forwards - 1.0) } else { 0.0 };
        RescoringCost {
            held_bytes: bytes(layers + unembedding + embedding),
            read_bytes: bytes(layers) * forwards + unembedded,
            kv_bytes: (config.cached_numbers(block.context) * self.model.state_bytes()) as f64 * forwards,
            flops: 2.0
                * ((block.committed + fed) * (layers + config.attention_products(block.context)) as f64
                    + fed * (logits * config.hidden_size) as f64),
        }
    }
}

/// The reader of a neural rescorer on one text. It keeps the keys and values of what it has read, and reads the newest
/// tokens of all prefixes in one forward pass.
struct NeuralReader<'a> {
    rescorer: &'a NeuralRescorer,
    /// The text that was read. Its keys and values are the first in the cache.
    committed: Vec<u32>,
    cache: Option<KvCache>,
}

impl PrefixReader for NeuralReader<'_> {
    fn read(&mut self, text: &[u32], more: usize) -> Result<()> {
        let model = &self.rescorer.model;
        let common = self.committed.iter().zip(text).take_while(|(a, b)| a == b).count();
        // A new cache has room for twice as many tokens, so that it rarely has to be copied when the text grows in live
        // decoding.
        let cache = self.cache.get_or_insert_with(|| model.cache(1, 2 * (text.len() + more)));
        cache.truncate(0, common);
        if common < text.len() {
            model.hidden(&[Span::chain(&text[common..])], Some(cache));
        }
        self.committed = text.to_vec();
        Ok(())
    }

    fn extend(&mut self, newest: &[PrefixToken], compared: bool) -> Result<Vec<Vec<f64>>> {
        let cache = self.cache.as_mut().expect("a text is read before prefixes are");
        let tokens: Vec<u32> = newest.iter().map(|prefix| prefix.token).collect();
        let after: Vec<Option<usize>> = newest.iter().map(|prefix| prefix.after).collect();
        let span = Span { tokens: &tokens, after: Some(&after) };
        let hidden = self.rescorer.model.hidden(&[span], Some(cache));
        let candidates: Vec<&[u32]> = newest.iter().map(|prefix| prefix.candidates).collect();
        self.rescorer.log_probabilities(hidden, &candidates, compared)
    }
}

impl NeuralRescorer {
    /// Returns the log-probabilities of the given tokens, a list per hidden state, after that hidden state.
    ///
    /// If the states are not `compared` with each other, the logits are returned instead. These differ from
    /// log-probabilities by a constant per state and do not need the rest of the vocabulary.
    fn log_probabilities(&self, hidden: Tensor<2>, tokens: &[&[u32]], compared: bool) -> Result<Vec<Vec<f64>>> {
        let projection = self.model.projection();
        let over_vocabulary = compared && self.normalise == Normalisation::Vocabulary;
        let rows: Vec<Vec<f32>> = if over_vocabulary {
            let logits = projection.logits(hidden);
            logits.chunks(self.model.config().vocab_size).map(<[f32]>::to_vec).collect()
        } else {
            let mut logits = projection.logits_of(hidden, tokens).into_iter();
            tokens.iter().map(|tokens| logits.by_ref().take(tokens.len()).collect()).collect()
        };
        let of_row = |(row, tokens): (Vec<f32>, &&[u32])| -> Result<Vec<f64>> {
            let at = |place: usize| if over_vocabulary { row[tokens[place] as usize] } else { row[place] };
            let logits: Vec<f64> = (0..tokens.len()).map(|place| f64::from(at(place))).collect();
            let normaliser = if compared { log_sum_exp(row) } else { 0.0 };
            if !normaliser.is_finite() || logits.iter().any(|logit| !logit.is_finite()) {
                bail!("a neural rescorer's logits are not numbers. Train it anew with a lower learning rate.");
            }
            Ok(logits.into_iter().map(|logit| logit - normaliser).collect())
        };
        rows.into_iter().zip(tokens).map(of_row).collect()
    }
}

/// Returns the log-sum-exp of a row.
fn log_sum_exp(mut row: Vec<f32>) -> f64 {
    let (_, most) = largest(&row);
    f64::from(most) + f64::from(exponentiate(&mut row, most)).ln()
}
