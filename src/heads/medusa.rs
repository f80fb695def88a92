//! Residual blocks: every block makes `x + silu(W x + b)` of what the one before it made, the first one of h.

use burn::module::Module;
use burn::tensor::activation::silu;

use super::{DraftHeads, HeadInput, States};
use crate::nn::{Init, Linear};

/// The heads of Medusa-1 (Cai et al. 2024, arXiv 2401.10774, section 2.1) under the frozen unembedding, where the original
/// trains a copy of it per head. Blocks start at zero.
#[derive(Module, Debug)]
pub struct MedusaHeads {
    heads: Vec<MedusaHead>,
}

#[derive(Module, Debug)]
struct MedusaHead {
    blocks: Vec<Linear>,
}

impl MedusaHeads {
    /// `count` heads on hidden states of width `d`, each with `blocks` blocks of its own.
    pub fn new(count: usize, d: usize, blocks: usize, init: &mut Init) -> Self {
        let head = |init: &mut Init| MedusaHead { blocks: (0..blocks).map(|_| init.zero_linear(d, d)).collect() };
        Self { heads: (0..count).map(|_| head(init)).collect() }
    }
}

impl DraftHeads for MedusaHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn states<'a>(&'a self, input: HeadInput, heads: &'a [usize]) -> States<'a> {
        Box::new(heads.iter().map(move |&index| {
            let blocks = self.heads[index].blocks.iter();
            blocks.fold(input.hidden.clone(), |x, block| x.clone() + silu(block.forward(x)))
        }))
    }
}
