//! Losses through an unembedding that is not trained, without ever holding a whole row of logits.
//!
//! The vocabulary is walked in blocks. For each row the walk keeps the largest logit so far, the sum of the
//! exponentials relative to it, and the sum of the unembedding's rows weighted by the same exponentials. All of them
//! are rescaled when the largest logit rises (the online softmax of Milakov and Gimelshein 2018, arXiv 1805.02867). At
//! the end, the quotient of the two sums, minus the target's row, is the gradient. So one walk gives both the loss and
//! its gradient, in memory that does not depend on the size of the vocabulary. Losses that go by the overlap of the prediction
//! with its target take a second walk, which knows the divisor of the softmax.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::{Criterion, Projection, Targets, from_host, to_host};
use crate::kernels::{PackedMatrix, exponentiate, largest, on_pool, weight_gradient};

/// Tokens in a block.
const BLOCK: usize = 2048;
/// Rows that walk the vocabulary together. `BLOCK x ROWS` logits are held at once: 4 MB of float32.
const ROWS: usize = 512;

/// An unembedding `[V, d]` prepared for training on top of it.
pub struct FrozenUnembedding {
    table: Projection,
    /// The transpose `[d, tokens]` of every block, for the gradient; empty unless the table is packed.
    transposed: Vec<PackedMatrix>,
}

/// What a teacher's distributions teach through, one row each, as far as a loss needs it.
#[derive(Clone)]
pub struct Taught {
    /// The states `[n, d]` that the distributions are made of.
    pub states: Option<Tensor<2>>,
    /// The logarithms `[n, 1]` of the divisors of their softmax.
    log_sums: Option<Tensor<2>>,
    /// The means of the unembedding's rows under the distributions, `[n, d]`. Their product with a hidden state is the mean of
    /// its logits.
    means: Option<Tensor<2>>,
}

impl Taught {
    /// Makes what distributions teach through where the losses compute them anew from their states.
    pub fn by_states(states: Tensor<2>) -> Self {
        Self { states: Some(states), log_sums: None, means: None }
    }

    /// Returns some of the rows.
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        self.map(|all| all.select(0, rows.clone()))
    }

    fn map(&self, change: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        let of = |part: &Option<Tensor<2>>| part.clone().map(&change);
        Self { states: of(&self.states), log_sums: of(&self.log_sums), means: of(&self.means) }
    }
}

/// What states find in the vocabulary ([`FrozenUnembedding::attend`]).
#[derive(Clone)]
pub struct VocabularyView {
    /// The means of the unembedding's rows under the softmax of each state's logits, `[n, d]`.
    pub means: Tensor<2>,
    /// The logarithms `[n, 1]` of the divisors of the softmax.
    log_sums: Tensor<2>,
}

/// The result of [`FrozenUnembedding::loss`].
pub struct FrozenLoss {
    /// The loss of each row, in nats where it is a logarithm; 0 for rows that take no part. A cross-entropy is the `sum of
    /// shares x (log-sum-exp - logit)`: minus the entropy of the shares, it is their divergence from the prediction.
    pub losses: Vec<f64>,
    /// The logarithm of the divisor of each row's softmax.
    pub log_sums: Vec<f64>,
    /// The most likely token of each row; among equal ones, the smallest id.
    pub choices: Vec<u32>,
    /// If a weight was given: d(`weight` x sum of losses)/d hidden, `[n, d]`, without autodiff.
    pub gradient: Option<Tensor<2>>,
}

impl FrozenLoss {
    fn new() -> Self {
        Self { losses: Vec::new(), log_sums: Vec::new(), choices: Vec::new(), gradient: None }
    }

    /// Returns the sum of the rows' losses.
    pub fn sum(&self) -> f64 {
        self.losses.iter().sum()
    }
}

/// What the walk keeps of one row.
#[derive(Clone, Copy)]
struct Running {
    largest: f32,
    best: usize,
    sum: f64,
}

impl FrozenUnembedding {
    /// Prepares a projection, which is shared. On the CPU this takes as much memory again as the projection, for the
    /// gradient.
    pub fn new(table: Projection) -> Self {
        let transposed = match &table {
            Projection::Tensor(_) => Vec::new(),
            Projection::Packed(matrix) => {
                let blocks: Vec<Range<usize>> = blocks(matrix.outputs()).collect();
                blocks.into_par_iter().map(|block| matrix.transposed_part(block)).collect()
            }
        };
        Self { table, transposed }
    }

    /// Returns the matrix that states are turned into logits with.
    pub fn table(&self) -> &Projection {
        &self.table
    }

    /// Returns the width d of the states.
    pub fn width(&self) -> usize {
        self.table.dims()[1]
    }

    /// Computes the losses of `hidden` `[n, d]` (without autodiff) against `n` targets and, given a `weight`, their gradient.
    ///
    /// `taught` are the rows of the distributions that the targets' taught shares belong to ([`FrozenUnembedding::teach`]).
    /// They are needed if one of these shares is above 0.
    pub fn loss(
        &self,
        hidden: Tensor<2>,
        targets: &Targets,
        taught: Option<&Taught>,
        criterion: Criterion,
        weight: Option<f64>,
    ) -> FrozenLoss {
        let mut all = FrozenLoss::new();
        let mut gradients = Vec::new();
        for first in (0..targets.len()).step_by(ROWS) {
            let rows = first..targets.len().min(first + ROWS);
            let of_rows = |states: Tensor<2>| states.narrow(0, first, rows.len());
            let (part, taught) = (of_rows(hidden.clone()), taught.map(|taught| taught.map(of_rows)));
            let sought = Sought { targets, rows, taught, criterion, weight };
            let part = match &self.table {
                Projection::Packed(matrix) => self.on_host(matrix, part, &sought),
                Projection::Tensor(table) => on_device(table, part, &sought),
            };
            all.losses.extend(part.losses);
            all.log_sums.extend(part.log_sums);
            all.choices.extend(part.choices);
            gradients.extend(part.gradient);
        }
        if weight.is_some() {
            all.gradient = Some(if gradients.is_empty() { hidden } else { Tensor::cat(gradients, 0) });
        }
        all
    }

