//! The training loop.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value, json};

use super::adamw::{norm, remove_fixed};
use super::checkpoint::{Best, Checkpoints, State};
use super::log::Log;
use super::timings::Timings;
use super::{AdamW, Average, OptimizationConfig, Schedule};
use crate::error::{Error, Result};
use crate::files;
use crate::nn::{collect_parameters, parameters_to_safetensors};
use crate::progress::{self, Progress};
use crate::storage_type::StorageType;

/// The loss of one batch.
pub struct Batch {
    /// A scalar whose gradient is that of the loss, less what is known of it; its own value means nothing.
    pub objective: Tensor<1>,
    /// What is known of the loss's gradient already.
    pub gradients: GradientsParams,
    /// The loss, in nats per counted target.
    pub loss: f64,
    /// The number of tokens (targets) in the batch, for the speed in the progress line.
    pub tokens: usize,
    /// Further numbers for `metrics.jsonl`.
    pub metrics: Map<String, Value>,
    /// What the progress line shows after the loss, beginning with a space.
    pub words: String,
}

/// The result of an evaluation on dev.
pub struct Evaluated {
    /// The score by which checkpoints are chosen; lower is better.
    pub score: f64,
    /// Numbers for `metrics.jsonl`.
    pub metrics: Map<String, Value>,
}

/// Something to train. Batches must be functions of their number alone: that makes resuming exact.
pub trait Task<M> {
    /// Computes the loss and the objective of batch `number` (from 0). A step takes one batch, or several in turn.
    fn batch(&self, model: &M, number: usize) -> Result<Batch>;
    /// Evaluates a model (without autodiff) on dev.
    fn evaluate(&self, model: &M) -> Result<Evaluated>;
    /// Says what batch `number` is made of, for the file that is left behind when its loss is not finite.
    fn describe(&self, number: usize) -> Value;
    /// Returns the factor of the learning rate of the parameter with this path.
    fn rate_factor(&self, _parameter: &str) -> f64 {
        1.0
    }
    /// Returns the learning rate of every step.
    fn schedule(&self, options: &OptimizationConfig) -> Schedule {
        Schedule::new(options)
    }
}

/// Where a training keeps its files, and what identifies it.
pub struct TrainingContext<'a> {
    /// The folder that holds `checkpoints/`, `metrics.jsonl` and `timings.jsonl`.
    pub folder: &'a Path,
    /// The hash of everything that the result depends on. A checkpoint of another key is replaced, not resumed.
    pub key: &'a str,
    /// The training's name in the progress bar and in messages.
    pub title: &'a str,
    /// Whether the weights of every checkpoint are kept, not only those of the latest and the best.
    pub keep_checkpoints: bool,
}

/// A copy of the task on another device.
pub struct Replica<T> {
    /// The device to which the parameters are copied before every step.
    pub device: Device,
    /// The task with its tensors on that device.
    pub task: T,
}

