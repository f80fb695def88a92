//! Drafts with the longest expected accepted length, rather than the most probable whole paths.
//!
//! The p most probable paths are often near-copies that differ in their last slot, and a draft is mostly rejected
//! before that. Here, the probability of a prefix is its share of all paths of the lattice. With path weights
//! `exp(score / temperature)`, that share comes from one backward pass over the graph of slots and scorer states
//! (forward-backward). The probability that the backbone's text begins with the prefix is that share times the
//! [`Calibration::coverage`] of every slot. The expected accepted length of a tree is the sum of this probability over
//! its nodes. No node is more probable than its parent, so taking the most probable nodes greedily gives the best tree
//! of its size.
//!
//! A path from another source than the lattice can compete. It consists of [`LookupToken`]s, each with the probability
//! that it is right if those before it are. Where both sources offer a node, the more confident one decides its
//! probability.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use super::pbest::Search;
use super::ranking::{Edge, Graph};
use super::{Lattice, SlotScorer, Weighting};

/// How scores become probabilities. The temperature and the coverage are fitted on dev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The number by which scores are divided before they are exponentiated; above 0.
    pub temperature: f64,
    /// For each slot, the probability that the backbone's token is among the candidates, given that it was in all slots
    /// before. Index 0 is the pinned slot; slots beyond the end of the list count as 1.
    pub coverage: Vec<f64>,
    /// A threshold for leaving out improbable prefixes, which most are: a prefix counts as impossible if all its paths
    /// are less than `exp(-cut)` times as probable as a good path. Infinity leaves out none.
    pub cut: f64,
}

/// Drafts, and how much of them is expected to be accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// The drafts, some of which may end before the last slot. Their nodes are those that were chosen, and those of the
    /// held path.
    pub paths: Vec<Vec<u32>>,
    /// How clear the choice was: by how much the logarithm of the last value taken exceeds that of the best one left
    /// out.
    pub margin: f64,
    /// The expected accepted length, counting the chosen nodes only: a held path's other nodes are left out.
    pub length: f64,
    /// The number of nodes that were chosen.
    pub nodes: usize,
}

/// A token of a path from another source than the lattice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LookupToken {
    /// The token, which need not be among the slot's candidates.
    pub token: u32,
    /// The probability that it is right if those before it are, at most 1.
    pub confidence: f64,
}

/// Paths that a tree takes from elsewhere than the lattice. Either may be empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// A path that the tree contains in any case.
    pub held: &'a [u32],
    /// A path, from the pinned token on, of which the tree contains as much as is probable enough.
    pub copied: &'a [LookupToken],
}

/// How long something takes as a function of its nodes, and what that time is worth.
#[derive(Debug, Clone, Copy)]
pub struct TimeBudget<'a> {
    /// Seconds of 1, 2, 3, ... nodes: of a block, or of a level of a grown tree.
    pub seconds: &'a [f64],
    /// Tokens per second that decoding would otherwise yield in that time.
    pub rate: f64,
}

impl TimeBudget<'_> {
    /// Returns how many of the nodes, whose probabilities are given from the most probable on, use their time best, and
    /// what they gain. That is the number with the largest expected accepted length minus the tokens that its time would
    /// yield otherwise; among equally good numbers, the smallest. It is at least 1, though the gain may be negative.
    pub fn worthwhile_nodes(&self, probabilities: impl Iterator<Item = f64>) -> (usize, f64) {
        let (mut most, mut best, mut length) = (f64::NEG_INFINITY, 1, 0.0);
        for (number, (probability, seconds)) in probabilities.zip(self.seconds).enumerate() {
            length += probability;
            let gain = length - self.rate * seconds;
            if gain > most {
                (most, best) = (gain, number + 1);
            }
        }
        (best, most)
    }
}

