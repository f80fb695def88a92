//! Tests that compare drafts that grow with their definitions.

use super::super::GraphConfig;
use super::*;
use crate::drafting::grow_together;
use crate::heads::Growth;
use crate::kernels::{SoftmaxStats, softmax_stats};
use crate::lattice::{BlockBudget, DraftTree, Lattice, Weighting};
use crate::rescorer::{BlockShape, PrefixReader, RescoringCost, Scoring};
use proptest::prelude::*;

const VOCABULARY: u32 = 5;

/// Logits of all tokens that depend on every token of the path.
fn logits(path: &[u32], seed: u32) -> Vec<f32> {
    let hash = path.iter().fold(seed, |hash, token| (hash ^ token).wrapping_mul(16_777_619).rotate_left(9));
    (0..VOCABULARY).map(|token| (f64::from(hash.wrapping_mul(2 * token + 3) >> 8) / 4e6).sin() as f32 * 3.0).collect()
}

struct MadeUp {
    seed: u32,
    k: usize,
    most_at_once: usize,
    /// All paths behind which tokens were wanted.
    asked: Vec<Vec<u32>>,
}

impl MadeUp {
    fn new(seed: u32, k: usize) -> Self {
        Self { seed, k, most_at_once: 0, asked: Vec::new() }
    }
}

