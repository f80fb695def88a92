//! How good any draft from the lattice could have been.
//!
//! At one position, [`oracle_length`] bounds the accepted length of every path. Over a whole text, always taking the
//! longest step ([`greedy_calls`], the oracle of arXiv 2404.09221) need not be optimal, because a longer step moves all
//! later block starts. [`oracle_dp`] is the strict bound.

use super::{Lattice, walk};

/// Returns the accepted length of the best path from the top `k` of every slot and from a `copy` of earlier text, which may be
/// empty: the longest prefix of `target`, the text that the backbone continues with, of whose tokens each is among the
/// candidates of its slot, or copied behind others that are all right. Slot 0 counts too.
pub fn oracle_length(lattice: &Lattice, copy: &[u32], target: &[u32], k: usize) -> usize {
    let copied = copy.iter().zip(target).take_while(|(copied, token)| copied == token).count();
    let covered =
        |&(slot, token): &(usize, &u32)| slot < copied || lattice.ids(slot).iter().take(k).any(|id| id == token);
    (0..lattice.slots()).zip(target).take_while(covered).count()
}

/// Returns the fewest backbone calls that decode a text of `lengths.len()` tokens, when a block that starts at token t
/// may accept any number of tokens from 1 to `lengths[t]`: `N(t) = 1 + min over 1 <= a <= lengths[t] of N(t + a)`.
///
/// Every block accepts at least its pinned token, and ends with the text at the latest: a length outside `1..=n - t`
/// counts as the nearest one inside.
pub fn oracle_dp(lengths: &[usize]) -> usize {
    let n = lengths.len();
    let mut calls = vec![0; n + 1];
    for start in (0..n).rev() {
        let after = &calls[start + 1..=start + step(lengths, start)];
        calls[start] = 1 + after.iter().min().copied().unwrap_or(0);
    }
    calls[0]
}

/// Returns the number of backbone calls when every block accepts all it can, with lengths as in [`oracle_dp`].
pub fn greedy_calls(lengths: &[usize]) -> usize {
    walk(lengths.len(), |start| (step(lengths, start), ())).len()
}

/// Returns `lengths[start]` clamped to `1..=n - start`; `start` is below n.
fn step(lengths: &[usize], start: usize) -> usize {
    lengths[start].clamp(1, lengths.len() - start)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{VOCABULARY, all_paths, small_lattice};
    use super::super::tree::accepted_length;
    use super::*;
    use proptest::prelude::*;

    /// Tries every sequence of steps.
    fn fewest_calls(lengths: &[usize], start: usize) -> usize {
        if start == lengths.len() {
            return 0;
        }
        1 + (1..=lengths[start]).map(|step| fewest_calls(lengths, start + step)).min().unwrap()
    }

    fn valid_lengths() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(1usize..5, 0..12).prop_map(|mut lengths| {
            let n = lengths.len();
            for (start, length) in lengths.iter_mut().enumerate() {
                *length = (*length).min(n - start);
            }
            lengths
        })
    }

    fn target() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(0..VOCABULARY, 0..7)
    }

    proptest! {
        #[test]
        fn length_is_that_of_the_best_path(lattice in small_lattice(), target in target(), k in 1usize..5) {
            let paths = all_paths(&lattice.prefix(lattice.slots(), k).unwrap());
            prop_assert_eq!(oracle_length(&lattice, &[], &target, k), accepted_length(&paths, &target));
        }

        #[test]
        fn a_copy_adds_a_candidate_behind_itself(lattice in small_lattice(), copy in target(), target in target(), k in 1usize..5) {
            let slots = lattice.slots();
            let mut paths = all_paths(&lattice.prefix(slots, k).unwrap());
            // What begins with the copy goes on with it, or with candidates.
            for copied in 1..=copy.len().min(slots) {
                let begun = paths.clone();
                paths.extend(begun.iter().map(|path| [&copy[..copied], &path[copied.min(path.len())..]].concat()));
            }
            prop_assert_eq!(oracle_length(&lattice, &copy, &target, k), accepted_length(&paths, &target));
        }

        #[test]
        fn length_does_not_decrease_in_k(lattice in small_lattice(), target in target()) {
            let lengths: Vec<usize> = (0..6).map(|k| oracle_length(&lattice, &[], &target, k)).collect();
            prop_assert!(lengths.is_sorted(), "{:?}", lengths);
            prop_assert_eq!(lengths[0], 0);
            prop_assert_eq!(lengths[1], accepted_length(&[lattice.top1()], &target));
        }

        #[test]
        fn dp_equals_brute_force(lengths in valid_lengths()) {
            prop_assert_eq!(oracle_dp(&lengths), fewest_calls(&lengths, 0));
        }

        #[test]
        fn dp_never_needs_more_calls_than_greedy(lengths in prop::collection::vec(0usize..9, 0..60)) {
            prop_assert!(oracle_dp(&lengths) <= greedy_calls(&lengths));
        }
    }

    #[test]
    fn the_longest_step_can_be_a_mistake() {
        // Greedy: 0 -> 2 -> 3 -> 4 -> 5. Better: 0 -> 1 -> 5.
        let lengths = [2, 4, 1, 1, 1];
        assert_eq!((greedy_calls(&lengths), oracle_dp(&lengths)), (4, 2));
    }

    #[test]
    fn lengths_are_kept_inside_the_text() {
        let lengths = [0, 9, 9];
        assert_eq!((greedy_calls(&lengths), oracle_dp(&lengths)), (2, 2));
        assert_eq!((greedy_calls(&[]), oracle_dp(&[])), (0, 0));
    }
}
