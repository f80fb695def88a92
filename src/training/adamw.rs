//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over a model's named parameters.
//!
//! The state is kept by parameter path, not by burn's random parameter ids. So a checkpoint has the same bytes in every
//! run, and a resumed run continues exactly.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

use super::OptimizationConfig;
use crate::error::{Result, bail};
use crate::nn::{ParameterPath, from_host, squared_norm, to_host};

/// The first and second moment of one parameter, flat.
type Moments = [Tensor<1>; 2];

/// The optimizer with its state.
pub struct AdamW {
    betas: [f64; 2],
    weight_decay: f64,
    clip_norm: f64,
    steps: i32,
    moments: BTreeMap<String, Moments>,
}

/// The number added to the root of the second moment.
const EPSILON: f64 = 1e-8;

impl AdamW {
    /// Makes an optimizer with moments of zero.
    pub fn new(options: &OptimizationConfig) -> Self {
        Self {
            betas: options.betas,
            weight_decay: options.weight_decay,
            clip_norm: options.clip_norm,
            steps: 0,
            moments: BTreeMap::new(),
        }
    }

    /// Updates every parameter that has a gradient. `norm` is the global norm of the gradients, `rate` gives the learning
    /// rate of a parameter by its path. Weight decay applies to matrices, not to vectors (biases and norms).
    pub fn step<M: Module>(
        &mut self,
        model: M,
        gradients: GradientsParams,
        norm: f64,
        rate: &dyn Fn(&str) -> f64,
    ) -> M {
        let clip = if norm > self.clip_norm { self.clip_norm / norm } else { 1.0 };
        self.steps += 1;
        model.map(&mut Update { optimizer: self, gradients, rate, clip, path: ParameterPath::default() })
    }

    /// Returns the moments by name (`m.PATH`, `v.PATH`), for a checkpoint.
    pub fn state(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let named = |name: &str, moments: &Moments| {
            ["m", "v"]
                .into_iter()
                .zip(moments.clone())
                .map(|(kind, tensor)| {
                    let values = to_host(tensor);
                    (format!("{kind}.{name}"), (vec![values.len()], values))
                })
                .collect::<Vec<_>>()
        };
        self.moments.iter().flat_map(|(name, moments)| named(name, moments)).collect()
    }

    /// Restores the state of a checkpoint that was taken after `steps` steps.
    ///
    /// # Errors
    /// When `state` is not what [`AdamW::state`] returns.
    pub fn restore(
        &mut self,
        steps: usize,
        mut state: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
        device: &Device,
    ) -> Result<()> {
        self.steps = steps as i32;
        self.moments.clear();
        while let Some((key, (shape, first))) = state.pop_first() {
            let Some(name) = key.strip_prefix("m.") else {
                bail!("the optimizer's state has an odd tensor `{key}`; delete the checkpoints folder to train anew.");
            };
            let Some((_, second)) = state.remove(&format!("v.{name}")) else {
                bail!("the optimizer's state lacks `v.{name}`; delete the checkpoints folder to train anew.");
            };
            let tensor = |values| from_host(values, [shape[0]], device);
            self.moments.insert(name.to_owned(), [tensor(first), tensor(second)]);
        }
        Ok(())
    }
}

/// Returns the global L2 norm of a model's gradients.
pub(super) fn norm<M: Module>(model: &M, gradients: &GradientsParams) -> f64 {
    let mut norm = Norm { gradients, sum: 0.0 };
    model.visit(&mut norm);
    norm.sum.sqrt()
}

struct Norm<'a> {
    gradients: &'a GradientsParams,
    sum: f64,
}