    /// Returns what the softmax of `states` `[n, d]` (without autodiff) teaches through, for losses by `criterion` and, if
    /// `walks_twice`, for the gradients of the table's columns.
    pub fn teach(&self, states: &Tensor<2>, criterion: Criterion, walks_twice: bool) -> Taught {
        let ([n, width], device) = (states.dims(), states.device());
        let (mut means, mut log_sums) = (Vec::new(), Vec::new());
        for first in (0..n).step_by(ROWS) {
            let part = states.clone().narrow(0, first, ROWS.min(n - first));
            let (of_part, log_sum) = match &self.table {
                Projection::Packed(matrix) => {
                    let rows = part.dims()[0];
                    let (running, mut sums) = self.walk(matrix, &to_host(part), criterion.reads_divergence());
                    for (sums, running) in sums.chunks_mut(width).zip(&running) {
                        sums.iter_mut().for_each(|sum| *sum = (f64::from(*sum) / running.sum) as f32);
                    }
                    let log_sums = running.iter().map(|running| running.log_sum() as f32).collect();
                    (from_host(sums, [rows, width], &device), from_host(log_sums, [rows, 1], &device))
                }
                Projection::Tensor(table) => {
                    let Walked { largest, sum, sums, .. } = walk_on_device(table, &part, criterion.reads_divergence());
                    (sums / sum.clone(), sum.log() + largest)
                }
            };
            means.push(of_part);
            log_sums.push(log_sum);
        }
        let overlaps = walks_twice || criterion != Criterion::CrossEntropy;
        Taught {
            states: overlaps.then(|| states.clone()),
            log_sums: overlaps.then(|| Tensor::cat(log_sums, 0)),
            means: criterion.reads_divergence().then(|| Tensor::cat(means, 0)),
        }
    }

    /// Attends with `states` `[n, d]` (without autodiff) to the whole vocabulary: `softmax(states U^T) U`. On the CPU a row does not
    /// depend on those beside it.
    pub fn attend(&self, states: &Tensor<2>) -> VocabularyView {
        match self.teach(states, Criterion::CrossEntropy, true) {
            Taught { means: Some(means), log_sums: Some(log_sums), .. } => VocabularyView { means, log_sums },
            _ => unreachable!("the divergence is taught through means"),
        }
    }

    /// Returns the gradient with respect to `states` `[n, d]` of a loss whose gradient with respect to what they found is `gradient`
    /// `[n, d]`: the covariance of the unembedding's rows under each softmax, times the row's gradient.
    pub fn attend_backward(&self, states: &Tensor<2>, view: &VocabularyView, gradient: &Tensor<2>) -> Tensor<2> {
        let VocabularyView { means, log_sums } = view;
        // Products less their mean: what is left is not the difference of large sums.
        let mean = (means.clone() * gradient.clone()).sum_dim(1);
        match &self.table {
            Projection::Packed(matrix) => {
                let host = [states, gradient, log_sums, &mean].map(|rows| to_host(rows.clone()));
                let [states_of, gradients, log_sums, mean] = host;
                let (mut shares, mut slopes) = (Vec::new(), Vec::new());
                let mut sums = vec![0.0f32; states_of.len()];
                let width = matrix.inputs();
                on_pool(|| {
                    for first in (0..log_sums.len()).step_by(ROWS) {
                        let rows = first..log_sums.len().min(first + ROWS);
                        let numbers = rows.start * width..rows.end * width;
                        for (block, transposed) in blocks(matrix.outputs()).zip(&self.transposed) {
                            matrix.multiply_part(block.clone(), &states_of[numbers.clone()], &mut shares);
                            matrix.multiply_part(block.clone(), &gradients[numbers.clone()], &mut slopes);
                            let of_rows = shares.par_chunks_mut(block.len()).zip(slopes.par_chunks(block.len()));
                            let known = log_sums[rows.clone()].par_iter().zip(&mean[rows.clone()]);
                            of_rows.zip(known).for_each(|((shares, slopes), (&log_sum, mean))| {
                                exponentiate(shares, log_sum);
                                shares.iter_mut().zip(slopes).for_each(|(share, slope)| *share *= slope - mean);
                            });
                            transposed.multiply_onto(&shares, &mut sums[numbers.clone()]);
                        }
                    }
                });
                from_host(sums, states.dims(), &states.device())
            }
            Projection::Tensor(table) => blocks(table.dims()[0]).fold(states.zeros_like(), |sum, tokens| {
                let block = table.clone().narrow(0, tokens.start, tokens.len());
                let products = |rows: &Tensor<2>| rows.clone().matmul(block.clone().transpose());
                let shares = (products(states) - log_sums.clone()).exp();
                sum + (shares * (products(gradient) - mean.clone())).matmul(block.clone())
            }),
        }
    }

