//! One hidden layer per head with a residual: `y_j = h + W_down silu(W_up h + b) + c`, then the backbone's unembedding.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use crate::nn::{Init, Linear};

/// Heads 2 to H of blockwise parallel decoding (Stern et al. 2018, arXiv 1811.03115, section 6). The output layer starts at
/// zero, so that an untrained head repeats the backbone's own prediction.
#[derive(Module, Debug)]
pub struct FfnHeads {
    heads: Vec<FfnHead>,
}

#[derive(Module, Debug)]
struct FfnHead {
    up: Linear,
    down: Linear,
}

impl FfnHeads {
    /// `count` heads on hidden states of width `d`, each with a hidden layer of width `hidden`.
    pub fn new(count: usize, d: usize, hidden: usize, init: &mut Init) -> Self {
        let deviation = (d as f32).powf(-0.5);
        let head = |init: &mut Init| FfnHead {
            up: init.linear(hidden, d, deviation).with_bias(init),
            down: init.zero_linear(d, hidden),
        };
        Self { heads: (0..count).map(|_| head(init)).collect() }
    }

    /// H - 1
    pub fn count(&self) -> usize {
        self.heads.len()
    }

    /// What head `index` (0 for head 2) makes of `[n, d]` hidden states; the unembedding turns it into logits.
    pub fn state(&self, index: usize, hidden: Tensor<2>) -> Tensor<2> {
        let head = &self.heads[index];
        hidden.clone() + head.down.forward(silu(head.up.forward(hidden)))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::nn::unembed;
    use burn::module::{ModuleMapper, ModuleVisitor, Param};
    use burn::optim::GradientsParams;
    use burn::tensor::{DType, Device, TensorData};

    /// Casts every parameter to float64 and adds `step` to the `index`-th number of all of them.
    struct Nudge {
        index: Option<usize>,
        step: f64,
        seen: usize,
    }

    impl ModuleMapper for Nudge {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| {
                let (shape, device) = (tensor.dims(), tensor.device());
                let mut values: Vec<f64> = tensor.into_data().convert::<f64>().try_into_vec().unwrap();
                if let Some(local) = self.index.and_then(|i| i.checked_sub(self.seen)).filter(|&i| i < values.len()) {
                    values[local] += self.step;
                }
                self.seen += values.len();
                Tensor::from_data(TensorData::new(values, shape), (&device, DType::F64)).require_grad()
            })
        }
    }

    fn nudged(heads: &FfnHeads, index: Option<usize>, step: f64) -> FfnHeads {
        heads.clone().map(&mut Nudge { index, step, seen: 0 })
    }

    struct Flat<'a> {
        gradients: &'a GradientsParams,
        values: Vec<f64>,
    }

    impl ModuleVisitor for Flat<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id).expect("every parameter has a gradient");
            self.values.extend(gradient.into_data().try_into_vec::<f64>().unwrap());
        }
    }

    fn tensor(rows: usize, columns: usize, shift: f64) -> Tensor<2> {
        let values: Vec<f64> = (0..rows * columns).map(|i| (i as f64 * 0.7 + shift).sin()).collect();
        Tensor::from_data(TensorData::new(values, [rows, columns]), (&Device::flex(), DType::F64))
    }

    /// The loss of one head on three positions, one of them ignored.
    const TARGETS: [u32; 3] = [4, crate::nn::IGNORE, 0];

    fn loss(heads: &FfnHeads, hidden: &Tensor<2>, table: &Tensor<2>) -> f64 {
        unembed(heads.state(0, hidden.clone()).without_autodiff(), table.clone(), &TARGETS, 0.5, false).loss * 0.5
    }

    #[test]
    fn gradients_of_the_loss_agree_with_finite_differences_in_float64() {
        let device = Device::flex().autodiff();
        let heads = FfnHeads::new(1, 4, 3, &mut Init::seeded(9, &device));
        // The zero output layer would hide the inner one's gradient; any other value shows it.
        let count = heads.num_params();
        let heads = (0..count).fold(nudged(&heads, None, 0.0), |h, i| nudged(&h, Some(i), 0.05 * (i as f64).cos()));
        let (hidden, table) = (tensor(3, 4, 0.3), tensor(6, 4, 1.1));
        let state = heads.state(0, hidden.clone().autodiff());
        let result = unembed(state.clone().without_autodiff(), table.clone(), &TARGETS, 0.5, false);
        let mut backward = (state * result.hidden_gradient).sum().backward();
        let gradients = GradientsParams::from_module(&mut backward, &heads);
        let mut flat = Flat { gradients: &gradients, values: Vec::new() };
        heads.visit(&mut flat);
        assert_eq!(flat.values.len(), count);
        let step = 1e-6;
        for (i, gradient) in flat.values.iter().enumerate() {
            let difference = loss(&nudged(&heads, Some(i), step), &hidden, &table)
                - loss(&nudged(&heads, Some(i), -step), &hidden, &table);
            assert!((difference / (2.0 * step) - gradient).abs() < 1e-8, "{i}: {gradient}");
        }
    }

    #[test]
    fn an_untrained_head_repeats_the_backbones_prediction() {
        let heads = FfnHeads::new(2, 4, 3, &mut Init::seeded(9, &Device::flex()));
        let hidden = tensor(3, 4, 0.3).cast(DType::F32);
        let same = (heads.state(1, hidden.clone()) - hidden).abs().max().into_scalar::<f32>();
        assert_eq!(same, 0.0);
    }
}
