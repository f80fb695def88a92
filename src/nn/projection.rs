//! A matrix that turns states into logits.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use super::{indices, on_host, to_host};
use crate::kernels::{PackedMatrix, on_pool, products};
use crate::storage_type::StorageType;

/// A matrix `[V, d]`, packed on the CPU. Clones share it.
#[derive(Clone)]
pub enum Projection {
    /// A matrix in this process's memory.
    Packed(Arc<PackedMatrix>),
    /// A matrix on any device.
    Tensor(Box<Tensor<2>>),
}

impl Projection {
    /// Takes a matrix `[V, d]`, which stays on its device.
    pub fn new(matrix: Tensor<2>) -> Self {
        Self::kept_as(StorageType::Float32, matrix)
    }

    /// Takes a matrix like [`Projection::new`]; on the CPU it is kept in the type `weights`.
    pub fn kept_as(weights: StorageType, matrix: Tensor<2>) -> Self {
        if !on_host(&matrix.device()) || matrix.dtype() != DType::F32 {
            return Self::Tensor(Box::new(matrix));
        }
        let inputs = matrix.dims()[1];
        Self::Packed(Arc::new(PackedMatrix::new(&to_host(matrix), inputs, Vec::new(), weights)))
    }

    /// Returns the shape, `[V, d]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Packed(matrix) => [matrix.outputs(), matrix.inputs()],
            Self::Tensor(matrix) => matrix.dims(),
        }
    }

    /// Returns the projection to the given rows alone, in their order.
    pub fn select(&self, rows: &[u32]) -> Self {
        match self {
            Self::Packed(matrix) => Self::Packed(Arc::new(matrix.select(rows))),
            Self::Tensor(matrix) => {
                let rows = indices(rows.iter().map(|&row| row as usize), &matrix.device());
                Self::Tensor(Box::new(matrix.as_ref().clone().select(0, rows)))
            }
        }
    }

    /// Returns the matrix `[V, d + r]` with further columns `[V, r]`, in the same storage type.
    #[must_use]
    pub fn beside(&self, columns: Tensor<2>) -> Self {
        match self {
            Self::Tensor(matrix) => Self::Tensor(Box::new(Tensor::cat(vec![*matrix.clone(), columns], 1))),
            Self::Packed(matrix) => {
                let ([_, r], d) = (columns.dims(), matrix.inputs());
                let rows = matrix.unpack();
                let both = rows.chunks(d).zip(to_host(columns).chunks(r)).flat_map(|(a, b)| [a, b].concat()).collect();
                let both: Vec<f32> = both;
                Self::Packed(Arc::new(PackedMatrix::new(&both, d + r, Vec::new(), matrix.storage())))
            }
        }
    }

    /// Returns the logits `[n, V]` of states `[n, d]`, in this process's memory.
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

    /// Returns the logits of some outputs only, in this process's memory: for each row i of `states` `[n, d]`, the
    /// logits of the outputs `ids[i]`, one row after the other.
    pub fn logits_of(&self, states: Tensor<2>, ids: &[&[u32]]) -> Vec<f32> {
        let width = states.dims()[1];
        match self {
            Self::Packed(matrix) => {
                let states = to_host(states);
                let mut logits = Vec::with_capacity(ids.iter().map(|ids| ids.len()).sum());
                for (state, ids) in states.chunks(width).zip(ids) {
                    ids.iter().for_each(|&id| products(state, &matrix.row(id as usize), width, &mut logits));
                }
                logits
            }
            Self::Tensor(matrix) => {
                let device = matrix.device();
                let rows = ids.iter().enumerate().flat_map(|(row, ids)| ids.iter().map(move |_| row));
                let states = states.select(0, indices(rows, &device));
                let outputs = indices(ids.iter().flat_map(|ids| ids.iter().map(|&id| id as usize)), &device);
                to_host((states * matrix.as_ref().clone().select(0, outputs)).sum_dim(1))
            }
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::nn::from_host;

    #[test]
    fn some_outputs_are_those_of_all() {
        let numbers = |n: usize| (0..n).map(|at| ((at * 7) % 13) as f32 - 6.0).collect::<Vec<f32>>();
        let device = Device::flex();
        let matrix = from_host(numbers(40), [8, 5], &device);
        let states = || from_host(numbers(10), [2, 5], &device);
        let ids: [&[u32]; 2] = [&[3, 0, 7], &[5]];
        for projection in [Projection::new(matrix.clone()), Projection::Tensor(Box::new(matrix))] {
            let all = projection.logits(states());
            let expected: Vec<f32> = ids
                .iter()
                .enumerate()
                .flat_map(|(row, ids)| ids.iter().map(move |&id| (row, id)))
                .map(|(row, id)| all[row * 8 + id as usize])
                .collect();
            assert_eq!(projection.logits_of(states(), &ids), expected, "small whole numbers are exact");
        }
    }
}