    /// Walks the vocabulary on the CPU. Returns what it keeps of each row of `hidden` `[n, d]` and, if `weighted`, the
    /// table's rows weighted by the exponentials of the row's logits, relative to the largest, and summed: `[n, d]`.
    fn walk(&self, matrix: &PackedMatrix, hidden: &[f32], weighted: bool) -> (Vec<Running>, Vec<f32>) {
        let (width, start) = (matrix.inputs(), Running { largest: f32::NEG_INFINITY, best: 0, sum: 0.0 });
        let (mut running, mut sums) = (vec![start; hidden.len() / width], vec![0.0f32; hidden.len()]);
        let mut logits = Vec::new();
        on_pool(|| {
            for (block, transposed) in blocks(matrix.outputs()).zip(&self.transposed) {
                matrix.multiply_part(block.clone(), hidden, &mut logits);
                let rows = logits.par_chunks_mut(block.len()).zip(&mut running);
                rows.zip(sums.par_chunks_mut(width)).for_each(|((logits, running), sums)| {
                    let (place, most) = largest(logits);
                    if most > running.largest {
                        let shrink = (running.largest - most).exp();
                        running.sum *= f64::from(shrink);
                        sums.iter_mut().for_each(|sum| *sum *= shrink);
                        (running.largest, running.best) = (most, block.start + place);
                    }
                    running.sum += f64::from(exponentiate(logits, running.largest));
                });
                if weighted {
                    transposed.multiply_onto(&logits, &mut sums);
                }
            }
        });
        (running, sums)
    }

    /// Walks the vocabulary once more on the CPU, given the logarithm of each row's divisor. `each` is given what is kept of a
    /// row, its probabilities q of a block's tokens and those of its target p. `after` is given the block, its transpose and what
    /// `each` has left of all rows' q.
    fn beside_targets<A: Send>(
        &self,
        matrix: &PackedMatrix,
        (hidden, log_sums): (&[f32], &[f32]),
        Sought { targets, rows, taught, .. }: &Sought,
        kept: &mut [A],
        each: impl Fn(&mut A, &[f32], &mut [f32]) + Sync,
        mut after: impl FnMut(Range<usize>, &PackedMatrix, &[f32]) + Send,
    ) {
        let taught = taught.as_ref().and_then(|taught| Some((taught.states.clone()?, taught.log_sums.clone()?)));
        let taught = taught.map(|(states, log_sums)| (to_host(states), to_host(log_sums)));
        let (mut predicted, mut wanted) = (Vec::new(), Vec::new());
        on_pool(|| {
            for (block, transposed) in blocks(matrix.outputs()).zip(&self.transposed) {
                matrix.multiply_part(block.clone(), hidden, &mut predicted);
                match &taught {
                    Some((states, _)) => matrix.multiply_part(block.clone(), states, &mut wanted),
                    None => wanted.resize(predicted.len(), 0.0),
                }
                let of_rows = predicted.par_chunks_mut(block.len()).zip(wanted.par_chunks_mut(block.len()));
                of_rows.zip(&mut *kept).enumerate().for_each(|(place, ((q, p), kept))| {
                    let row = rows.start + place;
                    exponentiate(q, log_sums[place]);
                    match &taught {
                        Some((_, log_sums)) if targets.taught(row) > 0.0 => {
                            exponentiate(p, log_sums[place] - targets.taught(row).ln());
                        }
                        _ => p.fill(0.0),
                    }
                    for &(token, share) in targets.distribution(row) {
                        if block.contains(&(token as usize)) {
                            p[token as usize - block.start] += share;
                        }
                    }
                    each(kept, p, q);
                });
                after(block, transposed, &predicted);
            }
        });
    }

    /// Returns the overlap of each row's prediction with its target, given what the first walk kept of each row, and, if there is
    /// a weight, the table's rows weighted by the probabilities of [`Overlap::below`] and summed: `[n, d]`.
    fn overlaps(
        &self,
        matrix: &PackedMatrix,
        hidden: &[f32],
        running: &[Running],
        sought: &Sought,
    ) -> (Vec<Overlap>, Vec<f32>) {
        let mut overlaps = vec![Overlap::default(); running.len()];
        let mut sums = vec![0.0f32; if sought.weight.is_some() { hidden.len() } else { 0 }];
        let log_sums: Vec<f32> = running.iter().map(|running| running.log_sum() as f32).collect();
        let each = |overlap: &mut Overlap, p: &[f32], q: &mut [f32]| overlap.add(p, q, sought.criterion);
        self.beside_targets(matrix, (hidden, &log_sums), sought, &mut overlaps, each, |_, transposed, few| {
            if !sums.is_empty() {
                transposed.multiply_onto(few, &mut sums);
            }
        });
        (overlaps, sums)
    }

