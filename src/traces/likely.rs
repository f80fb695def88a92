//! The backbone's distribution at every position of a trace, cut to its likeliest tokens. It is computed from the last
//! hidden states.
//!
//! The file `likely.bin`, in a folder of its own, has M pairs of a token and its probability for every position,
//! likeliest first.

use std::ops::Range;
use std::path::Path;

use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;
use rayon::prelude::*;

use super::format::map;
use super::{FinishedTraces, Place, Trace, states_at};
use crate::backbone::{Feature, Model};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::kernels::{exponentiate, largest, top_k};
use crate::nn::from_host;
use crate::progress::{self, Progress};

/// A likely next token and its probability.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Likely {
    /// The id of the token.
    pub token: u32,
    /// The probability of the token under the softmax over the whole vocabulary.
    pub probability: f32,
}

/// The likeliest tokens of a trace, mapped into memory.
pub(super) struct LikelyTokens {
    map: Option<Mmap>,
    count: usize,
}

const FILE: &str = "likely.bin";

impl LikelyTokens {
    /// Maps the file in `folder`, which has the `count` likeliest tokens of `rows` positions.
    ///
    /// # Errors
    /// Returns an error if the file is missing or has the wrong size.
    pub fn open(folder: &Path, rows: usize, count: usize) -> Result<Self> {
        let bytes = (rows as u64).saturating_mul((count * size_of::<Likely>()) as u64);
        Ok(Self { map: map(folder, FILE, bytes)?, count })
    }

    /// Returns the likeliest tokens of the given rows of the file, one row after the other.
    pub fn of_rows(&self, rows: Range<usize>) -> &[Likely] {
        let all: &[Likely] = self.map.as_ref().map_or(&[], |map| bytemuck::cast_slice(map));
        &all[rows.start * self.count..rows.end * self.count]
    }
}

/// The number of rows that are computed at once. With a vocabulary of 50,000 tokens, their logits take 100 MB.
const ROWS: usize = 512;
/// The number of documents whose states are read at once.
const BATCH: usize = 16;

/// Computes the `count` likeliest tokens of every position of a trace from its last hidden states. Writes them into
/// `folder`, from which [`Trace::with_likely`] reads them.
///
/// # Errors
/// Returns an error if the vocabulary has fewer than `count` tokens, if the trace has no last hidden states, if logits
/// are not numbers, or after an interrupt. Nothing is kept after an interrupt.
pub fn make_likely(trace: &Trace, model: &Model, folder: &Path, count: usize, title: &str) -> Result<()> {
    let vocabulary = model.config().vocab_size;
    if count > vocabulary {
        bail!("`traces.probabilities` is {count}, but the vocabulary has {vocabulary} tokens.");
    }
    let mut bar = Progress::new(title, trace.rows());
    files::write_with(&folder.join(FILE), |out| {
        let mut done = 0;
        for batch in trace.in_file_order().chunks(BATCH) {
            progress::stop_if_interrupted("computing probabilities")?;
            let rows = |&document: &usize| {
                (0..trace.documents()[document].len()).map(move |row| Place { trace: 0, document, row })
            };
            let places: Vec<Place> = batch.iter().flat_map(rows).collect();
            let states = states_at(&[trace], &places, &[Feature::Last])?;
            for hidden in states.get(Feature::Last).chunks(ROWS * trace.width()) {
                let hidden = from_host(hidden.to_vec(), [hidden.len() / trace.width(), trace.width()], model.device());
                let mut logits = model.logits(hidden);
                let found: Vec<Vec<Likely>> =
                    logits.par_chunks_mut(vocabulary).map(|logits| likeliest(logits, count)).collect();
                if found.iter().any(|found| found.len() < count) {
                    let problem = "the backbone's logits are not numbers; try another type of weights or of traces.";
                    return Err(Error::new(format!("{title}: {problem}")).into());
                }
                found.iter().try_for_each(|found| std::io::Write::write_all(out, bytemuck::cast_slice(found)))?;
            }
            done += places.len();
            bar.update(done, || "tokens".into());
        }
        Ok(())
    })?;
    bar.finish(&format!("the {count} likeliest of {} tokens", trace.rows()));
    Ok(())
}

/// Puts the likeliest tokens of a trace into `folder`, as [`make_likely`] does, from finished traces that have them.
///
/// # Errors
/// Returns an error if one of its documents is not in the finished traces, or if the file cannot be written.
pub fn merge_likely(trace: &Trace, finished: &FinishedTraces, folder: &Path) -> Result<()> {
    files::write_with(&folder.join(FILE), |out| {
        for number in trace.in_file_order() {
            let rows = finished.likely(&trace.documents()[number].id)?;
            std::io::Write::write_all(out, bytemuck::cast_slice(rows))?;
        }
        Ok(())
    })
}

/// Returns the tokens of the `count` largest logits of a row with their probabilities. The row is overwritten.
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