/// What the parts of a block cost in time, for drafts that are as large as pays.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockBudget {
    /// By the number of nodes of its tree, from 1 on, the seconds of a block.
    pub nodes: Vec<f64>,
    /// By the number of rows that the heads run, from 1 on, the seconds of another level of a grown tree. Empty where none is grown.
    pub level: Vec<f64>,
    /// Tokens per second that decoding would otherwise yield in that time.
    pub rate: f64,
}

impl BlockBudget {
    /// Returns the budget of trees of at most so many nodes, at least one.
    pub fn of_nodes(&self, most: usize) -> TimeBudget<'_> {
        TimeBudget { seconds: &self.nodes[..most.clamp(1, self.nodes.len())], rate: self.rate }
    }

    /// Returns the budget of the rows of another level.
    pub fn of_level(&self) -> TimeBudget<'_> {
        TimeBudget { seconds: &self.level, rate: self.rate }
    }
}

/// Returns how many tokens of a copied path are expected to be accepted.
fn expected_length(copied: &[LookupToken]) -> f64 {
    let all_right = copied.iter().scan(1.0, |right, copied| {
        *right *= copied.confidence;
        Some(*right)
    });
    all_right.sum()
}

/// The probabilities of a block's prefixes, as each edge's share of the paths that go on from its node.
pub struct PrefixProbabilities<'a> {
    slots: usize,
    graph: Graph,
    /// For each node, the index of its first edge; one entry more than there are nodes.
    first: Vec<usize>,
    /// For each node, the slot of its edges.
    slot: Vec<usize>,
    /// For each edge, its share of the weight of all paths from the node where it begins.
    share: Vec<f64>,
    calibration: &'a Calibration,
}

impl<'a> PrefixProbabilities<'a> {
    /// Computes the probabilities for a lattice. `start` is the scorer's state after the committed tokens.
    pub fn new<S: SlotScorer>(
        lattice: &Lattice,
        scorer: S,
        start: S::State,
        weighting: Weighting,
        calibration: &'a Calibration,
    ) -> Self {
        let mut search = Search::new(lattice, scorer, weighting);
        let floor = search.floor(start, 1) - calibration.cut * calibration.temperature;
        let graph = search.graph(start, floor);
        let edges = graph.edges();
        let mut first = vec![usize::MAX; graph.nodes() + 1];
        for (index, edge) in edges.iter().enumerate().rev() {
            first[edge.from as usize] = index;
        }
        // The end has no edges, and neither has a prefix whose paths were all left out.
        let mut after = edges.len();
        for place in first.iter_mut().rev() {
            after = after.min(*place);
            *place = after;
        }
        let mut slot = vec![0; graph.nodes()];
        edges.iter().for_each(|edge| slot[edge.to as usize] = slot[edge.from as usize] + 1);
        let share = shares(edges, &first, calibration.temperature);
        Self { slots: lattice.slots(), graph, first, slot, share, calibration }
    }

    /// Returns the tree of `nodes` nodes (at least one) with the longest expected accepted length among those that
    /// contain the held path. If the whole lattice is smaller, it is returned; if the held path has `nodes` nodes or
    /// more, it alone is.
    ///
    /// Among equally probable nodes, the one found first is taken: the shorter prefix, then the candidate that comes
    /// first in its slot.
    pub fn tree(&self, beside: Beside, nodes: usize) -> Expected {
        let (tree, next) = self.grow(beside, nodes);
        tree.expected(beside.held, next)
    }

    /// Returns the tree that uses its time best, with at most as many nodes as the budget has entries. For every number
    /// of nodes there is a tree with the longest expected accepted length; of these, it is the one whose length exceeds
    /// the rate times its seconds by most. If the rate is what decoding reaches in the long run, no other choice of
    /// trees is faster.
    pub fn timed_tree(&self, copied: &[LookupToken], budget: TimeBudget) -> Expected {
        let (mut tree, next) = self.grow(Beside { held: &[], copied }, budget.seconds.len());
        let probabilities = tree.nodes.iter().map(|node| node.probability);
        let (size, _) = budget.worthwhile_nodes(probabilities);
        let next = tree.nodes.get(size).map(|node| node.probability).or(next);
        tree.nodes.truncate(size);
        tree.expected(&[], next)
    }