    /// Returns the gradient d(`weight` x sum of cross-entropies)/d table `[V, columns]` of the table's columns from `first` on,
    /// for hidden states `[n, d]` whose loss had these `log_sums`. What is taught is as for [`FrozenUnembedding::loss`], with the
    /// states and divisors of the teacher.
    pub fn columns_gradient(
        &self,
        hidden: Tensor<2>,
        (targets, taught): (&Targets, Option<&Taught>),
        log_sums: &[f64],
        (first, weight): (usize, f64),
    ) -> Tensor<2> {
        let ([n, d], device) = (hidden.dims(), hidden.device());
        let [vocabulary, _] = self.table.dims();
        let mut sum: Option<Tensor<2>> = None;
        for start in (0..n).step_by(ROWS) {
            let rows = start..n.min(start + ROWS);
            let of_rows = |states: Tensor<2>| states.narrow(0, start, rows.len());
            let (part, taught) = (of_rows(hidden.clone()), taught.map(|taught| taught.map(of_rows)));
            let log_sums = &log_sums[rows.clone()];
            let columns = part.clone().narrow(1, first, d - first);
            let criterion = Criterion::CrossEntropy;
            let sought = Sought { targets, rows, taught, criterion, weight: Some(weight) };
            let factor = |row: usize| if targets.takes_part(row) { weight } else { 0.0 };
            let gradient = match &self.table {
                Projection::Packed(matrix) => {
                    let (hidden, columns) = (to_host(part), to_host(columns));
                    let log_sums: Vec<f32> = log_sums.iter().map(|&log_sum| log_sum as f32).collect();
                    let mut factors: Vec<f32> = sought.rows.clone().map(|row| factor(row) as f32).collect();
                    let each = |factor: &mut f32, p: &[f32], q: &mut [f32]| {
                        q.iter_mut().zip(p).for_each(|(q, p)| *q = *factor * (*q - p));
                    };
                    let mut found = Vec::with_capacity(vocabulary * (d - first));
                    self.beside_targets(
                        matrix,
                        (&hidden, &log_sums),
                        &sought,
                        &mut factors,
                        each,
                        |block, _, gradients| {
                            found.extend(weight_gradient(gradients, block.len(), &columns, d - first));
                        },
                    );
                    from_host(found, [vocabulary, d - first], &device)
                }
                Projection::Tensor(table) => {
                    let log_sums = column(log_sums.to_vec(), &part);
                    let factors = column(sought.rows.clone().map(factor).collect(), &part);
                    let mut found = Vec::new();
                    beside_targets_on_device(table, &part, &log_sums, &sought, |_, p, q| {
                        found.push(((q - p) * factors.clone()).transpose().matmul(columns.clone()));
                    });
                    Tensor::cat(found, 0)
                }
            };
            sum = Some(sum.map_or_else(|| gradient.clone(), |sum| sum + gradient.clone()));
        }
        sum.unwrap_or_else(|| Tensor::zeros([vocabulary, d - first], &device))
    }

    /// Computes the losses of some rows and, given a weight, their gradient, on the CPU.
    fn on_host(&self, matrix: &PackedMatrix, hidden: Tensor<2>, sought: &Sought) -> FrozenLoss {
        let Sought { targets, rows, taught, criterion, weight } = sought;
        let (device, width, n) = (hidden.device(), matrix.inputs(), rows.len());
        let hidden = to_host(hidden);
        let means = taught.as_ref().and_then(|taught| taught.means.clone()).map(to_host);
        let (running, mut sums) = self.walk(matrix, &hidden, weight.is_some());
        let second = (*criterion != Criterion::CrossEntropy).then(|| self.overlaps(matrix, &hidden, &running, sought));
        let finish = |(place, sums): (usize, &mut [f32])| -> f64 {
            let (row, running) = (rows.start + place, &running[place]);
            if !targets.takes_part(row) {
                sums.fill(0.0);
                return 0.0;
            }
            // The unembedding's rows of the target tokens, weighted by their shares. Their product with the hidden state is
            // the targets' mean logit.
            let mut wanted = vec![0.0; width];
            if criterion.reads_divergence() {
                for &(token, share) in targets.distribution(row) {
                    self.add_row(token, share, &mut wanted);
                }
                if targets.taught(row) > 0.0 {
                    let means = means.as_ref().expect("whoever has taught shares gives what is taught");
                    let (share, means) = (targets.taught(row), &means[place * width..][..width]);
                    wanted.iter_mut().zip(means).for_each(|(wanted, mean)| *wanted += share * mean);
                }
            }
            let (overlap, below) = second.as_ref().map_or((Overlap::default(), &[][..]), |(overlaps, sums)| {
                (overlaps[place], sums.get(place * width..(place + 1) * width).unwrap_or(&[]))
            });
            let hidden = &hidden[place * width..][..width];
            let logit: f64 = hidden.iter().zip(&wanted).map(|(h, w)| f64::from(*h) * f64::from(*w)).sum();
            let divergence = running.log_sum() - logit - overlap.entropy;
            let blend = criterion.blend(overlap.alpha, divergence);
            if let Some(weight) = weight {
                // Of the prediction's mean, of the target's, and of what the prediction gives too little to.
                let of_mean = (weight * (blend.divergence + blend.overlap * overlap.below) / running.sum) as f32;
                let of_wanted = (weight * blend.divergence) as f32;
                sums.iter_mut().zip(&wanted).for_each(|(sum, wanted)| *sum = *sum * of_mean - of_wanted * wanted);
                let of_below = (weight * blend.overlap) as f32;
                sums.iter_mut().zip(below).for_each(|(sum, below)| *sum -= of_below * below);
            }
            blend.loss
        };
        let losses = sums.par_chunks_mut(width).enumerate().map(finish).collect();
        let log_sums = running.iter().map(Running::log_sum).collect();
        let choices = running.iter().map(|running| running.best as u32).collect();
        FrozenLoss { losses, log_sums, choices, gradient: weight.map(|_| from_host(sums, [n, width], &device)) }
    }

    /// Adds `share` times the unembedding's row of a token to `onto` `[d]`, on the CPU.
    fn add_row(&self, token: u32, share: f32, onto: &mut [f32]) {
        self.transposed[token as usize / BLOCK].add_column(token as usize % BLOCK, share, onto);
    }

