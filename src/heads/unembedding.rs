//! What turns the states of heads into logits: the backbone's unembedding, or their own.

use burn::module::Module;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::Model;
use crate::nn::{Embedding, Init, Linear};

/// What turns a head's state into logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadUnembedding {
    /// The backbone's, shared by all heads.
    Frozen,
    /// A copy of it per head, trained with the head: V x d more parameters a head.
    Own,
}

impl HeadUnembedding {
    /// Makes the unembedding `[vocabulary, width]` of a head, if it has its own: zeros until it is copied.
    pub(in crate::heads) fn table(self, vocabulary: usize, width: usize, init: &mut Init) -> Option<Embedding> {
        (self == Self::Own).then(|| init.zero_embedding(vocabulary, width))
    }
}

/// Makes each of some unembeddings `[V, d]` or wider a copy of the backbone's, with zeros behind it.
pub(super) fn copy_unembedding<'a>(to: impl IntoIterator<Item = &'a mut Embedding>, model: &Model) {
    let mut to = to.into_iter().peekable();
    if to.peek().is_none() {
        return;
    }
    let table = model.unembedding();
    let [vocabulary, d] = table.dims();
    for own in to {
        own.weight = own.weight.clone().map(|old| {
            let (learns, more) = (old.is_require_grad(), old.dims()[1] - d);
            let copy = match more {
                0 => table.clone(),
                more => Tensor::cat(vec![table.clone(), Tensor::zeros([vocabulary, more], &table.device())], 1),
            };
            let copy = if learns { copy.autodiff() } else { copy };
            copy.set_require_grad(learns)
        });
    }
}

/// What becomes of the state of heads that hand one on.
#[derive(Module, Debug)]
pub(super) enum StateOutput {
    /// `h + O s`, with the backbone's state h.
    Added(Linear),
    /// s itself, for this unembedding `[V, width of s]`.
    Own(Embedding),
}

impl StateOutput {
    /// Returns what the unembedding reads of states s behind starts where the backbone's state is `hidden`.
    pub fn forward(&self, hidden: Tensor<2>, state: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Added(down) => hidden + down.forward(state),
            Self::Own(_) => state,
        }
    }

    /// Returns the map O, if there is one.
    pub fn linear(&mut self) -> Option<&mut Linear> {
        match self {
            Self::Added(down) => Some(down),
            Self::Own(_) => None,
        }
    }

    /// Returns the unembedding, if it is the heads' own.
    pub fn table(&self) -> Option<Tensor<2>> {
        match self {
            Self::Added(_) => None,
            Self::Own(table) => Some(table.weight.val()),
        }
    }

    /// Returns the multiplications of one state: by O, or by the unembedding.
    pub fn products(&self) -> usize {
        let weight = match self {
            Self::Added(down) => &down.weight,
            Self::Own(table) => &table.weight,
        };
        weight.val().dims().iter().product()
    }
}
