//! Losses through an unembedding that is trained, with both gradients, outside autodiff.
//!
//! [`unembed`] goes from hidden states to loss and gradients in chunks of rows. (For an unembedding that is not
//! trained, [`FrozenUnembedding`](super::FrozenUnembedding) is cheaper.) The caller multiplies the gradient into its
//! own autodiff graph, `(hidden * gradient).sum()`, so no graph ever holds the vocabulary. On the CPU the softmax is
//! one pass over raw rows, because burn's general one is several times slower there.

use std::ops::Range;

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{DType, Element, ElementConversion, IndexingUpdateOp, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::frozen::{column, numbers_of};
use super::{Criterion, Targets, on_host};

/// The result of one pass over rows of logits.
struct Loss {
    loss: f64,
    /// For each row, the token of the largest logit (the smaller id wins a tie).
    choices: Vec<u32>,
    /// d(`weight` x loss)/d logits, `[n, V]`, without autodiff.
    gradient: Tensor<2>,
}

/// Computes the loss of `logits` `[n, V]` (without autodiff) against the targets of `rows`. `taught` `[n, V]` is
/// the teacher's distribution of each row times its share, if there is a teacher.
fn loss(
    logits: Tensor<2>,
    (targets, taught): (&Targets, Option<Tensor<2>>),
    rows: Range<usize>,
    criterion: Criterion,
    weight: f64,
) -> Loss {
    let sought = (targets, taught);
    match logits.dtype() {
        DType::F32 if on_host(&logits.device()) => on_rows::<f32>(logits, sought, rows, criterion, weight),
        DType::F64 if on_host(&logits.device()) => on_rows::<f64>(logits, sought, rows, criterion, weight),
        _ => on_device(logits, sought, rows, criterion, weight),
    }
}

/// The few operations on numbers that a row needs.
trait Real: Element + Copy + Send + Sync + PartialOrd + Into<f64> {
    fn exp_minus(self, shift: Self) -> Self;
    fn from_f64(x: f64) -> Self;
}

impl Real for f32 {
    fn exp_minus(self, shift: Self) -> Self {
        (self - shift).exp()
    }
    fn from_f64(x: f64) -> Self {
        x as f32
    }
}

impl Real for f64 {
    fn exp_minus(self, shift: Self) -> Self {
        (self - shift).exp()
    }
    fn from_f64(x: f64) -> Self {
        x
    }
}

/// The number of logits that [`unembed`] holds at once: 16 MB of float32.
const CHUNK: usize = 1 << 22;

/// The result of [`unembed`].
pub struct Unembedded {
    /// The loss summed over the rows that count, in nats.
    pub loss: f64,
    /// The most likely token of each row; among equal ones, the smallest id.
    pub choices: Vec<u32>,
    /// If a weight was given: d(`weight` x loss)/d hidden, `[n, d]`, and d(`weight` x loss)/d unembedding, `[V, d]`.
    pub gradients: Option<[Tensor<2>; 2]>,
}

/// Computes the loss of `hidden` `[n, d]` through `unembedding` `[V, d]` against `n` targets and, given a
/// `weight`, its gradients. Both tensors are without autodiff.
///
/// `teacher` are states `[n, d]` and the table `[V, d]` through which they become the distribution that the targets'
/// taught shares belong to. It is needed if one of these shares is above 0.
pub fn unembed(
    hidden: Tensor<2>,
    unembedding: Tensor<2>,
    targets: &Targets,
    teacher: Option<[&Tensor<2>; 2]>,
    criterion: Criterion,
    weight: Option<f64>,
) -> Unembedded {
    let [vocabulary, _] = unembedding.dims();
    let chunk = (CHUNK / vocabulary).max(16);
    let mut result = Unembedded { loss: 0.0, choices: Vec::new(), gradients: None };
    let (mut of_hidden, mut of_unembedding) = (Vec::new(), None);
    for first in (0..targets.len()).step_by(chunk) {
        let rows = first..targets.len().min(first + chunk);
        let part = hidden.clone().narrow(0, first, rows.len());
        let logits = part.clone().matmul(unembedding.clone().transpose());
        let taught = teacher.map(|[states, table]| {
            let states = states.clone().narrow(0, first, rows.len());
            let shares: Vec<f32> = rows.clone().map(|row| targets.taught(row)).collect();
            let shares: Tensor<2> = Tensor::from_data(TensorData::new(shares, [rows.len(), 1]), &states.device());
            softmax(states.matmul(table.clone().transpose()), 1) * shares.cast(part.dtype())
        });
        let one = loss(logits, (targets, taught), rows, criterion, weight.unwrap_or(0.0));
        result.loss += one.loss;
        result.choices.extend(one.choices);
        if weight.is_some() {
            let more = one.gradient.clone().transpose().matmul(part);
            of_unembedding = Some(match of_unembedding {
                Some(sum) => sum + more,
                None => more,
            });
            of_hidden.push(one.gradient.matmul(unembedding.clone()));
        }
    }
    if weight.is_some() {
        let of_unembedding = of_unembedding.unwrap_or_else(|| unembedding.zeros_like());
        let of_hidden = if of_hidden.is_empty() { hidden } else { Tensor::cat(of_hidden, 0) };
        result.gradients = Some([of_hidden, of_unembedding]);
    }
    result
}

/// Computes the loss on the CPU, for logits of type `T`.
fn on_rows<T: Real>(
    logits: Tensor<2>,
    (targets, taught): (&Targets, Option<Tensor<2>>),
    rows: Range<usize>,
    criterion: Criterion,
    weight: f64,
) -> Loss {
    let (device, [n, width]) = (logits.device(), logits.dims());
    let numbers = |tensor: Tensor<2>| tensor.into_data().try_into_vec::<T>().expect("the type was matched");
    let (mut values, taught) = (numbers(logits), taught.map(numbers).unwrap_or_default());
    // Rows are independent and their results are summed in order: the same bytes for any number of threads.
    let results: Vec<(f64, usize)> = values
        .par_chunks_mut(width)
        .zip(rows.clone())
        .map(|(logits, row)| {
            let place = (row - rows.start) * width;
            let taught = if targets.taught(row) > 0.0 { &taught[place..place + width] } else { &[] };
            one_row(logits, (targets.distribution(row), taught), criterion, weight)
        })
        .collect();
    Loss {
        loss: results.iter().map(|r| r.0).sum(),
        choices: results.iter().map(|r| r.1 as u32).collect(),
        gradient: Tensor::from_data(TensorData::new(values, [n, width]), (&device, T::dtype())),
    }
}

/// Turns a row of logits into its gradient; returns the loss and the position of the largest logit. `taught` is empty
/// for rows without a share of the teacher's.
fn one_row<T: Real>(
    row: &mut [T],
    (distribution, taught): (&[(u32, f32)], &[T]),
    criterion: Criterion,
    weight: f64,
) -> (f64, usize) {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = i;
        }
    }
    if distribution.is_empty() && taught.is_empty() {
        row.fill(T::from_f64(0.0));
        return (0.0, best);
    }
    if criterion != Criterion::CrossEntropy {
        return (one_overlap(row, (distribution, taught), criterion, weight), best);
    }
    let shift = row[best];
    let logit: f64 = distribution.iter().map(|&(token, share)| f64::from(share) * row[token as usize].into()).sum();
    let mean: f64 = taught.iter().zip(&*row).map(|(&share, &logit)| share.into() * logit.into()).sum();
    let mut sum = 0.0f64;
    for x in row.iter_mut() {
        *x = x.exp_minus(shift);
        sum += (*x).into();
    }
    let scale = weight / sum;
    for x in row.iter_mut() {
        *x = T::from_f64((*x).into() * scale);
    }
    for &(token, share) in distribution {
        let x = &mut row[token as usize];
        *x = T::from_f64((*x).into() - weight * f64::from(share));
    }
    for (x, &share) in row.iter_mut().zip(taught) {
        *x = T::from_f64((*x).into() - weight * share.into());
    }
    (sum.ln() + shift.into() - logit - mean, best)
}

