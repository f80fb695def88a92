//! Drafts merged into one tree, to be verified in one forward.

/// A prefix tree of drafts. Nodes are in insertion order, parents before children, and siblings have different tokens.
/// When all drafts begin with the same pinned token, node 0 is that token and the only root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftTree {
    tokens: Vec<u32>,
    parents: Vec<Option<usize>>,
    depths: Vec<usize>,
}

impl DraftTree {
    /// Makes the tree with one node for each distinct prefix of `paths`.
    pub fn from_paths(paths: &[impl AsRef<[u32]>]) -> Self {
        let mut tree = Self { tokens: Vec::new(), parents: Vec::new(), depths: Vec::new() };
        for path in paths {
            let mut parent = None;
            for (depth, &token) in path.as_ref().iter().enumerate() {
                parent = tree.find(parent, token).or_else(|| Some(tree.push(parent, token, depth)));
            }
        }
        tree
    }

    /// Returns the number of nodes, which is the number of tokens of the verification forward.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Returns the token of every node.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns the depth of every node, 0 for a root: its slot, and its offset from the first position after the
    /// committed text.
    pub fn depths(&self) -> &[usize] {
        &self.depths
    }

    /// Returns the parent of every node, none for a root.
    pub fn parents(&self) -> &[Option<usize>] {
        &self.parents
    }

    /// Returns the attention mask among the nodes, `[len, len]` row by row. Row i holds true for node i and its
    /// ancestors, the nodes that node i may attend to besides the committed text.
    pub fn ancestor_mask(&self) -> Vec<bool> {
        let n = self.len();
        let mut mask = vec![false; n * n];
        for (node, parent) in self.parents.iter().enumerate() {
            if let Some(parent) = parent {
                mask.copy_within(parent * n..(parent + 1) * n, node * n);
            }
            mask[node * n + node] = true;
        }
        mask
    }

    /// Returns the child of `node` with the token `token`.
    pub fn child(&self, node: usize, token: u32) -> Option<usize> {
        self.find(Some(node), token)
    }

    /// Returns the children of `node`, in insertion order.
    pub fn children(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        (node + 1..self.len()).filter(move |&child| self.parents[child] == Some(node))
    }

    fn find(&self, parent: Option<usize>, token: u32) -> Option<usize> {
        let after = parent.map_or(0, |parent| parent + 1);
        (after..self.len()).find(|&node| self.tokens[node] == token && self.parents[node] == parent)
    }

    fn push(&mut self, parent: Option<usize>, token: u32, depth: usize) -> usize {
        self.tokens.push(token);
        self.parents.push(parent);
        self.depths.push(depth);
        self.len() - 1
    }
}

/// Returns the length of the longest prefix of `target`, the text that the backbone continues with, that one of the
/// drafts begins with.
pub fn accepted_length(paths: &[impl AsRef<[u32]>], target: &[u32]) -> usize {
    let matched = |path: &[u32]| path.iter().zip(target).take_while(|(a, b)| a == b).count();
    paths.iter().map(|path| matched(path.as_ref())).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::{Lattice, NoScorer, p_best};
    use super::*;
    use proptest::prelude::*;

    fn paths() -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(0u32..3, 0..6), 0..6)
    }

    fn path_to(tree: &DraftTree, node: usize) -> Vec<u32> {
        let mut nodes: Vec<usize> = std::iter::successors(Some(node), |&node| tree.parents()[node]).collect();
        nodes.reverse();
        nodes.iter().map(|&node| tree.tokens()[node]).collect()
    }

    #[test]
    fn shares_prefixes_in_insertion_order() {
        let tree = DraftTree::from_paths(&[[7, 1, 2], [7, 3, 2], [7, 1, 4]]);
        assert_eq!(tree.tokens(), [7, 1, 2, 3, 2, 4]);
        assert_eq!(tree.parents(), [None, Some(0), Some(1), Some(0), Some(3), Some(1)]);
        assert_eq!(tree.depths(), [0, 1, 2, 1, 2, 2]);
        let row = |node: usize| tree.ancestor_mask()[node * 6..(node + 1) * 6].to_vec();
        assert_eq!(row(4), [true, false, false, true, true, false]);
        assert_eq!(row(5), [true, true, false, false, false, true]);
    }

    #[test]
    fn the_best_paths_of_a_lattice_have_one_root() {
        let lattice = Lattice::pinned(7, 2, &[1, 3, 2, 4], &[5.0, 2.0, 1.0, 0.0]).unwrap();
        let tree = DraftTree::from_paths(&p_best(&lattice, NoScorer, (), 0.0, 3).paths);
        assert_eq!(tree.tokens(), [7, 1, 2, 4, 3, 2]);
        assert_eq!(tree.parents(), [None, Some(0), Some(1), Some(1), Some(0), Some(4)]);
    }

    proptest! {
        #[test]
        fn has_one_node_per_distinct_prefix(paths in paths()) {
            let tree = DraftTree::from_paths(&paths);
            let mut prefixes: Vec<Vec<u32>> = paths.iter()
                .flat_map(|path| (1..=path.len()).map(|length| path[..length].to_vec()))
                .collect();
            prefixes.sort();
            prefixes.dedup();
            let mut nodes: Vec<Vec<u32>> = (0..tree.len()).map(|node| path_to(&tree, node)).collect();
            prop_assert!(nodes.iter().zip(tree.depths()).all(|(path, depth)| path.len() == depth + 1));
            prop_assert!((0..tree.len()).all(|node| tree.parents()[node].is_none_or(|parent| parent < node)));
            nodes.sort();
            prop_assert_eq!(nodes, prefixes);
        }

        #[test]
        fn a_node_attends_to_the_prefixes_of_its_path(paths in paths()) {
            let tree = DraftTree::from_paths(&paths);
            let mask = tree.ancestor_mask();
            for (row, column) in (0..tree.len()).flat_map(|row| (0..tree.len()).map(move |column| (row, column))) {
                let is_prefix = path_to(&tree, row).starts_with(&path_to(&tree, column));
                prop_assert_eq!(mask[row * tree.len() + column], is_prefix);
            }
        }

        #[test]
        fn children_lead_as_far_as_the_best_of_the_paths(paths in paths(), target in prop::collection::vec(0u32..3, 8)) {
            let tree = DraftTree::from_paths(&paths);
            let root = (0..tree.len()).find(|&node| tree.depths()[node] == 0 && tree.tokens()[node] == target[0]);
            let mut following = target[1..].iter();
            let walk = std::iter::successors(root, |&node| following.next().and_then(|&token| tree.child(node, token)));
            prop_assert_eq!(walk.count(), accepted_length(&paths, &target));
        }
    }
}
