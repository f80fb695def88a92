//! The training of language models on whole documents, for backbones trained from scratch and for the neural rescorer.

use burn::optim::GradientsParams;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Map, Value, json};

use crate::backbone::{Span, Transformer};
use crate::error::{Result, bail};
use crate::nn::{Criterion, Targets, unembed};
use crate::training::{Batch, Evaluated, Task};

/// The task of predicting the next token in tokenised documents.
pub struct LanguageModelling {
    train: Vec<Vec<u32>>,
    dev: Vec<Vec<u32>>,
    documents_per_step: usize,
    seed: u64,
}

impl LanguageModelling {
    /// Makes the task. Documents are cut to `context` tokens, and those of fewer than two tokens are left out.
    ///
    /// # Errors
    /// Returns an error if train or dev has no document of at least two tokens.
    pub fn new(
        train: Vec<Vec<u32>>,
        dev: Vec<Vec<u32>>,
        context: usize,
        documents_per_step: usize,
        seed: u64,
    ) -> Result<Self> {
        let cut = |mut documents: Vec<Vec<u32>>| {
            documents.iter_mut().for_each(|d| d.truncate(context));
            documents.retain(|d| d.len() > 1);
            documents
        };
        let (train, dev) = (cut(train), cut(dev));
        if train.is_empty() || dev.is_empty() {
            bail!(
                "there are {} train and {} dev texts of at least two tokens; a language model needs both. Check `text`, the corpora and their `dev` shares.",
                train.len(),
                dev.len()
            );
        }
        Ok(Self { train, dev, documents_per_step, seed })
    }

    /// Returns the documents of batch `number`.
    fn documents(&self, number: usize) -> Vec<&Vec<u32>> {
        let places = number * self.documents_per_step..(number + 1) * self.documents_per_step;
        places.map(|index| &self.train[shuffled(self.seed, self.train.len(), index)]).collect()
    }

    /// Returns the mean negative log-likelihood per token of `documents`, in nats.
    pub fn mean_loss(model: &Transformer, documents: &[Vec<u32>]) -> f64 {
        let (mut loss, mut tokens) = (0.0, 0);
        for batch in documents.chunks(16) {
            let shifted = Shifted::new(batch);
            let hidden = shifted.hidden(model);
            let result = unembed(hidden, model.unembedding(), &shifted.targets, None, Criterion::CrossEntropy, None);
            loss += result.loss;
            tokens += shifted.targets.len();
        }
        loss / tokens.max(1) as f64
    }
}

/// Returns the document at place `index` of an endless sequence, which goes through all `count` documents in each pass
/// and shuffles them anew for every pass.
fn shuffled(seed: u64, count: usize, index: usize) -> usize {
    let (pass, place) = (index / count, index % count);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed.wrapping_add(0x9e37_79b9 * (pass as u64 + 1))));
    order[place]
}

impl Task<Transformer> for LanguageModelling {
    fn batch(&self, model: &Transformer, step: usize) -> Result<Batch> {
        let documents = self.documents(step);
        let shifted = Shifted::new(&documents);
        let hidden = shifted.hidden(model);
        let table = model.unembedding();
        let counted = shifted.targets.len();
        let result = unembed(
            hidden.clone().without_autodiff(),
            table.clone().without_autodiff(),
            &shifted.targets,
            None,
            Criterion::CrossEntropy,
            Some(1.0 / counted as f64),
        );
        let [of_hidden, of_table] = result.gradients.expect("a weight was given");
        let objective = (hidden * of_hidden).sum() + (table * of_table).sum();
        let right = shifted.targets.right(&result.choices);
        let accuracy = right.iter().filter(|&&right| right).count() as f64 / counted as f64;
        let metrics = Map::from_iter([("accuracy".to_owned(), json!(accuracy))]);
        let words = format!(" accuracy {accuracy:.3}");
        let loss = result.loss / counted as f64;
        Ok(Batch { objective, gradients: GradientsParams::new(), loss, tokens: counted, metrics, words })
    }

    fn describe(&self, number: usize) -> Value {
        json!({"texts": self.documents(number)})
    }

    fn evaluate(&self, model: &Transformer) -> Result<Evaluated> {
        let loss = Self::mean_loss(model, &self.dev);
        let metrics = Map::from_iter([("loss".to_owned(), json!(loss)), ("perplexity".to_owned(), json!(loss.exp()))]);
        Ok(Evaluated { score: loss, metrics })
    }
}

/// Documents without their last tokens, as inputs, and the successor of each input token, as targets.
struct Shifted<'a> {
    inputs: Vec<&'a [u32]>,
    targets: Targets,
}

impl<'a> Shifted<'a> {
    fn new<D: AsRef<[u32]>>(documents: &'a [D]) -> Self {
        let inputs = documents.iter().map(|d| &d.as_ref()[..d.as_ref().len() - 1]).collect();
        let targets: Vec<u32> = documents.iter().flat_map(|d| d.as_ref()[1..].iter().copied()).collect();
        Self { inputs, targets: Targets::of_tokens(&targets) }
    }

    /// Returns the model's last hidden states of all inputs, `[tokens, d]`.
    fn hidden(&self, model: &Transformer) -> burn::tensor::Tensor<2> {
        let spans: Vec<Span> = self.inputs.iter().map(|tokens| Span::chain(tokens)).collect();
        model.hidden(&spans, None)
    }
}

#[cfg(test)]
mod tests {
    use super::shuffled;

    #[test]
    fn every_pass_visits_every_document_once() {
        for pass in 0..3 {
            let mut seen: Vec<usize> = (0..7).map(|i| shuffled(5, 7, pass * 7 + i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..7).collect::<Vec<_>>());
        }
        assert_ne!(
            (0..7).map(|i| shuffled(5, 7, i)).collect::<Vec<_>>(),
            (7..14).map(|i| shuffled(5, 7, i)).collect::<Vec<_>>()
        );
    }
}
