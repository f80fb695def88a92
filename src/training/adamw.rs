//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over a model's named parameters.
//!
//! The state is kept by parameter path, not by burn's random parameter ids. So a checkpoint has the same bytes in every
//! run, and a resumed run continues exactly.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;

use super::OptimizationConfig;
use crate::error::{Result, bail};
use crate::kernels::{PART, on_pool};
use crate::nn::{ParameterPath, from_host, on_host, squared_norm, to_host};

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

    /// Updates every parameter that has a gradient. `gradients` are the sums of `batches` gradients, and `norm` is the global
    /// norm of their means. `rate` gives the learning rate of a parameter by its path. Weight decay applies to matrices,
    /// not to vectors (biases and norms).
    pub fn step<M: Module>(
        &mut self,
        model: M,
        gradients: GradientsParams,
        (batches, norm): (usize, f64),
        rate: &dyn Fn(&str) -> f64,
    ) -> M {
        let clip = if norm > self.clip_norm { self.clip_norm / norm } else { 1.0 };
        let factor = clip / batches as f64;
        self.steps += 1;
        model.map(&mut Update { optimizer: self, gradients, rate, factor, path: ParameterPath::default() })
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

/// Removes the gradients of parameters that stay as they are.
pub(super) fn remove_fixed<M: Module>(model: &M, gradients: &mut GradientsParams, stays: &dyn Fn(&str) -> bool) {
    model.visit(&mut Fixed { path: ParameterPath::default(), gradients, stays });
}

struct Fixed<'a> {
    path: ParameterPath,
    gradients: &'a mut GradientsParams,
    stays: &'a dyn Fn(&str) -> bool,
}

impl ModuleVisitor for Fixed<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if (self.stays)(&self.path.name()) {
            self.gradients.remove::<D>(param.id);
        }
    }
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

/// What a step does to the numbers of a parameter.
struct Rule {
    /// What gradients are multiplied by.
    factor: f64,
    betas: [f64; 2],
    /// What moments are divided by, as they began at zero.
    corrections: [f64; 2],
    decay: f64,
    rate: f64,
}

impl Rule {
    /// Updates a parameter's numbers and their moments, all of one length, on the CPU. burn's operations would take a dozen
    /// passes through memory, on one core.
    fn on_host(&self, value: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32]) {
        let [b1, b2] = self.betas.map(|b| b as f32);
        let [rest1, rest2] = self.betas.map(|b| (1.0 - b) as f32);
        let [c1, c2] = self.corrections.map(|c| c as f32);
        let (factor, decay, rate) = (self.factor as f32, self.decay as f32, self.rate as f32);
        on_pool(|| {
            let parts = value.par_chunks_mut(PART).zip(m.par_chunks_mut(PART)).zip(v.par_chunks_mut(PART));
            parts.zip(gradient.par_chunks(PART)).for_each(|(((value, m), v), gradient)| {
                for (((value, m), v), gradient) in value.iter_mut().zip(m).zip(v).zip(gradient) {
                    let gradient = gradient * factor;
                    *m = *m * b1 + gradient * rest1;
                    *v = *v * b2 + gradient * gradient * rest2;
                    let direction = (*m / c1) / ((*v / c2).sqrt() + EPSILON as f32);
                    *value = *value * decay - direction * rate;
                }
            });
        });
    }

    /// Does the same with tensors, on any device.
    fn on_device(&self, value: Tensor<1>, [m, v]: Moments, gradient: Tensor<1>) -> (Tensor<1>, Moments) {
        let [b1, b2] = self.betas;
        let gradient = gradient.mul_scalar(self.factor);
        let m = m.mul_scalar(b1) + gradient.clone().mul_scalar(1.0 - b1);
        let v = v.mul_scalar(b2) + gradient.square().mul_scalar(1.0 - b2);
        let [c1, c2] = self.corrections;
        let direction = m.clone().div_scalar(c1) / v.clone().div_scalar(c2).sqrt().add_scalar(EPSILON);
        (value.mul_scalar(self.decay) - direction.mul_scalar(self.rate), [m, v])
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: GradientsParams,
    rate: &'a dyn Fn(&str) -> f64,
    factor: f64,
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
        let (rate, optimizer) = ((self.rate)(&name), &mut *self.optimizer);
        let rule = Rule {
            factor: self.factor,
            betas: optimizer.betas,
            corrections: optimizer.betas.map(|b| 1.0 - b.powi(optimizer.steps)),
            decay: if D > 1 { 1.0 - rate * optimizer.weight_decay } else { 1.0 },
            rate,
        };
        let size: usize = gradient.dims().iter().product();
        let gradient = gradient.reshape([size]);
        let moments = optimizer.moments.remove(&name);
        let moments = moments.unwrap_or_else(|| [gradient.zeros_like(), gradient.zeros_like()]);
        param.map(|old| {
            let shape = old.dims();
            let old = old.without_autodiff().reshape([size]);
            let (new, moments) = if on_host(&old.device()) && old.dtype() == DType::F32 {
                let (device, [m, v]) = (old.device(), moments);
                let (mut value, mut m, mut v) = (to_host(old), to_host(m), to_host(v));
                rule.on_host(&mut value, &mut m, &mut v, &to_host(gradient));
                let tensor = |numbers| from_host(numbers, [size], &device);
                (tensor(value), [tensor(m), tensor(v)])
            } else {
                rule.on_device(old, moments, gradient)
            };
            optimizer.moments.insert(name, moments);
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
            model = optimizer.step(model, gradients, (1, found), &|name| if name == "bias" { 0.003 } else { 0.01 });
        }
        for (name, (_, values)) in collect_parameters(&model) {
            for (a, b) in values.iter().zip(&expected[&name].1) {
                assert!((a - b).abs() < 1e-5, "{name}: {a} {b}");
            }
        }
    }

    /// A parameter that stays as it is counts for nothing in the norm, and has no moments.
    #[test]
    fn what_stays_has_no_gradient() {
        let device = Device::flex().autodiff();
        let mut init = Init::seeded(3, &device);
        let model = init.linear(2, 3, 1.0).with_bias(&mut init);
        let x: Tensor<2> = from_host(vec![1.0, -2.0, 0.5, 0.25, 3.0, -1.0], [2, 3], &device);
        let mut gradients = GradientsParams::from_module(&mut loss(&model, &x).backward(), &model);
        let bias = to_host(gradients.get::<1>(model.bias.as_ref().unwrap().id).unwrap());
        let all = norm(&model, &gradients);
        remove_fixed(&model, &mut gradients, &|parameter| parameter == "weight");
        let left = norm(&model, &gradients);
        assert!((left - bias.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt()).abs() < 1e-6);
        assert!(left < 0.9 * all, "{left} {all}");
        let (before, mut optimizer) = (collect_parameters(&model), AdamW::new(&OptimizationConfig::default()));
        let after = collect_parameters(&optimizer.step(model, gradients, (1, left), &|_| 0.1));
        assert_eq!(before["weight"], after["weight"]);
        assert_ne!(before["bias"], after["bias"]);
        assert_eq!(optimizer.state().into_keys().collect::<Vec<_>>(), ["m.bias", "v.bias"]);
    }
}
