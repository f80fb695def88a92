//! The frozen language model: a checkpoint in, named states and logits out. Knows nothing of heads.
//!
//! [`Backbone::load`] reads a Hugging Face folder; `architectures/` holds one file for each family of checkpoints.
//! [`Model::features`] is the forward to the states that are asked for, each a [`Feature`], with an optional [`KvCache`];
//! [`Model::hidden`] is that to the last hidden states. It has two engines: `host.rs`, packed weights and the
//! kernels of this crate, for the CPU; and `transformer.rs`, tensor operations, for accelerators and for training.
//! [`DecoderLayers`] are layers apart from it, on the same two engines, for heads that attend to the text. [`generate`] decodes many documents side by side.

mod architectures;
mod cache;
mod check;
mod columns;
mod config;
mod convolution;
mod cost;
mod decoder_layers;
mod departures;
mod feature;
mod feature_rows;
mod folder;
mod generate;
mod gguf;
mod host;
mod host_layers;
mod hub;
mod model;
mod model_config;
mod sampling;
mod sketch;
mod tensor_layers;
mod trained_layers;
mod transformer;
mod weights;

pub use cache::{KvCache, states_before};
pub use check::{Check, check};
pub use columns::{BlockRows, Span};
pub use config::{BackboneConfig, LanguageModelConfig};
pub use convolution::{Convolution, ConvolutionConfig};
pub use decoder_layers::{DecoderLayers, LayerGradients, NewRows, TrainedRows};
pub use departures::{Departures, StaggeredRows};
pub use feature::Feature;
pub use feature_rows::{FeatureRow, FeatureRows, FeatureTensors};
pub use folder::{Backbone, BackboneIdentity, Checkpoint, CheckpointIdentity, save_model};
pub use generate::{
    Continuation, Continuing, DecodingSeconds, TOKENS_A_FORWARD, continue_each, generate, generate_timed, sample,
};
pub use hub::{resolve, resolve_draft, resolve_file, resolve_files};
pub use model::{Model, Precision};
pub use model_config::{Biases, ModelConfig, NormKind, Positions, RopeScaling, Rotary};
pub use sampling::{Sampler, draw_place};
pub use sketch::ValueSketch;
pub use transformer::Transformer;