    /// Returns the sums `[n, d]` of the unembedding's rows of some tokens, as many for each of n rows, each times its weight: the
    /// gradient with respect to states, given that with respect to their logits of these tokens.
    pub fn weighted_rows(&self, tokens: &[u32], weights: &[f32], n: usize, device: &Device) -> Tensor<2> {
        let (k, d) = (tokens.len() / n, self.width());
        match &self.table {
            Projection::Tensor(table) => {
                let rows = table.clone().select(0, super::indices(tokens.iter().map(|&t| t as usize), device));
                let weights = from_host::<2>(weights.to_vec(), [n * k, 1], device);
                (rows * weights).reshape([n, k, d]).sum_dim(1).reshape([n, d])
            }
            Projection::Packed(_) => {
                let mut sums = vec![0.0; n * d];
                let of_row = |(sum, (tokens, weights)): (&mut [f32], (&[u32], &[f32]))| {
                    tokens.iter().zip(weights).for_each(|(&token, &weight)| self.add_row(token, weight, sum));
                };
                on_pool(|| {
                    sums.par_chunks_mut(d).zip(tokens.par_chunks(k).zip(weights.par_chunks(k))).for_each(of_row)
                });
                from_host(sums, [n, d], device)
            }
        }
    }

    /// Returns the logit of one token in each row of `hidden` `[n, d]` (without autodiff).
    pub fn logits_of(&self, hidden: Tensor<2>, tokens: &[u32]) -> Vec<f32> {
        let (device, shape) = (hidden.device(), hidden.dims());
        let rows = match &self.table {
            Projection::Tensor(table) => {
                table.clone().select(0, super::indices(tokens.iter().map(|&t| t as usize), &device))
            }
            Projection::Packed(_) => {
                let mut rows = vec![0.0; shape[0] * shape[1]];
                rows.par_chunks_mut(shape[1]).zip(tokens).for_each(|(row, &token)| self.add_row(token, 1.0, row));
                from_host(rows, shape, &device)
            }
        };
        to_host((hidden * rows).sum_dim(1))
    }
}

/// The losses that are sought of some rows.
struct Sought<'a> {
    targets: &'a Targets,
    /// The rows' numbers among the targets.
    rows: Range<usize>,
    /// What these rows are taught.
    taught: Option<Taught>,
    criterion: Criterion,
    weight: Option<f64>,
}

/// What the second walk keeps of one row, whose target is p and whose prediction is q.
#[derive(Clone, Copy, Default)]
struct Overlap {
    /// `sum_v min(p_v, q_v)`
    alpha: f64,
    /// The sum of `q_v` over the tokens with `q_v < p_v`.
    below: f64,
    /// The entropy of p, if the criterion reads it.
    entropy: f64,
}

impl Overlap {
    /// Adds some tokens, and leaves of `q` only those of [`Overlap::below`].
    fn add(&mut self, p: &[f32], q: &mut [f32], criterion: Criterion) {
        for (&p, q) in p.iter().zip(q) {
            self.alpha += f64::from(p.min(*q));
            *q = if *q < p { *q } else { 0.0 };
            self.below += f64::from(*q);
            if criterion.reads_divergence() && p > 0.0 {
                self.entropy -= f64::from(p * p.ln());
            }
        }
    }
}

impl Running {
    /// Returns the logarithm of the softmax' divisor.
    fn log_sum(&self) -> f64 {
        self.sum.ln() + f64::from(self.largest)
    }
}

/// Returns the range of tokens of every block.
fn blocks(vocabulary: usize) -> impl Iterator<Item = Range<usize>> {
    (0..vocabulary).step_by(BLOCK).map(move |first| first..vocabulary.min(first + BLOCK))
}

/// What a walk with tensor operations keeps of each row: the largest logit and the sum of the exponentials relative to
/// it, both `[n, 1]`, the token of the largest, and the sum of the table's rows weighted by the exponentials, `[n, d]`.
struct Walked {
    largest: Tensor<2>,
    sum: Tensor<2>,
    best: Tensor<2, Int>,
    sums: Tensor<2>,
}

/// Walks the vocabulary with tensor operations, on any device. Unless `weighted`, `sums` stays zero.
fn walk_on_device(table: &Tensor<2>, hidden: &Tensor<2>, weighted: bool) -> Walked {
    let (device, dtype, [n, _]) = (hidden.device(), hidden.dtype(), hidden.dims());
    let mut largest: Tensor<2> = Tensor::full([n, 1], f32::MIN, (&device, dtype));
    let mut best: Tensor<2, Int> = Tensor::zeros([n, 1], &device);
    let (mut sum, mut sums) = (largest.zeros_like(), hidden.zeros_like());
    for tokens in blocks(table.dims()[0]) {
        let block = table.clone().narrow(0, tokens.start, tokens.len());
        let logits = hidden.clone().matmul(block.clone().transpose());
        let most = logits.clone().max_dim(1);
        let rises = most.clone().greater(largest.clone());
        best = best.mask_where(rises.clone(), logits.clone().argmax(1).add_scalar(tokens.start as i64));
        let risen = largest.clone().mask_where(rises, most);
        let shrink = (largest - risen.clone()).exp();
        let exponentials = (logits - risen.clone()).exp();
        sum = sum * shrink.clone() + exponentials.clone().sum_dim(1);
        if weighted {
            sums = sums * shrink + exponentials.matmul(block);
        }
        largest = risen;
    }
    Walked { largest, sum, best, sums }
}

