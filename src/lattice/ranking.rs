//! The second, third, ... best path through an acyclic graph, each found only when asked for (the recursive enumeration
//! algorithm of Jimenez and Marzal 1999). The next best path into a node needs at most one more path into one of its
//! predecessors.

use super::Path;
use std::cmp::Ordering;
use std::ops::Range;

/// The graph of all prefixes worth keeping. Node 0 is the empty prefix, and the last node is the end of the block.
/// Edges lead from one slot to the next, so nodes are numbered in topological order.
pub(super) struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

struct Node {
    /// The score of the best prefix that ends here.
    best: f64,
    /// The last edge into this node, or [`NONE`] for node 0; the others follow by [`Edge::previous`].
    last_edge: u32,
}

/// A candidate that extends a prefix, or the step to the end of the block.
#[derive(Clone, Copy)]
pub(super) struct Edge {
    pub from: u32,
    pub to: u32,
    pub token: u32,
    pub weight: f64,
    /// The edge into the same node that was added before this one, or [`NONE`].
    previous: u32,
}

/// No edge or no token.
const NONE: u32 = u32::MAX;

impl Graph {
    /// Makes the graph of the empty prefix alone.
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node { best: 0.0, last_edge: NONE }], edges: Vec::new() }
    }

    /// Returns the score of the best prefix that ends in `node`.
    #[inline]
    pub(super) fn best(&self, node: usize) -> f64 {
        self.nodes[node].best
    }

    /// Returns the `count` nodes added last.
    #[inline]
    pub(super) fn last_nodes(&self, count: usize) -> Range<usize> {
        self.nodes.len() - count..self.nodes.len()
    }

    /// Returns the number of nodes.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Returns all edges, in the order of the nodes where they begin, so that those out of one node are side by side.
    pub(super) fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Adds the end of the block, which follows the last `count` nodes.
    pub(super) fn close(&mut self, count: usize) {
        let last = self.last_nodes(count);
        let end = self.add_node();
        last.for_each(|from| self.add_edge(from, end, NONE, 0.0));
    }

    /// Adds a node that no edge enters yet.
    #[inline]
    pub(super) fn add_node(&mut self) -> u32 {
        self.nodes.push(Node { best: f64::NEG_INFINITY, last_edge: NONE });
        (self.nodes.len() - 1) as u32
    }

    /// Adds an edge. All edges into `from`, and all edges out of the nodes before it, must have been added already.
    #[inline]
    pub(super) fn add_edge(&mut self, from: usize, to: u32, token: u32, weight: f64) {
        let sum = self.nodes[from].best + weight;
        let edge = self.edges.len() as u32;
        let node = &mut self.nodes[to as usize];
        node.best = node.best.max(sum);
        self.edges.push(Edge { from: from as u32, to, token, weight, previous: node.last_edge });
        node.last_edge = edge;
    }

    #[inline]
    fn edge(&self, prefix: RankedPrefix) -> Edge {
        self.edges[prefix.edge as usize]
    }
}

/// A prefix as a back-pointer: the `rank`-th best path into the node where `edge` begins, then `edge`.
#[derive(Clone, Copy)]
struct RankedPrefix {
    score: f64,
    edge: u32,
    rank: u32,
}

/// The ranked paths into every node, as far as they have been asked for.
pub(super) struct Ranking<'a> {
    graph: &'a Graph,
    /// For each node, its best prefixes in order.
    ranked: Vec<Vec<RankedPrefix>>,
    /// For each node and every edge into it, the best prefix by that edge that is not ranked yet.
    open: Vec<Vec<RankedPrefix>>,
}

impl<'a> Ranking<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        let per_node = || vec![Vec::new(); graph.nodes.len()];
        Self { graph, ranked: per_node(), open: per_node() }
    }

    /// Returns the `p` best paths to the end of the block.
    pub(super) fn best(&mut self, p: usize) -> Vec<Path> {
        let end = self.graph.nodes.len() - 1;
        let mut paths = Vec::new();
        while paths.len() < p && self.rank(end, paths.len()) {
            paths.push(self.spell(self.ranked[end][paths.len()]));
        }
        paths
    }

    /// Ranks the paths into `node` up to `rank`; returns false if there are not so many.
    fn rank(&mut self, node: usize, rank: usize) -> bool {
        if node == 0 {
            return rank == 0;
        }
        while self.ranked[node].len() <= rank {
            match self.ranked[node].last() {
                None => self.open[node] = self.first_by_every_edge(node),
                Some(&last) => self.open_successor(node, last),
            }
            let Some(best) = self.best_open(node) else { return false };
            let best = self.open[node].swap_remove(best);
            self.ranked[node].push(best);
        }
        true
    }

    /// Returns the best prefix by every edge into `node`.
    fn first_by_every_edge(&self, node: usize) -> Vec<RankedPrefix> {
        let edge = |edge: u32| (edge != NONE).then_some(edge);
        let first = edge(self.graph.nodes[node].last_edge);
        std::iter::successors(first, |&after| edge(self.graph.edges[after as usize].previous))
            .map(|edge| {
                let Edge { from, weight, .. } = self.graph.edges[edge as usize];
                RankedPrefix { score: self.graph.nodes[from as usize].best + weight, edge, rank: 0 }
            })
            .collect()
    }

    /// Opens the prefix that follows `last`, which was just ranked, by the same edge.
    fn open_successor(&mut self, node: usize, last: RankedPrefix) {
        let Edge { from, weight, .. } = self.graph.edge(last);
        let (from, rank) = (from as usize, last.rank + 1);
        if self.rank(from, rank as usize) {
            let score = self.ranked[from][rank as usize].score + weight;
            self.open[node].push(RankedPrefix { score, edge: last.edge, rank });
        }
    }

    /// Returns the index of the best open prefix of `node`.
    fn best_open(&mut self, node: usize) -> Option<usize> {
        let mut best = 0;
        for at in 1..self.open[node].len() {
            let (a, b) = (self.open[node][at], self.open[node][best]);
            if b.score.total_cmp(&a.score).then_with(|| self.by_tokens(a, b)).is_lt() {
                best = at;
            }
        }
        (best < self.open[node].len()).then_some(best)
    }

    /// Compares two prefixes of the same length in lexicographic order.
    fn by_tokens(&mut self, a: RankedPrefix, b: RankedPrefix) -> Ordering {
        let (x, y) = (self.graph.edge(a), self.graph.edge(b));
        let same_before = x.from == y.from && a.rank == b.rank;
        let before = if same_before {
            Ordering::Equal
        } else {
            let (a, b) = (self.before(x, a.rank), self.before(y, b.rank));
            self.by_tokens(a, b)
        };
        before.then(x.token.cmp(&y.token))
    }

    /// Returns the `rank`-th best prefix that `edge` extends, which must exist.
    fn before(&mut self, edge: Edge, rank: u32) -> RankedPrefix {
        let (node, rank) = (edge.from as usize, rank as usize);
        self.rank(node, rank);
        self.ranked[node][rank]
    }

    /// Follows the back-pointers of a path and returns its tokens.
    fn spell(&mut self, path: RankedPrefix) -> Path {
        let mut tokens = Vec::new();
        let mut edge = self.graph.edge(path);
        let mut rank = path.rank;
        // The edge to the end carries no token.
        while edge.from != 0 {
            let prefix = self.before(edge, rank);
            (edge, rank) = (self.graph.edge(prefix), prefix.rank);
            tokens.push(edge.token);
        }
        tokens.reverse();
        Path { tokens, score: path.score }
    }
}
