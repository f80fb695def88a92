//! One hidden layer per head with a residual: `y_j = h + W_down silu(W_up h + b) + c`, then the backbone's unembedding.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use crate::nn::{Init, Linear};

/// Heads 2 to H of blockwise parallel decoding (Stern et al. 2018, arXiv 1811.03115, section 6). The output layer starts at
/// zero, so that an untrained head repeats the backbone's own prediction.
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

    /// H - 1
    pub fn count(&self) -> usize {
        self.heads.len()
    }

    /// What head `index` (0 for head 2) makes of `[n, d]` hidden states; the unembedding turns it into logits.
    pub fn state(&self, index: usize, hidden: Tensor<2>) -> Tensor<2> {
        let head = &self.heads[index];
        hidden.clone() + head.down.forward(silu(head.up.forward(hidden)))
    }
}
