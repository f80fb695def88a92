//! Training heads on traces: the weighted mean cross-entropy of all heads, or of one drawn head, through the frozen
//! unembedding.
//!
//! The unembedding has no gradient, so loss and gradient with respect to each head's output are computed outside autodiff
//! in chunks of positions, and the graph holds the heads alone.

use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Map, json};

use super::positions::{Position, input, positions, targets};
use super::{DraftHeads, Heads};
use crate::config::{HeadLoss, HeadsConfig};
use crate::error::{Result, bail};
use crate::nn::{IGNORE, Unembedded, unembed};
use crate::traces::Trace;
use crate::training::{Batch, Evaluated, Task};

/// Positions that dev evaluation uses, at most.
const DEV_POSITIONS: usize = 4096;

/// Heads, learning from the backbone's own greedy text.
pub struct HeadTraining<'a> {
    train: Vec<&'a Trace>,
    dev: Vec<&'a Trace>,
    /// `[V, d]`, without autodiff.
    unembedding: Tensor<2>,
    options: &'a HeadsConfig,
    /// By head; their mean is 1.
    weights: Vec<f64>,
    seed: u64,
    train_positions: Vec<Position>,
    dev_positions: Vec<Position>,
    device: Device,
}

impl<'a> HeadTraining<'a> {
    /// # Errors
    /// When the train or the dev traces hold no position with a target.
    pub fn new(
        train: Vec<&'a Trace>,
        dev: Vec<&'a Trace>,
        unembedding: Tensor<2>,
        options: &'a HeadsConfig,
        seed: u64,
    ) -> Result<Self> {
        let train_positions = positions(&train, options.prompt_positions);
        let mut dev_positions = positions(&dev, options.prompt_positions);
        if train_positions.is_empty() || dev_positions.is_empty() {
            bail!(
                "the traces give {} train and {} dev positions; heads need both. Give more documents, or larger dev shares.",
                train_positions.len(),
                dev_positions.len()
            );
        }
        // Evenly over the dev documents rather than the first ones.
        let every = dev_positions.len().div_ceil(DEV_POSITIONS);
        dev_positions = dev_positions.into_iter().step_by(every).collect();
        let device = unembedding.device();
        let weights = options.loss_weights.with_mean_one(options.block_size - 1);
        Ok(Self { train, dev, unembedding, options, weights, seed, train_positions, dev_positions, device })
    }

    /// Positions in one pass over the train traces.
    pub fn train_positions(&self) -> usize {
        self.train_positions.len()
    }

    /// What the mean cross-entropy of one of `covered` heads is divided by before it is added to the loss. One drawn head
    /// stands for all, so that its expectation is theirs.
    fn divisor(&self, index: usize, covered: usize) -> f64 {
        covered as f64 / self.weights[index]
    }

    fn one_head(&self, traces: &[&Trace], positions: &[Position], index: usize, state: Tensor<2>) -> (Unembedded, f64) {
        let targets = targets(traces, positions, index);
        let counted = targets.iter().filter(|&&t| t != IGNORE).count().max(1) as f64;
        (unembed(state, self.unembedding.clone(), &targets, 1.0 / counted, false), counted)
    }
}

impl Task<Heads> for HeadTraining<'_> {
    fn batch(&self, model: &Heads, step: usize) -> Result<Batch> {
        // Drawn with replacement from a generator of the step alone: resuming needs no cursor.
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(step as u64 + 1);
        let draw = |_| self.train_positions[rng.random_range(0..self.train_positions.len())];
        let chosen: Vec<Position> = (0..self.options.positions_per_step).map(draw).collect();
        let heads: Vec<usize> = match self.options.loss {
            HeadLoss::All => (0..model.count()).collect(),
            HeadLoss::OneRandom => vec![rng.random_range(0..model.count())],
        };
        let seen = input(&self.train, &chosen, &self.device).autodiff();
        let (mut objective, mut loss, mut shares) = (None, 0.0, Vec::new());
        for (&index, state) in heads.iter().zip(model.states(seen, &heads)) {
            let divisor = self.divisor(index, heads.len());
            let (result, counted) = self.one_head(&self.train, &chosen, index, state.clone().without_autodiff());
            let part = (state * result.hidden_gradient.div_scalar(divisor)).sum();
            objective = Some(match objective {
                Some(sum) => sum + part,
                None => part,
            });
            loss += result.loss / counted / divisor;
            shares.push(result.correct as f64 / counted);
        }
        let by_head = heads.iter().zip(&shares).map(|(head, share)| (format!("head {}", head + 2), json!(share)));
        let metrics = Map::from_iter([
            ("accuracy".to_owned(), json!(shares.iter().sum::<f64>() / heads.len() as f64)),
            ("accuracy_by_head".to_owned(), by_head.collect::<Map<_, _>>().into()),
        ]);
        let objective = objective.expect("at least one head");
        let by_head: Vec<String> = shares.iter().map(|share| format!("{:.0}", 100.0 * share)).collect();
        let words = format!(" accuracy by head {} %", by_head.join("/"));
        Ok(Batch { objective, loss, tokens: chosen.len(), metrics, words })
    }

    fn evaluate(&self, model: &Heads) -> Result<Evaluated> {
        let seen = input(&self.dev, &self.dev_positions, &self.device);
        let heads: Vec<usize> = (0..model.count()).collect();
        let (mut loss, mut accuracy) = (0.0, Vec::new());
        for (&index, state) in heads.iter().zip(model.states(seen, &heads)) {
            let (result, counted) = self.one_head(&self.dev, &self.dev_positions, index, state);
            loss += result.loss / counted / self.divisor(index, heads.len());
            accuracy.push(result.correct as f64 / counted);
        }
        let metrics = Map::from_iter([
            ("dev_loss".to_owned(), json!(loss)),
            ("dev_accuracy_head_2".to_owned(), json!(accuracy.first())),
            ("dev_accuracy_by_head".to_owned(), json!(accuracy)),
        ]);
        Ok(Evaluated { score: loss, metrics })
    }
}
