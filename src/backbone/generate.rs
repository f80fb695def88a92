//! Plain decoding, many texts side by side.

use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Backbone, Feature, Model, Sampler, Span};
use crate::error::Result;
use crate::nn::{indices, to_host};
use crate::progress;

/// The tokens of a forward pass over long texts, at most, unless one row of each takes more: on a CPU nothing is gained by more, and
/// an interrupt is soon answered.
pub const TOKENS_A_FORWARD: usize = 512;

/// What follows a prompt.
#[derive(Debug, Clone, Default)]
pub struct Continuation {
    /// The tokens that follow.
    pub tokens: Vec<u32>,
    /// For each feature that was asked for, its states `[prompt and continuation, d]`, that of the last token included.
    pub states: Vec<Vec<f32>>,
}

/// How prompts are continued.
#[derive(Debug, Clone, Copy)]
pub struct Continuing<'a> {
    /// The largest number of tokens after each prompt.
    pub max_new: usize,
    /// How many texts are in memory at once.
    pub side_by_side: usize,
    /// The states that are returned with the tokens.
    pub features: &'a [Feature],
}

/// Where the wall-clock time of decoding went, in seconds.
///
/// Prefill is reading prompts: the forward passes over them, until the state of a prompt's last token. Decode is everything after.
/// Where a pass reads prompts and goes on with other texts as well, its time is divided by its tokens of either kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct DecodingSeconds {
    /// Seconds in which prompts were read.
    pub prefill: f64,
    /// All other seconds.
    pub decode: f64,
}

impl DecodingSeconds {
    /// Adds the time of a pass over `tokens` tokens, of which `prompt` belong to prompts.
    fn add(&mut self, elapsed: Duration, prompt: usize, tokens: usize) {
        let prefill = elapsed.as_secs_f64() * prompt as f64 / tokens.max(1) as f64;
        self.prefill += prefill;
        self.decode += elapsed.as_secs_f64() - prefill;
    }
}

/// Returns the greedy continuations of `prompts` (each of at least one token). A continuation ends with an end-of-text
/// id, after `max_new` tokens, or at the end of the context. All prompts are decoded in one batch; choose its size with
/// memory in mind.
///
/// # Errors
/// Returns an error once work is to stop ([`progress::interrupted`]), which is asked for before every forward pass.
pub fn generate(backbone: &Backbone, prompts: &[&[u32]], max_new: usize) -> Result<Vec<Vec<u32>>> {
    Ok(generate_timed(backbone, prompts, max_new)?.0)
}

/// Does the same as [`generate`], and returns where the time went as well.
///
/// # Errors
/// As [`generate`].
pub fn generate_timed(
    backbone: &Backbone,
    prompts: &[&[u32]],
    max_new: usize,
) -> Result<(Vec<Vec<u32>>, DecodingSeconds)> {
    greedy(&backbone.model, &backbone.end_of_text, prompts, max_new)
}

/// Does the same as [`generate_timed`] with the given end-of-text ids.
pub(super) fn greedy(
    model: &Model,
    end_of_text: &[u32],
    prompts: &[&[u32]],
    max_new: usize,
) -> Result<(Vec<Vec<u32>>, DecodingSeconds)> {
    together(prompts, max_new, |how, ended| continuations(model, end_of_text, prompts, how, greedily(model), ended))
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
    Ok(together(prompts, max_new, |how, ended| continue_each(backbone, prompts, how, Some(samplers), ended))?.0)
}

/// Continues prompts as [`generate`] does, or as [`sample`] does where there are samplers, and calls `ended` with the number of each
/// prompt and what follows it, as soon as that is known. A text that has ended makes room for the next prompt. Returns where the time
/// went.
///
/// # Errors
/// As [`generate`], and those of `ended`.
pub fn continue_each(
    backbone: &Backbone,
    prompts: &[&[u32]],
    how: Continuing,
    samplers: Option<&mut [Sampler]>,
    ended: &mut dyn FnMut(usize, Continuation) -> Result<()>,
) -> Result<DecodingSeconds> {
    let Backbone { model, end_of_text, .. } = backbone;
    let Some(samplers) = samplers else {
        return continuations(model, end_of_text, prompts, how, greedily(model), ended);
    };
    let draw = |texts: &[usize], hidden: Tensor<2>| {
        let logits = model.logits(hidden);
        let rows = texts.iter().zip(logits.chunks(model.config().vocab_size));
        rows.map(|(&text, row)| samplers[text].draw(row)).collect()
    };
    continuations(model, end_of_text, prompts, how, draw, ended)
}

/// Returns what chooses the backbone's likeliest tokens.
fn greedily(model: &Model) -> impl FnMut(&[usize], Tensor<2>) -> Vec<u32> {
    let projection = model.projection();
    move |_, hidden| projection.largest(hidden, 1, false).iter().map(|best| best.first().0).collect()
}

/// Collects the tokens of texts that are all continued side by side, and returns where the time went.
fn together(
    prompts: &[&[u32]],
    max_new: usize,
    decode: impl FnOnce(Continuing, &mut dyn FnMut(usize, Continuation) -> Result<()>) -> Result<DecodingSeconds>,
) -> Result<(Vec<Vec<u32>>, DecodingSeconds)> {
    let mut results = vec![Vec::new(); prompts.len()];
    let how = Continuing { max_new, side_by_side: prompts.len(), features: &[] };
    let seconds = decode(how, &mut |text, Continuation { tokens, .. }| {
        results[text] = tokens;
        Ok(())
    })?;
    Ok((results, seconds))
}

