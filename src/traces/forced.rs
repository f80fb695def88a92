//! The teacher-forced pass, in which the backbone reads whole texts. A row depends only on the text that it belongs to.

use half::f16;

use crate::backbone::{Feature, Model, Span, TOKENS_A_FORWARD};
use crate::error::{Result, bail};
use crate::nn::to_host;
use crate::storage_type::StorageType;

/// The number of attention weights that are held at once: 256 MiB of float32.
const WEIGHTS: usize = 1 << 26;

/// Returns the states of the given features at every token: for each text, and for each feature, `[tokens, d]`. Texts
/// are computed in batches that fit in memory, each when the first of its texts is asked for.
pub(super) fn teacher_forced<'a>(
    model: &'a Model,
    texts: &'a [&'a [u32]],
    features: &'a [Feature],
) -> impl Iterator<Item = Vec<Vec<f32>>> + 'a {
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(1);
    let of_memory = WEIGHTS / (longest * longest * model.config().num_attention_heads);
    let rows = of_memory.min(TOKENS_A_FORWARD / longest).max(1);
    texts.chunks(rows).flat_map(move |batch| one_forward(model, batch, features))
}

/// Does the same as [`teacher_forced`] in a single forward pass.
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

/// Returns the states of one feature of the document `id` in the form in which a column stores them.
///
/// # Errors
/// Returns an error if float16 cannot hold a number.
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