/// Walks the vocabulary once more with tensor operations. `each` is given every block of the table, with the probabilities p of
/// the targets of its tokens and q of the prediction, `[n, block]`.
fn beside_targets_on_device(
    table: &Tensor<2>,
    hidden: &Tensor<2>,
    log_sum: &Tensor<2>,
    Sought { targets, rows, taught, .. }: &Sought,
    mut each: impl FnMut(Tensor<2>, Tensor<2>, Tensor<2>),
) {
    let (n, device) = (rows.len(), hidden.device());
    let of_rows = |values| column(values, hidden);
    for tokens in blocks(table.dims()[0]) {
        let block = table.clone().narrow(0, tokens.start, tokens.len());
        let logits = |states: &Tensor<2>| states.clone().matmul(block.clone().transpose());
        let q = (logits(hidden) - log_sum.clone()).exp();
        let teacher = taught.as_ref().and_then(|taught| taught.states.as_ref().zip(taught.log_sums.as_ref()));
        let mut p = teacher.map_or_else(
            || q.zeros_like(),
            |(states, log_sums)| {
                let shares = of_rows(rows.clone().map(|row| targets.taught(row).into()).collect());
                (logits(states) - log_sums.clone()).exp() * shares
            },
        );
        let numbers: Tensor<2, Int> = Tensor::arange(tokens.start as i64..tokens.end as i64, &device).unsqueeze();
        for place in 0..targets.width(rows.clone()) {
            let entry = |row| targets.distribution(row).get(place).copied().unwrap_or((0, 0.0));
            let (ids, shares): (Vec<i64>, Vec<f64>) =
                rows.clone().map(entry).map(|(id, share)| (i64::from(id), f64::from(share))).unzip();
            let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [n, 1]), &device);
            let here = numbers.clone().expand([n, tokens.len()]).equal(ids.expand([n, tokens.len()]));
            p = p + here.float().cast(q.dtype()) * of_rows(shares);
        }
        each(block, p, q);
    }
}

/// Returns alpha, below and entropy of [`Overlap`], each `[n, 1]`, and the table's rows weighted by the probabilities of below
/// and summed, `[n, d]`, with tensor operations.
fn overlaps_on_device(
    table: &Tensor<2>,
    hidden: &Tensor<2>,
    log_sum: &Tensor<2>,
    sought: &Sought,
) -> ([Tensor<2>; 3], Tensor<2>) {
    let mut found = [(); 3].map(|()| log_sum.zeros_like());
    let mut sums = hidden.zeros_like();
    let reads_divergence = sought.criterion.reads_divergence();
    beside_targets_on_device(table, hidden, log_sum, sought, |block, p, q| {
        let few = q.clone().mask_fill(q.clone().lower(p.clone()).bool_not(), 0.0);
        let least = p.clone().min_pair(q);
        let entropy = reads_divergence.then(|| p.clone() * p.clamp_min(f32::MIN_POSITIVE).log().neg());
        found[0] = found[0].clone() + least.sum_dim(1);
        found[1] = found[1].clone() + few.clone().sum_dim(1);
        found[2] = entropy.map_or(found[2].clone(), |entropy| found[2].clone() + entropy.sum_dim(1));
        sums = sums.clone() + few.matmul(block);
    });
    (found, sums)
}

/// Returns numbers as a column `[n, 1]` beside a tensor.
pub(super) fn column(values: Vec<f64>, beside: &Tensor<2>) -> Tensor<2> {
    let shape = [values.len(), 1];
    Tensor::from_data(TensorData::new(values, shape), (&beside.device(), beside.dtype()))
}

/// Returns the numbers of a column.
pub(super) fn numbers_of(column: Tensor<2>) -> Vec<f64> {
    column.into_data().convert::<f64>().try_into_vec().expect("converted to f64")
}

