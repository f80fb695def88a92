//! How long the parts of a step take on this machine, by the number of their rows.

use std::hint::black_box;
use std::time::Instant;

use super::pace::BlockSeconds;
use super::row::{BlockLattice, Document, Row};
use super::verification::Predictions;
use super::{Decoding, Verification};
use crate::backbone::{Backbone, Feature, FeatureRows, FeatureTensors, Span};
use crate::drafting::Drafter;
use crate::error::{Error, Result};
use crate::heads::{BlockStarts, Context, FrozenHeads, Growth, Wanted};
use crate::nn::indices;
use crate::storage_type::StorageType;

/// How often each time is measured. The least counts, because disturbances only ever make a machine slower.
const ROUNDS: usize = 3;

/// How many tokens heads propose behind a path while they are timed.
const PROPOSED: usize = 16;

/// The most tokens that steps are timed behind.
const BEHIND: usize = 256;

/// The batch whose steps are timed.
#[derive(Debug, Clone, Copy)]
pub struct TimedBatch<'a> {
    /// What is to be decoded, as [`Decoder::new`](super::Decoder::new) takes it: at least one prompt of at least one token, each with the
    /// most tokens that may follow it.
    pub prompts: &'a [(&'a [u32], usize)],
    /// The number of documents side by side, at least one.
    pub documents: usize,
    /// The largest number of nodes of a document's tree.
    pub nodes: usize,
    /// Where drafts grow, the most rows that the heads run for a level of a document's tree.
    pub frontier: Option<usize>,
}

impl TimedBatch<'_> {
    /// Returns a text to time steps behind. It is as long as the texts are halfway through, on average, as every row reads as much of its
    /// text as there is; but not longer than `most` tokens.
    fn text(&self, most: usize) -> Vec<u32> {
        let halfway = |&(prompt, new): &(&[u32], usize)| prompt.len() + new / 2;
        let length = self.prompts.iter().map(halfway).sum::<usize>() / self.prompts.len();
        self.prompts[0].0.iter().copied().cycle().take(length.clamp(1, most)).collect()
    }
}

/// Measures the seconds of the steps of a batch: the forwards that verify up to as many nodes as all trees can have, with their rows
/// spread over the documents, and the heads and the drafter, for up to as many documents as there are. The heads run behind a forward, as
/// they do in a step: its weights have driven theirs from the processor's caches. Only some numbers are timed; those between are
/// interpolated linearly. With one document and 32 nodes this takes about a second if a forward takes 20 ms, with four
/// three times as long.
///
/// # Errors
/// When the heads or the drafter cannot draft.
pub fn block_seconds(
    backbone: &Backbone,
    heads: &FrozenHeads,
    drafter: &dyn Drafter,
    options: Decoding,
    batch: TimedBatch,
) -> Result<BlockSeconds> {
    let (model, TimedBatch { documents, nodes, frontier, .. }) = (&backbone.model, batch);
    let room = model.config().max_position_embeddings.saturating_sub(nodes).max(1);
    let text = &batch.text(room.min(BEHIND))[..];
    let (last, pinned) = (text.len() - 1, text[0]);
    let mut cache = model.cache(documents, text.len() + nodes);
    let mut features = heads.features();
    if !features.contains(&Feature::Last) {
        features.push(Feature::Last);
    }
    let before = model.features(&vec![Span::chain(text); documents], Some(&mut cache), &features);
    let before = FeatureTensors::new(&features, before);
    let read = before.map(|state| state.narrow(0, last, 1)).to_rows(StorageType::Float32);
    let mut kept = heads.cache(documents, text.len() + nodes);
    if let Some(kept) = &mut kept {
        heads.read(model, kept, &vec![text.len(); documents], &before);
    }
    // In a step the heads run behind a forward, whose weights have driven theirs from the processor's caches.
    let forward_before = || {
        let hidden = model.hidden(&[Span::chain(&[pinned])], None);
        black_box(Predictions::of(hidden, model, options.verification.rule));
    };
    let mut level = Vec::new();
    let drafting = match frontier {
        None => by_size(documents, |documents| {
            let document = Document::new(text, heads.count() + 1);
            let row = |_| {
                let mut row = Row::new(0, drafter, Verification::GREEDY);
                row.states = read.clone();
                row
            };
            let wanted = Wanted { stats: options.stop.reads_stats(), states: drafter.reads_states() };
            least(|| {
                let mut rows: Vec<Row> = (0..documents).map(row).collect();
                forward_before();
                let began = Instant::now();
                let states = FeatureRows::concat(&vec![&read; documents]).to_device(model.device());
                let context =
                    kept.as_mut().map(|cache| Context::new(cache, (0..documents).map(|n| (n, last)).collect()));
                let starts = BlockStarts { states: &states, pinned: &vec![pinned; documents], context };
                let found = heads.candidates(model, starts, options.top_k, wanted)?;
                for (at, row) in rows.iter_mut().enumerate() {
                    let looked = BlockLattice::new(pinned, heads.count() + 1, &found, at, options.stop)?;
                    row.draft(&document, &looked, drafter, None)?;
                }
                Ok(began)
            })
        })?,
        Some(frontier) => {
            // Behind the pinned tokens, and then behind so many tokens of the next slot.
            let mut grown = |documents: usize, rows: usize| {
                least(|| {
                    if let Some(kept) = &mut kept {
                        (0..kept.texts()).for_each(|document| kept.truncate(document, text.len()));
                    }
                    let context =
                        kept.as_mut().map(|cache| Context::new(cache, (0..documents).map(|n| (n, last)).collect()));
                    forward_before();
                    let mut began = Instant::now();
                    let states = FeatureRows::concat(&vec![&read; documents]).to_device(model.device());
                    let pinned = vec![pinned; documents];
                    let mut growth =
                        heads.grow(model, BlockStarts { states: &states, pinned: &pinned, context }, PROPOSED);
                    growth.behind(&pinned.chunks(1).enumerate().collect::<Vec<_>>())?;
                    if rows > 0 {
                        began = Instant::now();
                        let path = |row: usize| (row * documents / rows, [pinned[0], row as u32]);
                        let paths: Vec<(usize, [u32; 2])> = (0..rows).map(path).collect();
                        growth.behind(&paths.iter().map(|(block, path)| (*block, &path[..])).collect::<Vec<_>>())?;
                    }
                    Ok(began)
                })
            };
            level = by_size((documents * frontier).min(model.config().vocab_size), |rows| grown(documents, rows))?;
            by_size(documents, |documents| grown(documents, 0))?
        }
    };
    // As many of each document as of the others, or one more.
    let spread = |rows: usize| -> Vec<usize> {
        (0..documents).map(|document| rows * (document + 1) / documents - rows * document / documents).collect()
    };
    let reading = match &mut kept {
        None => Vec::new(),
        Some(kept) => {
            // A token of every document, and a block of each.
            let mut seconds = |rows: usize| {
                let tokens = indices((0..rows).map(|row| row % (documents * text.len())), model.device());
                let states = before.map(|state| state.select(0, tokens.clone()));
                least(|| {
                    (0..documents).for_each(|document| kept.truncate(document, text.len()));
                    forward_before();
                    let began = Instant::now();
                    heads.read(model, kept, &spread(rows), &states);
                    // Nothing is asked for that an accelerator would have to be waited for.
                    model.device().sync().map_err(|e| Error::new(format!("the device failed: {e}.")))?;
                    Ok(began)
                })
            };
            let blocks = documents * (heads.count() + 1);
            let (few, many) = (seconds(documents)?, seconds(blocks)?);
            interpolated(&[(1, few), (documents, few), (blocks, few.max(many))])
        }
    };
    let forward = by_size(documents * nodes, |rows| {
        let tokens: Vec<Vec<u32>> = spread(rows).into_iter().map(|rows| vec![pinned; rows]).collect();
        let spans: Vec<Span> = tokens.iter().map(|tokens| Span::chain(tokens)).collect();
        least(|| {
            (0..documents).for_each(|document| cache.truncate(document, text.len()));
            let began = Instant::now();
            let hidden = model.hidden(&spans, Some(&mut cache));
            black_box(Predictions::of(hidden, model, options.verification.rule));
            Ok(began)
        })
    })?;
    Ok(BlockSeconds { forward, drafting, level, reading })
}

