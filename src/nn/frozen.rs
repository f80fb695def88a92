//! Cross-entropy through an unembedding that is not trained, without ever holding a whole row of logits.
//!
//! The vocabulary is walked in blocks. For each row the walk keeps the largest logit so far, the sum of the
//! exponentials relative to it, and the sum of the unembedding's rows weighted by the same exponentials. All of them
//! are rescaled when the largest logit rises (the online softmax of Milakov and Gimelshein 2018, arXiv 1805.02867). At
//! the end, the quotient of the two sums, minus the target's row, is the gradient. So one walk gives both the loss and
//! its gradient, in memory that does not depend on the size of the vocabulary.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;

use super::{Projection, Targets, from_host, to_host};
use crate::kernels::{PackedMatrix, exponentiate, largest, on_pool};

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

/// The result of [`FrozenUnembedding::cross_entropy`].
pub struct FrozenLoss {
    /// The loss summed over the rows that count, in nats: `sum of shares x (log-sum-exp - logit)`. For targets that are
    /// distributions, this minus their own entropy is their Kullback-Leibler divergence from the prediction.
    pub loss: f64,
    /// The most likely token of each row; among equal ones, the smallest id.
    pub choices: Vec<u32>,
    /// If a weight was given: d(`weight` x loss)/d hidden, `[n, d]`, without autodiff.
    pub gradient: Option<Tensor<2>>,
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

    /// Computes the cross-entropy of `hidden` `[n, d]` (without autodiff) against `n` targets and, given a `weight`,
    /// its gradient.
    ///
    /// `taught` `[n, d]` are the means ([`FrozenUnembedding::means`]) of the distributions that the targets' taught shares
    /// belong to. It is needed if one of these shares is above 0.
    pub fn cross_entropy(
        &self,
        hidden: Tensor<2>,
        targets: &Targets,
        taught: Option<&Tensor<2>>,
        weight: Option<f64>,
    ) -> FrozenLoss {
        let mut all = FrozenLoss { loss: 0.0, choices: Vec::new(), gradient: None };
        let mut gradients = Vec::new();
        for first in (0..targets.len()).step_by(ROWS) {
            let rows = first..targets.len().min(first + ROWS);
            let of_rows = |states: &Tensor<2>| states.clone().narrow(0, first, rows.len());
            let (part, taught) = (of_rows(&hidden), taught.map(of_rows));
            let (loss, gradient) = match &self.table {
                Projection::Packed(matrix) => {
                    self.on_host(matrix, (part, taught), targets, rows, weight, &mut all.choices)
                }
                Projection::Tensor(table) => on_device(table, (part, taught), targets, rows, weight, &mut all.choices),
            };
            all.loss += loss;
            gradients.extend(gradient);
        }
        if weight.is_some() {
            all.gradient = Some(if gradients.is_empty() { hidden } else { Tensor::cat(gradients, 0) });
        }
        all
    }

