//! Rough estimates of time and disk space for stages of a sort of which none is finished yet. They are computed from
//! sizes, and should tell an hour from a week.

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::Tensor;

use crate::config::Config;
use crate::heads::HeadShape;
use crate::nn::to_host;
use crate::rescorer::{FitEstimate, FitSizes};
use crate::stages::{Part, Workspace};
use crate::training::kept_bytes;

/// Estimates from operation counts and one measurement, the speed of this device in matrix products.
pub struct Rough {
    /// Floating-point operations per second, once they have been measured.
    speed: Option<f64>,
}

/// The share of the speed of large products that training and drafting reach, together with everything else that they
/// do.
const REACHED: f64 = 0.5;

/// The seconds that replaying a variant of the lattice takes per token of the text and per trial of settings, on two cores.
/// Measured on `configs/tales-rescorers.toml`.
const REPLAY: f64 = 4e-6;

/// The approximate number of settings that a variant tries on dev.
const TRIALS: f64 = 25.0;

impl Rough {
    pub fn new() -> Self {
        Self { speed: None }
    }

    /// Estimates the seconds and bytes of a part. Both are 0 for a trace, which is estimated elsewhere.
    pub fn of(&mut self, part: Part, workspace: &Workspace) -> (f64, u64) {
        let config = &workspace.config;
        let model = workspace.backbone().model.config();
        let (vocabulary, width) = (model.vocab_size, model.hidden_size);
        let heads = config.heads.block_size - 1;
        let drafted = config.heads.vocabulary.as_ref().map_or(vocabulary, |v| v.size.min(vocabulary));
        let logits = (heads * drafted * width) as f64;
        let parameters = || {
            let kind = config.heads.architecture.kind();
            kind.parameters(HeadShape::new(heads, &workspace.backbone().model), &workspace.device.device)
        };
        let new_tokens = |documents: usize| (documents * config.traces.max_new) as f64;
        match part {
            Part::Trace(_) => (0.0, 0),
            Part::Heads(_) => {
                let each = 6.0 * parameters() as f64 + 4.0 * logits;
                let positions = (config.heads.training.batches() * config.heads.positions_per_step) as f64;
                (self.seconds(workspace, positions * each), kept_bytes(parameters()))
            }
            Part::Candidates { trace, k, .. } => {
                let positions = new_tokens(trace.documents);
                let operations = positions * 2.0 * (parameters() as f64 + logits);
                let kept = if workspace.graph.keeps_states { width * config.traces.dtype.bytes() } else { 0 };
                (self.seconds(workspace, operations), (positions * (heads * (8 * k + 8 + kept)) as f64) as u64)
            }
            Part::Rescorer { name, .. } => {
                let rescorer = &config.rescorer[name];
                let sizes = FitSizes {
                    documents: config.traces.train_documents,
                    new_tokens: config.traces.max_new,
                    vocabulary,
                    width,
                    slots: heads,
                    top_k: config.lattice.top_k,
                };
                let FitEstimate { operations, bytes } =
                    rescorer.kind().expect("a sum is no part of a run").estimate(&sizes);
                (self.seconds(workspace, operations), bytes)
            }
            Part::Evaluation(_) => {
                let documents = (config.traces.dev_documents, config.traces.test_documents);
                let corpora = config.data.values().filter(|data| data.test > 0.0).count() as f64;
                let (dev, test) = (new_tokens(documents.0), new_tokens(documents.1));
                let cost = |variant: f64| variant * REPLAY * (TRIALS * dev + 2.0 * test);
                (corpora * cost(variants(config)), 1 << 20)
            }
        }
    }

    fn seconds(&mut self, workspace: &Workspace, operations: f64) -> f64 {
        let speed = *self.speed.get_or_insert_with(|| measure(workspace));
        operations / (REACHED * speed)
    }
}

/// Returns the number of variants, in terms of cost: single drafts, paths and trees. Rescorers that read whole prefixes
/// run a model, so they count several times.
fn variants(config: &Config) -> f64 {
    let of = |name: &String| if config.beam(name).is_some() { 20.0 } else { 4.0 };
    3.0 + config.rescorer.keys().map(of).sum::<f64>()
}

/// Measures floating-point operations per second in matrix products of medium size.
fn measure(workspace: &Workspace) -> f64 {
    const N: usize = 512;
    let device = &workspace.device.device;
    let a = Tensor::<2>::ones([N, N], device);
    let product = || drop(black_box(to_host(a.clone().matmul(a.clone()))));
    // The first product also wakes the threads and compiles kernels.
    product();
    let (started, mut count) = (Instant::now(), 0);
    while count < 3 || started.elapsed().as_secs_f64() < 0.05 {
        product();
        count += 1;
    }
    f64::from(count) * 2.0 * (N * N * N) as f64 / started.elapsed().as_secs_f64()
}
