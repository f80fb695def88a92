//! Rows of heads that read something of the block, the tokens drafted since it began, and what the row before them carried on.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;

use super::network::{DraftedTokens, Learning, RowStates};
use super::{Begun, Rows};
use crate::nn::{Tokens, indices};

/// Heads whose rows carry numbers from one to the next.
pub(super) trait Carries {
    /// Runs rows of a head (0 is head 2), one behind each of `tokens`, given what the head reads of their blocks, `[m, width]` each,
    /// and what the rows before carried on, if there are any and they did. Returns what the rows predict from, and what they carry
    /// on.
    fn row(
        &self,
        head: usize,
        read: Vec<Tensor<2>>,
        carried: Option<Tensor<2>>,
        tokens: Tokens,
    ) -> (Tensor<2>, Option<Tensor<2>>);
}

/// Returns what a head reads of n blocks, `[n, width]` each, whatever is drafted in them. It is asked for one head after the other.
pub(super) type OfBlocks<'a> = Box<dyn FnMut(usize) -> Vec<Tensor<2>> + 'a>;

/// Begins blocks behind the pinned tokens.
pub(super) fn begin<'a, H: Carries>(heads: &'a H, mut of_blocks: OfBlocks<'a>, pinned: Tokens) -> Begun<'a> {
    let places = (0..pinned.len()).map(|block| (0, block)).collect();
    let read = vec![of_blocks(0)];
    let (root, first) = heads.row(0, read[0].clone(), None, pinned);
    let mut carried = RowStates::new();
    first.into_iter().for_each(|first| carried.push(first));
    Begun::Sequential(Box::new(CarriedRows { heads, of_blocks, read, places, carried, root }))
}

/// Returns what a head reads of n blocks, `[n, width]` each, given a function that returns the state of one of the heads below. It is
/// asked for one head after the other; the function may be called in any order.
pub(super) type OfHeadsBelow<'a> = Box<dyn FnMut(usize, &mut dyn FnMut(usize) -> Tensor<2>) -> Vec<Tensor<2>> + 'a>;

/// Begins blocks behind the pinned tokens, for heads above others that read nothing that is drafted.
pub(super) fn begin_above<'a, H: Carries>(
    heads: &'a H,
    below: Begun<'a>,
    mut read: OfHeadsBelow<'a>,
    pinned: Tokens,
) -> Begun<'a> {
    let Begun::Parallel(mut below) = below else { unreachable!("the heads below read nothing that is drafted") };
    let mut known: Vec<Tensor<2>> = Vec::new();
    let of_blocks = move |head| {
        read(head, &mut |asked| {
            (known.len()..=asked).for_each(|next| known.push(below(next)));
            known[asked].clone()
        })
    };
    begin(heads, Box::new(of_blocks), pinned)
}

/// Starts heads above others in a training step. What the heads below make is a leaf of the pieces above.
pub(super) fn learn_above<'a, H: Carries + Module>(
    heads: &'a H,
    below: Box<dyn Learning + 'a>,
    read: OfHeadsBelow<'a>,
    drafted: &'a DraftedTokens<'a>,
) -> Box<dyn Learning + 'a> {
    Box::new(LearningAbove { heads, below, read, drafted, known: Vec::new(), rows: Vec::new() })
}

struct LearningAbove<'a, H> {
    heads: &'a H,
    below: Box<dyn Learning + 'a>,
    read: OfHeadsBelow<'a>,
    drafted: &'a DraftedTokens<'a>,
    /// The states of the heads below, as far as they were asked for.
    known: Vec<Tensor<2>>,
    /// By head: its state, and what it carried on.
    rows: Vec<(Tensor<2>, Option<Tensor<2>>)>,
}

impl<H: Carries + Module> Learning for LearningAbove<'_, H> {
    fn state(&mut self, head: usize) -> Tensor<2> {
        let Self { heads, below, read, drafted, known, rows } = self;
        while rows.len() <= head {
            let number = rows.len();
            let read = read(number, &mut |asked| {
                (known.len()..=asked).for_each(|next| known.push(below.state(next).autodiff().require_grad()));
                known[asked].clone()
            });
            let carried = rows.last().and_then(|row| row.1.clone());
            rows.push(heads.row(number, read, carried, drafted(number)));
        }
        rows[head].0.clone().without_autodiff()
    }

    fn back(self: Box<Self>, gradients: Vec<(usize, Tensor<2>)>) -> (Tensor<1>, GradientsParams) {
        let products = gradients.into_iter().map(|(head, gradient)| (self.rows[head].0.clone() * gradient).sum());
        let mut backward = products.reduce(|a, b| a + b).expect("at least one head").backward();
        // A head that was left out has no gradient, unless those behind it read what its row carried on.
        let below = self.known.iter().enumerate();
        let below = below.filter_map(|(head, leaf)| Some((head, leaf.grad_remove(&mut backward)?))).collect();
        let mut known = GradientsAccumulator::new();
        known.accumulate(self.heads, GradientsParams::from_module(&mut backward, self.heads));
        let (objective, of_heads) = self.below.back(below);
        known.accumulate(self.heads, of_heads);
        (objective, known.grads())
    }
}

struct CarriedRows<'a, H> {
    heads: &'a H,
    of_blocks: OfBlocks<'a>,
    /// What heads read of the blocks, as far as they were asked for.
    read: Vec<Vec<Tensor<2>>>,
    /// The head of each row, and its block.
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
        while self.read.len() <= head {
            let next = (self.of_blocks)(self.read.len());
            self.read.push(next);
        }
        let blocks: Vec<usize> = parents.iter().map(|&row| self.places[row].1).collect();
        let of_rows = |all: &Tensor<2>| {
            // One row in each block, as in training, needs no copy.
            let every = blocks.iter().copied().eq(0..all.dims()[0]);
            let select = || all.clone().select(0, indices(blocks.iter().copied(), &all.device()));
            if every { all.clone() } else { select() }
        };
        let before = (self.carried.len() > 0).then(|| self.carried.at(parents));
        let (state, carried) = self.heads.row(head, self.read[head].iter().map(of_rows).collect(), before, tokens);
        carried.into_iter().for_each(|carried| self.carried.push(carried));
        self.places.extend(blocks.into_iter().map(|block| (head, block)));
        state
    }
}
