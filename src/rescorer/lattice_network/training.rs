//! The training of lattice networks on traces, with one of two losses. Under cross-entropy, a network learns to find
//! the token that the backbone wrote among the candidates of each slot, given the true tokens before. As a linear-chain
//! conditional random field, it learns to find the path that the backbone wrote among all paths of the lattice.

use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::FitLattices;
use super::{Blocks, LatticeNetwork, unit_tokens};
use crate::backbone::{Feature, Model};
use crate::error::{Result, bail};
use crate::heads::{StoredCandidates, block_starts};
use crate::nn::{distinct, from_host, indices, to_host, unit_rows};
use crate::traces::{Place, Trace, states_at};
use crate::training::{Batch, Evaluated, Task};

/// The loss that a lattice network is trained with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LatticeLoss {
    /// The cross-entropy of the true token over each slot's candidates, behind the true token before.
    #[default]
    CrossEntropy,
    /// The negative log-likelihood of the true path among all paths of the lattice: a linear-chain conditional random field
    /// (Lafferty et al. 2001).
    Crf,
}

/// A trace together with the heads' candidates on it.
pub struct Recorded<'a> {
    /// The trace.
    pub trace: &'a Trace,
    /// The heads' candidates.
    pub candidates: StoredCandidates,
}

/// The start of a block: the number of a trace, the number of a document in it, and the number of tokens of the
/// continuation before the block.
type Start = (usize, usize, usize);

/// The task of training a lattice network on traces.
pub struct LatticeTraining<'a> {
    train: Vec<Recorded<'a>>,
    dev: Vec<Recorded<'a>>,
    train_starts: Vec<Start>,
    dev_starts: Vec<Start>,
    model: &'a Model,
    k: usize,
    loss: LatticeLoss,
    blocks_per_step: usize,
    seed: u64,
    device: Device,
}

/// The largest number of blocks that an evaluation on dev uses.
const DEV_BLOCKS: usize = 2048;
/// The number of blocks that are computed at once on dev.
const AT_ONCE: usize = 256;
/// The target of a slot without one: the slot is past the text's end, or its true token is not among the candidates.
const NONE: usize = usize::MAX;

impl<'a> LatticeTraining<'a> {
    /// Makes the task. It uses the best `top_k` candidates of every slot, or all of them if fewer are stored.
    ///
    /// # Errors
    /// Returns an error if the traces of train or dev have no position where a block can start.
    pub fn new(
        lattices: FitLattices<'a>,
        model: &'a Model,
        loss: LatticeLoss,
        blocks_per_step: usize,
        seed: u64,
    ) -> Result<Self> {
        let FitLattices { train, dev, top_k: k, .. } = lattices;
        let starts = |recorded: &[Recorded]| -> Vec<Start> {
            let of_trace = |(number, recorded): (usize, &Recorded)| -> Vec<Start> {
                let starts = block_starts(recorded.trace.documents());
                starts.into_iter().map(|(document, t)| (number, document, t)).collect()
            };
            recorded.iter().enumerate().flat_map(of_trace).collect()
        };
        let (train_starts, mut dev_starts) = (starts(&train), starts(&dev));
        if train_starts.is_empty() || dev_starts.is_empty() {
            bail!(
                "the traces give {} train and {} dev blocks; a rescorer of lattices needs both. Give more documents.",
                train_starts.len(),
                dev_starts.len()
            );
        }
        let every = dev_starts.len().div_ceil(DEV_BLOCKS).max(1);
        dev_starts = dev_starts.into_iter().step_by(every).collect();
        let device = model.device().clone();
        Ok(Self { train, dev, train_starts, dev_starts, model, k, loss, blocks_per_step, seed, device })
    }