/// Turns a row of logits into its gradient by a criterion that reads the overlap, and returns the loss.
fn one_overlap<T: Real>(
    row: &mut [T],
    (distribution, taught): (&[(u32, f32)], &[T]),
    criterion: Criterion,
    weight: f64,
) -> f64 {
    let mut p: Vec<f64> = taught.iter().map(|&share| share.into()).collect();
    p.resize(row.len(), 0.0);
    distribution.iter().for_each(|&(token, share)| p[token as usize] += f64::from(share));
    let most = row.iter().map(|&x| x.into()).fold(f64::NEG_INFINITY, f64::max);
    let log_sum = most + row.iter().map(|&x| (x.into() - most).exp()).sum::<f64>().ln();
    let q: Vec<f64> = row.iter().map(|&x| (x.into() - log_sum).exp()).collect();
    let (mut alpha, mut below, mut divergence) = (0.0, 0.0, 0.0);
    for (&p, &q) in p.iter().zip(&q) {
        alpha += p.min(q);
        below += if q < p { q } else { 0.0 };
        divergence += if p > 0.0 { p * (p.ln() - q.ln()) } else { 0.0 };
    }
    let blend = criterion.blend(alpha, divergence);
    for (x, (p, q)) in row.iter_mut().zip(p.into_iter().zip(q)) {
        let few = f64::from(u8::from(q < p));
        *x = T::from_f64(weight * (blend.divergence * (q - p) + blend.overlap * q * (below - few)));
    }
    blend.loss
}

