//! Trees that are grown from what heads propose behind each path, level by level.
//!
//! In a lattice, the candidates of a slot are the same whatever was drafted before. Sequential heads know better: behind
//! another token they propose other tokens. So a tree is grown instead of searched. Its nodes are the most probable ones, as
//! in trees of a lattice, with the product of the conditional probabilities on the way as a node's probability. On a chain
//! this is the draft of EAGLE-2 (Li et al. 2024, arXiv 2406.16858, section 4): a frontier of nodes that are expanded, then the
//! best nodes of all levels.

use serde::Serialize;

use super::local::{WeighedReader, summed_scores};
use super::pace::Pace;
use super::{BlockSeconds, Drafter, Drafts, Session, Settings};
use crate::error::Result;
use crate::heads::Growth;
use crate::lattice::TimeBudget;
use crate::nn::Largest;
use crate::rescorer::{BlockContext, PrefixToken, Rescorer};

/// How large a grown tree may be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GrowthLimits {
    /// The number of its nodes.
    pub nodes: usize,
    /// The largest number of nodes of a level that the heads propose tokens behind.
    pub frontier: usize,
    /// If given, a tree has only the nodes, and only the levels are run, that pay for their time. There are as many numbers of
    /// nodes and of rows as the limits say.
    pub seconds: Option<BlockSeconds>,
}

/// A drafter of grown trees.
pub struct Grown<'a> {
    /// The rescorers, in the order of the settings' shares. All score any path ([`Rescorer::reader`]).
    pub rescorers: Vec<&'a dyn Rescorer>,
    /// How large a tree may be.
    pub limits: GrowthLimits,
    /// The settings: `top_k`, the gate, the weighting and the temperature of the calibration. Coverage is not read, because
    /// the heads' own probabilities tell how much is left out.
    pub settings: Settings,
}

impl Drafter for Grown<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        let readers = self.settings.terms(&self.rescorers).map(|(share, rescorer)| {
            (share, rescorer.reader().expect("only rescorers of paths take part in grown trees"))
        });
        let readers = readers.collect();
        Box::new(GrownSession { grown: self, readers, pace: Pace::default() })
    }

    fn reads_heads(&self) -> bool {
        false
    }

    fn reads_whole_lattice(&self) -> bool {
        false
    }

    fn grows(&self) -> bool {
        true
    }
}

struct GrownSession<'a> {
    grown: &'a Grown<'a>,
    readers: Vec<WeighedReader<'a>>,
    pace: Pace,
}

/// A node of the tree, or one that was found and left out.
struct Node {
    /// The tokens from the pinned one to this one.
    path: Vec<u32>,
    probability: f64,
    /// Whether the path is the beginning of the copy.
    copied: bool,
    /// The number, in the readers' count, of the token before.
    after: Option<usize>,
}