impl ModuleVisitor for Norm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.sum += squared_norm(gradient);
        }
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: GradientsParams,
    rate: &'a dyn Fn(&str) -> f64,
    clip: f64,
    path: ParameterPath,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return param;
        };
        let name = self.path.name();
        let rate = (self.rate)(&name);
        let size: usize = gradient.dims().iter().product();
        let gradient = gradient.reshape([size]).mul_scalar(self.clip);
        let optimizer = &mut *self.optimizer;
        let [m, v] = optimizer.moments.remove(&name).unwrap_or_else(|| [gradient.zeros_like(), gradient.zeros_like()]);
        let [b1, b2] = optimizer.betas;
        let m = m.mul_scalar(b1) + gradient.clone().mul_scalar(1.0 - b1);
        let v = v.mul_scalar(b2) + gradient.square().mul_scalar(1.0 - b2);
        optimizer.moments.insert(name, [m.clone(), v.clone()]);
        let corrected = |b: f64| 1.0 - b.powi(optimizer.steps);
        let direction = m.div_scalar(corrected(b1)) / v.div_scalar(corrected(b2)).sqrt().add_scalar(EPSILON);
        let decay = if D > 1 { 1.0 - rate * optimizer.weight_decay } else { 1.0 };
        param.map(|old| {
            let shape = old.dims();
            let old = old.without_autodiff().reshape([size]);
            let new = old.mul_scalar(decay) - direction.mul_scalar(rate);
            new.reshape(shape).autodiff().require_grad()
        })
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::nn::{Init, Linear, collect_parameters};

    fn loss(model: &Linear, x: &Tensor<2>) -> Tensor<1> {
        model.forward(x.clone()).square().mean()
    }

    /// Compares two steps with the update rule written out in plain numbers.
    #[test]
    fn two_steps_follow_the_rule() {
        let device = Device::flex().autodiff();
        let options = OptimizationConfig { weight_decay: 0.1, clip_norm: 0.05, ..OptimizationConfig::default() };
        let mut init = Init::seeded(3, &device);
        let mut model = init.linear(2, 3, 1.0).with_bias(&mut init);
        let x: Tensor<2> = from_host(vec![1.0, -2.0, 0.5, 0.25, 3.0, -1.0], [2, 3], &device);
        let mut optimizer = AdamW::new(&options);
        let mut expected = collect_parameters(&model);
        let mut moments: BTreeMap<String, Vec<[f64; 2]>> =
            expected.iter().map(|(name, (_, v))| (name.clone(), vec![[0.0; 2]; v.len()])).collect();
        for step in 1..=2 {
            let mut backward = loss(&model, &x).backward();
            let gradients = GradientsParams::from_module(&mut backward, &model);
            let by_name: BTreeMap<&str, Vec<f32>> = [
                ("bias", to_host(gradients.get::<1>(model.bias.as_ref().unwrap().id).unwrap())),
                ("weight", to_host(gradients.get::<2>(model.weight.id).unwrap())),
            ]
            .into();
            let norm = by_name.values().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!(norm > options.clip_norm, "the test must clip");
            for (name, (_, values)) in &mut expected {
                for (i, value) in values.iter_mut().enumerate() {
                    let g = f64::from(by_name[name.as_str()][i]) * options.clip_norm / norm;
                    let [m, v] = &mut moments.get_mut(name).unwrap()[i];
                    *m = options.betas[0] * *m + (1.0 - options.betas[0]) * g;
                    *v = options.betas[1] * *v + (1.0 - options.betas[1]) * g * g;
                    let direction = *m
                        / (1.0 - options.betas[0].powi(step))
                        / ((*v / (1.0 - options.betas[1].powi(step))).sqrt() + EPSILON);
                    let decay = if name == "weight" { 1.0 - 0.01 * options.weight_decay } else { 1.0 };
                    let rate = if name == "weight" { 0.01 } else { 0.003 };
                    *value = (f64::from(*value) * decay - rate * direction) as f32;
                }
            }
            let found = super::norm(&model, &gradients);
            assert!((found - norm).abs() < 1e-5);
            model = optimizer.step(model, gradients, found, &|name| if name == "bias" { 0.003 } else { 0.01 });
        }
        for (name, (_, values)) in collect_parameters(&model) {
            for (a, b) in values.iter().zip(&expected[&name].1) {
                assert!((a - b).abs() < 1e-5, "{name}: {a} {b}");
            }
        }
    }
}
