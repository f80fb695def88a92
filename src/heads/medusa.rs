//! Residual blocks: every block makes `x + silu(W x + b)` of what the one before it made, the first one of h.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use super::{DraftHeads, DraftedEmbeddings, States};
use crate::nn::{Embedding, Init, Linear};

/// The heads of Medusa-1 (Cai et al. 2024, arXiv 2401.10774, section 2.1), under the frozen unembedding or, as in the
/// original, each under a copy of it that learns. Blocks start at zero.
#[derive(Module, Debug)]
pub struct MedusaHeads {
    heads: Vec<MedusaHead>,
}

#[derive(Module, Debug)]
struct MedusaHead {
    blocks: Vec<Linear>,
    unembedding: Option<Embedding>,
}

impl MedusaHeads {
    /// `count` heads on hidden states of width `d`, each with `blocks` blocks of its own and, for a `vocabulary`, an
    /// unembedding of its own.
    pub fn new(count: usize, d: usize, blocks: usize, vocabulary: Option<usize>, init: &mut Init) -> Self {
        let head = |init: &mut Init| MedusaHead {
            blocks: (0..blocks).map(|_| init.zero_linear(d, d)).collect(),
            unembedding: vocabulary.map(|vocabulary| init.zero_embedding(vocabulary, d)),
        };
        Self { heads: (0..count).map(|_| head(init)).collect() }
    }

    /// The same heads, each with a copy of `table` `[V, d]` (without autodiff) as its own unembedding.
    pub(super) fn copy_unembedding(mut self, table: &Tensor<2>) -> Self {
        for own in self.heads.iter_mut().filter_map(|head| head.unembedding.as_mut()) {
            own.weight = own.weight.clone().map(|old| {
                let learns = old.is_require_grad();
                let copy = if learns { table.clone().autodiff() } else { table.clone() };
                copy.set_require_grad(learns)
            });
        }
        self
    }
}

impl DraftHeads for MedusaHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.heads.iter_mut().flat_map(|head| &mut head.blocks).collect()
    }

    fn begin<'a>(&'a self, hidden: Tensor<2>, _: &'a DraftedEmbeddings) -> States<'a> {
        Box::new(move |head| {
            let blocks = self.heads[head].blocks.iter();
            blocks.fold(hidden.clone(), |x, block| x.clone() + silu(block.forward(x)))
        })
    }

    fn unembedding(&self, head: usize) -> Option<Tensor<2>> {
        self.heads[head].unembedding.as_ref().map(|table| table.weight.val())
    }
}
