//! A linear map per head: `y_j = h + W_j h + b_j`. What it predicts is what h says of later tokens to a linear reader.

use burn::module::Module;
use burn::tensor::Tensor;

use super::{DraftHeads, DraftedEmbeddings, States};
use crate::nn::{Init, Linear};

/// Linear probes, the baseline of what a head's non-linearity buys. They start at zero.
#[derive(Module, Debug)]
pub struct LinearHeads {
    heads: Vec<Linear>,
}

impl LinearHeads {
    /// `count` heads on hidden states of width `d`.
    pub fn new(count: usize, d: usize, init: &mut Init) -> Self {
        Self { heads: (0..count).map(|_| init.zero_linear(d, d)).collect() }
    }
}

impl DraftHeads for LinearHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.heads.iter_mut().collect()
    }

    fn begin<'a>(&'a self, hidden: Tensor<2>, _: &'a DraftedEmbeddings) -> States<'a> {
        Box::new(move |head| hidden.clone() + self.heads[head].forward(hidden.clone()))
    }
}