    /// Draws the starts of the blocks of batch `number` from the train traces.
    fn draw(&self, number: usize) -> Vec<Start> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(number as u64 + 1);
        (0..self.blocks_per_step).map(|_| self.train_starts[rng.random_range(0..self.train_starts.len())]).collect()
    }

    /// Returns the blocks at `starts`, and for each slot the place of the true token among its candidates, or [`NONE`].
    fn blocks(&self, recorded: &[Recorded], starts: &[Start]) -> Result<(Blocks, Vec<usize>)> {
        let first = &recorded[0].candidates;
        let (slots, k, n) = (first.heads(), self.k.min(first.k()), starts.len());
        let traces: Vec<&Trace> = recorded.iter().map(|recorded| recorded.trace).collect();
        let place = |&(trace, document, t): &Start| {
            let row = traces[trace].documents()[document].prompt + t - 1;
            Place { trace, document, row }
        };
        let places: Vec<Place> = starts.iter().map(place).collect();
        let states = states_at(&traces, &places, &[Feature::Last])?.to_device(&self.device);
        let (mut before, mut targets, mut scores, mut head_states) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut all = Vec::new();
        for &(trace, document, t) in starts {
            let Recorded { trace, candidates } = &recorded[trace];
            let entry = &trace.documents()[document];
            let (text, at) = (&trace.continuation(entry)[t..], candidates.at(document, t));
            head_states.extend(candidates.states(document, t));
            for slot in 0..slots {
                let (ids, head) = (&at.ids[slot * at.k..][..k], &at.scores[slot * at.k..][..k]);
                before.push(text[slot.min(text.len() - 1)]);
                let target = text.get(slot + 1).and_then(|token| ids.iter().position(|id| id == token));
                targets.push(target.unwrap_or(NONE));
                scores.extend(head.iter().map(|score| score - head[0]));
                all.extend_from_slice(ids);
            }
        }
        let (distinct, rows) = distinct(all);
        let blocks = Blocks {
            hidden: unit_rows(states.get(Feature::Last)),
            states: (!head_states.is_empty()).then(|| {
                let shape = [n * slots, head_states.len() / (n * slots)];
                unit_rows(from_host(head_states, shape, &self.device))
            }),
            before: unit_tokens(&before, self.model),
            tokens: unit_tokens(&distinct, self.model),
            candidates: indices(rows, &self.device),
            head_scores: from_host(scores, [n, slots, k], &self.device),
        };
        Ok((blocks, targets))
    }

    /// Returns the sum of the losses as a tensor with its graph, the number of targets that have the best score of
    /// their slot, and the number of targets.
    ///
    /// A random field learns only from the slots before the first one without a target.
    fn loss(
        &self,
        network: &impl LatticeNetwork,
        blocks: &Blocks,
        mut targets: Vec<usize>,
    ) -> (Tensor<1>, usize, usize) {
        let scores = network.scores(blocks);
        let [_, slots, k] = scores.dims();
        let pairs = match self.loss {
            LatticeLoss::CrossEntropy => None,
            LatticeLoss::Crf => network.pairs(blocks),
        };
        if pairs.is_some() {
            for block in targets.chunks_mut(slots) {
                let known = block.iter().take_while(|target| **target != NONE).count();
                block[known..].fill(NONE);
            }
        }
        let found = to_host(scores.clone().without_autodiff());
        let best = |row: &[f32]| row.iter().enumerate().fold(0, |best, (at, x)| if *x > row[best] { at } else { best });
        let counted = targets.iter().filter(|target| **target != NONE).count();
        let right = found.chunks(k).zip(&targets).filter(|(row, target)| best(row) == **target).count();
        let loss = match pairs {
            None => log_softmax(scores, 2).mul(one_hot(&targets, &self.device, [slots, k])).sum().neg(),
            Some(pairs) => random_field(scores, pairs, &targets),
        };
        (loss, right, counted)
    }
}

/// Returns a tensor `[blocks, slots, k]` that is 1 at the targets and 0 elsewhere.
fn one_hot(targets: &[usize], device: &Device, [slots, k]: [usize; 2]) -> Tensor<3> {
    let mut wanted = vec![0.0; targets.len() * k];
    for (cell, &target) in targets.iter().enumerate().filter(|(_, target)| **target != NONE) {
        wanted[cell * k + target] = 1.0;
    }
    from_host(wanted, [targets.len() / slots, slots, k], device)
}