    /// Returns the path with the longest expected accepted length, found by dynamic programming: from a state, the best
    /// next token is the one with the largest `probability * (1 + expected length after it)`. Ties go to the candidate
    /// that comes first. If more of the copied path is expected to be accepted, it is returned instead.
    pub fn path(&self, copied: &[LookupToken]) -> Expected {
        let mut after = vec![0.0; self.slot.len()];
        // Nodes are in topological order.
        for node in (0..after.len()).rev() {
            let worth =
                |(edge, share): (Edge, f64)| share * self.coverage(self.slot[node]) * (1.0 + after[edge.to as usize]);
            after[node] = self.after(node as u32).map(worth).fold(0.0, f64::max);
        }
        let (mut node, mut path, mut margin) = (0u32, Vec::new(), f64::INFINITY);
        for _ in 0..self.slots {
            let (mut best, mut second) = (None::<(f64, Edge)>, 0.0);
            let mut choices = 0;
            for (edge, share) in self.after(node) {
                let worth = share * (1.0 + after[edge.to as usize]);
                choices += 1;
                match best {
                    Some((most, _)) if worth <= most => second = f64::max(second, worth),
                    _ => second = best.replace((worth, edge)).map_or(0.0, |(before, _)| before),
                }
            }
            let Some((worth, edge)) = best else { break };
            if choices > 1 {
                margin = margin.min(lead(worth, second));
            }
            path.push(edge.token);
            node = edge.to;
        }
        let of_copied = expected_length(copied);
        if of_copied > after[0] {
            (path, margin) = (copied.iter().map(|copied| copied.token).collect(), lead(of_copied, after[0]));
        } else if !copied.is_empty() {
            margin = margin.min(lead(after[0], of_copied));
        }
        Expected { nodes: path.len(), paths: vec![path], margin, length: after[0].max(of_copied) }
    }

    /// Collects the most probable prefixes until, together with the held path, they have `nodes` nodes. Also returns
    /// the probability of the next prefix, if there is one.
    fn grow(&self, beside: Beside, nodes: usize) -> (Tree, Option<f64>) {
        let Beside { held, copied } = beside;
        let mut open = BinaryHeap::new();
        let mut tree = Tree { nodes: Vec::new(), inside: 0, end: usize::MAX };
        let mut found = 0;
        let mut extend =
            |open: &mut BinaryHeap<OpenNode>, parent: usize, slot: usize, position: Position, probability: f64| {
                let mut copy = copied.get(slot).filter(|_| position.copied);
                let mut add = |share: f64, token: u32, position: Position| {
                    open.push(OpenNode { probability: probability * share, number: found, parent, position, token });
                    found += 1;
                };
                for (edge, share) in position.node.into_iter().flat_map(|node| self.after(node)) {
                    let share = share * self.coverage(slot);
                    let same = copy.take_if(|copy| copy.token == edge.token);
                    let share = same.as_ref().map_or(share, |copy| copy.confidence.max(share));
                    add(share, edge.token, Position { node: Some(edge.to), copied: same.is_some() });
                }
                if let Some(LookupToken { token, confidence }) = copy {
                    add(*confidence, *token, Position { node: None, copied: true });
                }
            };
        extend(&mut open, usize::MAX, 0, Position { node: Some(0), copied: true }, 1.0);
        while tree.nodes.len() + held.len() - tree.inside < nodes.max(1) {
            let Some(OpenNode { probability, parent, position, token, .. }) = open.pop() else { break };
            let slot = tree.nodes.get(parent).map_or(0, |parent| parent.slot + 1);
            let index = tree.nodes.len();
            if slot == tree.inside && parent == tree.end && held.get(slot) == Some(&token) {
                (tree.inside, tree.end) = (tree.inside + 1, index);
            }
            tree.nodes.push(Grown { parent, token, slot, probability });
            if slot + 1 < self.slots {
                extend(&mut open, index, slot + 1, position, probability);
            }
        }
        let next = open.peek().map(|next| next.probability);
        (tree, next)
    }

