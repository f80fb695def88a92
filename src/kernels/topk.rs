//! The k best of V scores, exactly and in the same order on every run.

use std::cmp::Ordering;

/// The capacity of the candidate buffer, as a multiple of k. A full buffer is cut back to k.
const SLACK: usize = 4;
/// Scores compared with the threshold at once; a constant length lets the compiler use vector instructions.
const STRIDE: usize = 32;

/// Appends the k best of `scores` to `ids` (positions in `scores`, so token ids) and `values`, best first; among equal
/// scores, the smaller id comes first.
///
/// NaN is never taken, so fewer than k pairs are appended when fewer than k scores are numbers. Minus infinity counts
/// as a number.
///
/// Scores that beat the k-th best so far gather in a buffer of a few k, which is cut back to k when it is full. That
/// takes O(V + k log k) whatever the order of the scores, and one comparison with the threshold rules out most of V.
pub fn top_k(scores: &[f32], k: usize, ids: &mut Vec<u32>, values: &mut Vec<f32>) {
    let k = k.min(scores.len());
    if k == 0 {
        return;
    }
    let capacity = SLACK * k;
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(capacity);
    let mut threshold = f32::NEG_INFINITY;
    for (stride, chunk) in scores.chunks(STRIDE).enumerate() {
        if !chunk.iter().fold(false, |any, &score| any | (score > threshold)) {
            continue;
        }
        for (offset, &score) in chunk.iter().enumerate() {
            // An equal score that comes later has the larger id, and loses.
            if score > threshold {
                best.push((score, (stride * STRIDE + offset) as u32));
                if best.len() == capacity {
                    best.select_nth_unstable_by(k - 1, best_first);
                    best.truncate(k);
                    threshold = best[k - 1].0;
                }
            }
        }
    }
    best.sort_unstable_by(best_first);
    best.truncate(k);
    // Minus infinity passes no threshold; only now is it known whether such scores are among the best.
    let lowest = (0u32..).zip(scores).filter(|&(_, &score)| score == f32::NEG_INFINITY);
    let missing = k - best.len();
    best.extend(lowest.take(missing).map(|(id, &score)| (score, id)));
    ids.extend(best.iter().map(|&(_, id)| id));
    values.extend(best.iter().map(|&(score, _)| score));
}

/// Orders by larger score, then by smaller id; the scores are not NaN.
fn best_first(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_full_sort(scores: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
        let mut all: Vec<u32> = (0..scores.len() as u32).filter(|&id| !scores[id as usize].is_nan()).collect();
        all.sort_by(|&a, &b| scores[b as usize].partial_cmp(&scores[a as usize]).unwrap().then(a.cmp(&b)));
        all.truncate(k);
        let values = all.iter().map(|&id| scores[id as usize]).collect();
        (all, values)
    }

    fn by_top_k(scores: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
        let (mut ids, mut values) = (Vec::new(), Vec::new());
        top_k(scores, k, &mut ids, &mut values);
        (ids, values)
    }

    fn scores() -> impl Strategy<Value = Vec<f32>> {
        let tied = (-3i8..=3).prop_map(f32::from);
        let special = prop::sample::select(vec![f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 0.0, -0.0]);
        prop::collection::vec(prop_oneof![4 => tied, 2 => special, 2 => -1e3f32..1e3], 0..600)
    }

    proptest! {
        #[test]
        fn equals_a_full_sort(scores in scores(), k in 0usize..70) {
            prop_assert_eq!(by_top_k(&scores, k), by_full_sort(&scores, k));
        }
    }

    #[test]
    fn equals_a_full_sort_of_a_whole_vocabulary() {
        let scrambled: Vec<f32> = (0..50_000u32).map(|id| (id.wrapping_mul(2_654_435_761) >> 18) as f32).collect();
        let mut rising = scrambled.clone();
        rising.sort_by(f32::total_cmp);
        for scores in [scrambled, rising] {
            assert_eq!(by_top_k(&scores, 64), by_full_sort(&scores, 64));
        }
    }

    #[test]
    fn appends_after_what_is_there() {
        let (mut ids, mut values) = (vec![9], vec![0.5]);
        top_k(&[1.0, f32::NAN, 3.0, 3.0], 2, &mut ids, &mut values);
        assert_eq!((ids, values), (vec![9, 2, 3], vec![0.5, 3.0, 3.0]));
    }
}