/// Returns the least seconds that some work took. It says itself when it began.
fn least(mut work: impl FnMut() -> Result<Instant>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        least = least.min(work()?.elapsed().as_secs_f64());
    }
    Ok(least)
}

/// Returns the seconds of 1 to `most`, some of them timed. More never take less time.
fn by_size(most: usize, mut seconds: impl FnMut(usize) -> Result<f64>) -> Result<Vec<f64>> {
    let mut timed: Vec<(usize, f64)> = Vec::new();
    for size in sizes(most) {
        let before = timed.last().map_or(0.0, |&(_, seconds)| seconds);
        timed.push((size, before.max(seconds(size)?)));
    }
    Ok(interpolated(&timed))
}

/// Returns 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on; the last is `most`.
fn sizes(most: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> =
        (0..usize::BITS).flat_map(|power| [1 << power, 3 << power]).filter(|&n| n < most).collect();
    sizes.push(most.max(1));
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Returns the values at 1, 2, 3 and so on, given those at some of them.
fn interpolated(timed: &[(usize, f64)]) -> Vec<f64> {
    let mut all = vec![timed[0].1];
    for pair in timed.windows(2) {
        let [(n, a), (m, b)] = [pair[0], pair[1]];
        all.extend((n + 1..=m).map(|at| a + (b - a) * (at - n) as f64 / (m - n) as f64));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_timed_halfway_through_the_texts() {
        let prompts: [(&[u32], usize); 2] = [(&[7, 8, 9], 4), (&[1; 6], 3)];
        let batch = TimedBatch { prompts: &prompts, documents: 2, nodes: 1, frontier: None };
        // Five tokens of the first text, seven of the second.
        assert_eq!(batch.text(100), [7, 8, 9, 7, 8, 9]);
        assert_eq!(batch.text(2), [7, 8]);
        assert_eq!(TimedBatch { prompts: &[(&[5], 0)], ..batch }.text(100), [5]);
    }

    #[test]
    fn what_is_not_timed_is_interpolated() {
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(10), [1, 2, 3, 4, 6, 8, 10]);
        assert_eq!(interpolated(&[(1, 1.0), (2, 3.0), (4, 4.0)]), [1.0, 3.0, 3.5, 4.0]);
        assert_eq!(interpolated(&[(1, 2.0)]), [2.0]);
    }
}
