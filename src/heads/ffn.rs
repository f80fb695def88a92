//! `kind = "ffn"`: a hidden layer with a residual, `y_j = h + W_j silu(U_j h + a_j) + b_j`, or one hidden layer that all heads
//! read, `z = silu(U h + a)`, `y_j = h + W_j z + b_j`.

use burn::module::Module;
use burn::tensor::activation::silu;
use serde::{Deserialize, Serialize};

use super::{DraftHeads, DraftedEmbeddings, HeadKind, HeadShape, States};
use crate::backbone::{Feature, FeatureTensors};
use crate::config::at_least;
use crate::error::Result;
use crate::nn::{Init, Linear};

/// `kind = "ffn"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FfnConfig {
    /// Units of the hidden layer per head.
    pub hidden: usize,
    /// "separate" or "shared".
    pub first_layer: FirstLayer,
}

impl Default for FfnConfig {
    fn default() -> Self {
        Self { hidden: 512, first_layer: FirstLayer::Separate }
    }
}

/// Which units of the hidden layer a head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstLayer {
    /// Its own `hidden` units.
    Separate,
    /// All (H - 1) x `hidden` units of all heads, as in the paper.
    Shared,
}

impl HeadKind for FfnConfig {
    const NAME: &'static str = "ffn";
    type Network = FfnHeads;

    fn validate(&self) -> Result<()> {
        at_least("heads.architecture.hidden", self.hidden, 1)
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> FfnHeads {
        let HeadShape { count, width: d, .. } = shape;
        let deviation = (d as f32).powf(-0.5);
        let up = |width: usize, init: &mut Init| init.linear(width, d, deviation).with_bias(init);
        match self.first_layer {
            FirstLayer::Separate => {
                let mut head = |_| FfnHead { up: up(self.hidden, init), down: init.zero_linear(d, self.hidden) };
                FfnHeads::Separate(SeparateFfn { heads: (0..count).map(&mut head).collect() })
            }
            FirstLayer::Shared => {
                let width = count * self.hidden;
                let up = up(width, init);
                FfnHeads::Shared(SharedFfn { up, down: (0..count).map(|_| init.zero_linear(d, width)).collect() })
            }
        }
    }
}

/// Heads 2 to H of blockwise parallel decoding (Stern et al. 2018, arXiv 1811.03115, section 6). The output layers start at zero.
#[derive(Module, Debug)]
pub enum FfnHeads {
    /// `first_layer = "separate"`
    Separate(SeparateFfn),
    /// `first_layer = "shared"`
    Shared(SharedFfn),
}

/// Heads with a first layer each.
#[derive(Module, Debug)]
pub struct SeparateFfn {
    heads: Vec<FfnHead>,
}

#[derive(Module, Debug)]
struct FfnHead {
    up: Linear,
    down: Linear,
}

/// Heads as the paper has them: the first layer is as wide as all heads together.
#[derive(Module, Debug)]
pub struct SharedFfn {
    up: Linear,
    down: Vec<Linear>,
}

impl DraftHeads for FfnHeads {
    fn count(&self) -> usize {
        match self {
            Self::Separate(ffn) => ffn.heads.len(),
            Self::Shared(ffn) => ffn.down.len(),
        }
    }

    fn begin<'a>(&'a self, read: &FeatureTensors, _: &'a DraftedEmbeddings) -> States<'a> {
        let hidden = read.get(Feature::Last);
        match self {
            Self::Separate(ffn) => Box::new(move |head| {
                let head = &ffn.heads[head];
                hidden.clone() + head.down.forward(silu(head.up.forward(hidden.clone())))
            }),
            Self::Shared(ffn) => {
                let activations = silu(ffn.up.forward(hidden.clone()));
                Box::new(move |head| hidden.clone() + ffn.down[head].forward(activations.clone()))
            }
        }
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Separate(ffn) => ffn.heads.iter_mut().flat_map(|head| [&mut head.up, &mut head.down]).collect(),
            Self::Shared(ffn) => [&mut ffn.up].into_iter().chain(&mut ffn.down).collect(),
        }
    }
}
