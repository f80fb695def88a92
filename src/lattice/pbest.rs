//! Global rescoring: the p best paths of a lattice, exactly (arXiv 2404.09221, n-gram rescoring and p-best 0-gram).
//!
//! The paths form a graph with one node for each slot and scorer state, because prefixes that leave the scorer in the
//! same state have all their continuations in common. There are three steps:
//!
//! 1. [`Search::floor`]: a beam search over the lattice finds p good paths. The worst of them bounds the p best from
//!    below.
//! 2. [`Search::graph`]: slot by slot, the best prefix of every state. A prefix is dropped if it cannot reach the floor
//!    even with the best head scores of the remaining slots and probability 1. Most are dropped before the scorer is
//!    asked, which is what makes a large k cheap.
//! 3. [`Ranking`]: the second, third, ... best path into a node, each only when asked for, from the ranked paths of its
//!    predecessors (the recursive enumeration algorithm of Jimenez and Marzal 1999).
//!
//! Paths are kept as back-pointers in flat arrays, and spelled out only at the end.

use super::ranking::{Graph, Ranking};
use super::{Lattice, Path, Weighting, gap};
use crate::hash::FastMap;
use std::hash::Hash;

/// A scorer of paths through one lattice, which scores the candidates of a slot together.
pub trait SlotScorer {
    /// What the scorer remembers of the tokens so far. Equal states must score all continuations alike; the fewer
    /// states there are, the less work the search has.
    type State: Copy + Eq + Hash;

    /// Appends to `out`, for each of the first `number` candidates of `slot`, its score after `state` and the state
    /// after it. A score is the candidate's natural-log probability, or any other number that is never above 0: the
    /// search relies on that to drop hopeless prefixes.
    fn extend(&mut self, slot: usize, state: Self::State, number: usize, out: &mut Vec<(f64, Self::State)>);
}

impl<S: SlotScorer + ?Sized> SlotScorer for &mut S {
    type State = S::State;

    fn extend(&mut self, slot: usize, state: S::State, number: usize, out: &mut Vec<(f64, S::State)>) {
        (**self).extend(slot, state, number, out);
    }
}

/// A scorer that scores a path token by token.
pub trait PathScorer: Sized {
    /// What the scorer remembers of the tokens so far, as for [`SlotScorer`].
    type State: Copy + Eq + Hash;

    /// Returns the score of `token` after `state`, as for [`SlotScorer::extend`], and the state after it.
    fn extend(&self, state: Self::State, token: u32) -> (f64, Self::State);

    /// Prepares the scorer for one lattice.
    fn on<'a>(&'a self, lattice: &'a Lattice) -> OneByOne<'a, Self> {
        OneByOne { scorer: self, lattice }
    }
}

/// A [`PathScorer`] prepared for one lattice, which scores each candidate by itself.
pub struct OneByOne<'a, S> {
    scorer: &'a S,
    lattice: &'a Lattice,
}

impl<S: PathScorer> SlotScorer for OneByOne<'_, S> {
    type State = S::State;

    fn extend(&mut self, slot: usize, state: S::State, number: usize, out: &mut Vec<(f64, S::State)>) {
        out.extend(self.lattice.ids(slot)[..number].iter().map(|&token| self.scorer.extend(state, token)));
    }
}

/// No scorer at all. With scale 0, [`p_best`] then finds the p-best 0-gram: the paths that are best by head scores.
#[derive(Debug, Clone, Copy)]
pub struct NoScorer;

impl SlotScorer for NoScorer {
    type State = ();

    fn extend(&mut self, _: usize, (): (), number: usize, out: &mut Vec<(f64, ())>) {
        out.extend((0..number).map(|_| (0.0, ())));
    }
}

/// The best paths, and how clear the choice was.
#[derive(Debug, Clone, PartialEq)]
pub struct PBest {
    /// The paths, best first; ties are in lexicographic order of token ids.
    pub paths: Vec<Path>,
    /// How far the last of `paths` is ahead of the best path left out; infinite if no path was left out, or none was
    /// taken.
    pub margin: f64,
}

/// Finds the `p` best paths of the lattice, or all of them if it has fewer. `start` is the scorer's state after the
/// committed tokens.
///
/// A path scores as [`Weighting`] says, with r = log P(token | state). For a scale from 0 to 1, hopeless prefixes are
/// dropped early; outside that range the result is still exact, but nothing can be dropped. At scale 0 the scorer is
/// never asked, and there is one state for each slot.
///
/// The scores are exact, and so is the order of ties, with one exception. Paths are ranked prefix by prefix, so two
/// prefixes of different scores in one state keep their order even if the rest of the path makes their sums equal, by
/// rounding or by a probability of 0.
pub fn p_best<S: SlotScorer>(
    lattice: &Lattice,
    scorer: S,
    start: S::State,
    weighting: impl Into<Weighting>,
    p: usize,
) -> PBest {
    let wanted = p.saturating_add(1);
    let mut search = Search::new(lattice, scorer, weighting.into());
    let floor = search.floor(start, wanted);
    let graph = search.graph(start, floor);
    let mut paths = Ranking::new(&graph).best(wanted);
    let left_out = if paths.len() > p { paths.pop() } else { None };
    let margin = match (paths.last(), left_out) {
        (Some(last), Some(next)) => gap(last.score, next.score),
        _ => f64::INFINITY,
    };
    PBest { paths, margin }
}

