//! A matrix that turns states into logits.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use super::{indices, on_host, to_host};
use crate::config::StorageType;
use crate::kernels::{PackedMatrix, on_pool};

/// `[V, d]`, on the CPU packed; clones share it.
#[derive(Clone)]
pub enum Projection {
    /// In this process's memory.
    Packed(Arc<PackedMatrix>),
    /// On any device.
    Tensor(Box<Tensor<2>>),
}

impl Projection {
    /// Of `[V, d]`, on the tensor's device.
    pub fn new(matrix: Tensor<2>) -> Self {
        if !on_host(&matrix.device()) || matrix.dtype() != DType::F32 {
            return Self::Tensor(Box::new(matrix));
        }
        let inputs = matrix.dims()[1];
        Self::Packed(Arc::new(PackedMatrix::new(&to_host(matrix), inputs, Vec::new(), StorageType::Float32)))
    }

    /// `[V, d]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Packed(matrix) => [matrix.outputs(), matrix.inputs()],
            Self::Tensor(matrix) => matrix.dims(),
        }
    }

    /// Some rows.
    pub fn select(&self, rows: &[u32]) -> Self {
        match self {
            Self::Packed(matrix) => Self::Packed(Arc::new(matrix.select(rows))),
            Self::Tensor(matrix) => {
                let rows = indices(rows.iter().map(|&row| row as usize), &matrix.device());
                Self::Tensor(Box::new(matrix.as_ref().clone().select(0, rows)))
            }
        }
    }

    /// States `[n, d]` to logits `[n, V]`, in this process's memory.
    pub fn logits(&self, states: Tensor<2>) -> Vec<f32> {
        match self {
            Self::Tensor(matrix) => to_host(states.matmul(matrix.as_ref().clone().transpose())),
            Self::Packed(matrix) => {
                let (states, mut logits) = (to_host(states), Vec::new());
                on_pool(|| matrix.multiply(&states, &mut logits));
                logits
            }
        }
    }
}
