//! The exponential moving average of a model's weights (Polyak and Juditsky 1992), corrected for its start.

use std::collections::BTreeMap;

use burn::module::Module;
use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::{PART, on_pool};
use crate::nn::{Values, collect_parameters, for_each_parameter, load_parameters};

/// `sum over steps t of decay^(now - t) x weights at t`, divided by the sum of the same powers.
pub struct Average {
    decay: f64,
    steps: usize,
    /// The averaged weights by parameter path; empty before the first step.
    values: BTreeMap<String, Values>,
}

impl Average {
    /// Makes the average before the first step.
    pub fn new(decay: f64) -> Self {
        Self { decay, steps: 0, values: BTreeMap::new() }
    }

    /// Restores the average after `steps` steps, as [`Average::values`] returned it.
    pub fn restore(&mut self, steps: usize, values: BTreeMap<String, Values>) {
        (self.steps, self.values) = (steps, values);
    }

    /// Returns the averaged weights.
    pub fn values(&self) -> &BTreeMap<String, Values> {
        &self.values
    }

    /// Adds the weights after one more step.
    pub fn add<M: Module>(&mut self, model: &M) {
        self.steps += 1;
        let share = ((1.0 - self.decay) / (1.0 - self.decay.powi(self.steps as i32))) as f32;
        if self.values.is_empty() {
            self.values = collect_parameters(model);
            return;
        }
        for_each_parameter(model, |name, now| {
            let (_, average) = self.values.get_mut(name).expect("the parameters of the first step");
            on_pool(|| {
                let parts = average.par_chunks_mut(PART).zip(now.par_chunks(PART));
                parts.for_each(|(average, now)| {
                    average.iter_mut().zip(now).for_each(|(average, now)| *average += share * (now - *average));
                });
            });
        });
    }

    /// Returns `model` with the averaged weights.
    ///
    /// # Errors
    /// When the parameters of `model` are not those of the average.
    pub fn model<M: Module>(&self, model: M) -> Result<M> {
        load_parameters(model, self.values.clone())
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::nn::Init;
    use burn::tensor::Device;

    #[test]
    fn the_average_is_the_weighted_mean_of_all_steps() {
        let mut average = Average::new(0.75);
        let models: Vec<_> = (0..5).map(|seed| Init::seeded(seed, &Device::flex()).linear(2, 3, 0.5)).collect();
        models.iter().for_each(|model| average.add(model));
        let first = |model| collect_parameters(model).into_values().next().unwrap().1[0];
        let powers: Vec<f32> = (0..5).rev().map(|age| 0.75f32.powi(age)).collect();
        let sum: f32 = models.iter().zip(&powers).map(|(model, power)| power * first(model)).sum();
        let expected = sum / powers.iter().sum::<f32>();
        assert!((first(&average.model(models[0].clone()).unwrap()) - expected).abs() < 1e-6);
    }
}
