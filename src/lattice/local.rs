//! Local rescoring: one path, chosen slot by slot from left to right (arXiv 2404.09221, neural rescoring).

use super::{Lattice, gap, interpolate};

/// A greedily rescored draft.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalDraft {
    /// One token per slot.
    pub tokens: Vec<u32>,
    /// The closest decision: the smallest distance, over slots, between the chosen candidate and the runner-up;
    /// infinite when no slot had a choice.
    pub margin: f64,
}

/// The path `y_j = argmax over v in slot j of (1 - scale) b_j(v) + scale r(v | x, y_<j)`, with b the lattice's scores.
///
/// `rescore(slot, prefix, candidates)` returns r for each candidate, given the tokens chosen so far (slot 0 included).
/// It is not called for a slot of one candidate, such as the pinned slot 0.
///
/// # Panics
/// When `rescore` does not return one score per candidate.
pub fn local_greedy(
    lattice: &Lattice,
    scale: f64,
    mut rescore: impl FnMut(usize, &[u32], &[u32]) -> Vec<f32>,
) -> LocalDraft {
    let mut draft = LocalDraft { tokens: Vec::with_capacity(lattice.slots()), margin: f64::INFINITY };
    for slot in 0..lattice.slots() {
        let ids = lattice.ids(slot);
        let (token, margin) = match ids {
            [only] => (*only, f64::INFINITY),
            _ => choose(lattice, slot, scale, &rescore(slot, &draft.tokens, ids)),
        };
        draft.tokens.push(token);
        draft.margin = draft.margin.min(margin);
    }
    draft
}

/// The decision at one slot: the best token by interpolated score, ties by smaller id, and how far it is ahead of the
/// runner-up (infinite for a slot of one candidate). For callers that rescore many blocks in one batch.
///
/// `rescored` holds r of every candidate, in the lattice's order; NaN counts as minus infinity.
///
/// # Panics
/// When `rescored` does not have one score per candidate.
pub fn choose(lattice: &Lattice, slot: usize, scale: f64, rescored: &[f32]) -> (u32, f64) {
    let (ids, scores) = (lattice.ids(slot), lattice.scores(slot));
    assert_eq!(ids.len(), rescored.len(), "one rescored value per candidate of slot {slot}");
    let candidates = ids.iter().zip(scores).zip(rescored).map(|((&id, &score), &other)| {
        let score = interpolate(scale, score, f64::from(other));
        (id, if score.is_nan() { f64::NEG_INFINITY } else { score })
    });
    let mut best = (u32::MAX, f64::NEG_INFINITY);
    let mut runner_up = None;
    for (at, (id, score)) in candidates.enumerate() {
        let wins = score > best.1 || (score == best.1 && id < best.0);
        let loser = if wins { std::mem::replace(&mut best, (id, score)).1 } else { score };
        if at > 0 {
            runner_up = Some(runner_up.map_or(loser, |second: f64| second.max(loser)));
        }
    }
    (best.0, runner_up.map_or(f64::INFINITY, |second| gap(best.1, second)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::small_lattice;
    use super::*;
    use proptest::prelude::*;

    /// A small integer that depends on the whole prefix, so that a wrong prefix shows.
    fn score_after(seed: u32, prefix: &[u32], token: u32) -> f32 {
        let hash = prefix.iter().chain([&token]).fold(seed, |hash, &id| (hash ^ id).wrapping_mul(0x9E37_79B1));
        (hash >> 30) as f32
    }

    proptest! {
        #[test]
        fn every_step_takes_the_argmax(
            lattice in small_lattice(), seed: u32, scale in prop::sample::select(vec![0.0, 0.25, 0.5, 1.0]),
        ) {
            let mut called = Vec::new();
            let draft = local_greedy(&lattice, scale, |slot, prefix, candidates| {
                called.push((slot, candidates.to_vec()));
                candidates.iter().map(|&token| score_after(seed, prefix, token)).collect()
            });

            let (mut tokens, mut margin, mut expected_calls) = (Vec::new(), f64::INFINITY, Vec::new());
            for slot in 0..lattice.slots() {
                let mut ranked: Vec<(f64, u32)> = lattice.ids(slot).iter().zip(lattice.scores(slot))
                    .map(|(&id, &score)| {
                        let other = f64::from(score_after(seed, &tokens, id));
                        ((1.0 - scale) * f64::from(score) + scale * other, id)
                    })
                    .collect();
                ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                tokens.push(ranked[0].1);
                if let Some(second) = ranked.get(1) {
                    margin = margin.min(ranked[0].0 - second.0);
                    expected_calls.push((slot, lattice.ids(slot).to_vec()));
                }
            }
            prop_assert_eq!(draft, LocalDraft { tokens, margin });
            prop_assert_eq!(called, expected_calls);
        }
    }

    #[test]
    fn scale_zero_ignores_the_rescorer_and_nan_never_wins() {
        let lattice = Lattice::new(&[3], vec![4, 5, 6], vec![2.0, 1.0, 0.0]).unwrap();
        assert_eq!(choose(&lattice, 0, 0.0, &[f32::NEG_INFINITY, 0.0, f32::NAN]), (4, 1.0));
        assert_eq!(choose(&lattice, 0, 1.0, &[f32::NAN, -9.0, f32::NEG_INFINITY]), (5, f64::INFINITY));
        assert_eq!(choose(&lattice, 0, 1.0, &[f32::NAN; 3]), (4, 0.0));
    }
}
