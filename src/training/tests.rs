//! Tests of the loop on a toy problem.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value, json};

use super::*;
use crate::error::Result;
use crate::nn::{Init, Linear, collect_parameters, from_host};

/// Least squares on rows drawn by their number, `rows` in a batch. The dev score gets worse after evaluation `best`.
struct Toy {
    rows: usize,
    best: f64,
    evaluations: AtomicUsize,
}

impl Toy {
    fn new(rows: usize, best: f64) -> Self {
        Self { rows, best, evaluations: AtomicUsize::new(0) }
    }
}

impl Task<Linear> for Toy {
    fn batch(&self, model: &Linear, number: usize) -> Result<Batch> {
        let device = Device::flex();
        let value = |i: usize| ((number * self.rows * 3 + i) as f32 * 0.7).sin();
        let x: Tensor<2> = from_host((0..self.rows * 3).map(value).collect(), [self.rows, 3], &device);
        let error = model.forward(x.autodiff()) - 1.0;
        let objective = (error.clone() * error).mean();
        let loss = f64::from(objective.clone().into_scalar::<f32>());
        Ok(Batch {
            objective,
            gradients: GradientsParams::new(),
            loss,
            tokens: self.rows,
            metrics: Map::new(),
            words: String::new(),
        })
    }

    fn describe(&self, number: usize) -> Value {
        json!({"number": number})
    }

    fn evaluate(&self, _: &Linear) -> Result<Evaluated> {
        let evaluations = 1 + self.evaluations.fetch_add(1, Ordering::Relaxed);
        let score = (evaluations as f64 - self.best).abs();
        Ok(Evaluated { score, metrics: Map::new() })
    }
}

/// Returns the parameters after training, and how many evaluations there were.
fn trained(task: &Toy, options: &OptimizationConfig) -> (Vec<f32>, usize) {
    trained_on(task, 1, options)
}

/// Trains on several devices, which are all the CPU here.
fn trained_on(task: &Toy, devices: usize, options: &OptimizationConfig) -> (Vec<f32>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let model = Init::seeded(1, &Device::flex().autodiff()).linear(2, 3, 0.5);
    let context = TrainingContext { folder: folder.path(), key: "toy", title: "toy", keep_checkpoints: false };
    let replica = |_| Replica { device: Device::flex(), task: Toy::new(task.rows, task.best) };
    let replicas: Vec<_> = (1..devices).map(replica).collect();
    let model = train(model, task, &replicas, options, &context).unwrap();
    let values = collect_parameters(&model.valid()).into_values().flat_map(|(_, values)| values);
    (values.collect(), task.evaluations.load(Ordering::Relaxed))
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    let options =
        |accumulate| OptimizationConfig { steps: 12, dev_every: 12, accumulate, ..OptimizationConfig::default() };
    let (whole, _) = trained(&Toy::new(8, 1.0), &options(1));
    let (parts, _) = trained(&Toy::new(2, 1.0), &options(4));
    for (a, b) in whole.iter().zip(&parts) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    let (other, _) = trained(&Toy::new(2, 1.0), &options(1));
    assert!(whole.iter().zip(&other).any(|(a, b)| (a - b).abs() > 1e-4), "a quarter of the rows is not the same");
}

/// Also if the number of devices does not divide the number of batches of a step.
#[test]
fn several_devices_train_to_the_same_bytes() {
    let options = OptimizationConfig { steps: 12, dev_every: 12, accumulate: 4, ..OptimizationConfig::default() };
    let (one, _) = trained(&Toy::new(2, 1.0), &options);
    for devices in [2, 3, 4, 6] {
        assert_eq!(trained_on(&Toy::new(2, 1.0), devices, &options).0, one, "{devices} devices");
    }
}

#[test]
fn patience_ends_a_training_that_gets_no_better() {
    let options = OptimizationConfig { steps: 100, dev_every: 5, patience: 3, ..OptimizationConfig::default() };
    assert_eq!(trained(&Toy::new(2, 4.0), &options).1, 7, "the fourth evaluation was the best");
    assert_eq!(trained(&Toy::new(2, 4.0), &OptimizationConfig { patience: 0, ..options }).1, 20);
}

/// Killed after `latest.json` was written, a training does the rest when it is started again.
#[test]
fn what_a_killed_training_left_undone_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let options = OptimizationConfig {
        steps: 20,
        dev_every: 5,
        checkpoint_every: 5,
        patience: 0,
        ..OptimizationConfig::default()
    };
    let run = || {
        let model = Init::seeded(1, &Device::flex().autodiff()).linear(2, 3, 0.5);
        let context = TrainingContext { folder: folder.path(), key: "toy", title: "toy", keep_checkpoints: false };
        train(model, &Toy::new(2, 2.0), &[], &options, &context).unwrap();
    };
    run();
    let checkpoints = folder.path().join("checkpoints");
    let listing = || crate::files::listing(&checkpoints).unwrap();
    let (before, best) = (listing(), std::fs::read(checkpoints.join("best.json")).unwrap());
    assert_eq!(before.len(), 4, "{before:?}");
    std::fs::write(checkpoints.join("best.json"), "{\"step\": 5}").unwrap();
    std::fs::create_dir(checkpoints.join("step-000005")).unwrap();
    run();
    assert_eq!((listing(), std::fs::read(checkpoints.join("best.json")).unwrap()), (before, best));
    let last = crate::files::listing(&checkpoints.join("step-000020")).unwrap();
    assert!(last.iter().all(|path| !path.ends_with("optimizer.safetensors")), "nothing goes on from there: {last:?}");
}

/// A batch whose loss is NaN: the step is not taken, and what it was made of is written down.
#[test]
fn a_loss_that_is_nan_stops_with_the_batch_saved() {
    struct Broken(Toy);
    impl Task<Linear> for Broken {
        fn batch(&self, model: &Linear, number: usize) -> Result<Batch> {
            let batch = self.0.batch(model, number)?;
            Ok(if number == 5 { Batch { loss: f64::NAN, ..batch } } else { batch })
        }
        fn evaluate(&self, model: &Linear) -> Result<Evaluated> {
            self.0.evaluate(model)
        }
        fn describe(&self, number: usize) -> Value {
            self.0.describe(number)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let model = Init::seeded(1, &Device::flex().autodiff()).linear(2, 3, 0.5);
    let context = TrainingContext { folder: folder.path(), key: "toy", title: "toy", keep_checkpoints: false };
    let options = OptimizationConfig { steps: 9, accumulate: 2, ..OptimizationConfig::default() };
    let error = train(model, &Broken(Toy::new(2, 1.0)), &[], &options, &context).unwrap_err().to_string();
    assert!(error.contains("the loss at step 2 is NaN") && error.contains("diverged.json"), "{error}");
    let left: Value = crate::files::read_json(&folder.path().join("diverged.json")).unwrap();
    assert_eq!((&left["step"], &left["batches"]), (&json!(2), &json!([{"number": 4}, {"number": 5}])));
    let weights = crate::nn::parameters_from_safetensors(&folder.path().join("diverged.safetensors")).unwrap();
    assert!(weights.values().flat_map(|(_, values)| values).all(|x| x.is_finite()));
}
