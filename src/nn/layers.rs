//! Layers with the names and shapes of Hugging Face checkpoints, so that parameter paths are tensor names.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Normal};

use super::{from_host, on_host, to_host};
use crate::device::{free_memory, too_little_memory};
use crate::error::Result;
use crate::kernels::{PackedMatrix, on_pool};
use crate::storage_type::StorageType;

/// A maker of initial parameters: either seeded normal numbers, the same on every device, or zeros that a file will
/// replace.
///
/// On the CPU, once the parameters have grown beyond the memory, further ones are of a single number: whoever makes parameters of
/// sizes that somebody else has chosen asks [`Init::require_room`] before using them.
pub struct Init {
    rng: Option<ChaCha8Rng>,
    device: Device,
    /// The bytes of the parameters so far, with what is kept besides.
    taken: u64,
    /// The bytes of memory that are free, where that matters and the system tells.
    room: Option<u64>,
    /// How many numbers are kept for each of a parameter.
    kept: u64,
}

impl Init {
    /// Makes normal numbers from `seed`, for parameters that are trained: their gradients and two moments are kept as well.
    pub fn seeded(seed: u64, device: &Device) -> Self {
        Self { rng: Some(ChaCha8Rng::seed_from_u64(seed)), kept: 4, ..Self::empty(device) }
    }

    /// Makes zeros, for parameters that a file fills.
    pub fn empty(device: &Device) -> Self {
        let room = if on_host(device) { free_memory() } else { None };
        Self { rng: None, device: device.clone(), taken: 0, room, kept: 1 }
    }

    /// Checks that all parameters that were made have room in memory, with what is kept besides. `what` is a plural that names
    /// them; `cure` says what else to do.
    ///
    /// # Errors
    /// Returns an error with both numbers if there is too little.
    pub fn require_room(&self, what: &str, cure: &str) -> Result<()> {
        match self.room {
            Some(room) if room < self.taken => Err(too_little_memory([self.taken, room], what, cure)),
            _ => Ok(()),
        }
    }

    /// Returns the shape that a parameter gets, given the one that it should have.
    fn shape(&mut self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        let numbers = (rows as u64).saturating_mul(columns as u64).saturating_mul(self.kept);
        self.taken = self.taken.saturating_add(numbers.saturating_mul(size_of::<f32>() as u64));
        if self.room.is_some_and(|room| room < self.taken) { [1, 1] } else { [rows, columns] }
    }

    /// Returns `[rows, columns]` normal numbers with mean 0 and the given standard deviation.
    pub fn matrix(&mut self, rows: usize, columns: usize, deviation: f32) -> Param<Tensor<2>> {
        let [rows, columns] = self.shape([rows, columns]);
        let values = match &mut self.rng {
            None => return Param::from_tensor(Tensor::zeros([rows, columns], &self.device)),
            Some(rng) => {
                let normal = Normal::new(0.0, deviation).expect("a finite deviation");
                (0..rows * columns).map(|_| normal.sample(rng)).collect()
            }
        };
        Param::from_tensor(from_host(values, [rows, columns], &self.device))
    }

    /// Returns the given numbers `[rows, columns]`.
    pub fn given(&mut self, values: Vec<f32>, shape: [usize; 2]) -> Param<Tensor<2>> {
        Param::from_tensor(from_host(values, shape, &self.device))
    }

    /// Returns a vector of `length` times the same number.
    pub fn vector(&mut self, length: usize, value: f32) -> Param<Tensor<1>> {
        let [_, length] = self.shape([1, length]);
        Param::from_tensor(Tensor::full([length], value, &self.device))
    }

    /// Returns a norm with weight 1 and, if `biased`, bias 0.
    pub fn norm(&mut self, width: usize, biased: bool) -> Norm {
        Norm { weight: self.vector(width, 1.0), bias: biased.then(|| self.vector(width, 0.0)) }
    }

    /// Returns a linear layer whose weight is normal with the given standard deviation, without a bias.
    pub fn linear(&mut self, outputs: usize, inputs: usize, deviation: f32) -> Linear {
        Linear { weight: self.matrix(outputs, inputs, deviation), bias: None, packed: None }
    }

    /// Returns a table of zeros.
    pub fn zero_embedding(&mut self, types: usize, width: usize) -> Embedding {
        Embedding { weight: Param::from_tensor(Tensor::zeros(self.shape([types, width]), &self.device)) }
    }

    /// Returns a linear layer whose output is zero until it is trained, without a bias.
    pub fn zero_linear(&mut self, outputs: usize, inputs: usize) -> Linear {
        let weight = Param::from_tensor(Tensor::zeros(self.shape([outputs, inputs]), &self.device));
        Linear { weight, bias: None, packed: None }
    }
}

/// `y = x W^T + b` with `W` `[outputs, inputs]`, as checkpoints store it.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`
    pub weight: Param<Tensor<2>>,
    /// `[outputs]`
    pub bias: Option<Param<Tensor<1>>>,
    /// The weights of a layer that is frozen, on the CPU.
    #[module(skip)]
    packed: Option<Arc<PackedMatrix>>,
}

impl Linear {
    /// Fixes the layer's numbers: from now on it computes with the ones that it has. On the CPU the weights are kept in
    /// the type `weights`, and it uses kernels in which a row's result does not depend on the rows beside it.
    pub fn freeze(&mut self, weights: StorageType) {
        let weight = self.weight.val();
        if on_host(&weight.device()) && weight.dtype() == DType::F32 {
            let (inputs, bias) = (weight.dims()[1], self.bias.as_ref().map(|bias| to_host(bias.val())));
            let packed = PackedMatrix::new(&to_host(weight), inputs, bias.unwrap_or_default(), weights);
            self.packed = Some(Arc::new(packed));
        }
    }

    /// Maps `x` `[n, inputs]` to `[n, outputs]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        if let Some(packed) = &self.packed {
            let ([rows, _], device, mut y) = (x.dims(), x.device(), Vec::new());
            let x = to_host(x);
            on_pool(|| packed.multiply(&x, &mut y));
            return from_host(y, [rows, packed.outputs()], &device);
        }
        let y = x.matmul(self.weight.val().transpose());
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }

    /// Returns the layer with a bias of zeros.
    pub fn with_bias(mut self, init: &mut Init) -> Self {
        let outputs = self.weight.val().dims()[0];
        self.bias = Some(init.vector(outputs, 0.0));
        self
    }
}

/// A table of vectors: the embedding, and the unembedding too where the two are tied.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[types, width]`
    pub weight: Param<Tensor<2>>,
}

/// A normalisation of rows: layer normalisation (Ba et al. 2016) if there is a bias, else root-mean-square
/// normalisation (Zhang and Sennrich 2019).
#[derive(Module, Debug)]
pub struct Norm {
    /// `[width]`
    pub weight: Param<Tensor<1>>,
    /// `[width]`, or none.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Norm {
    /// Normalises the rows of `x` `[n, width]`: `(x - mean) / sqrt(variance + epsilon) * w + b`, or without a bias `x /
    /// sqrt(mean(x^2) + epsilon) * w`.
    pub fn forward(&self, x: Tensor<2>, epsilon: f64) -> Tensor<2> {
        let x = match &self.bias {
            Some(_) => x.clone() - x.mean_dim(1),
            None => x,
        };
        let scale = x.clone().square().mean_dim(1).add_scalar(epsilon).sqrt().recip();
        let x = x * scale * self.weight.val().unsqueeze();
        match &self.bias {
            Some(bias) => x + bias.val().unsqueeze(),
            None => x,
        }
    }
}
