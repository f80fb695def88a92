//! The interface of a network of draft heads, for training and for drafting.

use burn::tensor::Tensor;

use crate::backbone::{Feature, FeatureTensors};
use crate::nn::Linear;

/// Returns the backbone's embeddings `[n, d]` of the tokens that were drafted for a slot. Index 0 is slot 1, which
/// holds the backbone's own next token; index 1 is the slot that head 2 drafts, and so on. In training, the text's
/// tokens take the place of drafted ones.
pub type DraftedEmbeddings<'a> = dyn Fn(usize) -> Tensor<2> + 'a;

/// Computes the state `[n, d]` of a head (0 is head 2) at n positions. Heads must be asked for in ascending order, but
/// some may be left out.
pub type States<'a> = Box<dyn FnMut(usize) -> Tensor<2> + 'a>;

/// Heads 2 to H above a frozen backbone. Before they are trained, they must repeat the backbone's own prediction.
pub trait DraftHeads: Send + Sync {
    /// Returns the number of heads, H - 1.
    fn count(&self) -> usize;

    /// Returns the backbone's states that the heads read.
    fn features(&self) -> Vec<Feature> {
        vec![Feature::Last]
    }

    /// Starts the heads at n positions, given the backbone's states there, each `[n, d]`. Whatever several heads read
    /// is computed only once.
    fn begin<'a>(&'a self, read: &FeatureTensors, drafted: &'a DraftedEmbeddings) -> States<'a>;

    /// Returns every linear layer.
    fn linears(&mut self) -> Vec<&mut Linear>;

    /// Returns whether a head reads what the heads before it drafted. If so, the heads must draft one after the other.
    fn reads_drafted(&self) -> bool {
        false
    }

    /// Returns the matrix `[V, d]` that turns a head's state into logits, if the head has its own instead of the
    /// backbone's.
    fn unembedding(&self, _head: usize) -> Option<Tensor<2>> {
        None
    }

    /// Copies `table` `[V, d]` (without autodiff) into every unembedding that belongs to a head.
    fn copy_unembedding(&mut self, _table: &Tensor<2>) {}
}
