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
use super::{BlockSeconds, Drafter, Drafts, GrowingSession, Session, Settings};
use crate::error::Result;
use crate::lattice::{LookupToken, TimeBudget};
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
        Box::new(GrownSession { grown: self, readers, pace: Pace::default(), tree: GrowingTree::default() })
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
    /// The tree of the present block.
    tree: GrowingTree,
}

/// A tree that is being grown.
#[derive(Default)]
struct GrowingTree {
    /// The number of slots that it may fill.
    slots: usize,
    /// The slot that is filled next.
    slot: usize,
    /// What the text before repeats, if it does.
    copy: Vec<LookupToken>,
    /// All nodes that were found.
    found: Vec<Node>,
    /// The nodes so far, the most probable first. The tree will have no others of the levels that were run.
    nodes: Vec<usize>,
    /// The nodes that the heads will propose tokens behind.
    level: Vec<usize>,
    /// The number of tokens that the readers have read.
    read: usize,
    /// How much of what the level before was worth goes on in this one.
    going_on: f64,
    /// The tokens per second that the blocks before were expected to bring, if time counts, and the seconds that levels took.
    rate: f64,
    spent: f64,
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
        unreachable!("whoever asks for drafts that grow gives what they grow from")
    }

    fn growing(&mut self) -> Option<&mut dyn GrowingSession> {
        Some(self)
    }
}

impl GrowingSession for GrownSession<'_> {
    fn begin(&mut self, text: &[u32], block: &BlockContext) -> Result<()> {
        let Grown { limits: GrowthLimits { frontier, seconds, .. }, settings, .. } = self.grown;
        let text = &text[..block.start];
        for (_, reader) in &mut self.readers {
            reader.read(text, block.slots * frontier)?;
            reader.hear(block.hidden);
        }
        let pinned = block.lattice.ids(0)[0];
        let root = Node { path: vec![pinned], probability: 1.0, copied: true, after: block.start.checked_sub(1) };
        self.tree = GrowingTree {
            slots: block.slots,
            slot: 1,
            copy: settings.copied(text, pinned, block.slots),
            found: vec![root],
            nodes: vec![0],
            level: vec![0],
            read: text.len(),
            going_on: 1.0,
            rate: seconds.as_ref().map_or(0.0, |seconds| self.pace.rate(&seconds.nodes)),
            spent: 0.0,
        };
        self.tree.narrow(&self.grown.limits);
        Ok(())
    }

    fn wanted(&self) -> Vec<&[u32]> {
        self.tree.level.iter().map(|&node| &self.tree.found[node].path[..]).collect()
    }

    fn give(&mut self, proposed: &[Largest]) -> Result<()> {
        let proposed = self.proposals(proposed);
        let scores = self.scores(&proposed)?;
        let (grown, tree) = (self.grown, &mut self.tree);
        let mut children = Vec::new();
        for ((number, &parent), (proposed, scores)) in tree.level.iter().enumerate().zip(proposed.iter().zip(&scores)) {
            let (parent, after) = (&tree.found[parent], Some(tree.read + number));
            let mut copied = tree.copy.get(tree.slot).filter(|_| parent.copied);
            for (&token, share) in proposed.ids.iter().zip(grown.shares(tree.slot, proposed, scores)) {
                let same = copied.take_if(|copied| copied.token == token);
                let share = same.as_ref().map_or(share, |copied| copied.confidence.max(share));
                children.push(parent.child(token, share, same.is_some(), after));
            }
            if let Some(copied) = copied {
                children.push(parent.child(copied.token, copied.confidence, true, after));
            }
        }
        tree.extend(children, &grown.limits);
        Ok(())
    }

    fn finish(&mut self) -> Drafts {
        let GrowthLimits { nodes, seconds, .. } = &self.grown.limits;
        let GrowingTree { found, nodes: mut tree, rate, spent, .. } = std::mem::take(&mut self.tree);
        let mut size = *nodes;
        if let Some(seconds) = seconds {
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
        Drafts::chosen(paths, margin)
    }
}

