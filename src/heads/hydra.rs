//! `kind = "hydra"`: heads of residual blocks, each of which reads all tokens that were drafted before it.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::carried::{self, Carries};
use super::unembedding::copy_unembedding;
use super::{Begun, DraftHeads, HeadKind, HeadShape, HeadUnembedding, Starts};
use crate::backbone::{Feature, Model};
use crate::error::Result;
use crate::nn::{Embedding, Init, Linear, Tokens};

/// `kind = "hydra"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HydraConfig {
    /// How often the residual block behind a head's first one is applied.
    pub repeats: usize,
    /// The matrix that turns a head's state into logits.
    pub unembedding: HeadUnembedding,
}

impl Default for HydraConfig {
    fn default() -> Self {
        Self { repeats: 3, unembedding: HeadUnembedding::Frozen }
    }
}

impl HeadKind for HydraConfig {
    const NAME: &'static str = "hydra";
    type Network = HydraHeads;

    fn owns_unembedding(&self) -> bool {
        self.unembedding == HeadUnembedding::Own
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> HydraHeads {
        let (d, vocabulary) = (shape.width(), shape.backbone.vocab_size);
        let head = |number: usize| {
            let inputs = (number + 2) * d;
            // The map of all inputs passes the backbone's state on.
            let pass = (0..d * inputs).map(|at| if at % inputs == at / inputs { 1.0 } else { 0.0 });
            let mut first = init.zero_linear(d, inputs).with_bias(init);
            first.weight = init.given(pass.collect(), [d, inputs]);
            HydraHead {
                first,
                change: init.zero_linear(d, inputs).with_bias(init),
                block: (self.repeats > 0).then(|| init.zero_linear(d, d).with_bias(init)),
                unembedding: self.unembedding.table(vocabulary, d, init),
            }
        };
        HydraHeads { heads: (0..shape.count).map(head).collect(), repeats: self.repeats }
    }
}

/// Hydra (Ankner et al. 2024, arXiv 2402.05109; zankner/Hydra). Head j reads `z = [h; e(x_1); ..; e(x_j)]`, the backbone's state and
/// its embeddings of the pinned token and all that were drafted before, and computes `y = L z + silu(M z)`, then a few times
/// `y + silu(B y)`, always with the same B. All maps have biases. L passes h on at first, and M and B are zero; in the original, L is
/// random.
#[derive(Module, Debug)]
pub struct HydraHeads {
    heads: Vec<HydraHead>,
    #[module(skip)]
    repeats: usize,
}

#[derive(Module, Debug)]
struct HydraHead {
    /// L.
    first: Linear,
    /// M.
    change: Linear,
    /// B.
    block: Option<Linear>,
    unembedding: Option<Embedding>,
}

impl Carries for HydraHeads {
    fn row(
        &self,
        head: usize,
        read: Vec<Tensor<2>>,
        carried: Option<Tensor<2>>,
        tokens: Tokens,
    ) -> (Tensor<2>, Option<Tensor<2>>) {
        let hidden = read[0].clone();
        let HydraHead { first, change, block, .. } = &self.heads[head];
        let read = Tensor::cat(vec![carried.unwrap_or(hidden), tokens.embeddings], 1);
        let first = first.forward(read.clone()) + silu(change.forward(read.clone()));
        let blocks = block.iter().flat_map(|block| std::iter::repeat_n(block, self.repeats));
        (blocks.fold(first, |y, block| y.clone() + silu(block.forward(y))), Some(read))
    }
}

impl DraftHeads for HydraHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let of_head = |head| {
            let HydraHead { first, change, block, .. }: &mut HydraHead = head;
            [first, change].into_iter().chain(block)
        };
        self.heads.iter_mut().flat_map(of_head).collect()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let hidden = starts.states.get(Feature::Last);
        carried::begin(self, Box::new(move |_| vec![hidden.clone()]), starts.pinned)
    }

    fn unembedding(&self, head: usize) -> Option<Tensor<2>> {
        self.heads[head].unembedding.as_ref().map(|table| table.weight.val())
    }

    fn products(&self, parameters: usize) -> usize {
        let block = self.heads[0].block.as_ref().map_or(0, |block| block.weight.val().dims().iter().product());
        parameters + self.heads.len() * self.repeats.saturating_sub(1) * block
    }

    fn warm_start(&mut self, model: &Model) -> Result<()> {
        copy_unembedding(self.heads.iter_mut().filter_map(|head| head.unembedding.as_mut()), model);
        Ok(())
    }
}