/// Trains `model` (on an autodiff device) and returns it with the parameters of the best dev score. If there is a
/// checkpoint of the same key, the training resumes from it.
///
/// The batches of a step (`accumulate`) are shared out among the model's own device and those of `replicas`, and their
/// gradients are summed in the order of the batches. So the number of devices changes nothing, except where the devices
/// round differently.
///
/// # Errors
/// When the loss, the gradient or the dev score is not finite, a file cannot be read or written, or the user interrupts
/// the training.
pub fn train<M, T>(
    model: M,
    task: &T,
    replicas: &[Replica<T>],
    options: &OptimizationConfig,
    context: &TrainingContext,
) -> Result<M>
where
    M: Module,
    T: Task<M> + Sync,
{
    let checkpoints = Checkpoints::new(context.folder);
    let mut optimizer = AdamW::new(options);
    let mut average = (options.average > 0.0).then(|| Average::new(options.average));
    let (mut model, mut state) = match checkpoints.latest(context.key)? {
        Some(state) => {
            checkpoints.settle(&state)?;
            if state.has_ended(options) {
                (model, state)
            } else {
                progress::say(format!("{}: going on from step {}", context.title, state.step));
                (checkpoints.load(&state, model, &mut optimizer, average.as_mut())?, state)
            }
        }
        None => {
            if checkpoints.clear()? {
                progress::say(format!("{}: inputs have changed, training anew", context.title));
            }
            (model, State::new(context.key))
        }
    };
    let schedule = task.schedule(options);
    let mut metrics = Log::open(context.folder.join("metrics.jsonl"), state.metrics_bytes)?;
    let mut timings = Timings::open(context.folder, state.step)?;
    let mut bar = Progress::starting_at(context.title, state.step, options.steps);
    let mut dev_words = String::new();
    let (started, mut tokens) = (Instant::now(), 0);
    while !state.has_ended(options) {
        let begun = Instant::now();
        let rate = schedule.rate(state.step);
        let batches = state.step * options.accumulate..(state.step + 1) * options.accumulate;
        let (mut gradients, batch) = gather(&model, task, replicas, batches.clone())?;
        // They would only count for the norm that is clipped.
        remove_fixed(&model, &mut gradients, &|parameter| task.rate_factor(parameter) == 0.0);
        let stopped_at = |what: &str, value: f64| -> Result<Error> {
            let batches: Vec<Value> = batches.clone().map(|number| task.describe(number)).collect();
            let culprit = json!({"step": state.step, "what": what, "value": value.to_string(), "learning_rate": rate, "batches": batches});
            diverged(&culprit, &model, context)
        };
        if !batch.loss.is_finite() {
            return Err(stopped_at("loss", batch.loss)?);
        }
        let norm = norm(&model, &gradients) / options.accumulate as f64;
        if !norm.is_finite() {
            return Err(stopped_at("gradient norm", norm)?);
        }
        model = optimizer
            .step(model, gradients, (options.accumulate, norm), &|parameter| rate * task.rate_factor(parameter));
        if let Some(average) = &mut average {
            average.add(&model);
        }
        state.step += 1;
        tokens += batch.tokens;
        let mut line = json!({"step": state.step, "split": "train", "loss": batch.loss, "learning_rate": rate, "gradient_norm": norm});
        extend(&mut line, batch.metrics);
        metrics.write(&line)?;
        timings.write(state.step, batch.tokens as f64 / begun.elapsed().as_secs_f64())?;
        let speed = tokens as f64 / started.elapsed().as_secs_f64();
        bar.update(state.step, || format!("loss {:.3}{}{dev_words} {speed:.0} tokens/s", batch.loss, batch.words));
        let mut last = state.step == options.steps;
        let mut is_best = false;
        if state.step.is_multiple_of(options.dev_every) || last {
            let evaluated = match &average {
                None => task.evaluate(&model.valid())?,
                Some(average) => task.evaluate(&average.model(model.valid())?)?,
            };
            if !evaluated.score.is_finite() {
                let culprit = json!({"step": state.step, "what": "dev score", "value": evaluated.score.to_string(), "learning_rate": rate});
                return Err(diverged(&culprit, &model, context)?);
            }
            is_best = state.best.is_none_or(|best| evaluated.score < best.score);
            if is_best {
                state.best = Some(Best { step: state.step, score: evaluated.score });
            }
            dev_words = words(&evaluated);
            progress::detail(format!("{} step {}:{dev_words}", context.title, state.step));
            let mut line = json!({"step": state.step, "split": "dev", "score": evaluated.score});
            extend(&mut line, evaluated.metrics);
            metrics.write(&line)?;
            last |= state.gave_up(options);
        }
        let stop = progress::interrupted();
        if is_best || last || stop || state.step.is_multiple_of(options.checkpoint_every) {
            state.metrics_bytes = metrics.sync()?;
            state.kept_every = context.keep_checkpoints.then_some(options.checkpoint_every);
            checkpoints.save(&model, &optimizer, average.as_ref(), &state)?;
        }
        if stop && !last {
            return Err(Error::interrupted(format!(
                "interrupted: {} was saved after step {} of {} in {}. Start the same command again to go on.",
                context.title,
                state.step,
                options.steps,
                context.folder.display()
            )));
        }
    }
    let best = state.best.expect("the last step is evaluated");
    let model = checkpoints.load_model(best.step, model, average.is_some())?;
    checkpoints.end()?;
    bar.finish(&format!("{} steps, best dev at step {},{dev_words}", state.step, best.step));
    Ok(model)
}

/// The numbers of a step: the mean loss and the tokens of all its batches, and the other metrics of the last one.
struct Summary {
    loss: f64,
    tokens: usize,
    metrics: Map<String, Value>,
    words: String,
}

