//! The numeric parts of which every model here is made: layers, named parameters, cross-entropy with its gradient.

mod criterion;
mod cross_entropy;
mod frozen;
mod largest;
mod layers;
mod parameters;
mod projection;
mod safetensors_file;
mod targets;
mod tokens;
mod transition;

pub use criterion::Criterion;
pub use cross_entropy::{Unembedded, unembed};
pub use frozen::{FrozenLoss, FrozenUnembedding, Taught, VocabularyView};
pub use largest::Largest;
pub use layers::{Embedding, Init, Linear, Norm};
#[cfg(test)]
pub(crate) use parameters::gradients_by_name;
pub use parameters::{
    ParameterPath, ReadParameter, Values, collect_parameters, count_parameters, for_each_parameter, load_parameters,
    read_parameters,
};
pub use projection::Projection;
pub use safetensors_file::{SafetensorsFile, parameters_from_safetensors, parameters_to_safetensors};
pub use targets::{IGNORE, Targets};
pub use tokens::{TokenMap, TokenVectors, Tokens, distinct};
pub use transition::{TransitionNetwork, TransitionShape, unit_rows, weighted};

use burn::tensor::{Device, ElementConversion, Tensor};
use rayon::prelude::*;

use crate::kernels::{PART, on_pool};
use crate::storage_type::StorageType;

/// Returns the numbers of a tensor, row by row, as float32 in this process's memory.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("converted to float32")
}

/// Makes a float32 tensor from its numbers, given row by row.
pub fn from_host<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(burn::tensor::TensorData::new(values, shape), device)
}

/// Makes a vector of indices for `select`.
pub fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, burn::tensor::Int> {
    let values: Vec<i64> = values.into_iter().map(|v| v as i64).collect();
    let length = values.len();
    Tensor::from_data(burn::tensor::TensorData::new(values, [length]), device)
}

/// Returns the sum of squares of a tensor's numbers.
pub fn squared_norm<const D: usize>(tensor: Tensor<D>) -> f64 {
    if !on_host(&tensor.device()) {
        return tensor.square().sum().into_scalar::<f32>().elem::<f64>();
    }
    let squares = |part: &[f32]| part.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    // Collected before they are summed, so that the bits are the same for any number of threads.
    let parts: Vec<f64> = on_pool(|| to_host(tensor).par_chunks(PART).map(squares).collect());
    parts.into_iter().sum()
}

/// Returns whether tensors of this device are plain memory of this process.
pub fn on_host(device: &Device) -> bool {
    #[cfg(feature = "cpu")]
    return device.clone().without_autodiff() == Device::flex();
    #[cfg(not(feature = "cpu"))]
    {
        let _ = device;
        false
    }
}

impl From<StorageType> for burn::tensor::DType {
    fn from(storage: StorageType) -> Self {
        match storage {
            StorageType::Float32 => Self::F32,
            StorageType::Float16 => Self::F16,
            StorageType::Bfloat16 => Self::BF16,
        }
    }
}
