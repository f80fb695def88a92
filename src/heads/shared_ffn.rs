//! One hidden layer that all heads read, with a residual: `z = silu(U h + a)`, `y_j = h + W_j z + b_j`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use super::{DraftHeads, DraftedEmbeddings, States};
use crate::nn::{Init, Linear};

/// Heads 2 to H of blockwise parallel decoding as the paper has them (Stern et al. 2018, arXiv 1811.03115, section 6): the
/// first layer is as wide as all heads together. The output layers start at zero.
#[derive(Module, Debug)]
pub struct SharedFfnHeads {
    up: Linear,
    down: Vec<Linear>,
}

impl SharedFfnHeads {
    /// `count` heads on hidden states of width `d` with a common layer of width `count * hidden`.
    pub fn new(count: usize, d: usize, hidden: usize, init: &mut Init) -> Self {
        let (width, deviation) = (count * hidden, (d as f32).powf(-0.5));
        Self {
            up: init.linear(width, d, deviation).with_bias(init),
            down: (0..count).map(|_| init.zero_linear(d, width)).collect(),
        }
    }
}

impl DraftHeads for SharedFfnHeads {
    fn count(&self) -> usize {
        self.down.len()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        [&mut self.up].into_iter().chain(&mut self.down).collect()
    }

    fn begin<'a>(&'a self, hidden: Tensor<2>, _: &'a DraftedEmbeddings) -> States<'a> {
        let activations = silu(self.up.forward(hidden.clone()));
        Box::new(move |head| hidden.clone() + self.down[head].forward(activations.clone()))
    }
}
