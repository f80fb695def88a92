//! Trees that are being grown, and the policies that say which nodes they have.

use std::collections::VecDeque;

use serde::Serialize;

use crate::drafting::{Drafts, GraphConfig};
use crate::lattice::{BlockBudget, LookupToken};

/// Which of the tokens that are proposed behind each path become nodes of a grown draft.
///
/// A token has a share of the probability of the path that it is proposed behind, and the product of the shares on the way is a
/// node's probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum GrowthPolicy {
    /// The most probable nodes of all levels, which have the longest expected accepted length. On a chain this is the draft of
    /// EAGLE-2 (Li et al. 2024, arXiv 2406.16858, section 4): a frontier of nodes that are expanded, then the best nodes.
    MostProbable,
    /// The same, with shares that depend on slot and rank alone ([`Settings::rank_rates`](crate::drafting::Settings::rank_rates)), so that
    /// every block has a tree of the same shape (the sparse trees of Medusa, arXiv 2401.10774, section 2.3.3).
    FixedShape,
    /// Whole paths alone: the most probable ones that a beam keeps.
    WholePaths {
        /// The number of tokens kept behind each path, by slot from the second one on; the last number holds for further slots,
        /// and none means all. With a beam wide enough these are the products of the speculator of Wertheimer et al. (2024,
        /// arXiv 2404.19124); without numbers the beam search of ReDrafter (arXiv 2403.09919).
        branching: Vec<usize>,
        /// The number of paths that are verified.
        paths: usize,
    },
    /// The path of first choices, with more tokens beside each of them where the drafter is less confident (CAPE; Du et al. 2024,
    /// arXiv 2402.02082). Of more tokens than a tree may have, it has the most probable ones.
    WidenedPath {
        /// The number of tokens kept behind a node of the path, by the largest share there: that of the first choice. The range from 0
        /// to 1 is cut into as many equal parts as there are numbers.
        widths: Vec<usize>,
    },
    /// A graph in which equal tokens behind equal ones are one node, whose paths are then followed from the root on (graph-structured
    /// drafts, arXiv 2407.16207).
    Graph(GraphConfig),
}

/// How large a grown draft may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GrowthLimits {
    /// The number of its nodes. Whole paths have their own number instead.
    pub nodes: usize,
    /// The largest number of nodes of a level that the heads propose tokens behind.
    pub frontier: usize,
}

/// A tree that is being grown.
#[derive(Default)]
pub(super) struct GrowingTree {
    /// The number of slots that it may fill.
    slots: usize,
    /// The slot that is filled next.
    pub slot: usize,
    /// What the text before repeats, if it does.
    pub copy: Vec<LookupToken>,
    /// All nodes that were found.
    pub found: Vec<Node>,
    /// The nodes that may be drafted so far, the most probable first: of a tree those of all levels, of whole paths their last ones.
    nodes: Vec<usize>,
    /// The nodes that the heads will propose tokens behind.
    pub level: Vec<usize>,
    /// For each node that was found, what follows it in the graph.
    edges: Vec<Vec<usize>>,
    /// The number of tokens that the readers have read.
    pub read: usize,
    /// How much of what the level before was worth goes on in this one.
    going_on: f64,
    /// If given, the tree has only the nodes, and only the levels are run, that pay for their time.
    budget: Option<BlockBudget>,
    /// How close a share came to a bound of the graph, or to another number of tokens on the widened path, in logarithms.
    margin: f64,
}

/// A node of the tree, or one that was found and left out.
pub(super) struct Node {
    /// The tokens from the pinned one to this one.
    pub path: Vec<u32>,
    /// Its share of the probability of the node before.
    share: f64,
    probability: f64,
    /// Whether the path is the beginning of the copy.
    pub copied: bool,
    /// The number, in the readers' count, of the token before.
    pub after: Option<usize>,
}

impl Node {
    /// Returns the node of `token` behind this one.
    pub fn child(&self, token: u32, share: f64, copied: bool, after: Option<usize>) -> Self {
        let path = [&self.path[..], &[token]].concat();
        Self { path, share, probability: self.probability * share, copied, after }
    }

