//! The CPU's inner loops, all on plain slices of float32: products with packed weights, attention over a panelled
//! cache, norms, activations, softmax, inner products and the k best of a row. They know nothing of models.
//!
//! Everything above relies on two properties:
//!
//! - **A row's result depends on that row alone.** Every output is one chain of fused multiply-adds in a fixed order,
//!   whatever rows are computed beside it and however many threads compute them. So a token's logits are the same to
//!   the bit in a decoding step, in a verified block and in a whole text.
//! - **Weights are read once.** A panel of weights is streamed from memory for the first rows (twelve, or as many as
//!   the registers hold) and found in the processor's cache for all others. So verifying a block costs little more than
//!   decoding a token.
//!
//! Vector instructions are chosen at run time ([`pulp`]): AVX-512, AVX2, NEON, or none.

mod attention;
mod attention_gradient;
mod interleaved;
mod outer;
mod packed;
mod products;
mod rows;
mod rows_gradient;
mod softmax;
mod tile;
mod topk;

pub use attention::{LayerCache, VisibleSpan, attend};
pub use attention_gradient::{ColumnGradients, attend_backward};
pub use outer::weight_gradient;
pub use packed::PackedMatrix;
pub use products::products;
pub use rows::{Activation, NormWeights, Rotations, activate, gate};
pub use rows_gradient::{NormGradient, activate_backward, gate_backward};
pub use softmax::{SoftmaxStats, exponentiate, largest, softmax_stats};
pub use topk::top_k;

use std::sync::LazyLock;

use aligned_vec::{AVec, ConstAlign};
use pulp::{Arch, Simd, WithSimd};

/// The vector instructions that this machine has.
static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// The number of columns of a panel: two vectors.
static PANEL: LazyLock<usize> = LazyLock::new(|| {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    2 * ARCH.dispatch(Lanes)
});

/// Numbers that begin with a line of the processor's cache, so that no vector of a panel lies across two.
type Aligned<T> = AVec<T, ConstAlign<64>>;

/// The numbers that are worth a thread of their own, where each takes a few operations.
pub const PART: usize = 1 << 14;

/// The multiply-adds that are worth a thread of their own: as many as it does while it is being woken.
const WORK: usize = 1 << 15;

/// Returns how many threads are worth waking for so many multiply-adds.
fn threads_for(work: usize) -> usize {
    (work / WORK).clamp(1, rayon::current_num_threads())
}

/// A buffer of which several threads write disjoint parts.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: a pointer is only an address; whoever writes through it makes sure that the parts are disjoint.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn new(slice: &mut [f32]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// Returns a pointer to the number at `offset`.
    ///
    /// # Safety
    /// `offset` must lie within the slice that this was made from.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// Runs `work` on a thread of the pool, from which starting parallel work is cheap; from any other thread, every start
/// would wait for a sleeping one.
pub fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