/// Computes the loss with tensor operations, on any device.
fn on_device(
    logits: Tensor<2>,
    (targets, taught): (&Targets, Option<Tensor<2>>),
    rows: Range<usize>,
    criterion: Criterion,
    weight: f64,
) -> Loss {
    let (device, n, width) = (logits.device(), rows.len(), targets.width(rows.clone()));
    let entries: Vec<(u32, f32)> = rows
        .clone()
        .flat_map(|row| {
            let of_row = targets.distribution(row).iter().copied();
            of_row.chain(std::iter::repeat((0, 0.0))).take(width)
        })
        .collect();
    let ids: Vec<i64> = entries.iter().map(|entry| i64::from(entry.0)).collect();
    let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [n, width]), &device);
    let shares: Vec<f32> = entries.iter().map(|entry| entry.1).collect();
    let shares: Tensor<2> = Tensor::from_data(TensorData::new(shares, [n, width]), &device);
    let best: Vec<i64> =
        logits.clone().argmax(1).into_data().convert::<i64>().try_into_vec().expect("converted to i64");
    let counts = rows.clone().map(|row| f64::from(u8::from(targets.takes_part(row)))).collect();
    let counts = column(counts, &logits);
    let choices = best.into_iter().map(|best| best as u32).collect();
    let log_probs = log_softmax(logits, 1);
    if criterion != Criterion::CrossEntropy {
        let taught = taught.unwrap_or_else(|| log_probs.zeros_like());
        let p = taught.scatter(1, ids, shares, IndexingUpdateOp::Add);
        let q = log_probs.clone().exp();
        let few = q.clone().lower(p.clone()).float();
        let alpha = numbers_of(p.clone().min_pair(q.clone()).sum_dim(1));
        let below = (q.clone() * few.clone()).sum_dim(1);
        let ratios = p.clone().clamp_min(f32::MIN_POSITIVE).log() - log_probs;
        let divergences = numbers_of((p.clone() * ratios).sum_dim(1)).into_iter();
        let blends: Vec<_> =
            alpha.into_iter().zip(divergences).map(|(alpha, divergence)| criterion.blend(alpha, divergence)).collect();
        let of_divergence = column(blends.iter().map(|blend| blend.divergence).collect(), &q);
        let of_overlap = column(blends.iter().map(|blend| blend.overlap).collect(), &q);
        let gradient = (q.clone() - p) * of_divergence + q * (below - few) * of_overlap;
        let part = |row: usize, loss: f64| if targets.takes_part(row) { loss } else { 0.0 };
        return Loss {
            loss: rows.zip(&blends).map(|(row, blend)| part(row, blend.loss)).sum(),
            choices,
            gradient: gradient * counts.mul_scalar(weight),
        };
    }
    let mut loss = (log_probs.clone().gather(1, ids.clone()) * shares.clone()).sum().neg();
    let mut gradient = (log_probs.clone().exp() * counts).scatter(1, ids, shares.neg(), IndexingUpdateOp::Add);
    if let Some(taught) = taught {
        loss = loss - (log_probs * taught.clone()).sum();
        gradient = gradient - taught;
    }
    Loss { loss: loss.into_scalar::<f32>().elem(), choices, gradient: gradient.mul_scalar(weight) }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::nn::IGNORE;
    use burn::tensor::Device;

    const LOGITS: [f64; 16] = [0.3, -1.2, 2.0, 0.1, 5.0, 5.0, -3.0, 0.0, 1.0, 1.5, -0.5, 0.25, 0.7, 0.1, -0.2, 1.1];

    /// Returns targets of four rows: a token, a token that ties with a smaller id, an ignored row, and a distribution of
    /// which a teacher has a half.
    fn targets() -> Targets {
        let mut targets = Targets::of_tokens(&[2, 1, IGNORE]);
        targets.push_taught(3, [(3, 0.25), (0, 0.25)], 0.5);
        targets
    }

    /// Returns the teacher's distributions times its shares.
    fn taught() -> Tensor<2> {
        let mut values = [0.0; 16];
        values[12..].copy_from_slice(&[0.05, 0.2, 0.15, 0.1]);
        tensor(&values)
    }

    fn tensor(values: &[f64]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [4, 4]), (&Device::flex(), DType::F64))
    }

    const CRITERIA: [Criterion; 4] = [Criterion::CrossEntropy, Criterion::Tv, Criterion::Lk, Criterion::LkHybrid];

    fn sought(targets: &Targets) -> (&Targets, Option<Tensor<2>>) {
        (targets, Some(taught()))
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let targets = targets();
        // The weight of the hybrid counts as a constant, so its gradient is none of a difference.
        for criterion in [Criterion::CrossEntropy, Criterion::Tv, Criterion::Lk] {
            let result = loss(tensor(&LOGITS), sought(&targets), 0..4, criterion, 0.5);
            let gradient = result.gradient.into_data().try_into_vec::<f64>().unwrap();
            let step = 1e-5;
            for i in 0..LOGITS.len() {
                let mut moved = LOGITS;
                moved[i] += step;
                let above = loss(tensor(&moved), sought(&targets), 0..4, criterion, 0.5).loss;
                moved[i] -= 2.0 * step;
                let below = loss(tensor(&moved), sought(&targets), 0..4, criterion, 0.5).loss;
                let far = 0.5 * (above - below) / (2.0 * step) - gradient[i];
                assert!(far.abs() < 1e-9, "{criterion:?} {i} {far}");
            }
        }
    }

    /// Where a row's target is one token, the logarithm of the overlap is the cross-entropy.
    #[test]
    fn ties_and_ignored_rows_are_counted_as_documented() {
        let targets = targets();
        let result = loss(tensor(&LOGITS), sought(&targets), 0..4, Criterion::CrossEntropy, 1.0);
        assert_eq!(targets.right(&result.choices), [true, false, false, true]);
        assert_eq!(targets.counted(), 3);
        let tokens = Targets::of_tokens(&[2, 1, IGNORE, 0]);
        let [a, b] = [Criterion::CrossEntropy, Criterion::Lk]
            .map(|criterion| loss(tensor(&LOGITS), (&tokens, None), 0..4, criterion, 1.0));
        assert!((a.loss - b.loss).abs() < 1e-12);
        assert!((a.gradient - b.gradient).abs().max().into_scalar::<f64>() < 1e-12);
    }

    #[test]
    fn the_device_path_gives_the_same() {
        let (device, targets) = (Device::flex(), targets());
        let logits: Tensor<2> = Tensor::from_data(TensorData::new(LOGITS.map(|x| x as f32).to_vec(), [4, 4]), &device);
        for criterion in CRITERIA {
            let sought = || (&targets, Some(taught().cast(DType::F32)));
            let a = loss(logits.clone(), sought(), 0..4, criterion, 0.5);
            let b = on_device(logits.clone(), sought(), 0..4, criterion, 0.5);
            assert!((a.loss - b.loss).abs() < 1e-5, "{criterion:?}");
            assert_eq!(a.choices, b.choices);
            let difference = (a.gradient - b.gradient).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-6, "{criterion:?} {difference}");
        }
    }
}
