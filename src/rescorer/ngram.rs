//! `kind = "ngram"`: an n-gram model that is used as a rescorer (arXiv 2404.09221). Its words are the tokens of the
//! backbone's tokenizer.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::kind::{FitContext, FitEstimate, FitSizes, LoadContext, RescorerKind, TextSource};
use super::scoring::{BlockScores, GlobalScoring, PrefixReader, PrefixToken, Rescorer, Scoring};
use super::{BlockContext, BlockShape, RescoringCost};
use crate::backbone::Backbone;
use crate::error::{Error, Result, bail};
use crate::lattice::{Lattice, SlotScorer};
use crate::ngram::{Counter, Memory, Model, Options, Rows, Smoothing, State, Vocabulary, estimate};
use crate::progress::Progress;

/// `kind = "ngram"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NgramConfig {
    /// The number of tokens in the longest n-gram.
    #[schemars(range(min = 1, max = 6))]
    pub order: usize,
    /// The text that is counted, always of the train split.
    #[schemars(length(min = 1))]
    pub text: Vec<TextSource>,
    /// How probability is set aside for what was not seen.
    pub smoothing: Smoothing,
    /// The discounts of n-grams that occur once, twice and more often, for an order whose counts of counts are degenerate, as
    /// those of small texts are.
    pub discount_fallback: [f64; 3],
    /// How often n-grams may occur and still be left out: a number per order, unigrams first, none smaller than the one before.
    /// The last number stands for the remaining orders. Empty: all n-grams are kept.
    pub prune: Vec<u64>,
    /// The memory for sorting, in megabytes. What does not fit goes to temporary files in the run.
    #[schemars(range(min = 16))]
    pub memory_mb: usize,
}

impl Default for NgramConfig {
    fn default() -> Self {
        Self {
            order: 3,
            text: vec![TextSource::Gold, TextSource::Traces],
            smoothing: Smoothing::default(),
            discount_fallback: [0.5, 1.0, 1.5],
            prune: Vec::new(),
            memory_mb: 1024,
        }
    }
}

/// The name of the model's file in its folder.
const FILE: &str = "model.ngram";

impl RescorerKind for NgramConfig {
    fn name(&self) -> &'static str {
        "ngram"
    }

    fn validate(&self, key: &str, own_text: bool) -> Result<()> {
        TextSource::validate(&self.text, &format!("{key}.text"), own_text)?;
        if !self.prune.is_sorted() || self.prune.len() > self.order {
            bail!(
                "`{key}.prune` is {:?}; it takes at most one number per order, none smaller than the one before.",
                self.prune
            );
        }
        Ok(())
    }

    fn fitted(&self) -> Value {
        json!(self)
    }

    fn uses_seed(&self) -> bool {
        false
    }

    fn scores_paths(&self) -> bool {
        true
    }

    fn is_language_model(&self) -> bool {
        true
    }

    fn fit(&self, context: &FitContext) -> Result<()> {
        let (folder, title) = (context.place.folder, context.place.title);
        let bar = Progress::new(title, 1);
        let texts = context.data.texts(&self.text)?;
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        let memory = Memory::new(self.memory_mb << 20, folder);
        let mut counter = Counter::new(self.order, vocabulary(context.backbone), &memory)?;
        for (tokens, ending) in &texts {
            counter.add(tokens, *ending)?;
        }
        let counts = counter.finish().map_err(|e| e.within(title))?;
        let options = Options {
            smoothing: self.smoothing,
            discount_fallback: Some(self.discount_fallback),
            prune: self.prune.clone(),
        };
        let estimated = estimate(&counts, &options, &memory).map_err(|e| e.within(title))?;
        Model::write(&estimated.listing, &folder.join(FILE))?;
        let tokens: usize = texts.iter().map(|(tokens, _)| tokens.len()).sum();
        let sizes: Vec<String> = estimated.listing.sizes().iter().map(ToString::to_string).collect();
        bar.finish(&format!("{} texts, {tokens} tokens, n-grams by order {}", texts.len(), sizes.join(" ")));
        Ok(())
    }

    fn load(&self, folder: &Path, context: &LoadContext) -> Result<Box<dyn Rescorer>> {
        Ok(Box::new(NgramRescorer::open(folder, context.backbone)?))
    }

    fn estimate(&self, sizes: &FitSizes) -> FitEstimate {
        let tokens = (sizes.documents * sizes.new_tokens) as f64;
        let counted = tokens * self.order as f64;
        // Fitting sorts rather than multiplies. Its time is estimated as that of 10,000 operations per counted token
        // and order.
        FitEstimate { operations: counted * 1e4, bytes: (counted * 12.0) as u64 }
    }
}