    /// Returns the edges out of a node, each with its share, except the edge to the end of the block.
    fn after(&self, node: u32) -> impl Iterator<Item = (Edge, f64)> {
        let range = self.first[node as usize]..self.first[node as usize + 1];
        let edges = self.graph.edges()[range.clone()].iter().copied().zip(self.share[range].iter().copied());
        let end = (self.graph.nodes() - 1) as u32;
        edges.filter(move |(edge, _)| edge.to != end)
    }

    /// Returns the coverage of a slot.
    fn coverage(&self, slot: usize) -> f64 {
        self.calibration.coverage.get(slot).copied().unwrap_or(1.0)
    }
}

/// Computes for every edge `w(edge) * B(to) / B(from)`, where `B(node)` is the sum of the weights of all paths from a
/// node to the end, in logarithms. Where all paths are impossible, all edges of the node get the same share.
fn shares(edges: &[Edge], first: &[usize], temperature: f64) -> Vec<f64> {
    let mut sum_after = vec![0.0; first.len() - 1];
    let mut share = vec![1.0; edges.len()];
    for node in (0..sum_after.len() - 1).rev() {
        let range = first[node]..first[node + 1];
        let mut most = f64::NEG_INFINITY;
        for (edge, share) in edges[range.clone()].iter().zip(&mut share[range.clone()]) {
            *share = edge.weight / temperature + sum_after[edge.to as usize];
            most = most.max(*share);
        }
        let shares = &mut share[range];
        if most == f64::NEG_INFINITY {
            let even = 1.0 / shares.len() as f64;
            shares.fill(even);
            sum_after[node] = most;
            continue;
        }
        shares.iter_mut().for_each(|share| *share = (*share - most).exp());
        let sum: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        sum_after[node] = most + sum.ln();
    }
    share
}

/// Returns by how much the logarithm of `taken` exceeds that of `left`.
fn lead(taken: f64, left: f64) -> f64 {
    if taken == left { 0.0 } else { taken.ln() - left.ln() }
}

/// A prefix that could become a node of the tree.
struct OpenNode {
    probability: f64,
    /// The rank in the order of finding, which breaks ties.
    number: usize,
    /// The index of its parent in the tree; no valid index at the root.
    parent: usize,
    position: Position,
    token: u32,
}

/// Where a prefix leads.
#[derive(Clone, Copy)]
struct Position {
    /// The node of the graph; none if the prefix is not in the lattice.
    node: Option<u32>,
    /// Whether the prefix is the beginning of the copied path.
    copied: bool,
}