impl Session for GrownSession<'_> {
    fn drafts(&mut self, _: &[u32], _: &[BlockContext]) -> Result<Vec<Drafts>> {
        unreachable!("whoever asks for drafts of grown trees gives what they grow from")
    }

    fn grow(&mut self, text: &[u32], block: &BlockContext, growth: &mut dyn Growth) -> Result<Drafts> {
        let Grown { limits: GrowthLimits { nodes, frontier, seconds }, settings, .. } = self.grown;
        let timed = seconds.as_ref().map(|seconds| (seconds, self.pace.rate(&seconds.nodes)));
        let text = &text[..block.start];
        for (_, reader) in &mut self.readers {
            reader.read(text, block.slots * frontier)?;
            reader.hear(block.hidden);
        }
        let pinned = block.lattice.ids(0)[0];
        let copy = settings.copied(text, pinned, block.slots);
        let root = Node { path: vec![pinned], probability: 1.0, copied: true, after: block.start.checked_sub(1) };
        // All nodes that were found; the tree so far, the most probable of them, best first; those of its last level.
        let (mut found, mut read) = (vec![root], text.len());
        let (mut tree, mut level) = (vec![0], vec![0]);
        // How much of what the level before was worth goes on in this one, and the seconds that levels took.
        let (mut going_on, mut spent) = (1.0, 0.0);
        for slot in 1..block.slots {
            level.truncate(*frontier);
            if let Some((seconds, rate)) = timed.filter(|_| slot > 1) {
                let budget = TimeBudget { seconds: &seconds.level, rate };
                // What follows is not known yet. It may be expected to lose as much as the level before lost.
                let expected = level.iter().map(|&node| found[node].probability * going_on);
                let (rows, gain) = budget.worthwhile_nodes(expected);
                level.truncate(if gain > 0.0 { rows } else { 0 });
                spent += level.len().checked_sub(1).map_or(0.0, |rows| seconds.level[rows]);
            }
            if level.is_empty() {
                break;
            }
            let paths: Vec<&[u32]> = level.iter().map(|&node| &found[node].path[..]).collect();
            let proposed = self.proposals(&growth.behind(&paths)?);
            let scores = self.scores(&level, &found, &proposed)?;
            let mut children = Vec::new();
            for ((number, &parent), (proposed, scores)) in level.iter().enumerate().zip(proposed.iter().zip(&scores)) {
                let (parent, after) = (&found[parent], Some(read + number));
                let mut copied = copy.get(slot).filter(|_| parent.copied);
                for (&token, share) in proposed.ids.iter().zip(self.shares(slot, proposed, scores)) {
                    let same = copied.take_if(|copied| copied.token == token);
                    let share = same.as_ref().map_or(share, |copied| copied.confidence.max(share));
                    children.push(parent.child(token, share, same.is_some(), after));
                }
                if let Some(copied) = copied {
                    children.push(parent.child(copied.token, copied.confidence, true, after));
                }
            }
            read += level.len();
            let first = found.len();
            found.extend(children);
            // What is not in the tree now will not come back, and neither will what would follow it.
            tree = most_probable(&found);
            let expanded: f64 = level.iter().map(|&node| found[node].probability).sum();
            level = tree.iter().copied().take(*nodes).filter(|&node| node >= first).collect();
            let kept: f64 = level.iter().map(|&node| found[node].probability).sum();
            going_on = if expanded > 0.0 { kept / expanded } else { 0.0 };
        }
        let mut size = *nodes;
        if let Some((seconds, rate)) = timed {
            let budget = TimeBudget { seconds: &seconds.nodes, rate };
            (size, _) = budget.worthwhile_nodes(tree.iter().map(|&node| found[node].probability));
            let length = tree[..size].iter().map(|&node| found[node].probability).sum();
            self.pace.add(length, seconds.nodes[size - 1] + spent);
        }
        let left_out = tree.get(size).map(|&node| found[node].probability);
        tree.truncate(size);
        let least = found[tree[tree.len() - 1]].probability;
        tree.sort_unstable();
        let is_leaf = |node: &Node| {
            let follows = |other: &Node| other.path.len() == node.path.len() + 1 && other.path.starts_with(&node.path);
            !tree.iter().any(|&other| follows(&found[other]))
        };
        let leaves = tree.iter().map(|&node| &found[node]).filter(|node| is_leaf(node));
        let paths = leaves.map(|node| node.path.clone()).collect();
        let margin = left_out.map_or(f64::INFINITY, |left_out| least.ln() - left_out.ln());
        Ok(Drafts::chosen(paths, margin))
    }
}

/// Returns the numbers of all nodes, the most probable first; among equally probable ones, the one found first.
fn most_probable(found: &[Node]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|&a, &b| found[b].probability.total_cmp(&found[a].probability));
    order
}

impl Node {
    fn child(&self, token: u32, share: f64, copied: bool, after: Option<usize>) -> Self {
        let path = [&self.path[..], &[token]].concat();
        Self { path, probability: self.probability * share, copied, after }
    }
}

