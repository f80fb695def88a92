//! Plain decoding, many texts in one batch.

use burn::tensor::Tensor;

use super::{Backbone, Model, Sampler, Span};
use crate::error::Result;
use crate::nn::indices;
use crate::progress;

/// The tokens of a forward pass over long texts, at most, unless one row of each takes more: on a CPU nothing is gained by more, and
/// an interrupt is soon answered.
pub const TOKENS_A_FORWARD: usize = 2048;

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
    // The tokens that each text is still to be fed; none once it has ended.
    let mut next: Vec<Vec<u32>> = prompts.iter().map(|p| if limit(p) > 0 { p.to_vec() } else { Vec::new() }).collect();
    while next.iter().any(|tokens| !tokens.is_empty()) {
        progress::stop_if_interrupted("decoding")?;
        let mut room = TOKENS_A_FORWARD.max(next.len());
        let take = |tokens: &Vec<u32>| {
            let taken = tokens.len().min(room);
            room -= taken;
            taken
        };
        let fed: Vec<usize> = next.iter().map(take).collect();
        let spans: Vec<Span> = next.iter().zip(&fed).map(|(tokens, &fed)| Span::chain(&tokens[..fed])).collect();
        let hidden = model.hidden(&spans, Some(&mut cache));
        // Of the texts that were fed to their ends, the last row says what follows.
        let (mut rows, mut last, mut running) = (0, Vec::new(), Vec::new());
        for (text, (tokens, &fed)) in next.iter_mut().zip(&fed).enumerate().filter(|(_, (_, fed))| **fed > 0) {
            rows += fed;
            tokens.drain(..fed);
            if tokens.is_empty() {
                last.push(rows - 1);
                running.push(text);
            }
        }
        if running.is_empty() {
            continue;
        }
        let hidden = if last.len() == rows { hidden } else { hidden.select(0, indices(last, model.device())) };
        for (text, token) in running.iter().copied().zip(choose(&running, hidden)) {
            let result: &mut Vec<u32> = &mut results[text];
            result.push(token);
            if !end_of_text.contains(&token) && result.len() < limit(prompts[text]) {
                next[text].push(token);
            }
        }
    }
    Ok(results)
}