impl GrowingTree {
    /// Adds the children of the level that was run. The next level are those of them which belong to the tree.
    fn extend(&mut self, children: Vec<Node>, limits: &GrowthLimits) {
        let first = self.found.len();
        let expanded = self.probability();
        self.read += self.level.len();
        self.slot += 1;
        self.found.extend(children);
        // What is not in the tree now will not come back, and neither will what would follow it.
        self.nodes = most_probable(&self.found);
        self.level = self.nodes.iter().copied().take(limits.nodes).filter(|&node| node >= first).collect();
        self.going_on = if expanded > 0.0 { self.probability() / expanded } else { 0.0 };
        self.narrow(limits);
    }

    /// Returns the sum of the probabilities of the level.
    fn probability(&self) -> f64 {
        self.level.iter().map(|&node| self.found[node].probability).sum()
    }

    /// Leaves out of the level what the limits leave out.
    fn narrow(&mut self, limits: &GrowthLimits) {
        self.level.truncate(if self.slot < self.slots { limits.frontier } else { 0 });
        if let Some(seconds) = limits.seconds.as_ref().filter(|_| self.slot > 1) {
            let budget = TimeBudget { seconds: &seconds.level, rate: self.rate };
            // What follows is not known yet. It may be expected to lose as much as the level before lost.
            let expected = self.level.iter().map(|&node| self.found[node].probability * self.going_on);
            let (rows, gain) = budget.worthwhile_nodes(expected);
            self.level.truncate(if gain > 0.0 { rows } else { 0 });
            self.spent += self.level.len().checked_sub(1).map_or(0.0, |rows| seconds.level[rows]);
        }
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
    fn scores(&mut self, proposed: &[Largest]) -> Result<Vec<Vec<f64>>> {
        let Self { readers, tree: GrowingTree { level, found, .. }, .. } = self;
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
        summed_scores(readers, &newest, true)
    }
}

impl Grown<'_> {
    /// Returns the probability of each proposed token: its share of the proposals' weights `exp(score / temperature)`, times
    /// the probability that the heads give to all proposals together.
    fn shares(&self, slot: usize, proposed: &Largest, scores: &[f64]) -> Vec<f64> {
        let Settings { weighting, calibration, .. } = &self.settings;
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
    use crate::drafting::grow_together;
    use crate::heads::Growth;
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
        fn behind(&mut self, paths: &[(usize, &[u32])]) -> Result<Vec<Largest>> {
            self.most_at_once = self.most_at_once.max(paths.len());
            Ok(paths.iter().map(|(_, path)| Largest::of(&logits(path, self.seed), self.k, true)).collect())
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

    fn grow_block(grown: &Grown, text: &[u32], block: &BlockContext, growth: &mut MadeUp) -> Drafts {
        let mut session = grown.session();
        let session = session.growing().unwrap();
        session.begin(text, block).unwrap();
        grow_together(&mut [&mut *session], growth).unwrap();
        session.finish()
    }

    fn grow(grown: &Grown, growth: &mut MadeUp, slots: usize) -> Drafts {
        let lattice = Lattice::pinned(PINNED, 1, &[], &[]).unwrap();
        let block = BlockContext { slots, ..BlockContext::new(TEXT.len(), &lattice) };
        grow_block(grown, &TEXT, &block, growth)
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
        let block = BlockContext { slots: 3, ..BlockContext::new(text.len(), &lattice) };
        let limits = GrowthLimits { nodes: 3, frontier: 4, seconds: None };
        let grown = Grown { rescorers: Vec::new(), limits, settings };
        let drafts = grow_block(&grown, &text, &block, &mut MadeUp { seed: 1, k: 2, most_at_once: 0 });
        assert_eq!(drafts.paths, [[2, 0, 4]]);
    }
}
