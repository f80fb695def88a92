//! The lattice of one block, and the pure algorithms on it.
//!
//! The heads propose, for each of the H slots of a block, their k best tokens. Everything here works on those token ids
//! and scores alone: no tensors, no files, no models. In the order in which the data flows:
//!
//! 1. [`Lattice`] holds the candidates of all slots. Its first candidates are the plain draft of blockwise parallel
//!    decoding, and its first k candidates are the lattice of a smaller k.
//! 2. [`p_best`] finds the p best paths under head scores and a [`SlotScorer`], for instance an n-gram model, and
//!    [`greedy_path`] the one that takes the best candidate of slot after slot.
//!    [`PrefixProbabilities`] says how probable prefixes are, and finds the tree and the path with the longest expected
//!    accepted length, and the tree that uses its time best.
//! 3. [`DraftTree`] merges the common prefixes of several drafts, so that one tree-masked forward verifies them all.
//! 4. [`oracle_length`], [`oracle_dp`] and [`greedy_calls`] say how good any draft from the lattice could have been.
//! 5. [`walk`] goes over a whole text block by block.
//!
//! Two rules hold throughout. Slot 0 is pinned: its one candidate is the backbone's own next token, because any other
//! token there would surely be rejected. Ties go to the smaller token id, so that the same scores always give the same
//! draft.

mod config;
mod expected;
mod greedy;
#[expect(clippy::module_inception, reason = "the room is named after the type it is built around")]
mod lattice;
mod oracle;
mod path;
mod pbest;
mod ranking;
mod tree;
mod walk;
mod weighting;

pub use config::LatticeConfig;
pub use expected::{Beside, BlockBudget, Calibration, Expected, LookupToken, PrefixProbabilities, TimeBudget};
pub use greedy::greedy_path;
pub use lattice::Lattice;
pub use oracle::{greedy_calls, oracle_dp, oracle_length};
pub use path::Path;
pub use pbest::{NoScorer, OneByOne, PBest, PathScorer, SlotScorer, p_best};
pub use tree::{DraftTree, accepted_length};
pub use walk::{try_walk, walk};
pub use weighting::Weighting;

/// Returns how far `best` is ahead of `next`; 0 when both are minus infinity.
fn gap(best: f64, next: f64) -> f64 {
    if best == next { 0.0 } else { best - next }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{Lattice, PathScorer, SlotScorer, Weighting};
    use proptest::prelude::*;
    use std::cell::Cell;

    /// The tokens of a small lattice are below this.
    pub const VOCABULARY: u32 = 6;

    /// Returns lattices of 1 to 5 slots with 1 to 4 candidates each (at most 1,024 paths). Scores are small integers,
    /// so that ties are common and every sum is exact. A slot may be all negative, as log-probabilities are.
    pub fn small_lattice() -> impl Strategy<Value = Lattice> {
        let token_scores = prop::collection::vec(-2i8..=2, VOCABULARY as usize);
        prop::collection::vec((token_scores, -4i8..=2, 1usize..=4), 1..=5).prop_map(|slots| {
            let (mut widths, mut ids, mut scores) = (Vec::new(), Vec::new(), Vec::new());
            for (token_scores, offset, width) in slots {
                let mut order: Vec<u32> = (0..VOCABULARY).collect();
                order.sort_by_key(|&id| (-token_scores[id as usize], id));
                widths.push(width);
                ids.extend(&order[..width]);
                scores.extend(order[..width].iter().map(|&id| f32::from(token_scores[id as usize] + offset)));
            }
            Lattice::new(&widths, ids, scores).unwrap()
        })
    }

    /// Returns every path of the lattice, in any order.
    pub fn all_paths(lattice: &Lattice) -> Vec<Vec<u32>> {
        (0..lattice.slots()).fold(vec![Vec::new()], |prefixes, slot| {
            let longer = |prefix: Vec<u32>| lattice.ids(slot).iter().map(move |&id| [&prefix[..], &[id]].concat());
            prefixes.into_iter().flat_map(longer).collect()
        })
    }

    /// An n-gram model of made-up log-probabilities: multiples of -1/4 from 0 to -7/4, drawn by a hash of the last n -
    /// 1 tokens and the next. Sums of them are exact and often tie.
    pub struct MadeUp {
        seed: u32,
        order: usize,
        pub asked: Cell<usize>,
    }

    impl MadeUp {
        pub fn new(seed: u32, order: usize) -> Self {
            Self { seed, order, asked: Cell::new(0) }
        }
    }

    pub const START: [u32; 3] = [100; 3];

    impl PathScorer for MadeUp {
        type State = [u32; 3];

        fn extend(&self, state: Self::State, token: u32) -> (f64, Self::State) {
            self.asked.set(self.asked.get() + 1);
            let hash = state
                .iter()
                .chain([&token])
                .fold(self.seed, |hash, &id| (hash ^ id).wrapping_mul(0x9E37_79B1).rotate_left(11));
            let mut next = [state[1], state[2], token];
            next[..4 - self.order].fill(0);
            (-f64::from(hash >> 29) / 4.0, next)
        }
    }

    /// Computes the score of a path from the definition.
    pub fn path_score<S: SlotScorer>(
        lattice: &Lattice,
        mut scorer: S,
        start: S::State,
        tokens: &[u32],
        Weighting { scale, decay }: Weighting,
    ) -> f64 {
        let (mut state, mut sum) = (start, 0.0);
        for (slot, &token) in tokens.iter().enumerate() {
            let at = lattice.ids(slot).iter().position(|&id| id == token).unwrap();
            let mut steps = Vec::new();
            scorer.extend(slot, state, at + 1, &mut steps);
            let (log_probability, next) = steps[at];
            let score = (1.0 - scale) * f64::from(lattice.scores(slot)[at]) + scale * log_probability;
            sum += decay.powi(slot as i32) * score;
            state = next;
        }
        sum
    }
}