impl GrownSession<'_> {
    /// Returns the proposals that are within the settings' `top_k` and gate.
    fn proposals(&self, found: &[Largest]) -> Vec<Largest> {
        let Settings { top_k, gate, .. } = self.grown.settings;
        let narrowed = |largest: &Largest| {
            let first = largest.logits.first().copied().unwrap_or(0.0);
            let near = |logit: &&f32| f64::from(first) - f64::from(**logit) <= gate;
            let width = largest.logits.iter().take(top_k).take_while(near).count();
            let (ids, logits) = (largest.ids[..width].to_vec(), largest.logits[..width].to_vec());
            Largest { ids, logits, stats: largest.stats }
        };
        found.iter().map(narrowed).collect()
    }

    /// Returns the sum of the readers' scores of what is proposed behind each node of the level.
    fn scores(&mut self, level: &[usize], found: &[Node], proposed: &[Largest]) -> Result<Vec<Vec<f64>>> {
        let newest: Vec<PrefixToken> = level
            .iter()
            .zip(proposed)
            .map(|(&node, proposed)| {
                let Node { path, after, .. } = &found[node];
                PrefixToken {
                    token: path[path.len() - 1],
                    after: *after,
                    slot: path.len(),
                    candidates: &proposed.ids,
                    scores: &proposed.logits,
                }
            })
            .collect();
        summed_scores(&mut self.readers, &newest, true)
    }

    /// Returns the probability of each proposed token: its share of the proposals' weights `exp(score / temperature)`, times
    /// the probability that the heads give to all proposals together.
    fn shares(&self, slot: usize, proposed: &Largest, scores: &[f64]) -> Vec<f64> {
        let Settings { weighting, calibration, .. } = &self.grown.settings;
        let log_sum = f64::from(proposed.stats.expect("asked for").log_sum);
        let inside: f64 = proposed.logits.iter().map(|&logit| (f64::from(logit) - log_sum).exp()).sum();
        let score = |(&logit, &score): (&f32, &f64)| weighting.score(slot, logit, score) / calibration.temperature;
        let weights: Vec<f64> = proposed.logits.iter().zip(scores).map(score).collect();
        let most = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = weights.iter().map(|weight| (weight - most).exp()).sum();
        weights.into_iter().map(|weight| inside.min(1.0) * (weight - most).exp() / sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{SoftmaxStats, softmax_stats};
    use crate::lattice::{DraftTree, Lattice, Weighting};
    use crate::rescorer::{BlockShape, PrefixReader, RescoringCost, Scoring};
    use proptest::prelude::*;

    const VOCABULARY: u32 = 5;

    /// Logits of all tokens that depend on every token of the path.
    fn logits(path: &[u32], seed: u32) -> Vec<f32> {
        let hash = path.iter().fold(seed, |hash, token| (hash ^ token).wrapping_mul(16_777_619).rotate_left(9));
        (0..VOCABULARY)
            .map(|token| (f64::from(hash.wrapping_mul(2 * token + 3) >> 8) / 4e6).sin() as f32 * 3.0)
            .collect()
    }

    struct MadeUp {
        seed: u32,
        k: usize,
        most_at_once: usize,
    }

    impl Growth for MadeUp {
        fn behind(&mut self, paths: &[&[u32]]) -> Result<Vec<Largest>> {
            self.most_at_once = self.most_at_once.max(paths.len());
            Ok(paths.iter().map(|path| Largest::of(&logits(path, self.seed), self.k, true)).collect())
        }
    }

    /// Scores by the path alone, of which it hears every token once.
    struct Reading;

    struct PathReader(Vec<Vec<u32>>);

    fn reading(path: &[u32], token: u32) -> f64 {
        -f64::from((path.iter().sum::<u32>() * 7 + token * 5) % 4)
    }

    impl PrefixReader for PathReader {
        fn read(&mut self, text: &[u32], _: usize) -> Result<()> {
            self.0 = (1..=text.len()).map(|end| text[..end].to_vec()).collect();
            Ok(())
        }

        fn extend(&mut self, newest: &[PrefixToken], _: bool) -> Result<Vec<Vec<f64>>> {
            let mut all = Vec::new();
            for &PrefixToken { token, after, candidates, .. } in newest {
                let path = [after.map_or(&[][..], |after| &self.0[after]), &[token]].concat();
                all.push(candidates.iter().map(|&candidate| reading(&path, candidate)).collect());
                self.0.push(path);
            }
            Ok(all)
        }
    }

    impl Rescorer for Reading {
        fn scoring(&self) -> Scoring<'_> {
            Scoring::Local(Box::new(PathReader(Vec::new())))
        }

        fn cost(&self, _: &BlockShape) -> RescoringCost {
            RescoringCost::default()
        }
    }

    const TEXT: [u32; 3] = [4, 1, 2];
    const PINNED: u32 = 3;

    fn grow(grown: &Grown, growth: &mut MadeUp, slots: usize) -> Drafts {
        let lattice = Lattice::pinned(PINNED, 1, &[], &[]).unwrap();
        let block = BlockContext { start: TEXT.len(), slots, lattice: &lattice, hidden: &[] };
        grown.session().grow(&TEXT, &block, growth).unwrap()
    }

    /// All prefixes of all paths with their probabilities, computed path by path from the definition.
    fn all_nodes(seed: u32, k: usize, slots: usize, settings: &Settings) -> Vec<(Vec<u32>, f64)> {
        let mut nodes = vec![(vec![PINNED], 1.0)];
        let mut from = 0;
        for _ in 1..slots {
            let level = from..nodes.len();
            from = level.end;
            for node in level {
                let (path, probability) = nodes[node].clone();
                let all = logits(&path, seed);
                let SoftmaxStats { log_sum, .. } = softmax_stats(&all, all.iter().copied().fold(f32::MIN, f32::max));
                let mut order: Vec<u32> = (0..VOCABULARY).collect();
                order.sort_by(|&a, &b| all[b as usize].total_cmp(&all[a as usize]).then(a.cmp(&b)));
                order.truncate(k);
                let scale = settings.weighting.scale;
                let known = [&TEXT[..], &path].concat();
                let weight = |&token: &u32| {
                    let score = (1.0 - scale) * f64::from(all[token as usize]) + scale * reading(&known, token);
                    (score / settings.calibration.temperature).exp()
                };
                let inside: f64 = order.iter().map(|&token| f64::from(all[token as usize] - log_sum).exp()).sum();
                let sum: f64 = order.iter().map(weight).sum();
                for token in &order {
                    nodes.push(([&path[..], &[*token]].concat(), probability * inside * weight(token) / sum));
                }
            }
        }
        nodes
    }

    proptest! {
        /// With a frontier that leaves nothing out, the tree holds the most probable of all prefixes.
        #[test]
        fn the_tree_is_the_best_of_all(
            seed: u32, k in 1usize..5, slots in 1usize..5, nodes in 1usize..14,
            scale in prop::sample::select(vec![0.0, 0.4, 1.0]), temperature in 0.5f64..2.0,
        ) {
            let mut settings = Settings::new(k, Vec::new(), temperature);
            (settings.weighting, settings.shares) = (Weighting::from(scale), vec![1.0]);
            let all = all_nodes(seed, k, slots, &settings);
            let limits = GrowthLimits { nodes, frontier: 1000, seconds: None };
            let grown = Grown { rescorers: vec![&Reading], limits, settings };
            let drafts = grow(&grown, &mut MadeUp { seed, k, most_at_once: 0 }, slots);
            let mut order: Vec<usize> = (0..all.len()).collect();
            order.sort_by(|&a, &b| all[b].1.total_cmp(&all[a].1));
            order.truncate(nodes);
            let mut expected: Vec<Vec<u32>> = order.iter().map(|&node| all[node].0.clone()).collect();
            let mut found: Vec<Vec<u32>> =
                drafts.paths.iter().flat_map(|path| (1..=path.len()).map(|end| path[..end].to_vec())).collect();
            found.sort();
            found.dedup();
            expected.sort();
            // Equally probable prefixes may stand for each other.
            prop_assert!(found == expected || drafts.margin < 1e-9, "{found:?} {expected:?}");
        }

        /// Where levels cost nothing, no other number of nodes uses its time better; where they cost more than they can
        /// bring, only the first is run.
        #[test]
        fn a_timed_tree_pays_for_its_time(
            seed: u32, k in 1usize..5, slots in 2usize..5, nodes in 1usize..14, each in 0.0f64..0.3,
        ) {
            let settings = Settings::new(k, Vec::new(), 1.0);
            let mut all: Vec<f64> = all_nodes(seed, k, slots, &settings).into_iter().map(|(_, p)| p).collect();
            all.sort_by(|a, b| b.total_cmp(a));
            let of_nodes: Vec<f64> = (0..nodes).map(|n| 1.0 + each * n as f64).collect();
            let tree = |of_row: f64| {
                let seconds = BlockSeconds { nodes: of_nodes.clone(), level: vec![of_row; 1000] };
                let limits = GrowthLimits { nodes, frontier: 1000, seconds: Some(seconds) };
                let grown = Grown { rescorers: Vec::new(), limits, settings: settings.clone() };
                let mut growth = MadeUp { seed, k, most_at_once: 0 };
                (DraftTree::from_paths(&grow(&grown, &mut growth, slots).paths), growth.most_at_once)
            };
            let gain = |n: usize| all.iter().take(n).sum::<f64>() - of_nodes[n - 1];
            let (free, _) = tree(0.0);
            let best = (1..=nodes.min(all.len())).map(gain).fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(gain(free.len()) > best - 1e-9, "{} nodes", free.len());
            let (dear, most_at_once) = tree(1.5);
            prop_assert!(most_at_once == 1 && dear.depths().iter().all(|&depth| depth < 2));
        }

        /// A frontier of one node and as many nodes as slots follow the first choices.
        #[test]
        fn a_narrow_frontier_is_a_chain(seed: u32, slots in 1usize..6) {
            let settings = Settings::new(1, Vec::new(), 1.0);
            let limits = GrowthLimits { nodes: slots, frontier: 1, seconds: None };
            let grown = Grown { rescorers: Vec::new(), limits, settings };
            let mut growth = MadeUp { seed, k: 1, most_at_once: 0 };
            let mut chain = vec![PINNED];
            while chain.len() < slots {
                chain.push(Largest::of(&logits(&chain, seed), 1, false).ids[0]);
            }
            prop_assert_eq!(grow(&grown, &mut growth, slots).paths, [chain]);
            prop_assert!(growth.most_at_once <= 1);
        }
    }

    #[test]
    fn what_is_copied_competes() {
        let mut settings = Settings::new(2, Vec::new(), 1.0);
        // `1 2` was followed by `0 4`, and the pinned token is no copy of the heads'.
        let text = [1u32, 2, 0, 4, 1];
        settings.confidence = serde_json::from_str("[[1.0, 0.9, 0.9], [1.0, 0.9, 0.9]]").unwrap();
        settings.lookup_scale = 1.0;
        let lattice = Lattice::pinned(2, 1, &[], &[]).unwrap();
        let block = BlockContext { start: text.len(), slots: 3, lattice: &lattice, hidden: &[] };
        let limits = GrowthLimits { nodes: 3, frontier: 4, seconds: None };
        let grown = Grown { rescorers: Vec::new(), limits, settings };
        let drafts = grown.session().grow(&text, &block, &mut MadeUp { seed: 1, k: 2, most_at_once: 0 }).unwrap();
        assert_eq!(drafts.paths, [[2, 0, 4]]);
    }
}