    /// Returns the means of the unembedding's rows under the softmax of `states` `[n, d]` (without autodiff): `[n, d]`. Their
    /// product with a hidden state is the mean of its logits, so a distribution teaches through them alone.
    pub fn means(&self, states: &Tensor<2>) -> Tensor<2> {
        let [n, width] = states.dims();
        let means = (0..n).step_by(ROWS).map(|first| {
            let part = states.clone().narrow(0, first, ROWS.min(n - first));
            match &self.table {
                Projection::Packed(matrix) => {
                    let (device, shape) = (part.device(), part.dims());
                    let (running, mut sums) = self.walk(matrix, &to_host(part), true);
                    for (sums, running) in sums.chunks_mut(width).zip(running) {
                        sums.iter_mut().for_each(|sum| *sum = (f64::from(*sum) / running.sum) as f32);
                    }
                    from_host(sums, shape, &device)
                }
                Projection::Tensor(table) => {
                    let Walked { sum, sums, .. } = walk_on_device(table, &part, true);
                    sums / sum
                }
            }
        });
        Tensor::cat(means.collect(), 0)
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

    /// Computes the loss of some rows and, given a `weight`, its gradient, on the CPU.
    fn on_host(
        &self,
        matrix: &PackedMatrix,
        (hidden, taught): (Tensor<2>, Option<Tensor<2>>),
        targets: &Targets,
        rows: Range<usize>,
        weight: Option<f64>,
        choices: &mut Vec<u32>,
    ) -> (f64, Option<Tensor<2>>) {
        let (device, width, n) = (hidden.device(), matrix.inputs(), rows.len());
        let hidden = to_host(hidden);
        let taught = taught.map(to_host);
        let (running, mut sums) = self.walk(matrix, &hidden, weight.is_some());
        choices.extend(running.iter().map(|running| running.best as u32));
        // The unembedding's rows of the target tokens, weighted by their shares. Their product with the hidden state is
        // the targets' mean logit.
        let finish = |(place, sums): (usize, &mut [f32])| -> f64 {
            let (row, running) = (rows.start + place, &running[place]);
            if !targets.takes_part(row) {
                sums.fill(0.0);
                return 0.0;
            }
            let mut wanted = vec![0.0; width];
            for &(token, share) in targets.distribution(row) {
                let token = token as usize;
                self.transposed[token / BLOCK].add_column(token % BLOCK, share, &mut wanted);
            }
            if targets.taught(row) > 0.0 {
                let taught = taught.as_ref().expect("whoever has taught shares gives the means");
                let (share, means) = (targets.taught(row), &taught[place * width..][..width]);
                wanted.iter_mut().zip(means).for_each(|(wanted, mean)| *wanted += share * mean);
            }
            if let Some(weight) = weight {
                let (scale, weight) = ((weight / running.sum) as f32, weight as f32);
                sums.iter_mut().zip(&wanted).for_each(|(sum, wanted)| *sum = *sum * scale - weight * wanted);
            }
            let hidden = &hidden[place * width..][..width];
            let logit: f64 = hidden.iter().zip(&wanted).map(|(h, w)| f64::from(*h) * f64::from(*w)).sum();
            running.sum.ln() + f64::from(running.largest) - logit
        };
        // Collected before they are summed, so that the bytes are the same for any number of threads.
        let losses: Vec<f64> = sums.par_chunks_mut(width).enumerate().map(finish).collect();
        (losses.iter().sum(), weight.map(|_| from_host(sums, [n, width], &device)))
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

/// Computes the loss of some rows and, given a `weight`, its gradient, with tensor operations.
fn on_device(
    table: &Tensor<2>,
    (hidden, taught): (Tensor<2>, Option<Tensor<2>>),
    targets: &Targets,
    rows: Range<usize>,
    weight: Option<f64>,
    choices: &mut Vec<u32>,
) -> (f64, Option<Tensor<2>>) {
    let (device, dtype, n) = (hidden.device(), hidden.dtype(), rows.len());
    let column =
        |values: Vec<f32>| -> Tensor<2> { Tensor::from_data(TensorData::new(values, [n, 1]), (&device, dtype)) };
    let Walked { largest, sum, best, sums } = walk_on_device(table, &hidden, weight.is_some());
    let best: Vec<i64> = best.into_data().convert::<i64>().try_into_vec().expect("converted to i64");
    choices.extend(best.into_iter().map(|best| best as u32));
    let mut wanted = hidden.zeros_like();
    for place in 0..targets.width(rows.clone()) {
        let entry = |row| targets.distribution(row).get(place).copied().unwrap_or((0, 0.0));
        let (tokens, shares): (Vec<u32>, Vec<f32>) = rows.clone().map(entry).unzip();
        let tokens = super::indices(tokens.into_iter().map(|token| token as usize), &device);
        wanted = wanted + table.clone().select(0, tokens) * column(shares);
    }
    if let Some(means) = taught {
        wanted = wanted + means * column(rows.clone().map(|row| targets.taught(row)).collect());
    }
    let counts = column(rows.map(|row| f32::from(u8::from(targets.takes_part(row)))).collect());
    let logit = (hidden * wanted.clone()).sum_dim(1);
    let loss = ((sum.clone().log() + largest - logit) * counts.clone()).sum();
    let gradient = weight.map(|weight| (sums / sum - wanted) * counts.mul_scalar(weight));
    (loss.into_data().convert::<f64>().try_into_vec::<f64>().expect("converted to f64")[0], gradient)
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

    /// Computes all logits at once, as in the definition.
    #[test]
    fn loss_and_gradient_are_those_of_all_logits_at_once() {
        let (table, hidden) = (numbers(VOCABULARY, 0.2, DType::F64), numbers(N, 1.3, DType::F64));
        let teacher = numbers(N, 2.9, DType::F64);
        let targets = targets();
        let logits = hidden.clone().matmul(table.clone().transpose());
        let rows: Vec<f64> = logits.into_data().try_into_vec().unwrap();
        let taught = softmax(teacher.clone().matmul(table.clone().transpose()), 1);
        let taught: Vec<f64> = taught.into_data().try_into_vec().unwrap();
        let (mut loss, mut right, mut gradients) = (0.0, Vec::new(), Vec::new());
        for (row, logits) in rows.chunks(VOCABULARY).enumerate() {
            let sum: f64 = logits.iter().map(|l| l.exp()).sum();
            let best = (0..VOCABULARY).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
            right.push(best == targets.token(row) as usize);
            let mut p: Vec<f64> = logits.iter().map(|l| l.exp() / sum).collect();
            for &(token, share) in targets.distribution(row) {
                loss += f64::from(share) * (sum.ln() - logits[token as usize]);
                p[token as usize] -= f64::from(share);
            }
            for (token, probability) in taught[row * VOCABULARY..][..VOCABULARY].iter().enumerate() {
                let share = f64::from(targets.taught(row)) * probability;
                loss += share * (sum.ln() - logits[token]);
                p[token] -= share;
            }
            let part = !targets.distribution(row).is_empty() || targets.taught(row) > 0.0;
            gradients.extend(p.into_iter().map(|p| if part { 0.5 * p } else { 0.0 }));
        }
        let gradients: Tensor<2> =
            Tensor::from_data(TensorData::new(gradients, [N, VOCABULARY]), (&Device::flex(), DType::F64));
        let expected = gradients.matmul(table.clone());
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            let frozen = FrozenUnembedding::new(Projection::new(table.clone().cast(dtype)));
            assert_eq!(frozen.transposed.is_empty(), dtype == DType::F64, "both ways are tested");
            let taught = frozen.means(&teacher.clone().cast(dtype));
            let found = frozen.cross_entropy(hidden.clone().cast(dtype), &targets, Some(&taught), Some(0.5));
            assert!((found.loss / loss - 1.0).abs() < tolerance, "{} {loss}", found.loss);
            assert_eq!(targets.right(&found.choices), right);
            assert!(distance(found.gradient.unwrap(), expected.clone()) < tolerance);
            let plain = frozen.cross_entropy(hidden.clone().cast(dtype), &targets, Some(&taught), None);
            assert!(plain.gradient.is_none() && (plain.loss / loss - 1.0).abs() < tolerance);
        }
    }

    #[test]
    fn the_smallest_id_wins_among_equal_logits_across_blocks() {
        let table: Tensor<2> = Tensor::zeros([VOCABULARY, WIDTH], &Device::flex());
        let found = FrozenUnembedding::new(Projection::new(table)).cross_entropy(
            numbers(2, 0.0, DType::F32),
            &Targets::of_tokens(&[0, BLOCK as u32]),
            None,
            None,
        );
        assert_eq!(found.choices, [0, 0]);
        assert!((found.loss - 2.0 * (VOCABULARY as f64).ln()).abs() < 1e-5);
    }
}
