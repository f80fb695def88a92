//! One hidden layer per head with a residual: `y_j = h + W_j silu(U_j h + a_j) + b_j`.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use super::{DraftHeads, DraftedEmbeddings, States};
use crate::nn::{Init, Linear};

/// Heads 2 to H of blockwise parallel decoding (Stern et al. 2018, arXiv 1811.03115, section 6), each with a first layer of
/// its own. The output layer starts at zero.
#[derive(Module, Debug)]
pub struct FfnHeads {
    heads: Vec<FfnHead>,
}

#[derive(Module, Debug)]
struct FfnHead {
    up: Linear,
    down: Linear,
}

impl FfnHeads {
    /// `count` heads on hidden states of width `d`, each with a hidden layer of width `hidden`.
    pub fn new(count: usize, d: usize, hidden: usize, init: &mut Init) -> Self {
        let deviation = (d as f32).powf(-0.5);
        let head = |init: &mut Init| FfnHead {
            up: init.linear(hidden, d, deviation).with_bias(init),
            down: init.zero_linear(d, hidden),
        };
        Self { heads: (0..count).map(|_| head(init)).collect() }
    }
}

impl DraftHeads for FfnHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.heads.iter_mut().flat_map(|head| [&mut head.up, &mut head.down]).collect()
    }

    fn begin<'a>(&'a self, hidden: Tensor<2>, _: &'a DraftedEmbeddings) -> States<'a> {
        Box::new(move |head| {
            let head = &self.heads[head];
            hidden.clone() + head.down.forward(silu(head.up.forward(hidden.clone())))
        })
    }
}
