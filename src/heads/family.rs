//! The trait of draft heads, and the one type by which everything else holds them.
//!
//! A new architecture is a file with a [`DraftHeads`], a variant of [`Heads`] and a `kind` of
//! [`HeadArchitecture`](crate::config::HeadArchitecture).

use burn::module::Module;
use burn::tensor::Tensor;

use super::{FfnHeads, LinearHeads, MedusaHeads, SharedFfnHeads, SpeculatorHeads};
use crate::config::{FirstLayer, HeadArchitecture, HeadUnembedding, LinearConfig};
use crate::nn::{Init, Linear};

/// Gives the backbone's embeddings `[n, d]` of the tokens that were drafted for a slot: 0 is slot 1, the backbone's own next
/// token, 1 what head 2 drafted, and so on. In training they are the text's tokens.
pub type DraftedEmbeddings<'a> = dyn Fn(usize) -> Tensor<2> + 'a;

/// Gives the state `[n, d]` of a head (0 is head 2) at n positions, computed when it is asked for; heads are asked for in
/// ascending order, and some may be left out.
pub type States<'a> = Box<dyn FnMut(usize) -> Tensor<2> + 'a>;

/// Heads 2 to H above a frozen backbone. Untrained, they must repeat the backbone's own prediction.
pub trait DraftHeads {
    /// H - 1
    fn count(&self) -> usize;

    /// Starts at n positions with the backbone's last hidden states `[n, d]`. What several heads read is computed once.
    fn begin<'a>(&'a self, hidden: Tensor<2>, drafted: &'a DraftedEmbeddings) -> States<'a>;

    /// Every linear layer.
    fn linears(&mut self) -> Vec<&mut Linear>;

    /// Whether a head reads what the heads before it drafted, so that they must draft one after the other.
    fn reads_drafted(&self) -> bool {
        false
    }

    /// The `[V, d]` that turns a head's state into logits, where it is the head's own and not the backbone's.
    fn unembedding(&self, _head: usize) -> Option<Tensor<2>> {
        None
    }
}

/// Heads of any architecture.
#[derive(Module, Debug)]
pub enum Heads {
    /// `kind = "ffn"`, `first_layer = "separate"`
    Ffn(FfnHeads),
    /// `kind = "ffn"`, `first_layer = "shared"`
    SharedFfn(SharedFfnHeads),
    /// `kind = "medusa"`
    Medusa(MedusaHeads),
    /// `kind = "linear"`
    Linear(LinearHeads),
    /// `kind = "speculator"`
    Speculator(SpeculatorHeads),
}

impl Heads {
    /// `count` untrained heads above an unembedding of the given size `[V, d]`. Unembeddings of their own are zero until
    /// [`Heads::copy_unembedding`] or a file fills them.
    pub fn new(architecture: &HeadArchitecture, count: usize, [vocabulary, d]: [usize; 2], init: &mut Init) -> Self {
        match architecture {
            HeadArchitecture::Ffn(ffn) => match ffn.first_layer {
                FirstLayer::Separate => Self::Ffn(FfnHeads::new(count, d, ffn.hidden, init)),
                FirstLayer::Shared => Self::SharedFfn(SharedFfnHeads::new(count, d, ffn.hidden, init)),
            },
            HeadArchitecture::Medusa(medusa) => {
                let own = (medusa.unembedding == HeadUnembedding::Own).then_some(vocabulary);
                Self::Medusa(MedusaHeads::new(count, d, medusa.blocks, own, init))
            }
            HeadArchitecture::Linear(LinearConfig {}) => Self::Linear(LinearHeads::new(count, d, init)),
            HeadArchitecture::Speculator(speculator) => {
                Self::Speculator(SpeculatorHeads::new(count, d, speculator.inner, init))
            }
        }
    }

    /// The same heads with the backbone's unembedding, which `read` gives, wherever they have one of their own.
    pub fn copy_unembedding(self, read: impl FnOnce() -> Tensor<2>) -> Self {
        match self {
            Self::Medusa(heads) if heads.unembedding(0).is_some() => Self::Medusa(heads.copy_unembedding(&read())),
            other => other,
        }
    }

    fn member(&self) -> &dyn DraftHeads {
        match self {
            Self::Ffn(heads) => heads,
            Self::SharedFfn(heads) => heads,
            Self::Medusa(heads) => heads,
            Self::Linear(heads) => heads,
            Self::Speculator(heads) => heads,
        }
    }
}

impl DraftHeads for Heads {
    fn count(&self) -> usize {
        self.member().count()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Ffn(heads) => heads.linears(),
            Self::SharedFfn(heads) => heads.linears(),
            Self::Medusa(heads) => heads.linears(),
            Self::Linear(heads) => heads.linears(),
            Self::Speculator(heads) => heads.linears(),
        }
    }

    fn begin<'a>(&'a self, hidden: Tensor<2>, drafted: &'a DraftedEmbeddings) -> States<'a> {
        self.member().begin(hidden, drafted)
    }

    fn reads_drafted(&self) -> bool {
        self.member().reads_drafted()
    }

    fn unembedding(&self, head: usize) -> Option<Tensor<2>> {
        self.member().unembedding(head)
    }
}
