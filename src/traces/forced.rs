//! The teacher-forced forward: the backbone reads whole texts, and a row depends on nothing but its own text.

use half::f16;

use crate::backbone::{Feature, Model, Span};
use crate::error::{Result, bail};
use crate::nn::to_host;
use crate::storage_type::StorageType;

/// Attention weights held at once: 256 MB of float32.
const WEIGHTS: usize = 1 << 26;

/// Returns the states called `features` at every token: by text and feature, `[tokens, d]`. Texts are computed in batches
/// that keep within memory.
pub(super) fn teacher_forced(model: &Model, texts: &[&[u32]], features: &[Feature]) -> Vec<Vec<Vec<f32>>> {
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(1);
    let rows = (WEIGHTS / (longest * longest * model.config().num_attention_heads)).max(1);
    texts.chunks(rows).flat_map(|batch| one_forward(model, batch, features)).collect()
}

fn one_forward(model: &Model, texts: &[&[u32]], features: &[Feature]) -> Vec<Vec<Vec<f32>>> {
    let width = model.config().hidden_size;
    let spans: Vec<Span> = texts.iter().map(|text| Span::chain(text)).collect();
    let mut states = vec![Vec::with_capacity(features.len()); texts.len()];
    for state in model.features(&spans, None, features).into_iter().map(to_host) {
        let mut rest = &state[..];
        for (text, states) in texts.iter().zip(&mut states) {
            let (own, others) = rest.split_at(text.len() * width);
            states.push(own.to_vec());
            rest = others;
        }
    }
    states
}

/// Returns the stored form of the states called `feature` of the document `id`.
///
/// # Errors
/// A number that float16 cannot hold.
pub(super) fn encode(states: &[f32], dtype: StorageType, feature: Feature, id: &str) -> Result<Vec<u8>> {
    let too_large = |x: &&f32| x.is_finite() && f16::from_f32(**x).is_infinite();
    if dtype == StorageType::Float16
        && let Some(number) = states.iter().find(too_large)
    {
        bail!(
            "`{id}`: a number of the backbone's state `{feature}` is {number}, but float16 ends at 65,504. Set traces.dtype to \"bfloat16\" or \"float32\"."
        );
    }
    let mut bytes = Vec::with_capacity(states.len() * dtype.bytes());
    dtype.encode(states, &mut bytes);
    Ok(bytes)
}
