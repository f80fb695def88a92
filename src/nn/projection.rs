//! A matrix that turns states into logits.

use burn::tensor::Tensor;

use super::{on_host, to_host};
use crate::config::StorageType;
use crate::kernels::{PackedMatrix, on_pool};

/// `[V, d]`, packed on the CPU.
pub struct Projection {
    outputs: usize,
    matrix: Stored,
}

enum Stored {
    Host(PackedMatrix),
    Tensor(Tensor<2>),
}

impl Projection {
    /// Of `[V, d]`, on the tensor's device.
    pub fn new(matrix: Tensor<2>) -> Self {
        let [outputs, inputs] = matrix.dims();
        let host = on_host(&matrix.device());
        let matrix = match host {
            true => Stored::Host(PackedMatrix::new(&to_host(matrix), inputs, Vec::new(), StorageType::Float32)),
            false => Stored::Tensor(matrix),
        };
        Self { outputs, matrix }
    }

    /// V
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// States `[n, d]` to logits `[n, V]`, in this process's memory.
    pub fn logits(&self, states: Tensor<2>) -> Vec<f32> {
        match &self.matrix {
            Stored::Tensor(matrix) => to_host(states.matmul(matrix.clone().transpose())),
            Stored::Host(packed) => {
                let (states, mut logits) = (to_host(states), Vec::new());
                on_pool(|| packed.multiply(&states, &mut logits));
                logits
            }
        }
    }
}