/// Returns the negative log-likelihood of the paths along `targets`, summed over the n blocks. A path ends before the
/// first slot that has no target, and is compared with all paths of the same length.
///
/// `scores` `[n, slots, k]` are the scores after the true tokens, and `pairs` `[n, slots - 1, k, k]` those after every
/// candidate of the slot before.
fn random_field(scores: Tensor<3>, pairs: Tensor<4>, targets: &[usize]) -> Tensor<1> {
    let ([n, slots, k], device) = (scores.dims(), scores.device());
    let of_paths = (scores.clone() * one_hot(targets, &device, [slots, k])).sum();
    // The length of the known path of each block.
    let known = |block: &[usize]| block.iter().filter(|target| **target != NONE).count();
    let lengths: Vec<usize> = targets.chunks(slots).map(known).collect();
    // For each candidate, the logarithm of the summed exponentials of the scores of all prefixes that end with it.
    let mut prefixes = scores.narrow(1, 0, 1).reshape([n, k]);
    let mut all = Tensor::zeros([1], &device);
    for slot in 0..slots {
        if slot > 0 {
            let step = pairs.clone().narrow(1, slot - 1, 1).reshape([n, k, k]);
            prefixes = log_sum_exp(prefixes.reshape([n, k, 1]) + step).reshape([n, k]);
        }
        let ends: Vec<f32> = lengths.iter().map(|&length| if length == slot + 1 { 1.0 } else { 0.0 }).collect();
        let sums = log_sum_exp(prefixes.clone().reshape([n, k, 1])).reshape([n]);
        all = all + (sums * from_host(ends, [n], &device)).sum();
    }
    all - of_paths
}

/// Returns the log-sum-exp over the second dimension, `[n, 1, m]`.
fn log_sum_exp(scores: Tensor<3>) -> Tensor<3> {
    let most = scores.clone().max_dim(1).detach();
    (scores - most.clone()).exp().sum_dim(1).log() + most
}