/// Computes the losses of some rows and, given a weight, their gradient, with tensor operations.
fn on_device(table: &Tensor<2>, hidden: Tensor<2>, sought: &Sought) -> FrozenLoss {
    let Sought { targets, rows, taught, criterion, weight } = sought;
    let device = hidden.device();
    let of_rows = |values| column(values, &hidden);
    let Walked { largest, sum, best, sums } = walk_on_device(table, &hidden, weight.is_some());
    let log_sum = sum.clone().log() + largest;
    let best: Vec<i64> = best.into_data().convert::<i64>().try_into_vec().expect("converted to i64");
    let mut wanted = hidden.zeros_like();
    for place in 0..targets.width(rows.clone()) {
        let entry = |row| targets.distribution(row).get(place).copied().unwrap_or((0, 0.0));
        let (tokens, shares): (Vec<usize>, Vec<f64>) =
            rows.clone().map(entry).map(|(token, share)| (token as usize, f64::from(share))).unzip();
        let tokens = super::indices(tokens, &device);
        wanted = wanted + table.clone().select(0, tokens) * of_rows(shares);
    }
    if let Some(means) = taught.as_ref().and_then(|taught| taught.means.clone()) {
        wanted = wanted + means * of_rows(rows.clone().map(|row| targets.taught(row).into()).collect());
    }
    let second = (*criterion != Criterion::CrossEntropy).then(|| overlaps_on_device(table, &hidden, &log_sum, sought));
    let ([alpha, below, entropy], few) = second.unwrap_or_else(|| {
        let nothing = log_sum.zeros_like();
        ([nothing.clone(), nothing.clone(), nothing], hidden.zeros_like())
    });
    let divergence = log_sum.clone() - (hidden.clone() * wanted.clone()).sum_dim(1) - entropy;
    let parts = numbers_of(alpha).into_iter().zip(numbers_of(divergence)).zip(rows.clone());
    let blends = parts.map(|((alpha, divergence), row)| {
        let blend = criterion.blend(alpha, divergence);
        let part = f64::from(u8::from(targets.takes_part(row)));
        [blend.loss, blend.divergence, blend.overlap].map(|x| x * part)
    });
    let blends: Vec<[f64; 3]> = blends.collect();
    let factor = |at: usize| of_rows(blends.iter().map(|blend| blend[at]).collect());
    let gradient = weight.map(|weight| {
        let (mean, divergence, overlap) = (sums / sum, factor(1), factor(2));
        let towards = (mean.clone() - wanted) * divergence;
        (towards + (mean * below - few) * overlap).mul_scalar(weight)
    });
    FrozenLoss {
        losses: blends.iter().map(|blend| blend[0]).collect(),
        log_sums: numbers_of(log_sum),
        choices: best.into_iter().map(|best| best as u32).collect(),
        gradient,
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::nn::IGNORE;
    use burn::tensor::activation::softmax;
    use burn::tensor::{DType, Device};

    const WIDTH: usize = 6;
    /// Three blocks, the last one short.
    const VOCABULARY: usize = 2 * BLOCK + 37;
    /// Two walks, the second one short.
    const N: usize = ROWS + 5;

    fn numbers(rows: usize, shift: f64, dtype: DType) -> Tensor<2> {
        let values: Vec<f64> = (0..rows * WIDTH).map(|i| 2.0 * (i as f64 * 0.7 + shift).sin()).collect();
        Tensor::from_data(TensorData::new(values, [rows, WIDTH]), (&Device::flex(), dtype))
    }

    /// Returns single tokens, distributions, shares of a teacher's, and rows that take no part.
    fn targets() -> Targets {
        let mut targets = Targets::default();
        for row in 0..N as u32 {
            let token = row * 7919 % VOCABULARY as u32;
            match row % 5 {
                0 => targets.push(token, [(token, 1.0)]),
                1 => targets.push(token, [(token, 0.5), (3, 0.25), (VOCABULARY as u32 - 1, 0.25)]),
                2 => targets.push_taught(token, [(token, 0.75)], 0.25),
                3 => targets.push_taught(IGNORE, [], 1.0),
                _ => targets.push(token, []),
            }
        }
        targets
    }

    fn distance(a: Tensor<2>, b: Tensor<2>) -> f64 {
        (a.cast(DType::F64) - b.cast(DType::F64)).abs().max().into_scalar::<f64>()
    }

    const CRITERIA: [Criterion; 4] = [Criterion::CrossEntropy, Criterion::Tv, Criterion::Lk, Criterion::LkHybrid];

    #[test]
    fn attention_to_the_vocabulary_is_that_to_all_of_it_at_once() {
        // Logits reach 24 here. In float32 they are good to 1e-6, and so are the exponentials, in relation to their size.
        for (dtype, near) in [(DType::F32, [1e-5, 1e-4]), (DType::F64, [1e-12; 2])] {
            let [table, states, gradient] =
                [(VOCABULARY, 0.1), (N, 0.4), (N, 1.3)].map(|(rows, shift)| numbers(rows, shift, dtype));
            let frozen = FrozenUnembedding::new(Projection::new(table.clone()));
            let view = frozen.attend(&states);
            let found = frozen.attend_backward(&states, &view, &gradient);

            let whole = table.cast(DType::F64).autodiff();
            let leaf = states.clone().cast(DType::F64).autodiff().require_grad();
            let expected = softmax(leaf.clone().matmul(whole.clone().transpose()), 1).matmul(whole);
            let mut backward = (expected.clone() * gradient.cast(DType::F64).autodiff()).sum().backward();
            assert!(distance(view.means.clone(), expected.without_autodiff()) < near[0], "{dtype:?}");
            assert!(distance(found, leaf.grad_remove(&mut backward).unwrap()) < near[1], "{dtype:?}");

            // Kernels give a row the same bits alone.
            let alone = frozen.attend(&states.narrow(0, ROWS + 2, 1)).means;
            let far = distance(alone, view.means.narrow(0, ROWS + 2, 1));
            assert!(if dtype == DType::F32 { far == 0.0 } else { far < near[0] }, "{dtype:?}: {far}");
        }
    }

    /// The loss of a row and its gradient by the logits, as in the definition.
    fn defined(criterion: Criterion, p: &[f64], logits: &[f64]) -> (f64, Vec<f64>) {
        let sum: f64 = logits.iter().map(|l| l.exp()).sum();
        let q: Vec<f64> = logits.iter().map(|l| l.exp() / sum).collect();
        let alpha: f64 = p.iter().zip(&q).map(|(p, q)| p.min(*q)).sum();
        let entropy: f64 = p.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
        let cross: f64 = p.iter().zip(&q).map(|(p, q)| -p * q.ln()).sum();
        let below: f64 = p.iter().zip(&q).filter(|(p, q)| q < p).map(|(_, q)| q).sum();
        let of_cross = p.iter().zip(&q).map(|(p, q)| q - p);
        let of_alpha = p.iter().zip(&q).map(|(p, q)| q * (f64::from(u8::from(q < p)) - below));
        match criterion {
            Criterion::CrossEntropy => (cross, of_cross.collect()),
            Criterion::Tv => (1.0 - alpha, of_alpha.map(|x| -x).collect()),
            Criterion::Lk => {
                let least = alpha.max(1e-5);
                (-least.ln(), of_alpha.map(|x| -x / least).collect())
            }
            Criterion::LkHybrid => {
                let w = (-3.0 * alpha).exp();
                let gradient = of_cross.zip(of_alpha).map(|(cross, alpha)| w * cross - (1.0 - w) * alpha);
                (w * (cross - entropy) + (1.0 - w) * (1.0 - alpha), gradient.collect())
            }
        }
    }

    /// Computes all logits at once.
    #[test]
    fn losses_and_gradients_are_those_of_all_logits_at_once() {
        let (table, hidden) = (numbers(VOCABULARY, 0.2, DType::F64), numbers(N, 1.3, DType::F64));
        let teacher = numbers(N, 2.9, DType::F64);
        let targets = targets();
        let logits = hidden.clone().matmul(table.clone().transpose());
        let rows: Vec<f64> = logits.into_data().try_into_vec().unwrap();
        let taught = softmax(teacher.clone().matmul(table.clone().transpose()), 1);
        let taught: Vec<f64> = taught.into_data().try_into_vec().unwrap();
        for criterion in CRITERIA {
            let (mut losses, mut right, mut gradients) = (Vec::new(), Vec::new(), Vec::new());
            for (row, logits) in rows.chunks(VOCABULARY).enumerate() {
                let best = (0..VOCABULARY).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
                right.push(best == targets.token(row) as usize);
                let share = f64::from(targets.taught(row));
                let mut p: Vec<f64> = taught[row * VOCABULARY..][..VOCABULARY].iter().map(|p| share * p).collect();
                targets.distribution(row).iter().for_each(|&(token, share)| p[token as usize] += f64::from(share));
                let (loss, gradient) = defined(criterion, &p, logits);
                let part = if targets.takes_part(row) { 1.0 } else { 0.0 };
                losses.push(part * loss);
                gradients.extend(gradient.into_iter().map(|x| 0.5 * part * x));
            }
            let gradients: Tensor<2> =
                Tensor::from_data(TensorData::new(gradients, [N, VOCABULARY]), (&Device::flex(), DType::F64));
            let expected = gradients.matmul(table.clone());
            for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
                let frozen = FrozenUnembedding::new(Projection::new(table.clone().cast(dtype)));
                assert_eq!(frozen.transposed.is_empty(), dtype == DType::F64, "both ways are tested");
                let taught = frozen.teach(&teacher.clone().cast(dtype), criterion, true);
                let hidden = hidden.clone().cast(dtype);
                let found = frozen.loss(hidden.clone(), &targets, Some(&taught), criterion, Some(0.5));
                let far = found.losses.iter().zip(&losses).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(far < 10.0 * tolerance, "{criterion:?} {far}");
                assert_eq!(targets.right(&found.choices), right);
                let far = distance(found.gradient.unwrap(), expected.clone());
                assert!(far < tolerance, "{criterion:?} {far}");
                let plain = frozen.loss(hidden, &targets, Some(&taught), criterion, None);
                assert!(plain.gradient.is_none() && plain.losses == found.losses);
            }
        }
    }

    /// The gradient of the last columns is that of all logits at once.
    #[test]
    fn columns_have_the_gradient_of_all_logits_at_once() {
        let (table, hidden) = (numbers(VOCABULARY, 0.2, DType::F64), numbers(N, 1.3, DType::F64));
        let (teacher, targets) = (numbers(N, 2.9, DType::F64), targets());
        let softmax_of = |states: &Tensor<2>| softmax(states.clone().matmul(table.clone().transpose()), 1);
        let (q, taught) = (softmax_of(&hidden), softmax_of(&teacher));
        let row = |row: usize| {
            let mut p = vec![0.0; VOCABULARY];
            targets.distribution(row).iter().for_each(|&(token, share)| p[token as usize] += f64::from(share));
            p
        };
        let given: Vec<f64> = (0..N).flat_map(row).collect();
        let given: Tensor<2> =
            Tensor::from_data(TensorData::new(given, [N, VOCABULARY]), (&Device::flex(), DType::F64));
        let of_rows = |of: &dyn Fn(usize) -> f64| column((0..N).map(of).collect(), &hidden);
        let p = taught * of_rows(&|row| targets.taught(row).into()) + given;
        let part = of_rows(&|row| if targets.takes_part(row) { 0.5 } else { 0.0 });
        let expected = ((q - p) * part).transpose().matmul(hidden.clone().narrow(1, WIDTH - 2, 2));
        for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 2e-4)] {
            let frozen = FrozenUnembedding::new(Projection::new(table.clone().cast(dtype)));
            let taught = frozen.teach(&teacher.clone().cast(dtype), Criterion::CrossEntropy, true);
            let hidden = hidden.clone().cast(dtype);
            let found = frozen.loss(hidden.clone(), &targets, Some(&taught), Criterion::CrossEntropy, None);
            let sought = (&targets, Some(&taught));
            let found = frozen.columns_gradient(hidden, sought, &found.log_sums, (WIDTH - 2, 0.5));
            let far = distance(found, expected.clone());
            assert!(far < tolerance, "{far}");
        }
    }

    #[test]
    fn the_logits_of_single_tokens_are_those_of_the_whole_row() {
        let (table, hidden) = (numbers(VOCABULARY, 0.2, DType::F64), numbers(N, 1.3, DType::F64));
        let tokens: Vec<u32> = (0..N as u32).map(|row| row * 7919 % VOCABULARY as u32).collect();
        let all: Vec<f64> = hidden.clone().matmul(table.clone().transpose()).into_data().try_into_vec().unwrap();
        for dtype in [DType::F64, DType::F32] {
            let frozen = FrozenUnembedding::new(Projection::new(table.clone().cast(dtype)));
            let found = frozen.logits_of(hidden.clone().cast(dtype), &tokens);
            for (row, (&token, logit)) in tokens.iter().zip(found).enumerate() {
                assert!((f64::from(logit) - all[row * VOCABULARY + token as usize]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn the_smallest_id_wins_among_equal_logits_across_blocks() {
        let table: Tensor<2> = Tensor::zeros([VOCABULARY, WIDTH], &Device::flex());
        let found = FrozenUnembedding::new(Projection::new(table)).loss(
            numbers(2, 0.0, DType::F32),
            &Targets::of_tokens(&[0, BLOCK as u32]),
            None,
            Criterion::CrossEntropy,
            None,
        );
        assert_eq!(found.choices, [0, 0]);
        assert!((found.sum() - 2.0 * (VOCABULARY as f64).ln()).abs() < 1e-5);
    }
}
