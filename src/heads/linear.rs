//! `kind = "linear"`: one linear map per head, `y_j = h + W_j h + b_j`. Its accuracy shows how much the hidden state h
//! says about later tokens to a linear reader.

use burn::module::Module;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Begun, DraftHeads, HeadKind, HeadShape, Starts};
use crate::backbone::Feature;
use crate::nn::{Init, Linear};

/// `kind = "linear"`, which has no keys of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearConfig {}

impl HeadKind for LinearConfig {
    const NAME: &'static str = "linear";
    type Network = LinearHeads;

    fn network(&self, shape: HeadShape, init: &mut Init) -> LinearHeads {
        LinearHeads {
            heads: (0..shape.count).map(|_| init.zero_linear(shape.width(), shape.width()).with_bias(init)).collect(),
        }
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

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let hidden = starts.states.get(Feature::Last);
        Begun::Parallel(Box::new(move |head| hidden.clone() + self.heads[head].forward(hidden.clone())))
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.heads.iter_mut().collect()
    }
}
