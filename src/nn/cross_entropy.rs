//! Cross-entropy and its gradient in one pass, outside autodiff.
//!
//! [`unembed`] goes from hidden states to loss and gradients in chunks of rows. Whoever trains on it multiplies the
//! gradient into its own graph (`(hidden * gradient).sum()`), so no graph ever holds the vocabulary. On the CPU the softmax
//! is one pass over raw rows, since the general one is several times slower there.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Element, ElementConversion, IndexingUpdateOp, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::on_host;

/// A target that takes no part.
pub const IGNORE: u32 = u32::MAX;

/// What one pass over rows of logits gives.
struct CrossEntropy {
    loss: f64,
    rows: usize,
    /// Rows whose largest logit is the target's (the smaller id wins a tie).
    correct: usize,
    /// d(`weight` x loss)/d logits, `[n, V]`, without autodiff.
    gradient: Tensor<2>,
}

/// Cross-entropy of `logits` `[n, V]` (without autodiff) against `n` target ids, [`IGNORE`] among them.
fn cross_entropy(logits: Tensor<2>, targets: &[u32], weight: f64) -> CrossEntropy {
    match logits.dtype() {
        DType::F32 if on_host(&logits.device()) => on_rows::<f32>(logits, targets, weight),
        DType::F64 if on_host(&logits.device()) => on_rows::<f64>(logits, targets, weight),
        _ => on_device(logits, targets, weight),
    }
}

/// The few operations that a row needs of its number type.
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

/// Logits held at once by [`unembed`]: 16 MB of float32.
const CHUNK: usize = 1 << 22;

/// What [`unembed`] gives.
pub struct Unembedded {
    /// Sum over the rows that count, in nats.
    pub loss: f64,
    /// Rows that count.
    pub rows: usize,
    /// Rows that count whose most likely token is the target.
    pub correct: usize,
    /// d(`weight` x loss)/d hidden, `[n, d]`.
    pub hidden_gradient: Tensor<2>,
    /// d(`weight` x loss)/d unembedding, `[V, d]`, where it was asked for.
    pub unembedding_gradient: Option<Tensor<2>>,
}

/// Cross-entropy of `hidden` `[n, d]` through `unembedding` `[V, d]` against `n` targets, both without autodiff.
pub fn unembed(
    hidden: Tensor<2>,
    unembedding: Tensor<2>,
    targets: &[u32],
    weight: f64,
    train_unembedding: bool,
) -> Unembedded {
    let [vocabulary, _] = unembedding.dims();
    let chunk = (CHUNK / vocabulary).max(16);
    let mut result =
        Unembedded { loss: 0.0, rows: 0, correct: 0, hidden_gradient: hidden.clone(), unembedding_gradient: None };
    let mut gradients = Vec::new();
    for (i, targets) in targets.chunks(chunk).enumerate() {
        let part = hidden.clone().narrow(0, i * chunk, targets.len());
        let one = cross_entropy(part.clone().matmul(unembedding.clone().transpose()), targets, weight);
        result.loss += one.loss;
        result.rows += one.rows;
        result.correct += one.correct;
        if train_unembedding {
            let more = one.gradient.clone().transpose().matmul(part);
            result.unembedding_gradient = Some(match result.unembedding_gradient.take() {
                Some(sum) => sum + more,
                None => more,
            });
        }
        gradients.push(one.gradient.matmul(unembedding.clone()));
    }
    if !gradients.is_empty() {
        result.hidden_gradient = Tensor::cat(gradients, 0);
    }
    result
}

fn on_rows<T: Real>(logits: Tensor<2>, targets: &[u32], weight: f64) -> CrossEntropy {
    let (device, [n, width]) = (logits.device(), logits.dims());
    let mut values = logits.into_data().try_into_vec::<T>().expect("the type was matched");
    // Rows are independent and their results are summed in order: the same bytes for any number of threads.
    let results: Vec<Option<(f64, bool)>> =
        values.par_chunks_mut(width).zip(targets).map(|(row, &target)| one_row(row, target, weight)).collect();
    let counted = results.iter().flatten();
    CrossEntropy {
        loss: counted.clone().map(|r| r.0).sum(),
        rows: counted.clone().count(),
        correct: counted.filter(|r| r.1).count(),
        gradient: Tensor::from_data(TensorData::new(values, [n, width]), (&device, T::dtype())),
    }
}

