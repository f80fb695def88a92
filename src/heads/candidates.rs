//! The top-k of every head at many positions; only ids and scores leave the device's logits.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{DraftHeads, HeadInput, Heads};
use crate::backbone::Model;
use crate::error::{Result, bail};
use crate::lattice::top_k;

/// The k best tokens of every head at every position, best first.
pub struct Candidates {
    /// Heads (H - 1).
    pub heads: usize,
    /// k
    pub k: usize,
    /// `[positions, heads, k]`
    pub ids: Vec<u32>,
    /// `[positions, heads, k]` logits.
    pub scores: Vec<f32>,
    /// `[positions, heads]`: the k-th logit's lead over the first one left out.
    pub margins: Vec<f32>,
}

/// Logits held at once: 64 MB of float32.
const CHUNK: usize = 1 << 24;

/// Candidates from `[n, d]` hidden states through the unembedding of `model`; k is cut to V.
///
/// # Errors
/// Logits that are not numbers.
pub fn candidates(heads: &Heads, model: &Model, hidden: Tensor<2>, k: usize) -> Result<Candidates> {
    let ([n, width], vocabulary, count) = (hidden.dims(), model.config().vocab_size, heads.count());
    let k = k.min(vocabulary);
    let mut all = Candidates { heads: count, k, ids: Vec::new(), scores: Vec::new(), margins: Vec::new() };
    let all_heads: Vec<usize> = (0..count).collect();
    let chunk = (CHUNK / vocabulary / count).max(1);
    for start in (0..n).step_by(chunk) {
        let rows = chunk.min(n - start);
        let input = HeadInput { hidden: hidden.clone().narrow(0, start, rows) };
        let states: Vec<Tensor<2>> = heads.states(input, &all_heads).collect();
        // [rows, heads, d], so that one product gives all logits of a position.
        let states = Tensor::stack::<3>(states, 1).reshape([rows * count, width]);
        let logits = model.logits(states);
        let best: Vec<_> = logits.par_chunks(vocabulary).map(|row| best_of(row, k)).collect();
        for (ids, scores, margin) in best {
            if ids.len() < k {
                bail!(
                    "the heads, or the hidden states they read, hold numbers that are not finite. Train the heads anew with a lower learning rate; if the traces are stored as float16, try bfloat16 or float32."
                );
            }
            all.ids.extend(ids);
            all.scores.extend(scores);
            all.margins.push(margin);
        }
    }
    Ok(all)
}

fn best_of(logits: &[f32], k: usize) -> (Vec<u32>, Vec<f32>, f32) {
    let (mut ids, mut scores) = (Vec::with_capacity(k + 1), Vec::with_capacity(k + 1));
    top_k(logits, k + 1, &mut ids, &mut scores);
    let margin = if scores.len() > k { scores[k - 1] - scores[k] } else { f32::INFINITY };
    ids.truncate(k);
    scores.truncate(k);
    (ids, scores, margin)
}

impl Candidates {
    /// The smallest lead, at one position, of the `k`-th candidate of one of the first `heads` heads over the next one.
    pub fn margin(&self, position: usize, heads: usize, k: usize) -> f32 {
        let lead = |head: usize| {
            let cell = position * self.heads + head;
            let scores = &self.scores[cell * self.k..][..self.k];
            if k < self.k { scores[k - 1] - scores[k] } else { self.margins[cell] }
        };
        (0..heads).map(lead).fold(f32::INFINITY, f32::min)
    }

    /// Ids and scores `[heads, k]` at one position.
    pub fn at(&self, position: usize) -> (&[u32], &[f32]) {
        let size = self.heads * self.k;
        (&self.ids[position * size..][..size], &self.scores[position * size..][..size])
    }
}
