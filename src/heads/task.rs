//! Training heads on traces: the mean cross-entropy of all heads, or of one drawn head, through the frozen unembedding.
//!
//! The unembedding has no gradient, so loss and gradient with respect to each head's output are computed outside autodiff
//! in chunks of positions, and the graph holds the heads alone.

use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Map, json};

use super::FfnHeads;
use crate::config::{HeadLoss, HeadsConfig};
use crate::error::{Result, bail};
use crate::nn::{IGNORE, Unembedded, from_host, unembed};
use crate::traces::{Trace, TraceDocument};
use crate::training::{Batch, Evaluated, Task};

/// Positions that dev evaluation uses, at most.
const DEV_POSITIONS: usize = 4096;

/// Heads, learning from the backbone's own greedy text.
pub struct HeadTraining<'a> {
    train: &'a [Trace],
    dev: &'a [Trace],
    /// `[V, d]`, without autodiff.
    unembedding: Tensor<2>,
    options: &'a HeadsConfig,
    seed: u64,
    train_positions: Vec<Position>,
    dev_positions: Vec<Position>,
    device: Device,
}

/// A hidden state that heads predict from: trace, document, token.
#[derive(Clone, Copy)]
struct Position {
    trace: u32,
    document: u32,
    row: u32,
}

impl<'a> HeadTraining<'a> {
    /// # Errors
    /// When the train or the dev traces hold no position with a target.
    pub fn new(
        train: &'a [Trace],
        dev: &'a [Trace],
        unembedding: Tensor<2>,
        options: &'a HeadsConfig,
        seed: u64,
    ) -> Result<Self> {
        let train_positions = positions(train, options.prompt_positions);
        let mut dev_positions = positions(dev, options.prompt_positions);
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
        Ok(Self { train, dev, unembedding, options, seed, train_positions, dev_positions, device })
    }

    /// Positions in one pass over the train traces.
    pub fn train_positions(&self) -> usize {
        self.train_positions.len()
    }

    /// Hidden states `[n, d]` of positions.
    fn hidden(&self, traces: &[Trace], positions: &[Position]) -> Tensor<2> {
        let width = traces[0].width();
        let mut values = Vec::with_capacity(positions.len() * width);
        for position in positions {
            let trace = &traces[position.trace as usize];
            trace.hidden_row(&trace.documents()[position.document as usize], position.row as usize, &mut values);
        }
        from_host(values, [positions.len(), width], &self.device)
    }

    /// The tokens that head `index` is to predict from positions; none past the document's end.
    fn targets(&self, traces: &[Trace], positions: &[Position], index: usize) -> Vec<u32> {
        let target = |position: &Position| {
            let trace = &traces[position.trace as usize];
            let tokens = trace.tokens(&trace.documents()[position.document as usize]);
            tokens.get(position.row as usize + 2 + index).copied().unwrap_or(IGNORE)
        };
        positions.iter().map(target).collect()
    }

    fn one_head(&self, traces: &[Trace], positions: &[Position], index: usize, state: Tensor<2>) -> (Unembedded, f64) {
        let targets = self.targets(traces, positions, index);
        let counted = targets.iter().filter(|&&t| t != IGNORE).count().max(1) as f64;
        (unembed(state, self.unembedding.clone(), &targets, 1.0 / counted, false), counted)
    }
}

/// Every token whose next-but-one token exists and lies in the continuation, or anywhere if the prompt counts as well.
fn positions(traces: &[Trace], prompt: bool) -> Vec<Position> {
    let of_document = |(document, entry): (usize, &TraceDocument), trace: usize| {
        let first = if prompt { 0 } else { entry.prompt - 1 };
        let last = entry.len().saturating_sub(2);
        (first..last.max(first)).map(move |row| Position {
            trace: trace as u32,
            document: document as u32,
            row: row as u32,
        })
    };
    let of_trace = |(trace, entries): (usize, &Trace)| {
        entries.documents().iter().enumerate().flat_map(move |d| of_document(d, trace)).collect::<Vec<_>>()
    };
    traces.iter().enumerate().flat_map(of_trace).collect()
}

impl Task<FfnHeads> for HeadTraining<'_> {
    fn batch(&self, model: &FfnHeads, step: usize) -> Result<Batch> {
        // Drawn with replacement from a generator of the step alone: resuming needs no cursor.
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(step as u64 + 1);
        let draw = |_| self.train_positions[rng.random_range(0..self.train_positions.len())];
        let chosen: Vec<Position> = (0..self.options.positions_per_step).map(draw).collect();
        let heads: Vec<usize> = match self.options.loss {
            HeadLoss::All => (0..model.count()).collect(),
            HeadLoss::OneRandom => vec![rng.random_range(0..model.count())],
        };
        let hidden = self.hidden(self.train, &chosen).autodiff();
        let (mut objective, mut loss, mut shares) = (None, 0.0, Vec::new());
        for &index in &heads {
            let state = model.state(index, hidden.clone());
            let (result, counted) = self.one_head(self.train, &chosen, index, state.clone().without_autodiff());
            let part = (state * result.hidden_gradient.div_scalar(heads.len() as f64)).sum();
            objective = Some(match objective {
                Some(sum) => sum + part,
                None => part,
            });
            loss += result.loss / counted / heads.len() as f64;
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

    fn evaluate(&self, model: &FfnHeads) -> Result<Evaluated> {
        let hidden = self.hidden(self.dev, &self.dev_positions);
        let (mut loss, mut accuracy) = (0.0, Vec::new());
        for index in 0..model.count() {
            let state = model.state(index, hidden.clone());
            let (result, counted) = self.one_head(self.dev, &self.dev_positions, index, state);
            loss += result.loss / counted / model.count() as f64;
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