    /// Returns whether the last tokens of both paths, one and `before` more, are equal.
    fn ends_as(&self, other: &Self, before: usize) -> bool {
        let end = |path: &'_ [u32]| path.len().checked_sub(before + 1);
        match (end(&self.path), end(&other.path)) {
            (Some(mine), Some(theirs)) => self.path[mine..] == other.path[theirs..],
            _ => false,
        }
    }
}

impl GrowingTree {
    /// Begins a tree of at most `slots` levels with the pinned token behind `text`.
    pub fn new(text: &[u32], pinned: u32, slots: usize, budget: Option<BlockBudget>) -> Self {
        let after = text.len().checked_sub(1);
        let root = Node { path: vec![pinned], share: 1.0, probability: 1.0, copied: true, after };
        Self {
            slots,
            slot: 1,
            found: vec![root],
            nodes: vec![0],
            level: vec![0],
            edges: vec![Vec::new()],
            read: text.len(),
            going_on: 1.0,
            budget,
            margin: f64::INFINITY,
            ..Self::default()
        }
    }

    /// Adds what was found behind each node of the level, and chooses the next level.
    pub fn extend(&mut self, behind: Vec<Vec<Node>>, policy: &GrowthPolicy, limits: &GrowthLimits) {
        let (first, expanded) = (self.found.len(), self.probability());
        self.read += self.level.len();
        match policy {
            GrowthPolicy::MostProbable | GrowthPolicy::FixedShape => {
                self.found.extend(behind.into_iter().flatten());
                // What is not in the tree now will not come back, and neither will what would follow it.
                self.nodes = self.most_probable(0);
                self.level = self.nodes.iter().copied().take(limits.nodes).filter(|&node| node >= first).collect();
            }
            GrowthPolicy::WholePaths { branching, .. } => {
                let width = branching.get(self.slot - 1).or(branching.last()).copied().unwrap_or(usize::MAX);
                for mut children in behind {
                    children.sort_by(|a, b| b.probability.total_cmp(&a.probability));
                    children.truncate(width);
                    self.found.extend(children);
                }
                self.level = self.most_probable(first);
                if !self.level.is_empty() {
                    self.nodes = self.level.clone();
                }
            }
            GrowthPolicy::WidenedPath { widths } => {
                // The level is one node at most.
                for children in behind {
                    let children = self.widened(children, widths);
                    self.found.extend(children);
                }
                self.nodes = self.most_probable(0);
                // The first choice is the first that was found. What would follow one that is not in the tree is not in it either.
                self.level = self.nodes.iter().copied().take(limits.nodes).filter(|&node| node == first).collect();
            }
            GrowthPolicy::Graph(graph) => {
                for (parent, children) in self.level.clone().into_iter().zip(behind) {
                    self.link(parent, children, graph);
                }
                self.level = self.most_probable(first);
                self.level.retain(|&node| self.found[node].share >= graph.tau);
            }
        }
        self.slot += 1;
        self.going_on = if expanded > 0.0 { self.probability() / expanded } else { 0.0 };
        self.narrow(limits);
    }

    /// Returns those of the tokens found behind a node that the widened path keeps, the first choice first.
    fn widened(&mut self, mut children: Vec<Node>, widths: &[usize]) -> Vec<Node> {
        children.sort_by(|a, b| b.share.total_cmp(&a.share));
        let Some(confidence) = children.first().map(|first| first.share) else { return children };
        let parts = widths.len() as f64;
        let part = ((confidence * parts) as usize).min(widths.len() - 1);
        let width = widths[part];
        // Behind a bound of this part of the range, there may be more tokens or fewer.
        let to_bound = |bound: usize| (confidence.ln() - (bound as f64 / parts).ln()).abs();
        let below = part.checked_sub(1).filter(|&below| widths[below] != width).map(|_| to_bound(part));
        let above = widths.get(part + 1).filter(|above| **above != width).map(|_| to_bound(part + 1));
        // The second choice might be the first, and the next one beside those that are kept.
        let leads = [1, width].into_iter().filter_map(|next| children.get(next - 1).zip(children.get(next)));
        let leads = leads.map(|(kept, next)| kept.share.ln() - next.share.ln());
        self.margin = leads.chain(below).chain(above).fold(self.margin, f64::min);
        children.truncate(width);
        children
    }