impl Ord for OpenNode {
    fn cmp(&self, other: &Self) -> Ordering {
        self.probability.total_cmp(&other.probability).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for OpenNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for OpenNode {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for OpenNode {}

/// A tree that is being grown, with its nodes from the most probable on, parents before children.
struct Tree {
    nodes: Vec<Grown>,
    /// How many nodes of the held path are in it, and the last of them.
    inside: usize,
    end: usize,
}

/// A node of the tree.
struct Grown {
    /// The index of its parent; no valid index at the root.
    parent: usize,
    token: u32,
    slot: usize,
    probability: f64,
}

impl Tree {
    /// Turns the tree into drafts, together with the path `held`. `next` is the probability of the best node that was
    /// left out.
    fn expected(&self, held: &[u32], next: Option<f64>) -> Expected {
        let mut leaf = vec![true; self.nodes.len()];
        for node in &self.nodes {
            if let Some(parent) = leaf.get_mut(node.parent) {
                *parent = false;
            }
        }
        let leaves = (0..leaf.len()).filter(|&node| leaf[node] && (node != self.end || self.inside == held.len()));
        let mut paths: Vec<Vec<u32>> = leaves.map(|node| self.spell(node)).collect();
        if self.inside < held.len() {
            paths.push(held.to_vec());
        }
        let last = self.nodes.last().map_or(0.0, |node| node.probability);
        let margin = next.map_or(f64::INFINITY, |next| lead(last, next));
        let length = self.nodes.iter().map(|node| node.probability).sum();
        Expected { paths, margin, length, nodes: self.nodes.len() }
    }

    /// Returns the tokens from the root to a node.
    fn spell(&self, node: usize) -> Vec<u32> {
        let up = std::iter::successors(self.nodes.get(node), |node| self.nodes.get(node.parent));
        let mut tokens: Vec<u32> = up.map(|node| node.token).collect();
        tokens.reverse();
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MadeUp, START, all_paths, path_score, small_lattice};
    use super::super::{DraftTree, PathScorer};
    use super::*;
    use proptest::prelude::*;

    /// Computes the probability of every prefix from all paths, as in the definition.
    fn prefixes(
        lattice: &Lattice,
        scorer: &MadeUp,
        weighting: Weighting,
        calibration: &Calibration,
    ) -> Vec<(Vec<u32>, f64)> {
        let weight = |path: &Vec<u32>| {
            (path_score(lattice, scorer.on(lattice), START, path, weighting) / calibration.temperature).exp()
        };
        let paths = all_paths(lattice);
        let total: f64 = paths.iter().map(weight).sum();
        let mut found: Vec<(Vec<u32>, f64)> = Vec::new();
        for length in 1..=lattice.slots() {
            let mut heads: Vec<Vec<u32>> = paths.iter().map(|path| path[..length].to_vec()).collect();
            heads.sort();
            heads.dedup();
            let coverage: f64 = calibration.coverage.iter().take(length).product();
            for head in heads {
                let share: f64 = paths.iter().filter(|path| path.starts_with(&head)).map(weight).sum::<f64>() / total;
                found.push((head, share * coverage));
            }
        }
        found
    }

    /// Returns the largest expected accepted length of a path, trying every one.
    fn best_path(probabilities: &[(Vec<u32>, f64)], slots: usize) -> f64 {
        let worth = |path: &[u32]| {
            probabilities.iter().filter(|(prefix, _)| path.starts_with(prefix)).map(|(_, p)| p).sum::<f64>()
        };
        let whole = probabilities.iter().filter(|(prefix, _)| prefix.len() == slots);
        whole.map(|(path, _)| worth(path)).fold(0.0, f64::max)
    }

    proptest! {
        #[test]
        fn trees_and_paths_are_the_best_there_are(
            lattice in small_lattice(),
            seed: u32,
            order in 1usize..=3,
            scale in prop::sample::select(vec![0.0, 0.25, 0.5, 1.0]),
            temperature in prop::sample::select(vec![0.5, 1.0, 2.0]),
            coverage in prop::collection::vec(0.3f64..1.0, 0..5),
            nodes in 1usize..12,
        ) {
            let (scorer, weighting) = (MadeUp::new(seed, order), Weighting::from(scale));
            let calibration = Calibration { temperature, coverage, cut: f64::INFINITY };
            let probable = PrefixProbabilities::new(&lattice, scorer.on(&lattice), START, weighting, &calibration);
            let mut all = prefixes(&lattice, &scorer, weighting, &calibration);
            let longest = best_path(&all, lattice.slots());
            let path = probable.path(&[]);
            prop_assert!((path.length - longest).abs() < 1e-9, "{} {longest}", path.length);
            let worth: f64 = all.iter().filter(|(prefix, _)| path.paths[0].starts_with(prefix)).map(|(_, p)| p).sum();
            prop_assert!((worth - longest).abs() < 1e-9, "the path is worth {worth}");

            let tree = probable.tree(Beside::default(), nodes);
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            let best: f64 = all.iter().take(nodes).map(|(_, p)| p).sum();
            prop_assert!((tree.length - best).abs() < 1e-9, "{} {best}", tree.length);
            prop_assert_eq!(DraftTree::from_paths(&tree.paths).len(), nodes.min(all.len()));
            let inside = |prefix: &Vec<u32>| tree.paths.iter().any(|path| path.starts_with(prefix));
            let sum: f64 = all.iter().filter(|(prefix, _)| inside(prefix)).map(|(_, p)| p).sum();
            prop_assert!((sum - best).abs() < 1e-9, "its nodes are worth {sum}");

            // No other number of nodes uses its time better.
            let seconds: Vec<f64> = (0..nodes).map(|n| 1.0 + 0.1 * (n as f64).powf(f64::from(seed % 3) / 2.0 + 0.5)).collect();
            for rate in [0.0, 0.5, 2.0, 50.0] {
                let budget = TimeBudget { seconds: &seconds, rate };
                let timed = probable.timed_tree(&[], budget);
                let size = DraftTree::from_paths(&timed.paths).len();
                let gain = |n: usize| all.iter().take(n).map(|(_, p)| p).sum::<f64>() - rate * seconds[n - 1];
                prop_assert!((timed.length - rate * seconds[size - 1] - gain(size)).abs() < 1e-9);
                prop_assert!((1..=nodes.min(all.len())).all(|n| gain(n) <= gain(size) + 1e-9), "{size} nodes at {rate}");
            }

            // With a path that must be there, the tree has the best of the other nodes.
            let held = lattice.top1();
            let tree = probable.tree(Beside { held: &held, copied: &[] }, nodes);
            prop_assert!(tree.paths.iter().any(|path| *path == held || path.starts_with(&held)));
            prop_assert_eq!(DraftTree::from_paths(&tree.paths).len(), nodes.max(held.len()).min(all.len()));
            let others: Vec<f64> = all.iter().filter(|(prefix, _)| !held.starts_with(prefix)).map(|(_, p)| *p).collect();
            let best: f64 = others.iter().take(nodes.saturating_sub(held.len())).sum();
            let inside = |prefix: &Vec<u32>| tree.paths.iter().any(|path| path.starts_with(prefix));
            let sum: f64 = all
                .iter()
                .filter(|(prefix, _)| inside(prefix) && !held.starts_with(prefix))
                .map(|(_, p)| p)
                .sum();
            prop_assert!((sum - best).abs() < 1e-9, "beside the path its nodes are worth {sum}, not {best}");
        }
    }

    /// Returns every prefix of the lattice or the copied path; the more confident source decides the probability of a
    /// step.
    fn with_copies(all: &[(Vec<u32>, f64)], copied: &[LookupToken], slots: usize) -> Vec<(Vec<u32>, f64)> {
        let of = |prefix: &[u32]| all.iter().find(|(other, _)| other == prefix).map(|(_, p)| *p);
        let mut found: Vec<(Vec<u32>, f64)> = vec![(Vec::new(), 1.0)];
        let mut at = 0;
        while let Some((prefix, probability)) = found.get(at).cloned() {
            at += 1;
            if prefix.len() == slots {
                continue;
            }
            let on_path = prefix.iter().zip(copied).all(|(token, copied)| *token == copied.token);
            let copy = copied.get(prefix.len()).filter(|_| on_path);
            for token in 0..100u32 {
                let longer = [&prefix[..], &[token]].concat();
                let before = if prefix.is_empty() { Some(1.0) } else { of(&prefix) };
                let of_lattice = of(&longer).zip(before).map(|(longer, before)| longer / before);
                let of_copy = copy.filter(|copy| copy.token == token).map(|copy| copy.confidence);
                if let Some(share) = of_lattice.into_iter().chain(of_copy).reduce(f64::max) {
                    found.push((longer, probability * share));
                }
            }
        }
        found.split_off(1)
    }

    proptest! {
        #[test]
        fn a_copied_path_competes_with_the_lattice(
            lattice in small_lattice(),
            seed: u32,
            coverage in prop::collection::vec(0.3f64..1.0, 0..5),
            choices in prop::collection::vec((0usize..6, 0f64..=1.0), 0..6),
            nodes in 1usize..12,
        ) {
            let (scorer, weighting) = (MadeUp::new(seed, 3), Weighting::from(0.5));
            let calibration = Calibration { temperature: 1.0, coverage, cut: f64::INFINITY };
            // Candidates of the slot, or tokens that no slot has.
            let token = |(slot, (at, confidence)): (usize, (usize, f64))| LookupToken {
                token: lattice.ids(slot).get(at).copied().unwrap_or(90 + at as u32),
                confidence,
            };
            let copied: Vec<LookupToken> = choices.into_iter().take(lattice.slots()).enumerate().map(token).collect();
            let probable = PrefixProbabilities::new(&lattice, scorer.on(&lattice), START, weighting, &calibration);
            let of_lattice = prefixes(&lattice, &scorer, weighting, &calibration);
            let mut all = with_copies(&of_lattice, &copied, lattice.slots());
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            let best: f64 = all.iter().take(nodes).map(|(_, p)| p).sum();
            let tree = probable.tree(Beside { held: &[], copied: &copied }, nodes);
            prop_assert!((tree.length - best).abs() < 1e-9, "{} {best}", tree.length);
            prop_assert_eq!(DraftTree::from_paths(&tree.paths).len(), nodes.min(all.len()));
            let inside = |prefix: &Vec<u32>| tree.paths.iter().any(|path| path.starts_with(prefix));
            let sum: f64 = all.iter().filter(|(prefix, _)| inside(prefix)).map(|(_, p)| p).sum();
            prop_assert!((sum - best).abs() < 1e-9, "its nodes are worth {sum}, not {best}");

            // As a single path: the lattice's best or the copied one.
            let of_lattice = best_path(&of_lattice, lattice.slots());
            let of_copy: f64 = (1..=copied.len()).map(|n| copied[..n].iter().map(|c| c.confidence).product::<f64>()).sum();
            let path = probable.path(&copied);
            prop_assert!((path.length - of_lattice.max(of_copy)).abs() < 1e-9);
            if of_copy > of_lattice {
                let tokens: Vec<u32> = copied.iter().map(|copied| copied.token).collect();
                prop_assert_eq!(path.paths, [tokens]);
            }
        }

        #[test]
        fn a_cut_leaves_out_what_is_improbable(lattice in small_lattice(), seed: u32, nodes in 1usize..12) {
            let (scorer, weighting) = (MadeUp::new(seed, 3), Weighting::from(0.5));
            let calibration = |cut| Calibration { temperature: 0.2, coverage: vec![], cut };
            let length = |cut| {
                let calibration = calibration(cut);
                PrefixProbabilities::new(&lattice, scorer.on(&lattice), START, weighting, &calibration).tree(Beside::default(), nodes).length
            };
            // At most 1,024 paths are left out, each of them less than exp(-12) times as probable as the best.
            prop_assert!((length(12.0) - length(f64::INFINITY)).abs() < 1024.0 * nodes as f64 * (-12f64).exp());
        }
    }

    #[test]
    fn impossible_paths_still_give_a_tree() {
        let lattice = Lattice::pinned(7, 2, &[1, 3, 2, 4], &[5.0, 2.0, 1.0, 0.0]).unwrap();
        struct Never;
        impl PathScorer for Never {
            type State = ();
            fn extend(&self, _: (), _: u32) -> (f64, ()) {
                (f64::NEG_INFINITY, ())
            }
        }
        let calibration = Calibration { temperature: 1.0, coverage: vec![], cut: f64::INFINITY };
        let probable = PrefixProbabilities::new(&lattice, Never.on(&lattice), (), Weighting::from(0.5), &calibration);
        let tree = probable.tree(Beside::default(), 3);
        assert_eq!((tree.paths, tree.length), (vec![vec![7, 1], vec![7, 3]], 2.0));
        let path = probable.path(&[]);
        assert_eq!((path.paths, path.margin), (vec![vec![7, 1, 2]], 0.0));
    }
}
