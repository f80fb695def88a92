//! How long a block takes on this machine, by the number of its nodes and of the rows of its levels.

use std::time::Instant;

use crate::backbone::{Backbone, FeatureTensors, Span};
use crate::drafting::BlockSeconds;
use crate::error::Result;
use crate::heads::{BlockStarts, Context, FrozenHeads, Growth, Wanted};
use crate::storage_type::StorageType;

/// How often each time is measured. The least counts, because disturbances only ever make a machine slower.
const ROUNDS: usize = 3;

/// How many tokens heads propose behind a path while they are timed.
const PROPOSED: usize = 16;

/// Measures the seconds of a block of at most `nodes` nodes after `context` tokens: the forward that verifies it, the
/// logits, and the heads that draft the next block. Given a `frontier`, drafts are grown by at most as many rows a level.
/// Only some numbers of nodes and rows are timed; those between are interpolated linearly. This takes about a second if a
/// forward takes 20 ms.
///
/// # Errors
/// When the heads cannot draft.
pub fn block_seconds(
    backbone: &Backbone,
    heads: &FrozenHeads,
    context: usize,
    nodes: usize,
    frontier: Option<usize>,
) -> Result<BlockSeconds> {
    let model = &backbone.model;
    let context = context.clamp(1, model.config().max_position_embeddings.saturating_sub(nodes).max(1));
    let mut cache = model.cache(1, context + nodes);
    let features = heads.features();
    let before = model.features(&[Span::chain(&vec![0; context])], Some(&mut cache), &features);
    let before = FeatureTensors::new(&features, before);
    let read = before.map(|state| state.narrow(0, context - 1, 1)).to_rows(StorageType::Float32);
    let mut kept = heads.cache(1, context + nodes);
    if let Some(kept) = &mut kept {
        heads.read(model, kept, &[context], &before);
    }
    let mut level = Vec::new();
    let of_heads = match frontier {
        None => least(|| {
            let began = Instant::now();
            let states = read.to_device(model.device());
            let context = kept.as_mut().map(|cache| Context::new(cache, vec![(0, context - 1)]));
            heads.candidates(model, BlockStarts { states: &states, pinned: &[0], context }, 1, Wanted::default())?;
            Ok(began)
        })?,
        Some(frontier) => {
            // Behind the pinned token, and then behind so many tokens of the next slot.
            let mut grown = |rows: usize| {
                least(|| {
                    if let Some(kept) = &mut kept {
                        kept.truncate(0, context);
                    }
                    let context = kept.as_mut().map(|cache| Context::new(cache, vec![(0, context - 1)]));
                    let mut began = Instant::now();
                    let states = read.to_device(model.device());
                    let starts = BlockStarts { states: &states, pinned: &[0], context };
                    let mut growth = heads.grow(model, starts, PROPOSED);
                    growth.behind(&[(0, &[0])])?;
                    if rows > 0 {
                        began = Instant::now();
                        let paths: Vec<[u32; 2]> = (0..rows as u32).map(|token| [0, token]).collect();
                        growth.behind(&paths.iter().map(|path| (0, &path[..])).collect::<Vec<_>>())?;
                    }
                    Ok(began)
                })
            };
            level = by_size(frontier.min(model.config().vocab_size), &mut grown)?;
            grown(0)?
        }
    };
    let nodes = by_size(nodes, |nodes| {
        let of_forward = least(|| {
            cache.truncate(0, context);
            let began = Instant::now();
            let hidden = model.hidden(&[Span::chain(&vec![0; nodes])], Some(&mut cache));
            std::hint::black_box(model.logits(hidden));
            Ok(began)
        })?;
        Ok(of_forward + of_heads)
    })?;
    Ok(BlockSeconds { nodes, level })
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
    fn what_is_not_timed_is_interpolated() {
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(10), [1, 2, 3, 4, 6, 8, 10]);
        assert_eq!(interpolated(&[(1, 1.0), (2, 3.0), (4, 4.0)]), [1.0, 3.0, 3.5, 4.0]);
        assert_eq!(interpolated(&[(1, 2.0)]), [2.0]);
    }
}