    /// Puts what was found behind a node of the graph into it.
    fn link(&mut self, parent: usize, mut children: Vec<Node>, graph: &GraphConfig) {
        children.sort_by(|a, b| b.share.total_cmp(&a.share));
        children.truncate(graph.children);
        let bound = graph.theta * children.first().map_or(0.0, |first| first.share);
        let tau = graph.tau;
        let distance = |share: f64, bound: f64| (share.ln() - bound.ln()).abs();
        for child in children {
            self.margin = self.margin.min(distance(child.share, bound)).min(distance(child.share, tau));
            if child.share < bound {
                continue;
            }
            let same = |other: &Node| child.ends_as(other, graph.equal_before) && !child.path.starts_with(&other.path);
            let known = self.found.iter().position(same).filter(|_| graph.merge);
            let node = known.unwrap_or_else(|| {
                self.found.push(child);
                self.edges.push(Vec::new());
                self.found.len() - 1
            });
            self.edges[parent].push(node);
        }
    }

    /// Returns the sum of the probabilities of the level.
    fn probability(&self) -> f64 {
        self.level.iter().map(|&node| self.found[node].probability).sum()
    }

    /// Returns the numbers of all nodes from `first` on, the most probable first; among equally probable ones, the one found first.
    fn most_probable(&self, first: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (first..self.found.len()).collect();
        order.sort_by(|&a, &b| self.found[b].probability.total_cmp(&self.found[a].probability));
        order
    }

    /// Leaves out of the level what the limits leave out.
    pub fn narrow(&mut self, limits: &GrowthLimits) {
        self.level.truncate(if self.slot < self.slots { limits.frontier } else { 0 });
        if let Some(budget) = self.budget.as_ref().filter(|_| self.slot > 1) {
            // What follows is not known yet. It may be expected to lose as much as the level before lost.
            let expected = self.level.iter().map(|&node| self.found[node].probability * self.going_on);
            let (rows, gain) = budget.of_level().worthwhile_nodes(expected);
            self.level.truncate(if gain > 0.0 { rows } else { 0 });
        }
    }

    /// Returns the drafts of the tree, which is complete.
    pub fn drafts(mut self, policy: &GrowthPolicy, limits: &GrowthLimits) -> Drafts {
        let mut size = match policy {
            GrowthPolicy::MostProbable | GrowthPolicy::FixedShape | GrowthPolicy::WidenedPath { .. } => limits.nodes,
            GrowthPolicy::WholePaths { paths, .. } => *paths,
            GrowthPolicy::Graph(_) => return Drafts::chosen(without_prefixes(self.walks(limits.nodes)), self.margin),
        };
        let probability = |node: &usize| self.found[*node].probability;
        if let Some(budget) = &self.budget {
            (size, _) = budget.of_nodes(size).worthwhile_nodes(self.nodes.iter().map(probability));
        }
        let length = self.budget.as_ref().map(|_| self.nodes.iter().take(size).map(probability).sum());
        let left_out = self.nodes.get(size).map(probability);
        self.nodes.truncate(size);
        let least = probability(&self.nodes[self.nodes.len() - 1]);
        let margin = left_out.map_or(f64::INFINITY, |left_out| least.ln() - left_out.ln());
        self.nodes.sort_unstable();
        let paths = self.nodes.iter().map(|&node| self.found[node].path.clone()).collect();
        Drafts { length, ..Drafts::chosen(without_prefixes(paths), margin.min(self.margin)) }
    }

    /// Returns the first `nodes` walks through the graph from the root on, the shorter ones first.
    fn walks(&self, nodes: usize) -> Vec<Vec<u32>> {
        let mut waiting = VecDeque::from([(0, self.found[0].path.clone())]);
        let mut walks = Vec::new();
        while let Some((node, path)) = waiting.pop_front().filter(|_| walks.len() < nodes) {
            if path.len() < self.slots {
                waiting.extend(self.edges[node].iter().map(|&next| {
                    let token = self.found[next].path[self.found[next].path.len() - 1];
                    (next, [&path[..], &[token]].concat())
                }));
            }
            walks.push(path);
        }
        walks
    }
}

/// Returns those of the paths that no other one continues.
fn without_prefixes(paths: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
    let goes_on = |path: &Vec<u32>| paths.iter().any(|other| other.len() > path.len() && other.starts_with(path));
    paths.iter().filter(|path| !goes_on(path)).cloned().collect()
}
