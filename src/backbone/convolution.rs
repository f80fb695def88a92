//! Convolutions over the rows of a block, around the attention and the MLP of decoder layers that draft (DFlash2).

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::host_layers::Reader;
use crate::error::Result;
use crate::kernels::PackedMatrix;
use crate::nn::{Init, Linear};

/// Grouped dynamic causal convolutions, as DFlash2 has them: before attention and MLP, and behind them, every number of a row is
/// a weighted sum of itself and those of the rows before it in its block. The weights are a kernel for each number, plus what the
/// row itself says for each group of numbers. Before training they change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConvolutionConfig {
    /// How many rows take part, the row itself included.
    #[schemars(range(min = 1))]
    pub kernel: usize,
    /// How many numbers share what a row says. It divides the width of the states.
    #[schemars(range(min = 1))]
    pub group: usize,
}

/// The sizes of convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Their sizes in the configuration.
    pub config: ConvolutionConfig,
    /// The rows of a block.
    pub rows: usize,
}

/// The convolutions before and behind attention, or MLP, in tensors.
#[derive(Module, Debug)]
pub(super) struct TensorConvolutions {
    /// `[2 kernel, d]`: by distance, before and then behind.
    base_kernel: Param<Tensor<2>>,
    /// To `[2, kernel, groups]`, from the row before the first convolution.
    kernel_projection: Linear,
    #[module(skip)]
    shape: Convolution,
}

/// The same on the CPU, without training.
pub(super) struct HostConvolutions {
    base_kernel: Vec<f32>,
    kernel_projection: PackedMatrix,
    shape: Convolution,
}

impl TensorConvolutions {
    pub fn new(shape: Convolution, d: usize, init: &mut Init) -> Self {
        let ConvolutionConfig { kernel, group } = shape.config;
        let base = (0..2 * kernel * d).map(|at| if (at / d).is_multiple_of(kernel) { 1.0 } else { 0.0 });
        Self {
            base_kernel: init.given(base.collect(), [2 * kernel, d]),
            kernel_projection: init.zero_linear(2 * kernel * (d / group), d),
            shape,
        }
    }

    /// Returns what goes in of rows `x` `[n, d]`, block by block, and what rows say, for [`TensorConvolutions::behind`].
    pub fn before(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let said = self.kernel_projection.forward(x.clone());
        (self.convolve(0, x, &said), said)
    }

    /// Returns what comes out of `x` `[n, d]`, which became of the rows.
    pub fn behind(&self, x: Tensor<2>, said: &Tensor<2>) -> Tensor<2> {
        self.convolve(1, x, said)
    }

    fn convolve(&self, side: usize, x: Tensor<2>, said: &Tensor<2>) -> Tensor<2> {
        let ([n, d], Convolution { config: ConvolutionConfig { kernel, group }, rows }) = (x.dims(), self.shape);
        let (blocks, groups, device, dtype) = (n / rows, d / group, x.device(), x.dtype());
        let x = x.reshape([blocks, rows, groups, group]);
        let said = said.clone().reshape([blocks, rows, 2 * kernel, groups, 1]);
        let tap = |distance: usize| {
            let place = side * kernel + distance;
            let base = self.base_kernel.val().narrow(0, place, 1).reshape([1, 1, groups, group]);
            let said = said.clone().narrow(2, place, 1).reshape([blocks, rows, groups, 1]);
            let nothing: Tensor<4> = Tensor::zeros([blocks, distance, groups, group], &device);
            let earlier = x.clone().narrow(1, 0, rows - distance);
            let shifted = if distance > 0 { Tensor::cat(vec![nothing.cast(dtype), earlier], 1) } else { earlier };
            shifted * (base + said)
        };
        let sum = (0..kernel.min(rows)).map(tap).reduce(|a, b| a + b).expect("a kernel has a tap");
        sum.reshape([n, d])
    }
}

impl HostConvolutions {
    /// Reads the parameters whose names begin with `prefix`.
    pub fn read(reader: &mut Reader, prefix: &str, shape: Convolution) -> Result<Self> {
        let (d, ConvolutionConfig { kernel, group }) = (reader.config.hidden_size, shape.config);
        let base_kernel = (reader.read)(&format!("{prefix}.base_kernel"), &[2 * kernel, d])?;
        let projection = [(format!("{prefix}.kernel_projection"), 2 * kernel * (d / group))];
        Ok(Self { base_kernel, kernel_projection: reader.stacked(&projection, d, false)?, shape })
    }

    /// Does what [`TensorConvolutions::before`] does: `x` becomes what goes in. Returns what rows say.
    pub fn before(&self, x: &mut Vec<f32>) -> Vec<f32> {
        let mut said = Vec::new();
        self.kernel_projection.multiply(x, &mut said);
        *x = self.convolve(0, x, &said);
        said
    }

    /// Does what [`TensorConvolutions::behind`] does, and adds it to `to` `[n, d]`.
    pub fn behind_onto(&self, x: &[f32], said: &[f32], to: &mut [f32]) {
        to.iter_mut().zip(self.convolve(1, x, said)).for_each(|(to, x)| *to += x);
    }

    fn convolve(&self, side: usize, x: &[f32], said: &[f32]) -> Vec<f32> {
        let Convolution { config: ConvolutionConfig { kernel, group }, rows } = self.shape;
        let d = self.base_kernel.len() / (2 * kernel);
        let groups = d / group;
        let mut sum = vec![0.0; x.len()];
        for (row, (sum, said)) in sum.chunks_mut(d).zip(said.chunks(2 * kernel * groups)).enumerate() {
            for distance in 0..kernel.min(row % rows + 1) {
                let place = side * kernel + distance;
                let (base, said) = (&self.base_kernel[place * d..][..d], &said[place * groups..][..groups]);
                let earlier = &x[(row - distance) * d..][..d];
                for (at, (sum, x)) in sum.iter_mut().zip(earlier).enumerate() {
                    *sum += x * (base[at] + said[at / group]);
                }
            }
        }
        sum
    }
}