/// The smallest width of the beam. A narrower one saves little and finds worse paths, so that less is dropped.
const NARROWEST: usize = 8;

/// A search for good paths through a lattice.
pub(super) struct Search<'a, S> {
    lattice: &'a Lattice,
    scorer: S,
    weighting: Weighting,
    /// The most that slots j and later can add to a score, `most_after[j]`, for a scale from 0 to 1.
    most_after: Vec<f64>,
}

impl<'a, S: SlotScorer> Search<'a, S> {
    pub(super) fn new(lattice: &'a Lattice, scorer: S, weighting: Weighting) -> Self {
        let mut most_after = vec![0.0; lattice.slots() + 1];
        for slot in (0..lattice.slots()).rev() {
            most_after[slot] = weighting.score(slot, lattice.scores(slot)[0], 0.0) + most_after[slot + 1];
        }
        Self { lattice, scorer, weighting, most_after }
    }

    /// Fills `steps` with what each of the first `number` candidates of a slot adds to the score of a path in `state`,
    /// and with the state after it.
    pub(super) fn steps(&mut self, state: S::State, slot: usize, number: usize, steps: &mut Vec<(f64, S::State)>) {
        let scores = &self.lattice.scores(slot)[..number];
        steps.clear();
        if self.weighting.scale == 0.0 {
            steps.extend(scores.iter().map(|&score| (self.weighting.score(slot, score, 0.0), state)));
            return;
        }
        self.scorer.extend(slot, state, number, steps);
        for ((weight, _), &score) in steps.iter_mut().zip(scores) {
            *weight = self.weighting.score(slot, score, *weight);
        }
    }

    /// Returns a score that the `p`-th best path reaches: that of the p-th path of a beam search. It is minus infinity
    /// when there are fewer paths, or when nothing can be dropped or gained.
    pub(super) fn floor(&mut self, start: S::State, p: usize) -> f64 {
        if !(self.weighting.scale > 0.0 && self.weighting.scale <= 1.0) {
            return f64::NEG_INFINITY;
        }
        let width = p.max(NARROWEST);
        let mut beam = vec![(0.0, start)];
        let mut steps = Vec::new();
        for slot in 0..self.lattice.slots() {
            let mut longer = Vec::with_capacity(beam.len() * self.lattice.ids(slot).len());
            for (sum, state) in beam {
                self.steps(state, slot, self.lattice.ids(slot).len(), &mut steps);
                longer.extend(steps.iter().map(|&(weight, next)| (sum + weight, next)));
            }
            beam = longer;
            if beam.len() > width {
                beam.select_nth_unstable_by(width - 1, |a, b| b.0.total_cmp(&a.0));
                beam.truncate(width);
            }
        }
        if beam.len() < p {
            return f64::NEG_INFINITY;
        }
        let (_, &mut (lowest, _), _) = beam.select_nth_unstable_by(p - 1, |a, b| b.0.total_cmp(&a.0));
        // `most_after` is summed from the right, so rounding may put a bound slightly below the path's own sum.
        lowest - 1e-9 * (1.0 + lowest.abs() + self.most_after[0].abs())
    }

    /// Builds the graph of all prefixes that may belong to a path with a score of at least `floor`.
    pub(super) fn graph(&mut self, start: S::State, floor: f64) -> Graph {
        let mut graph = Graph::new();
        let mut states = vec![start];
        let mut steps = Vec::new();
        let mut node_of: FastMap<S::State, u32> = FastMap::default();
        for slot in 0..self.lattice.slots() {
            let layer = graph.last_nodes(states.len());
            let most_after = self.most_after[slot + 1];
            let mut next_states = Vec::new();
            node_of.clear();
            for (from, state) in layer.zip(states) {
                let sum = graph.best(from);
                // The slot's further candidates score no better.
                let hopeful = |&score: &f32| sum + self.weighting.score(slot, score, 0.0) + most_after >= floor;
                let number = self.lattice.scores(slot).iter().take_while(|score| hopeful(score)).count();
                self.steps(state, slot, number, &mut steps);
                for (&(weight, next), &token) in steps.iter().zip(self.lattice.ids(slot)) {
                    if sum + weight + most_after < floor {
                        continue;
                    }
                    let to = *node_of.entry(next).or_insert_with(|| {
                        next_states.push(next);
                        graph.add_node()
                    });
                    graph.add_edge(from, to, token, weight);
                }
            }
            states = next_states;
        }
        graph.close(states.len());
        graph
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MadeUp, START, all_paths, path_score, small_lattice};
    use super::*;
    use proptest::prelude::*;