impl Growth for MadeUp {
    fn behind(&mut self, paths: &[(usize, &[u32])]) -> Result<Vec<Largest>> {
        self.most_at_once = self.most_at_once.max(paths.len());
        self.asked.extend(paths.iter().map(|(_, path)| path.to_vec()));
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

/// All prefixes of all paths with their probabilities, computed path by path from the definition. Where there are rates of ranks,
/// these are the shares.
fn all_nodes(seed: u32, k: usize, slots: usize, settings: &Settings) -> Vec<(Vec<u32>, f64)> {
    let mut nodes = vec![(vec![PINNED], 1.0)];
    let mut from = 0;
    for slot in 1..slots {
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
            for (rank, token) in order.iter().enumerate() {
                let share = match settings.rank_rates.get(slot - 1) {
                    Some(rates) => rates[rank],
                    None => inside * weight(token) / sum,
                };
                nodes.push(([&path[..], &[*token]].concat(), probability * share));
            }
        }
    }
    nodes
}

/// The `number` most probable of `all`, sorted.
fn best(all: &[(Vec<u32>, f64)], number: usize) -> Vec<Vec<u32>> {
    let mut order: Vec<&(Vec<u32>, f64)> = all.iter().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut best: Vec<Vec<u32>> = order.into_iter().take(number).map(|(path, _)| path.clone()).collect();
    best.sort();
    best
}

/// The distinct prefixes of `paths`, sorted.
fn prefixes(paths: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let mut all: Vec<Vec<u32>> =
        paths.iter().flat_map(|path| (1..=path.len()).map(|end| path[..end].to_vec())).collect();
    all.sort();
    all.dedup();
    all
}

/// The tokens behind `path` with their shares, the largest first.
fn siblings(all: &[(Vec<u32>, f64)], path: &[u32]) -> Vec<(u32, f64)> {
    let of_path = all.iter().find(|(other, _)| other == path).expect("a path of them").1;
    let behind = all.iter().filter(|(other, _)| other.len() == path.len() + 1 && other.starts_with(path));
    let mut siblings: Vec<(u32, f64)> = behind.map(|(other, p)| (other[path.len()], p / of_path)).collect();
    siblings.sort_by(|a, b| b.1.total_cmp(&a.1));
    siblings
}

/// The path of first choices.
fn first_choices(seed: u32, slots: usize) -> Vec<u32> {
    let mut chain = vec![PINNED];
    while chain.len() < slots {
        chain.push(Largest::of(&logits(&chain, seed), 1, false).ids[0]);
    }
    chain
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
        let limits = GrowthLimits { nodes, frontier: 1000 };
        let grown = Grown { rescorers: vec![&Reading], policy: GrowthPolicy::MostProbable, limits, settings };
        let drafts = grow(&grown, &mut MadeUp::new(seed, k), slots);
        // Equally probable prefixes may stand for each other.
        prop_assert!(prefixes(&drafts.paths) == best(&all, nodes) || drafts.margin < 1e-9);
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
            let budget = BlockBudget { nodes: of_nodes.clone(), level: vec![of_row; 1000], rate: 1.0 };
            let limits = GrowthLimits { nodes, frontier: 1000 };
            let grown = Grown { rescorers: Vec::new(), policy: GrowthPolicy::MostProbable, limits, settings: settings.clone() };
            let mut growth = MadeUp::new(seed, k);
            let lattice = Lattice::pinned(PINNED, 1, &[], &[]).unwrap();
            let block = BlockContext { slots, budget: Some(&budget), ..BlockContext::new(TEXT.len(), &lattice) };
            let drafts = grow_block(&grown, &TEXT, &block, &mut growth);
            let tree = DraftTree::from_paths(&drafts.paths);
            let (found, length) = (drafts.length.unwrap(), all.iter().take(tree.len()).sum::<f64>());
            // The heads' statistics are float32.
            assert!(of_row > 0.0 || (found - length).abs() < 1e-6 * length, "{found} and not {length}");
            (tree, growth.most_at_once)
        };
        let gain = |n: usize| all.iter().take(n).sum::<f64>() - of_nodes[n - 1];
        let (free, _) = tree(0.0);
        let best = (1..=nodes.min(all.len())).map(gain).fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(gain(free.len()) > best - 1e-9, "{} nodes", free.len());
        let (dear, most_at_once) = tree(1.5);
        prop_assert!(most_at_once == 1 && dear.depths().iter().all(|&depth| depth < 2));
    }

    /// A tree of a fixed shape is the best one by the rates of ranks.
    #[test]
    fn a_fixed_shape_is_the_best_of_ranks(
        seed: u32, k in 1usize..4, slots in 1usize..5, nodes in 1usize..12,
        rates in prop::collection::vec(prop::collection::vec(0.01f64..0.5, 3), 4),
    ) {
        let mut settings = Settings::new(k, Vec::new(), 1.0);
        settings.rank_rates = rates;
        let all = all_nodes(seed, k, slots, &settings);
        let limits = GrowthLimits { nodes, frontier: 1000 };
        let grown = Grown { rescorers: Vec::new(), policy: GrowthPolicy::FixedShape, limits, settings };
        let drafts = grow(&grown, &mut MadeUp::new(seed, k), slots);
        prop_assert_eq!(prefixes(&drafts.paths), best(&all, nodes));
    }

    /// With a beam that leaves nothing out, the best whole paths of the product are drafted.
    #[test]
    fn whole_paths_are_the_best_of_the_product(
        seed: u32, k in 1usize..5, slots in 2usize..5, paths in 1usize..9,
        scale in prop::sample::select(vec![0.0, 0.4]), branching in prop::collection::vec(1usize..4, 0..3),
    ) {
        let mut settings = Settings::new(k, Vec::new(), 1.0);
        (settings.weighting, settings.shares) = (Weighting::from(scale), vec![1.0]);
        let all = all_nodes(seed, k, slots, &settings);
        let kept = |path: &[u32]| (1..path.len()).all(|end| {
            let width = branching.get(end - 1).or(branching.last()).copied().unwrap_or(k);
            siblings(&all, &path[..end]).iter().take(width).any(|(token, _)| *token == path[end])
        });
        let whole: Vec<_> = all.iter().filter(|(path, _)| path.len() == slots && kept(path)).cloned().collect();
        let limits = GrowthLimits { nodes: 1, frontier: 1000 };
        let policy = GrowthPolicy::WholePaths { branching: branching.clone(), paths };
        let grown = Grown { rescorers: vec![&Reading], policy, limits, settings };
        let mut drafts = grow(&grown, &mut MadeUp::new(seed, k), slots);
        drafts.paths.sort();
        prop_assert!(drafts.paths == best(&whole, paths) || drafts.margin < 1e-9);
    }

    /// A beam of one prefix follows the best token.
    #[test]
    fn a_narrow_beam_is_greedy(seed: u32, k in 1usize..5, slots in 1usize..6) {
        let limits = GrowthLimits { nodes: 1, frontier: 1 };
        let policy = GrowthPolicy::WholePaths { branching: Vec::new(), paths: 1 };
        let grown = Grown { rescorers: Vec::new(), policy, limits, settings: Settings::new(k, Vec::new(), 1.0) };
        prop_assert_eq!(grow(&grown, &mut MadeUp::new(seed, k), slots).paths, [first_choices(seed, slots)]);
    }

    /// Beside the first choices, the widened path has as many tokens as the share of the first of them asks for, and nothing follows
    /// these. A smaller tree has the most probable ones.
    #[test]
    fn a_path_of_first_choices_is_widened_by_confidence(
        seed: u32, k in 1usize..6, slots in 1usize..6, nodes in prop::sample::select(vec![1, 3, 7, 10_000]),
        widths in prop::collection::vec(1usize..6, 1..8),
    ) {
        let settings = Settings::new(k, Vec::new(), 1.0);
        let (all, chain) = (all_nodes(seed, k, slots, &settings), first_choices(seed, slots));
        let kept = |path: &[u32]| {
            let Some((token, before)) = path.split_last().filter(|(_, before)| !before.is_empty()) else { return true };
            let siblings = siblings(&all, before);
            let begun = |part: &usize| siblings[0].1 >= *part as f64 / widths.len() as f64;
            let width = widths[(1..widths.len()).take_while(begun).count()];
            chain.starts_with(before) && siblings.iter().take(width).any(|(sibling, _)| sibling == token)
        };
        let expected: Vec<_> = all.iter().filter(|(path, _)| kept(path)).cloned().collect();
        let limits = GrowthLimits { nodes, frontier: 1 };
        let policy = GrowthPolicy::WidenedPath { widths: widths.clone() };
        let grown = Grown { rescorers: Vec::new(), policy, limits, settings };
        let mut growth = MadeUp::new(seed, k);
        let drafts = grow(&grown, &mut growth, slots);
        prop_assert!(prefixes(&drafts.paths) == best(&expected, nodes) || drafts.margin < 1e-6);
        prop_assert!(growth.asked.iter().all(|asked| chain.starts_with(asked)) || drafts.margin < 1e-6);
    }

    /// Without merging, the graph is the tree of what its bounds leave.
    #[test]
    fn a_graph_without_merging_is_a_tree(
        seed: u32, k in 1usize..6, slots in 1usize..5, children in 1usize..5, theta in 0.0f64..0.8, tau in 0.0f64..0.4,
    ) {
        let settings = Settings::new(k, Vec::new(), 1.0);
        let all = all_nodes(seed, k, slots, &settings);
        let graph = GraphConfig { children, theta, tau, merge: false, equal_before: 0 };
        // A path is in the tree if every token of it is kept, and something may grow behind every token but the last.
        let kept = |path: &[u32]| (1..path.len()).all(|end| {
            let siblings = siblings(&all, &path[..end]);
            let place = siblings.iter().position(|(token, _)| *token == path[end]).unwrap();
            let share = siblings[place].1;
            place < children && share >= theta * siblings[0].1 && (end + 1 == path.len() || share >= tau)
        });
        let mut expected: Vec<Vec<u32>> = all.iter().map(|(path, _)| path.clone()).filter(|path| kept(path)).collect();
        expected.sort();
        let limits = GrowthLimits { nodes: 10_000, frontier: 10_000 };
        let grown = Grown { rescorers: Vec::new(), policy: GrowthPolicy::Graph(graph), limits, settings };
        let drafts = grow(&grown, &mut MadeUp::new(seed, k), slots);
        prop_assert!(prefixes(&drafts.paths) == expected || drafts.margin < 1e-6);
    }

    /// Where equal tokens are one node, tokens are proposed behind one of them alone, unless one lies behind the other, and they
    /// follow all of them.
    #[test]
    fn equal_tokens_of_a_graph_are_one_node(
        seed: u32, k in 1usize..6, slots in 2usize..6, equal_before in 0usize..2,
    ) {
        let settings = Settings::new(k, Vec::new(), 1.0);
        let graph = GraphConfig { children: 3, theta: 0.1, tau: 0.1, merge: true, equal_before };
        let limits = GrowthLimits { nodes: 10_000, frontier: 10_000 };
        let grown = Grown { rescorers: Vec::new(), policy: GrowthPolicy::Graph(graph), limits, settings };
        let mut growth = MadeUp::new(seed, k);
        let drafts = grow(&grown, &mut growth, slots);
        let end = |path: &[u32]| path.len().checked_sub(equal_before + 1).map(|from| path[from..].to_vec());
        for a in &growth.asked {
            for b in &growth.asked {
                prop_assert!(end(a).is_none() || end(a) != end(b) || a.starts_with(b) || b.starts_with(a), "{a:?} {b:?}");
            }
        }
        for path in prefixes(&drafts.paths) {
            let Some((&token, before)) = path.split_last().filter(|(_, before)| !before.is_empty()) else { continue };
            let same = growth.asked.iter().filter(|asked| **asked == before || end(asked) == end(before));
            let follows = |asked: &Vec<u32>| Largest::of(&logits(asked, seed), 3, false).ids.contains(&token);
            prop_assert!(same.clone().any(follows), "{path:?}");
        }
    }

    /// A frontier of one node and as many nodes as slots follow the first choices.
    #[test]
    fn a_narrow_frontier_is_a_chain(seed: u32, slots in 1usize..6) {
        let settings = Settings::new(1, Vec::new(), 1.0);
        let limits = GrowthLimits { nodes: slots, frontier: 1 };
        let grown = Grown { rescorers: Vec::new(), policy: GrowthPolicy::MostProbable, limits, settings };
        let mut growth = MadeUp::new(seed, 1);
        prop_assert_eq!(grow(&grown, &mut growth, slots).paths, [first_choices(seed, slots)]);
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
    let limits = GrowthLimits { nodes: 3, frontier: 4 };
    let grown = Grown { rescorers: Vec::new(), policy: GrowthPolicy::MostProbable, limits, settings };
    let drafts = grow_block(&grown, &text, &block, &mut MadeUp::new(1, 2));
    assert_eq!(drafts.paths, [[2, 0, 4]]);
}