/// Computes the sum of the gradients of a step's batches, on the model's device.
fn gather<M, T>(
    model: &M,
    task: &T,
    replicas: &[Replica<T>],
    batches: Range<usize>,
) -> Result<(GradientsParams, Summary)>
where
    M: Module,
    T: Task<M> + Sync,
{
    let mut sum = GradientsAccumulator::new();
    let mut summary = Summary { loss: 0.0, tokens: 0, metrics: Map::new(), words: String::new() };
    let (home, number) = (model.devices().remove(0), batches.len());
    let copies: Vec<M> = replicas.iter().map(|replica| model.clone().fork(&replica.device)).collect();
    let devices: Vec<(&M, &T)> =
        std::iter::once((model, task)).chain(copies.iter().zip(replicas.iter().map(|replica| &replica.task))).collect();
    for first in batches.clone().step_by(devices.len()) {
        // As many batches at once as there are devices, each on its own device.
        let work = (first..batches.end).zip(&devices).map(|(batch, &(model, task))| {
            let model = model.clone();
            move || gradients(model, task, batch)
        });
        for (outcome, (there, _)) in side_by_side(work.collect()).into_iter().zip(&devices) {
            let (gradients, Batch { loss, tokens, metrics, words, .. }) = outcome?;
            sum.accumulate(model, if copies.is_empty() { gradients } else { gradients.to_device(&home, *there) });
            let (loss, tokens) = (summary.loss + loss / number as f64, summary.tokens + tokens);
            summary = Summary { loss, tokens, metrics, words };
        }
    }
    Ok((sum.grads(), summary))
}

/// Computes the gradient of batch `batch`.
fn gradients<M, T>(model: M, task: &T, batch: usize) -> Result<(GradientsParams, Batch)>
where
    M: Module,
    T: Task<M>,
{
    let mut batch = task.batch(&model, batch)?;
    let known = std::mem::take(&mut batch.gradients);
    Ok((gradient(&model, batch.objective.clone(), known), batch))
}

/// Returns the gradient of an objective with respect to a model's parameters, added to what is `known` of it already.
pub(crate) fn gradient<M: Module>(model: &M, objective: Tensor<1>, known: GradientsParams) -> GradientsParams {
    let mut sum = GradientsAccumulator::new();
    sum.accumulate(model, known);
    sum.accumulate(model, GradientsParams::from_module(&mut objective.backward(), model));
    sum.grads()
}

/// Does the first piece of work on this thread and every other one on a thread of its own.
fn side_by_side<R: Send>(work: Vec<impl FnOnce() -> R + Send>) -> Vec<R> {
    std::thread::scope(|scope| {
        let mut work = work.into_iter();
        let here = work.next();
        let others: Vec<_> = work.map(|piece| scope.spawn(piece)).collect();
        let mut done: Vec<R> = here.into_iter().map(|piece| piece()).collect();
        done.extend(
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
        );
        done
    })
}

/// Writes the step, its batches and the model's weights to files, to help find the cause, and returns the error that
/// says so.
fn diverged<M: Module>(culprit: &Value, model: &M, context: &TrainingContext) -> Result<Error> {
    let (file, parameters) = (context.folder.join("diverged.json"), context.folder.join("diverged.safetensors"));
    files::write_json(&file, culprit)?;
    parameters_to_safetensors(&parameters, &collect_parameters(model), StorageType::Float32)?;
    let text = |key: &str| culprit[key].as_str().unwrap_or_default();
    Ok(Error::new(format!(
        "{}: the {} at step {} is {}: the training diverged at learning rate {:.2e}. Lower `learning_rate` or `clip_norm`. {} says what the step was made of, {} holds the weights before it, and the last checkpoint is kept in {}.",
        context.title,
        text("what"),
        culprit["step"],
        text("value"),
        culprit["learning_rate"].as_f64().unwrap_or_default(),
        file.display(),
        parameters.display(),
        context.folder.join("checkpoints").display()
    )))
}

/// Adds fields to a JSON object.
fn extend(line: &mut Value, more: Map<String, Value>) {
    if let Value::Object(line) = line {
        line.extend(more);
    }
}

/// Returns the evaluation's numbers for the progress line; lists are for the file only.
fn words(evaluated: &Evaluated) -> String {
    let numbers = evaluated.metrics.iter().filter_map(|(name, value)| Some((name.replace('_', " "), value.as_f64()?)));
    numbers.map(|(name, value)| format!(" dev {name} {value:.3}")).collect()
}