    /// Scores and sorts every path.
    fn brute_force<S: SlotScorer>(
        lattice: &Lattice,
        mut scorer: S,
        start: S::State,
        weighting: Weighting,
    ) -> Vec<Path> {
        let mut paths: Vec<Path> = all_paths(lattice)
            .into_iter()
            .map(|tokens| Path { score: path_score(lattice, &mut scorer, start, &tokens, weighting), tokens })
            .collect();
        paths.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.tokens.cmp(&b.tokens)));
        paths
    }

    fn check<S: SlotScorer>(lattice: &Lattice, mut scorer: S, start: S::State, weighting: Weighting, p: usize) {
        let mut expected = brute_force(lattice, &mut scorer, start, weighting);
        let found = p_best(lattice, scorer, start, weighting, p);
        let margin = match expected.get(p) {
            Some(next) if p > 0 => expected[p - 1].score - next.score,
            _ => f64::INFINITY,
        };
        expected.truncate(p);
        assert_eq!(found, PBest { paths: expected, margin });
    }

    /// Returns 9 slots with 16 candidates in all but the first, and scores like those of trained heads.
    fn wide_lattice() -> Lattice {
        let ids: Vec<u32> = (0..8 * 16u32).map(|at| at.wrapping_mul(2_654_435_761) >> 20).collect();
        let scores: Vec<f32> = (0..8 * 16u32).map(|at| -1.5 * ((at % 16) as f32).sqrt()).collect();
        Lattice::pinned(7, 16, &ids, &scores).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn equals_brute_force(
            lattice in small_lattice(),
            seed: u32,
            order in 1usize..=4,
            scale in prop::sample::select(vec![0.0, 0.25, 0.5, 1.0, 1.5, -0.5]),
            decay in prop::sample::select(vec![1.0, 0.5]),
            p in 0usize..40,
        ) {
            check(&lattice, MadeUp::new(seed, order).on(&lattice), START, Weighting { scale, decay }, p);
        }

        #[test]
        fn without_a_scorer_equals_brute_force(lattice in small_lattice(), p in 1usize..2000) {
            check(&lattice, NoScorer, (), 0.0.into(), p);
        }
    }

    #[test]
    fn a_wide_lattice_is_not_enumerated() {
        // There are 16^8 paths. Without merging this would never end. Without dropping, the scorer would be asked for
        // 16 tokens after each of 256 states at each of the last 6 slots, and for fewer before.
        let (lattice, scorer) = (wide_lattice(), MadeUp::new(3, 3));
        let found = p_best(&lattice, scorer.on(&lattice), START, 0.4, 16);
        assert_eq!(found.paths.len(), 16);
        assert!(scorer.asked.get() < 6 * 256 * 16, "asked {} times", scorer.asked.get());
        let fewer = p_best(&lattice, scorer.on(&lattice), START, 0.4, 5);
        assert_eq!(fewer.paths[..], found.paths[..5]);
        assert_eq!(fewer.margin, found.paths[4].score - found.paths[5].score);
    }

    #[test]
    fn at_scale_zero_the_scorer_is_not_asked() {
        let (lattice, scorer) = (wide_lattice(), MadeUp::new(1, 4));
        let found = p_best(&lattice, scorer.on(&lattice), START, 0.0, 16);
        assert_eq!(found, p_best(&lattice, NoScorer, (), 0.0, 16));
        assert_eq!(scorer.asked.get(), 0);
    }

    #[test]
    fn impossible_tokens_come_last() {
        struct Never(u32);
        impl PathScorer for Never {
            type State = ();
            fn extend(&self, _: (), token: u32) -> (f64, ()) {
                (if token == self.0 { f64::NEG_INFINITY } else { -0.5 }, ())
            }
        }
        let lattice = Lattice::pinned(7, 2, &[1, 2, 1, 2], &[9.0, 0.0, 9.0, 0.0]).unwrap();
        let tokens = |found: &PBest| found.paths.iter().map(|path| path.tokens.clone()).collect::<Vec<_>>();
        let best = p_best(&lattice, Never(1).on(&lattice), (), 0.5, 4);
        assert_eq!((tokens(&best).len(), &best.paths[0].tokens[..]), (4, &[7, 2, 2][..]));
        assert!(best.paths[1..].iter().all(|path| path.score == f64::NEG_INFINITY));
        // The pinned token itself is impossible, and so is every path; there is still a draft.
        let best = p_best(&lattice, Never(7).on(&lattice), (), 0.5, 2);
        assert_eq!((tokens(&best), best.margin), (vec![vec![7, 1, 1], vec![7, 1, 2]], 0.0));
    }
}
