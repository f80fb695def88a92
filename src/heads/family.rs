//! The trait of draft heads, and the one type by which everything else holds them.
//!
//! A new architecture is a file with a [`DraftHeads`], a variant of [`Heads`] and a `kind` of
//! [`HeadArchitecture`](crate::config::HeadArchitecture).

use burn::module::Module;
use burn::tensor::Tensor;

use super::{FfnHeads, LinearHeads, MedusaHeads, SharedFfnHeads};
use crate::config::{FirstLayer, HeadArchitecture, LinearConfig};
use crate::nn::Init;

/// What heads read at n positions.
///
/// A head that conditions on the tokens drafted so far (Hydra, arXiv 2402.05109; MLPSpeculator, arXiv 2404.19124) would find
/// them in a field here: `positions.rs` fills it with the trace's tokens, `candidates.rs` with the earlier heads' first
/// choices. Trainer, lattice and evaluator only pass this on.
#[derive(Clone)]
pub struct HeadInput {
    /// `[n, d]`: the backbone's last hidden states.
    pub hidden: Tensor<2>,
}

impl HeadInput {
    /// The same numbers, where gradients are tracked.
    pub fn autodiff(self) -> Self {
        Self { hidden: self.hidden.autodiff() }
    }
}

/// States `[n, d]`, head by head, each computed when it is asked for.
pub type States<'a> = Box<dyn Iterator<Item = Tensor<2>> + 'a>;

/// Heads 2 to H above a frozen backbone. Untrained, they must repeat the backbone's own prediction.
pub trait DraftHeads {
    /// H - 1
    fn count(&self) -> usize;

    /// What the named `heads` (0 is head 2) make of the input; the unembedding turns it into logits. What several heads
    /// read is computed once.
    fn states<'a>(&'a self, input: HeadInput, heads: &'a [usize]) -> States<'a>;
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
}

impl Heads {
    /// `count` untrained heads on hidden states of width `d`.
    pub fn new(architecture: &HeadArchitecture, count: usize, d: usize, init: &mut Init) -> Self {
        match architecture {
            HeadArchitecture::Ffn(ffn) => match ffn.first_layer {
                FirstLayer::Separate => Self::Ffn(FfnHeads::new(count, d, ffn.hidden, init)),
                FirstLayer::Shared => Self::SharedFfn(SharedFfnHeads::new(count, d, ffn.hidden, init)),
            },
            HeadArchitecture::Medusa(medusa) => Self::Medusa(MedusaHeads::new(count, d, medusa.blocks, init)),
            HeadArchitecture::Linear(LinearConfig {}) => Self::Linear(LinearHeads::new(count, d, init)),
        }
    }

    fn member(&self) -> &dyn DraftHeads {
        match self {
            Self::Ffn(heads) => heads,
            Self::SharedFfn(heads) => heads,
            Self::Medusa(heads) => heads,
            Self::Linear(heads) => heads,
        }
    }
}

impl DraftHeads for Heads {
    fn count(&self) -> usize {
        self.member().count()
    }

    fn states<'a>(&'a self, input: HeadInput, heads: &'a [usize]) -> States<'a> {
        self.member().states(input, heads)
    }
}
