//! Plain decoding, many texts in one batch.

use burn::tensor::Tensor;

use super::{Backbone, Model, Sampler, Span};
use crate::error::Result;
use crate::nn::indices;
use crate::progress;

/// Returns the greedy continuations of `prompts` (each of at least one token). A continuation ends with an end-of-text
/// id, after `max_new` tokens, or at the end of the context. All prompts are decoded in one batch; choose its size with
/// memory in mind.
///
/// # Errors
/// Returns an error once work is to stop ([`progress::interrupted`]), which is asked for before every forward pass.
pub fn generate(backbone: &Backbone, prompts: &[&[u32]], max_new: usize) -> Result<Vec<Vec<u32>>> {
    greedy(&backbone.model, &backbone.end_of_text, prompts, max_new)
}

/// Does the same as [`generate`] with the given end-of-text ids.
pub(super) fn greedy(model: &Model, end_of_text: &[u32], prompts: &[&[u32]], max_new: usize) -> Result<Vec<Vec<u32>>> {
    let projection = model.projection();
    continuations(model, end_of_text, prompts, max_new, |_, hidden| {
        projection.largest(hidden, 1, false).iter().map(|best| best.first().0).collect()
    })
}

/// Returns continuations as [`generate`] does, but draws their tokens, with one sampler for each prompt.
///
/// # Errors
/// As [`generate`].
pub fn sample(
    backbone: &Backbone,
    prompts: &[&[u32]],
    max_new: usize,
    samplers: &mut [Sampler],
) -> Result<Vec<Vec<u32>>> {
    let Backbone { model, end_of_text, .. } = backbone;
    continuations(model, end_of_text, prompts, max_new, |texts, hidden| {
        let logits = model.logits(hidden);
        texts
            .iter()
            .zip(logits.chunks(model.config().vocab_size))
            .map(|(&text, row)| samplers[text].draw(row))
            .collect()
    })
}

/// Continues the prompts; `choose` returns the next token of some texts, given their last hidden states `[texts, d]`.
fn continuations(
    model: &Model,
    end_of_text: &[u32],
    prompts: &[&[u32]],
    max_new: usize,
    mut choose: impl FnMut(&[usize], Tensor<2>) -> Vec<u32>,
) -> Result<Vec<Vec<u32>>> {
    let config = model.config();
    let limit = |prompt: &[u32]| max_new.min(config.max_position_embeddings.saturating_sub(prompt.len()));
    let longest = prompts.iter().map(|p| p.len() + limit(p)).max().unwrap_or(0);
    let mut cache = model.cache(prompts.len(), longest);
    let mut results = vec![Vec::new(); prompts.len()];
    // The tokens that each text is fed next; none once it has ended.
    let mut next: Vec<Vec<u32>> = prompts.iter().map(|p| if limit(p) > 0 { p.to_vec() } else { Vec::new() }).collect();
    while next.iter().any(|tokens| !tokens.is_empty()) {
        progress::stop_if_interrupted("decoding")?;
        let spans: Vec<Span> = next.iter().map(|tokens| Span::chain(tokens)).collect();
        let hidden = model.hidden(&spans, Some(&mut cache));
        let mut rows = 0;
        let mut last = Vec::new();
        for span in spans.iter().filter(|span| !span.tokens.is_empty()) {
            rows += span.tokens.len();
            last.push(rows - 1);
        }
        let hidden = if last.len() == rows { hidden } else { hidden.select(0, indices(last, model.device())) };
        let running: Vec<usize> = (0..next.len()).filter(|&text| !next[text].is_empty()).collect();
        for (text, token) in running.iter().copied().zip(choose(&running, hidden)) {
            let result: &mut Vec<u32> = &mut results[text];
            result.push(token);
            next[text].clear();
            if !end_of_text.contains(&token) && result.len() < limit(prompts[text]) {
                next[text].push(token);
            }
        }
    }
    Ok(results)
}
