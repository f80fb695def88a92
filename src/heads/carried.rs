//! Rows of heads that read the backbone's state at the start of a block, the tokens drafted since, and what the row before them
//! carried on.

use burn::tensor::Tensor;

use super::network::RowStates;
use super::{Begun, Rows};
use crate::nn::{Tokens, indices};

/// Heads whose rows carry numbers from one to the next.
pub(super) trait Carries {
    /// Runs rows of a head (0 is head 2), one behind each of `tokens`, in blocks that begin at states `hidden` `[m, d]`, given what
    /// the rows before them carried on; none for head 2. Returns what the rows predict from, and what they carry on.
    fn row(&self, head: usize, hidden: Tensor<2>, carried: Option<Tensor<2>>, tokens: Tokens)
    -> (Tensor<2>, Tensor<2>);
}

/// Begins blocks at the states `hidden` `[n, d]`, behind the pinned tokens.
pub(super) fn begin<H: Carries>(heads: &H, hidden: Tensor<2>, pinned: Tokens) -> Begun<'_> {
    let places = (0..pinned.len()).map(|start| (0, start)).collect();
    let (root, first) = heads.row(0, hidden.clone(), None, pinned);
    let mut carried = RowStates::new();
    carried.push(first);
    Begun::Sequential(Box::new(CarriedRows { heads, hidden, places, carried, root }))
}

struct CarriedRows<'a, H> {
    heads: &'a H,
    /// The states at the starts, `[n, d]`.
    hidden: Tensor<2>,
    /// The head of each row, and its start.
    places: Vec<(usize, usize)>,
    carried: RowStates,
    /// What head 2 predicts from.
    root: Tensor<2>,
}

impl<H: Carries> Rows for CarriedRows<'_, H> {
    fn root(&self) -> Tensor<2> {
        self.root.clone()
    }

    fn expand(&mut self, parents: &[usize], tokens: Tokens) -> Tensor<2> {
        let head = self.places[parents[0]].0 + 1;
        assert!(parents.iter().all(|&row| self.places[row].0 + 1 == head), "rows of one depth");
        // One row behind each start, as in training, needs no copy of the states.
        let (n, device) = (self.hidden.dims()[0], self.hidden.device());
        let starts: Vec<usize> = parents.iter().map(|&row| self.places[row].1).collect();
        let hidden = self.hidden.clone();
        let all = starts.iter().copied().eq(0..n);
        let hidden = if all { hidden } else { hidden.select(0, indices(starts.iter().copied(), &device)) };
        let (state, carried) = self.heads.row(head, hidden, Some(self.carried.at(parents)), tokens);
        self.carried.push(carried);
        self.places.extend(starts.into_iter().map(|start| (head, start)));
        state
    }
}
