//! The backbone's distribution at every position of a trace, cut to its likeliest tokens: `likely-M.bin` beside the hidden
//! states it is computed from, M pairs of token and probability a token, likeliest first.

use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;
use rayon::prelude::*;

use super::Trace;
use super::format::map;
use crate::backbone::Model;
use crate::error::{Result, bail};
use crate::files;
use crate::kernels::{exponentiate, largest, top_k};
use crate::nn::from_host;
use crate::progress::{self, Progress};

/// A token and its probability after the position's token.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Likely {
    /// Its id.
    pub token: u32,
    /// Under the whole vocabulary's softmax.
    pub probability: f32,
}

/// A mapped file.
pub(super) struct LikelyTokens {
    map: Option<Mmap>,
    count: usize,
}

impl LikelyTokens {
    /// Those after row `row` of the file.
    pub fn of_row(&self, row: usize) -> &[Likely] {
        let all: &[Likely] = self.map.as_ref().map_or(&[], |map| bytemuck::cast_slice(map));
        &all[row * self.count..][..self.count]
    }
}

fn path(folder: &Path, count: usize) -> PathBuf {
    folder.join(format!("likely-{count}.bin"))
}

/// Rows computed at once: with a vocabulary of 50,000, 100 MB of logits.
const ROWS: usize = 512;

/// Computes the `count` likeliest tokens of every position of the trace in `folder`, unless they are there, and gives the
/// trace with them.
///
/// # Errors
/// A trace without hidden states, logits that are not numbers, a damaged file; Ctrl-C, after which they are computed anew.
pub fn with_likely(trace: Trace, model: &Model, folder: &Path, count: usize, title: &str) -> Result<Trace> {
    let vocabulary = model.config().vocab_size;
    if count > vocabulary {
        bail!("`traces.probabilities` is {count}, but the vocabulary has {vocabulary} tokens.");
    }
    let path = path(folder, count);
    if !path.exists() {
        write(&trace, model, &path, count, title)?;
    }
    let rows = trace.rows() as u64;
    let map = map(folder, &format!("likely-{count}.bin"), rows * (count * size_of::<Likely>()) as u64)?;
    Ok(trace.and_likely(LikelyTokens { map, count }))
}

fn write(trace: &Trace, model: &Model, path: &Path, count: usize, title: &str) -> Result<()> {
    let (rows, vocabulary, width) = (trace.rows(), model.config().vocab_size, trace.width());
    let mut bar = Progress::new(format!("{title}: probabilities"), rows);
    let mut problem = None;
    files::write_with(path, |out| {
        for first in (0..rows).step_by(ROWS) {
            let n = ROWS.min(rows - first);
            let hidden = from_host(trace.hidden_rows(first..first + n), [n, width], model.device());
            let mut logits = model.logits(hidden);
            let found: Vec<Vec<Likely>> =
                logits.par_chunks_mut(vocabulary).map(|logits| likeliest(logits, count)).collect();
            problem = match found.iter().all(|found| found.len() == count) {
                true => progress::stop_if_interrupted("computing probabilities").err(),
                false => Some(crate::Error::new(format!(
                    "{title}: the backbone's logits are not numbers; try another type of weights or of traces."
                ))),
            };
            if problem.is_some() {
                return Err(std::io::Error::other("stopped"));
            }
            found.iter().try_for_each(|found| std::io::Write::write_all(out, bytemuck::cast_slice(found)))?;
            bar.update(first + n, || "tokens".into());
        }
        Ok(())
    })
    .map_err(|e| problem.take().unwrap_or(e))?;
    bar.finish(&format!("the {count} likeliest of {rows} tokens"));
    Ok(())
}

/// The `count` largest logits of a row as probabilities; the row is overwritten.
fn likeliest(logits: &mut [f32], count: usize) -> Vec<Likely> {
    let (mut ids, mut scores) = (Vec::new(), Vec::new());
    top_k(logits, count, &mut ids, &mut scores);
    let (_, most) = largest(logits);
    let sum = exponentiate(logits, most);
    ids.into_iter()
        .zip(scores)
        .map(|(token, score)| Likely { token, probability: (score - most).exp() / sum })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_softmax() {
        let logits: Vec<f32> = (0..50).map(|i| ((i * 37) % 50) as f32 * 0.1).collect();
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let found = likeliest(&mut logits.clone(), 3);
        assert_eq!(found.len(), 3);
        for (likely, logit) in found.iter().zip([4.9f64, 4.8, 4.7]) {
            assert!((f64::from(logits[likely.token as usize]) - logit).abs() < 1e-6);
            assert!((f64::from(likely.probability) - logit.exp() / sum).abs() < 1e-6);
        }
        assert!(likeliest(&mut [f32::NAN; 50], 3).len() < 3);
    }
}