/// Returns the vocabulary of an n-gram model over the backbone's tokens.
fn vocabulary(backbone: &Backbone) -> Vocabulary {
    Vocabulary {
        eos: backbone.end_of_text.clone(),
        bos: backbone.tokenizer.bos(),
        size: Some(backbone.model.config().vocab_size),
        tokenizer: Some(backbone.tokenizer.hash().to_owned()),
    }
}

/// An n-gram model over the tokens of a backbone, used as a rescorer.
pub struct NgramRescorer(pub Model);

impl NgramRescorer {
    /// Opens the model in `folder`, which is mapped into memory.
    ///
    /// # Errors
    /// Returns an error if the file is missing or damaged, or if the model was made with another tokenizer.
    pub fn open(folder: &Path, backbone: &Backbone) -> Result<Self> {
        let path = folder.join(FILE);
        let model = Model::open(&path)?;
        model.verify().and_then(|()| model.require(&vocabulary(backbone))).map_err(|e| e.within(path.display()))?;
        Ok(Self(model))
    }
}

impl Rescorer for NgramRescorer {
    fn scoring(&self) -> Scoring<'_> {
        Scoring::Global(self)
    }

    fn reader(&self) -> Option<Box<dyn PrefixReader + '_>> {
        Some(Box::new(NgramReader { model: &self.0, states: vec![self.0.state_of(&[], true)], text: Vec::new() }))
    }

    /// Returns the memory that the model takes. Scores are looked up in tables, which is not counted.
    fn cost(&self, _: &BlockShape) -> RescoringCost {
        RescoringCost { held_bytes: self.0.bytes() as f64, ..RescoringCost::default() }
    }
}

impl GlobalScoring for NgramRescorer {
    fn scores<'a>(&'a self, text: &[u32], block: &BlockContext<'a>) -> Result<Box<dyn BlockScores + 'a>> {
        let start = self.0.state_of(&text[..block.start], true);
        Ok(Box::new(NgramScores::new(&self.0, block.lattice, start)))
    }
}

/// A reader of a text and of paths behind it, with the model's state after each of their tokens.
struct NgramReader<'a> {
    model: &'a Model,
    /// The state before the first token, then the state after each token.
    states: Vec<State>,
    text: Vec<u32>,
}

impl PrefixReader for NgramReader<'_> {
    fn read(&mut self, text: &[u32], _: usize) -> Result<()> {
        let same = self.text.iter().zip(text).take_while(|(a, b)| a == b).count();
        self.states.truncate(same + 1);
        for &token in &text[same..] {
            let (_, after) = self.model.extend(self.states[self.states.len() - 1], token);
            self.states.push(after);
        }
        self.text = text.to_vec();
        Ok(())
    }

    fn extend(&mut self, newest: &[PrefixToken], _: bool) -> Result<Vec<Vec<f64>>> {
        let one = |&PrefixToken { token, after, candidates, .. }: &PrefixToken| {
            let (_, state) = self.model.extend(self.states[after.map_or(0, |after| after + 1)], token);
            self.states.push(state);
            candidates.iter().map(|&candidate| self.model.extend(state, candidate).0).collect()
        };
        Ok(newest.iter().map(one).collect())
    }
}

/// The scores of one lattice's candidates under an n-gram model.
pub struct NgramScores<'a> {
    model: &'a Model,
    lattice: &'a Lattice,
    start: State,
    /// The rows of each slot, which are made when the slot is first scored.
    slots: Vec<Option<Rows<'a>>>,
}

impl<'a> NgramScores<'a> {
    /// Prepares to score the candidates of `lattice`. The state after the committed text is `start`.
    pub fn new(model: &'a Model, lattice: &'a Lattice, start: State) -> Self {
        Self { model, lattice, start, slots: (0..lattice.slots()).map(|_| None).collect() }
    }
}

impl SlotScorer for NgramScores<'_> {
    type State = u32;

    fn extend(&mut self, slot: usize, state: u32, number: usize, out: &mut Vec<(f64, u32)>) {
        let rows = self.slots[slot].get_or_insert_with(|| Rows::new(self.model, self.lattice.ids(slot)));
        rows.extend(state.into(), number, out);
    }
}

impl BlockScores for NgramScores<'_> {
    fn start(&self) -> u32 {
        self.start.into()
    }
}