/// A text that is being continued.
struct Row {
    /// The number of its prompt.
    text: usize,
    /// The tokens that are still to be fed.
    next: Vec<u32>,
    /// Whether nothing is chosen behind these.
    last: bool,
    result: Continuation,
}

/// Continues the prompts; `choose` returns the next token of some texts, given their numbers and their last hidden states
/// `[texts, d]`. Returns where the time went.
fn continuations(
    model: &Model,
    end_of_text: &[u32],
    prompts: &[&[u32]],
    how: Continuing,
    mut choose: impl FnMut(&[usize], Tensor<2>) -> Vec<u32>,
    ended: &mut dyn FnMut(usize, Continuation) -> Result<()>,
) -> Result<DecodingSeconds> {
    let Continuing { max_new, side_by_side, features } = how;
    let (config, width) = (model.config(), model.config().hidden_size);
    let limit = |prompt: &[u32]| max_new.min(config.max_position_embeddings.saturating_sub(prompt.len()));
    let longest = prompts.iter().map(|p| p.len() + limit(p)).max().unwrap_or(0);
    let mut rows: Vec<Option<Row>> = (0..side_by_side.min(prompts.len())).map(|_| None).collect();
    let mut cache = model.cache(rows.len(), longest);
    let mut waiting = prompts.iter().enumerate();
    // The last state, from which tokens are chosen, comes behind those that were asked for.
    let asked = [features, &[Feature::Last]].concat();
    // The tokens of prompts and all tokens of the pass that is under way, which began then.
    let (mut seconds, mut began, mut passed) = (DecodingSeconds::default(), Instant::now(), (0, 0));
    loop {
        seconds.add(began.elapsed(), passed.0, passed.1);
        began = Instant::now();
        for (number, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.is_none()) {
            for (text, prompt) in waiting.by_ref() {
                let (last, states) = (limit(prompt) == 0, vec![Vec::new(); features.len()]);
                if last && features.is_empty() {
                    ended(text, Continuation::default())?;
                    continue;
                }
                cache.truncate(number, 0);
                let result = Continuation { tokens: Vec::new(), states };
                *row = Some(Row { text, next: prompt.to_vec(), last, result });
                break;
            }
        }
        let active = rows.iter().flatten().count();
        if active == 0 {
            return Ok(seconds);
        }
        progress::stop_if_interrupted("decoding")?;
        // Every text is fed a token, and prompts what else there is room for.
        let mut room = TOKENS_A_FORWARD.saturating_sub(active);
        let mut take = |row: &Option<Row>| {
            row.as_ref().map_or(0, |row| {
                let more = (row.next.len() - 1).min(room);
                room -= more;
                1 + more
            })
        };
        let fed: Vec<usize> = rows.iter().map(&mut take).collect();
        let reads = |row: &Option<Row>| row.as_ref().is_some_and(|row| row.result.tokens.is_empty());
        let of_prompts = rows.iter().zip(&fed).filter(|(row, _)| reads(row)).map(|(_, fed)| fed);
        passed = (of_prompts.sum(), fed.iter().sum());
        let tokens = rows.iter().map(|row| row.as_ref().map_or(&[][..], |row| &row.next));
        let spans: Vec<Span> = tokens.zip(&fed).map(|(tokens, &fed)| Span::chain(&tokens[..fed])).collect();
        let mut states = model.features(&spans, Some(&mut cache), &asked);
        let hidden = states.pop().expect("the last state was asked for");
        let states: Vec<Vec<f32>> = states.into_iter().map(to_host).collect();
        // Of the texts that were fed to their ends, the last state says what follows.
        let (mut begin, mut last, mut running) = (0, Vec::new(), Vec::new());
        for (number, &fed) in fed.iter().enumerate().filter(|(_, fed)| **fed > 0) {
            let row = rows[number].as_mut().expect("what is fed has a text");
            let range = begin * width..(begin + fed) * width;
            let mine = row.result.states.iter_mut().zip(&states);
            mine.for_each(|(mine, states)| mine.extend_from_slice(&states[range.clone()]));
            begin += fed;
            row.next.drain(..fed);
            match row.next.is_empty() {
                true if row.last => {
                    let Row { text, result, .. } = rows[number].take().expect("it was there");
                    ended(text, result)?;
                }
                true => {
                    last.push(begin - 1);
                    running.push(number);
                }
                false => {}
            }
        }
        if running.is_empty() {
            continue;
        }
        let hidden = if last.len() == begin { hidden } else { hidden.select(0, indices(last, model.device())) };
        let text = |number: &usize| rows[*number].as_ref().expect("it runs").text;
        let texts: Vec<usize> = running.iter().map(text).collect();
        for (number, token) in running.into_iter().zip(choose(&texts, hidden)) {
            let row = rows[number].as_mut().expect("it runs");
            row.result.tokens.push(token);
            row.last = end_of_text.contains(&token) || row.result.tokens.len() == limit(prompts[row.text]);
            if row.last && features.is_empty() {
                let Row { text, result, .. } = rows[number].take().expect("it was there");
                ended(text, result)?;
            } else {
                // The state of the last token is wanted as well.
                row.next.push(token);
            }
        }
    }
}
