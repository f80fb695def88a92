//! How long a block takes on this machine, by the number of its nodes.

use std::time::Instant;

use crate::backbone::{Backbone, FeatureTensors, Span};
use crate::error::Result;
use crate::heads::{BlockStarts, Context, FrozenHeads};
use crate::storage_type::StorageType;

/// How often each time is measured. The least counts, because disturbances only ever make a machine slower.
const ROUNDS: usize = 3;

/// Measures the seconds of a block with 1 to `most` nodes after `context` tokens: the forward that verifies it, the
/// logits, and the heads that draft the next block. Only some numbers of nodes are timed; those between are
/// interpolated linearly. This takes about a second if a forward takes 20 ms.
///
/// # Errors
/// When the heads cannot draft.
pub fn seconds_by_nodes(backbone: &Backbone, heads: &FrozenHeads, context: usize, most: usize) -> Result<Vec<f64>> {
    let model = &backbone.model;
    let context = context.clamp(1, model.config().max_position_embeddings.saturating_sub(most).max(1));
    let mut cache = model.cache(1, context + most);
    let features = heads.features();
    let before = model.features(&[Span::chain(&vec![0; context])], Some(&mut cache), &features);
    let before = FeatureTensors::new(&features, before);
    let last = before.map(|state| state.narrow(0, context - 1, 1));
    let mut kept = heads.cache(1, context + most);
    if let Some(kept) = &mut kept {
        heads.read(model, kept, &[context], &before);
    }
    let of_heads = least(|| {
        let read = last.to_rows(StorageType::Float32).to_device(model.device());
        let context = kept.as_mut().map(|cache| Context::new(cache, vec![(0, context - 1)]));
        heads.candidates(model, BlockStarts { states: &read, pinned: &[0], context }, 1).map(drop)
    })?;
    let mut timed: Vec<(usize, f64)> = Vec::new();
    for nodes in sizes(most) {
        let of_forward = least(|| {
            cache.truncate(0, context);
            let hidden = model.hidden(&[Span::chain(&vec![0; nodes])], Some(&mut cache));
            std::hint::black_box(model.logits(hidden));
            Ok(())
        })?;
        // More nodes never take less time.
        let before = timed.last().map_or(0.0, |&(_, seconds)| seconds);
        timed.push((nodes, before.max(of_forward + of_heads)));
    }
    Ok(interpolated(&timed))
}

/// Returns the least seconds that some work took.
fn least(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        work()?;
        least = least.min(began.elapsed().as_secs_f64());
    }
    Ok(least)
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
