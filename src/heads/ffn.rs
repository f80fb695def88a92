//! `kind = "ffn"`: heads with one hidden layer and a residual connection. Either each head has its own hidden layer,
//! `y_j = x + W_j silu(U_j x + a_j) + b_j`, or all heads read the same one, `z = silu(U x + a)`,
//! `y_j = x + W_j z + b_j`. The input x is the last hidden state or the sum of several states ([`FeatureSum`]).

use burn::module::Module;
use burn::tensor::activation::silu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Begun, DraftHeads, FeatureSum, HeadKind, HeadShape, Starts};
use crate::backbone::{Feature, ModelConfig};
use crate::error::{Result, bail};
use crate::nn::{Init, Linear};

/// `kind = "ffn"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FfnConfig {
    /// The number of units of the hidden layer per head.
    #[schemars(range(min = 1))]
    pub hidden: usize,
    /// Which units of the hidden layer a head reads.
    pub first_layer: FirstLayer,
    /// The backbone's states that heads read: "last", and any of "layer-0" (the embedding) to "layer-L" (behind the last of L
    /// layers). Each state but "last" has a projection of its own, d x d parameters, for all heads together.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub features: Vec<Feature>,
}

impl Default for FfnConfig {
    fn default() -> Self {
        Self { hidden: 512, first_layer: FirstLayer::Separate, features: vec![Feature::Last] }
    }
}

/// Which units of the hidden layer a head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FirstLayer {
    /// Its own `hidden` units.
    Separate,
    /// The (H - 1) x `hidden` units of all heads, as in the paper.
    Shared,
}

impl HeadKind for FfnConfig {
    const NAME: &'static str = "ffn";
    type Network = FfnHeads;

    fn validate(&self) -> Result<()> {
        if !self.features.contains(&Feature::Last) {
            bail!(
                "`heads.architecture.features` lacks \"last\", to which heads add what they read of the others; add it."
            );
        }
        Ok(())
    }

    fn features(&self, _: &ModelConfig) -> Result<Vec<Feature>> {
        Ok(self.features.clone())
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> FfnHeads {
        let (count, d) = (shape.count, shape.width());
        let others: Vec<Feature> = self.features.iter().copied().filter(|&feature| feature != Feature::Last).collect();
        let deviation = (d as f32).powf(-0.5);
        let up = |width: usize, init: &mut Init| init.linear(width, d, deviation).with_bias(init);
        match self.first_layer {
            FirstLayer::Separate => {
                let mut head =
                    |_| FfnHead { up: up(self.hidden, init), down: init.zero_linear(d, self.hidden).with_bias(init) };
                let heads = (0..count).map(&mut head).collect();
                FfnHeads::Separate(SeparateFfn { heads, inputs: FeatureSum::new(Feature::Last, &others, d, init) })
            }
            FirstLayer::Shared => {
                let width = count * self.hidden;
                let up = up(width, init);
                let down = (0..count).map(|_| init.zero_linear(d, width).with_bias(init)).collect();
                FfnHeads::Shared(SharedFfn { up, down, inputs: FeatureSum::new(Feature::Last, &others, d, init) })
            }
        }
    }
}

/// Heads 2 to H of blockwise parallel decoding (Stern et al. 2018, arXiv 1811.03115, section 6). Their output layers
/// start at zero.
#[derive(Module, Debug)]
pub enum FfnHeads {
    /// Heads with `first_layer = "separate"`.
    Separate(SeparateFfn),
    /// Heads with `first_layer = "shared"`.
    Shared(SharedFfn),
}

/// Heads that each have their own first layer.
#[derive(Module, Debug)]
pub struct SeparateFfn {
    inputs: FeatureSum,
    heads: Vec<FfnHead>,
}

#[derive(Module, Debug)]
struct FfnHead {
    up: Linear,
    down: Linear,
}

/// Heads as in the paper: one first layer for all, as wide as the hidden layers of all heads together.
#[derive(Module, Debug)]
pub struct SharedFfn {
    inputs: FeatureSum,
    up: Linear,
    down: Vec<Linear>,
}

impl FfnHeads {
    fn inputs(&self) -> &FeatureSum {
        match self {
            Self::Separate(ffn) => &ffn.inputs,
            Self::Shared(ffn) => &ffn.inputs,
        }
    }
}

impl DraftHeads for FfnHeads {
    fn count(&self) -> usize {
        match self {
            Self::Separate(ffn) => ffn.heads.len(),
            Self::Shared(ffn) => ffn.down.len(),
        }
    }

    fn features(&self) -> Vec<Feature> {
        self.inputs().features()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let x = self.inputs().read(&starts.states);
        Begun::Parallel(match self {
            Self::Separate(ffn) => Box::new(move |head| {
                let head = &ffn.heads[head];
                x.clone() + head.down.forward(silu(head.up.forward(x.clone())))
            }),
            Self::Shared(ffn) => {
                let activations = silu(ffn.up.forward(x.clone()));
                Box::new(move |head| x.clone() + ffn.down[head].forward(activations.clone()))
            }
        })
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Separate(SeparateFfn { inputs, heads }) => {
                let of_heads = heads.iter_mut().flat_map(|head| [&mut head.up, &mut head.down]);
                inputs.linears().chain(of_heads).collect()
            }
            Self::Shared(SharedFfn { inputs, up, down }) => inputs.linears().chain([up]).chain(down).collect(),
        }
    }
}
