//! `kind = "linear"`: one linear map per head, `y_j = h + W_j h + b_j`. Its accuracy shows how much the hidden state h
//! says about later tokens to a linear reader.

use burn::module::Module;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DraftHeads, DraftedEmbeddings, HeadKind, HeadShape, States};
use crate::backbone::{Feature, FeatureTensors};
use crate::nn::{Init, Linear};

/// `kind = "linear"`, which has no keys of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearConfig {}

impl HeadKind for LinearConfig {
    const NAME: &'static str = "linear";
    type Network = LinearHeads;

    fn network(&self, shape: HeadShape, init: &mut Init) -> LinearHeads {
        LinearHeads { heads: (0..shape.count).map(|_| init.zero_linear(shape.width, shape.width)).collect() }
    }
}

/// Linear probes, which start at zero. They are the baseline that shows what the non-linearity of other heads is worth.
#[derive(Module, Debug)]
pub struct LinearHeads {
    heads: Vec<Linear>,
}

impl DraftHeads for LinearHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn begin<'a>(&'a self, read: &FeatureTensors, _: &'a DraftedEmbeddings) -> States<'a> {
        let hidden = read.get(Feature::Last);
        Box::new(move |head| hidden.clone() + self.heads[head].forward(hidden.clone()))
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.heads.iter_mut().collect()
    }
}
