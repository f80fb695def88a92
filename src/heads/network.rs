//! What a network of draft heads offers to training and drafting.

use burn::tensor::Tensor;

use crate::backbone::{Feature, FeatureTensors};
use crate::nn::Linear;

/// Gives the backbone's embeddings `[n, d]` of the tokens that were drafted for a slot: 0 is slot 1, the backbone's own next
/// token, 1 what head 2 drafted, and so on. In training they are the text's tokens.
pub type DraftedEmbeddings<'a> = dyn Fn(usize) -> Tensor<2> + 'a;

/// Gives the state `[n, d]` of a head (0 is head 2) at n positions, computed when it is asked for; heads are asked for in
/// ascending order, and some may be left out.
pub type States<'a> = Box<dyn FnMut(usize) -> Tensor<2> + 'a>;

/// Heads 2 to H above a frozen backbone. Untrained, they must repeat the backbone's own prediction.
pub trait DraftHeads: Send + Sync {
    /// H - 1
    fn count(&self) -> usize;

    /// Returns the backbone's states that the heads read.
    fn features(&self) -> Vec<Feature> {
        vec![Feature::Last]
    }

    /// Starts at n positions with the backbone's states there, each `[n, d]`. What several heads read is computed once.
    fn begin<'a>(&'a self, read: &FeatureTensors, drafted: &'a DraftedEmbeddings) -> States<'a>;

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

    /// Copies `table` `[V, d]` (without autodiff) to every unembedding that is a head's own.
    fn copy_unembedding(&mut self, _table: &Tensor<2>) {}
}