/// Turns a row of logits into its gradient; gives the loss and whether the target won.
fn one_row<T: Real>(row: &mut [T], target: u32, weight: f64) -> Option<(f64, bool)> {
    let zero = T::from_f64(0.0);
    if target == IGNORE {
        row.fill(zero);
        return None;
    }
    let target = target as usize;
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = i;
        }
    }
    let (shift, at_target) = (row[best], row[target]);
    let mut sum = 0.0f64;
    for x in row.iter_mut() {
        *x = x.exp_minus(shift);
        sum += (*x).into();
    }
    let scale = weight / sum;
    for x in row.iter_mut() {
        *x = T::from_f64((*x).into() * scale);
    }
    row[target] = T::from_f64(row[target].into() - weight);
    Some((sum.ln() + shift.into() - at_target.into(), best == target))
}

fn on_device(logits: Tensor<2>, targets: &[u32], weight: f64) -> CrossEntropy {
    let (device, n) = (logits.device(), targets.len());
    let column = |f: &dyn Fn(u32) -> i64| -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(targets.iter().map(|&t| f(t)).collect::<Vec<_>>(), [n, 1]), &device)
    };
    let target = column(&|t| if t == IGNORE { 0 } else { i64::from(t) });
    let counts = column(&|t| i64::from(t != IGNORE));
    let correct = logits.clone().argmax(1).equal(target.clone()).int() * counts.clone();
    let counts = counts.float();
    let log_probs = log_softmax(logits, 1);
    let loss = (log_probs.clone().gather(1, target.clone()) * counts.clone()).sum().neg();
    let minus_one = Tensor::full([n, 1], -1.0, &device);
    let gradient = log_probs.exp().scatter(1, target, minus_one, IndexingUpdateOp::Add) * counts.mul_scalar(weight);
    CrossEntropy {
        loss: loss.into_scalar::<f32>().elem(),
        rows: targets.iter().filter(|&&t| t != IGNORE).count(),
        correct: correct.sum().into_scalar::<i64>() as usize,
        gradient,
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use burn::tensor::Device;

    const LOGITS: [f64; 12] = [0.3, -1.2, 2.0, 0.1, 5.0, 5.0, -3.0, 0.0, 1.0, 1.5, -0.5, 0.25];
    const TARGETS: [u32; 3] = [2, 1, IGNORE];

    fn tensor(values: &[f64]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [3, 4]), (&Device::flex(), DType::F64))
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let result = cross_entropy(tensor(&LOGITS), &TARGETS, 0.5);
        let gradient = result.gradient.into_data().try_into_vec::<f64>().unwrap();
        let step = 1e-5;
        for i in 0..LOGITS.len() {
            let mut moved = LOGITS;
            moved[i] += step;
            let above = cross_entropy(tensor(&moved), &TARGETS, 0.5).loss;
            moved[i] -= 2.0 * step;
            let below = cross_entropy(tensor(&moved), &TARGETS, 0.5).loss;
            assert!((0.5 * (above - below) / (2.0 * step) - gradient[i]).abs() < 1e-9, "{i}");
        }
    }

    #[test]
    fn ties_and_ignored_rows_are_counted_as_documented() {
        let result = cross_entropy(tensor(&LOGITS), &TARGETS, 1.0);
        // Row 1's target ties with a smaller id and loses.
        assert_eq!((result.rows, result.correct), (2, 1));
    }

    #[test]
    fn the_device_path_gives_the_same() {
        let device = Device::flex();
        let logits: Tensor<2> = Tensor::from_data(TensorData::new(LOGITS.map(|x| x as f32).to_vec(), [3, 4]), &device);
        let (a, b) = (cross_entropy(logits.clone(), &TARGETS, 0.5), on_device(logits, &TARGETS, 0.5));
        assert!((a.loss - b.loss).abs() < 1e-5);
        assert_eq!((a.rows, a.correct), (b.rows, b.correct));
        let difference = (a.gradient - b.gradient).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-6, "{difference}");
    }
}
