//! A small decoder-only language model as a rescorer (arXiv 2404.09221): it reads the whole prefix.

use super::{BlockContext, BlockShape, Rescorer, RescoringCost, Scores};
use crate::backbone::Model;
use crate::config::Normalisation;
use crate::error::Result;

/// A language model with the backbone's tokenizer.
pub struct NeuralRescorer {
    /// The model.
    pub model: Model,
    /// Whose probabilities sum to 1 where prefixes are compared.
    pub normalise: Normalisation,
}

impl Rescorer for NeuralRescorer {
    fn scores<'a>(&'a self, _: &[u32], _: &BlockContext) -> Result<Scores<'a>> {
        Ok(Scores::Language(self))
    }

    /// Committed tokens are fed at once; then, slot by slot, the newest token of every prefix kept. Logits are those of the
    /// candidates, or where prefixes are compared by their probability over the vocabulary, of all tokens.
    fn cost(&self, block: &BlockShape) -> RescoringCost {
        let config = self.model.config();
        let forwards = block.slots as f64;
        let kept = block.prefixes.min(block.candidates);
        // The pinned token is one prefix; the last slot's tokens are fed to nobody.
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

    fn reads_prefix(&self) -> bool {
        true
    }
}