impl<N: LatticeNetwork> Task<N> for LatticeTraining<'_> {
    fn batch(&self, network: &N, number: usize) -> Result<Batch> {
        let (blocks, targets) = self.blocks(&self.train, &self.draw(number))?;
        let (loss, right, counted) = self.loss(network, &blocks, targets);
        let mean = loss / counted.max(1) as f64;
        let value = f64::from(to_host(mean.clone().without_autodiff())[0]);
        let accuracy = right as f64 / counted.max(1) as f64;
        Ok(Batch {
            objective: mean,
            gradients: GradientsParams::new(),
            loss: value,
            tokens: counted,
            metrics: Map::from_iter([("accuracy".to_owned(), json!(accuracy))]),
            words: format!(" accuracy {accuracy:.3}"),
        })
    }

    fn evaluate(&self, network: &N) -> Result<Evaluated> {
        let (mut loss, mut right, mut counted) = (0.0, 0, 0);
        for starts in self.dev_starts.chunks(AT_ONCE) {
            let (blocks, targets) = self.blocks(&self.dev, starts)?;
            let (sum, hits, tokens) = self.loss(network, &blocks, targets);
            loss += f64::from(to_host(sum)[0]);
            right += hits;
            counted += tokens;
        }
        let (loss, accuracy) = (loss / counted.max(1) as f64, right as f64 / counted.max(1) as f64);
        let metrics = Map::from_iter([("loss".to_owned(), json!(loss)), ("accuracy".to_owned(), json!(accuracy))]);
        Ok(Evaluated { score: loss, metrics })
    }

    fn describe(&self, number: usize) -> Value {
        let names = |&(trace, document, t): &Start| json!({"document": self.train[trace].trace.documents()[document].id, "token": t});
        json!({"blocks": self.draw(number).iter().map(names).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCKS: usize = 3;
    const SLOTS: usize = 4;
    const K: usize = 3;

    /// Returns scores after the true tokens, and scores after every candidate. The former agree with the latter
    /// wherever the token before is a target.
    fn field(numbers: &[f64], targets: &[usize]) -> (Vec<f64>, Vec<f64>) {
        let (scores, pairs) = numbers.split_at(BLOCKS * SLOTS * K);
        let pairs = &pairs[..BLOCKS * (SLOTS - 1) * K * K];
        let cell = |at: usize| match (at / K % SLOTS, targets[(at / K).saturating_sub(1)]) {
            (0, _) | (_, NONE) => scores[at],
            (slot, before) => pairs[((at / K / SLOTS * (SLOTS - 1) + slot - 1) * K + before) * K + at % K],
        };
        ((0..scores.len()).map(cell).collect(), pairs.to_vec())
    }

    /// Computes the loss by its definition, over every path up to the first slot without a target.
    fn by_enumeration(scores: &[f64], pairs: &[f64], targets: &[usize]) -> f64 {
        let mut sum = 0.0;
        for (block, targets) in targets.chunks(SLOTS).enumerate() {
            let length = targets.iter().take_while(|target| **target != NONE).count();
            let step = |slot: usize, before: usize, place: usize| match slot {
                0 => scores[block * SLOTS * K + place],
                _ => pairs[((block * (SLOTS - 1) + slot - 1) * K + before) * K + place],
            };
            let score = |path: &[usize]| -> f64 {
                path.iter().enumerate().map(|(slot, &place)| step(slot, path[slot.saturating_sub(1)], place)).sum()
            };
            let all = (0..K.pow(length as u32)).map(|code| {
                let path: Vec<usize> = (0..length).map(|slot| code / K.pow(slot as u32) % K).collect();
                score(&path).exp()
            });
            sum += all.sum::<f64>().ln() - score(&targets[..length]);
        }
        sum
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Compares the value of the loss, and its slope in a random direction, with the definition.
        #[test]
        fn a_random_field_is_over_all_paths(
            targets in prop::collection::vec(prop::option::weighted(0.8, 0..K), BLOCKS * SLOTS),
            numbers in prop::collection::vec(-2f64..2.0, BLOCKS * SLOTS * K * (1 + K)),
            direction in prop::collection::vec(-1f64..1.0, BLOCKS * SLOTS * K * (1 + K)),
        ) {
            let up_to_a_gap = |block: &[Option<usize>]| {
                let known = block.iter().take_while(|target| target.is_some()).count();
                block.iter().enumerate().map(|(slot, t)| t.filter(|_| slot < known).unwrap_or(NONE)).collect::<Vec<_>>()
            };
            let targets: Vec<usize> = targets.chunks(SLOTS).flat_map(up_to_a_gap).collect();
            let (scores, pairs) = field(&numbers, &targets);
            let device = Device::flex().autodiff();
            let leaf = |values: &[f64]| {
                let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
                let rows = values.len() / K;
                from_host(values, [rows, K], &device).require_grad()
            };
            let (of_scores, of_pairs) = (leaf(&scores), leaf(&pairs));
            let loss = random_field(
                of_scores.clone().reshape([BLOCKS, SLOTS, K]),
                of_pairs.clone().reshape([BLOCKS, SLOTS - 1, K, K]),
                &targets,
            );
            let (found, expected) = (f64::from(to_host(loss.clone().without_autodiff())[0]), by_enumeration(&scores, &pairs, &targets));
            prop_assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} {expected}");

            let slopes = loss.backward();
            let along = |leaf: &Tensor<2>, direction: &[f64]| -> f64 {
                let slopes = to_host(leaf.grad(&slopes).expect("a leaf of the loss"));
                slopes.iter().zip(direction).map(|(slope, x)| f64::from(*slope) * x).sum()
            };
            let (towards_scores, towards_pairs) = field(&direction, &targets);
            let found = along(&of_scores, &towards_scores) + along(&of_pairs, &towards_pairs);
            let at = |far: f64| {
                let moved: Vec<f64> = numbers.iter().zip(&direction).map(|(x, d)| x + far * d).collect();
                let (scores, pairs) = field(&moved, &targets);
                by_enumeration(&scores, &pairs, &targets)
            };
            let expected = (at(1e-4) - at(-1e-4)) / 2e-4;
            prop_assert!((found - expected).abs() < 1e-3, "{found} {expected}");
        }
    }
}
