//! Plain greedy decoding, many texts side by side.

use super::{Backbone, Inputs, KvCache, Visible};
use crate::error::Result;
use crate::nn::to_host;

/// The id of the largest logit (the smaller id wins a tie) and its lead over the second.
pub fn best_two(logits: &[f32]) -> (u32, f32) {
    let (mut best, mut first, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (i, &x) in logits.iter().enumerate() {
        if x > first {
            (best, second, first) = (i, first, x);
        } else if x > second {
            second = x;
        }
    }
    (best as u32, first - second)
}

/// Greedy continuations of `prompts` (each of at least one token), a final end-of-text included: until then, `max_new` tokens or the context's
/// end. All prompts are decoded in one batch; choose its size with memory in mind.
pub fn generate(backbone: &Backbone, prompts: &[&[u32]], max_new: usize) -> Result<Vec<Vec<u32>>> {
    let model = &backbone.model;
    let context = model.config().max_position_embeddings;
    let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
    let padding: Vec<usize> = prompts.iter().map(|p| longest - p.len()).collect();
    let limits: Vec<usize> = prompts.iter().map(|p| max_new.min(context.saturating_sub(p.len()))).collect();
    let most = limits.iter().copied().max().unwrap_or(0);
    let mut results = vec![Vec::new(); prompts.len()];
    let mut cache = KvCache::new(model.config(), prompts.len(), longest + most, &model.device());
    let (mut tokens, mut positions) = (Vec::new(), Vec::new());
    for (prompt, &pad) in prompts.iter().zip(&padding) {
        tokens.extend(std::iter::repeat_n(0, pad).chain(prompt.iter().copied()));
        positions.extend(std::iter::repeat_n(0, pad).chain(0..prompt.len() as u32));
    }
    let mut new = longest;
    loop {
        let visible = Visible::LeftPadded(&padding);
        let inputs = Inputs { tokens: &tokens, rows: prompts.len(), positions: &positions, visible };
        let hidden = model.hidden(&inputs, Some(&mut cache));
        let width = hidden.dims()[1];
        let last = hidden.reshape([prompts.len(), new, width]).narrow(1, new - 1, 1).reshape([prompts.len(), width]);
        let logits = to_host(model.logits(last));
        new = 1;
        (tokens, positions) = (Vec::new(), Vec::new());
        let mut running = false;
        for (row, logits) in logits.chunks(model.config().vocab_size).enumerate() {
            let (next, _) = best_two(logits);
            let result: &mut Vec<u32> = &mut results[row];
            let ended = result.last().is_some_and(|t| backbone.end_of_text.contains(t));
            if !ended && result.len() < limits[row] {
                result.push(next);
                running |= !backbone.end_of_text.contains(&next) && result.len() < limits[row];
            }
            tokens.push(next);
            // Rows that have ended go along unread; their positions stay inside the context.
            positions.push(((prompts[row].len() + result.len()).saturating_sub(1)).min(context - 1) as u32);
        }
        if !running || cache.room() == 0 {
            return Ok(results);
        }
    }
}
