//! `kind = "medusa"`: heads of residual blocks. Each block computes `x + silu(W x + b)` from the output x of the block
//! before it; the first block reads the hidden state h.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kind::check_blocks;
use super::unembedding::copy_unembedding;
use super::{Begun, DraftHeads, HeadKind, HeadShape, HeadUnembedding, Starts};
use crate::backbone::{Feature, Model};
use crate::error::Result;
use crate::nn::{Embedding, Init, Linear};

/// `kind = "medusa"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MedusaConfig {
    /// The number of residual blocks per head.
    #[schemars(range(min = 1))]
    pub blocks: usize,
    /// The matrix that turns a head's state into logits.
    pub unembedding: HeadUnembedding,
}

impl Default for MedusaConfig {
    fn default() -> Self {
        Self { blocks: 1, unembedding: HeadUnembedding::Frozen }
    }
}

impl HeadKind for MedusaConfig {
    const NAME: &'static str = "medusa";
    type Network = MedusaHeads;

    fn validate(&self) -> Result<()> {
        check_blocks("blocks", self.blocks)
    }

    fn owns_unembedding(&self) -> bool {
        self.unembedding == HeadUnembedding::Own
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> MedusaHeads {
        let (count, d, vocabulary) = (shape.count, shape.width(), shape.backbone.vocab_size);
        let mut head = |_| MedusaHead {
            blocks: (0..self.blocks).map(|_| init.zero_linear(d, d).with_bias(init)).collect(),
            unembedding: self.unembedding.table(vocabulary, d, init),
        };
        MedusaHeads { heads: (0..count).map(&mut head).collect() }
    }
}

/// The heads of Medusa-1 (Cai et al. 2024, arXiv 2401.10774, section 2.1). They end in the frozen unembedding or, as in
/// the original, in a trained copy of it for each head. The blocks start at zero.
#[derive(Module, Debug)]
pub struct MedusaHeads {
    heads: Vec<MedusaHead>,
}

#[derive(Module, Debug)]
struct MedusaHead {
    blocks: Vec<Linear>,
    unembedding: Option<Embedding>,
}

impl DraftHeads for MedusaHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let hidden = starts.states.get(Feature::Last);
        Begun::Parallel(Box::new(move |head| {
            let blocks = self.heads[head].blocks.iter();
            blocks.fold(hidden.clone(), |x, block| x.clone() + silu(block.forward(x)))
        }))
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.heads.iter_mut().flat_map(|head| &mut head.blocks).collect()
    }

    fn unembedding(&self, head: usize) -> Option<Tensor<2>> {
        self.heads[head].unembedding.as_ref().map(|table| table.weight.val())
    }

    fn warm_start(&mut self, model: &Model) -> Result<()> {
        copy_unembedding(self.heads.iter_mut().filter_map(|head| head.unembedding.as_mut()), model);
        Ok(())
    }
}
