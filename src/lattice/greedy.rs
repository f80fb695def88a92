//! The path that takes the best candidate of one slot after the other, as the authors of candidate selectors walk them.

use super::pbest::Search;
use super::{Lattice, PBest, Path, SlotScorer, Weighting, gap};

/// Returns the path that takes in every slot the candidate with the best score behind those taken before; the smaller token id
/// wins a tie. Its margin is the smallest lead of a candidate over the second best. It is never better than the best path,
/// which [`p_best`](super::p_best) finds.
pub fn greedy_path<S: SlotScorer>(
    lattice: &Lattice,
    scorer: S,
    start: S::State,
    weighting: impl Into<Weighting>,
) -> PBest {
    let mut search = Search::new(lattice, scorer, weighting.into());
    let (mut path, mut margin) = (Path { tokens: Vec::new(), score: 0.0 }, f64::INFINITY);
    let (mut state, mut steps) = (start, Vec::new());
    for slot in 0..lattice.slots() {
        let ids = lattice.ids(slot);
        search.steps(state, slot, ids.len(), &mut steps);
        let better = |&a: &usize, &b: &usize| steps[a].0.total_cmp(&steps[b].0).then(ids[b].cmp(&ids[a]));
        let best = (0..ids.len()).max_by(better).expect("a slot has candidates");
        if let Some(second) = (0..ids.len()).filter(|&place| place != best).max_by(better) {
            margin = margin.min(gap(steps[best].0, steps[second].0));
        }
        path.tokens.push(ids[best]);
        path.score += steps[best].0;
        state = steps[best].1;
    }
    PBest { paths: vec![path], margin }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MadeUp, START, small_lattice};
    use super::super::{NoScorer, PathScorer, p_best};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// No other candidate of a slot would have been better behind the same prefix, and no greedy path is better than the
        /// best one.
        #[test]
        fn every_slot_takes_what_is_best_there(lattice in small_lattice(), seed: u32, order in 1usize..=4, scale in 0.0..1.0) {
            let scorer = MadeUp::new(seed, order);
            let found = greedy_path(&lattice, scorer.on(&lattice), START, scale);
            let (tokens, weighting) = (&found.paths[0].tokens, Weighting::from(scale));
            let mut state = START;
            for (slot, &token) in tokens.iter().enumerate() {
                let scores = lattice.ids(slot).iter().zip(lattice.scores(slot));
                let all: Vec<(f64, u32)> = scores
                    .map(|(&id, &head)| (weighting.score(slot, head, scorer.extend(state, id).0), id))
                    .collect();
                let mine = all.iter().find(|(_, id)| *id == token).unwrap();
                prop_assert!(all.iter().all(|(score, id)| *score < mine.0 || (*score == mine.0 && *id >= token)));
                state = scorer.extend(state, token).1;
            }
            let best = p_best(&lattice, scorer.on(&lattice), START, scale, 1);
            prop_assert!(found.paths[0].score <= best.paths[0].score + 1e-9);
        }

        #[test]
        fn without_a_scorer_it_is_the_best_path(lattice in small_lattice()) {
            prop_assert_eq!(&greedy_path(&lattice, NoScorer, (), 0.0).paths, &p_best(&lattice, NoScorer, (), 0.0, 1).paths);
        }
    }
}
