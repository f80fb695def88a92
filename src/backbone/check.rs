//! Compares a model with reference vectors: token ids, logits, hidden states and greedy continuations that another
//! implementation computed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Model;
use super::columns::Span;
use super::generate::greedy;
use crate::error::{Result, bail};
use crate::files;
use crate::nn::to_host;
use crate::text::Tokenizer;

/// The contents of a file of vectors. Each case has all `logits`, or the five largest at every position, or neither.
#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    /// The text that the tokenizer must turn into `token_ids`, if it is there.
    prompt: Option<String>,
    token_ids: Vec<u32>,
    /// `[tokens, V]`
    logits: Option<Vec<Vec<f32>>>,
    /// `[tokens, k]`, the largest logit first; `top5_logits` are the logits of `top5_ids`.
    top5_ids: Option<Vec<Vec<u32>>>,
    top5_logits: Option<Vec<Vec<f32>>>,
    /// The first numbers of the last token's hidden state, after the final norm, and its Euclidean norm.
    last_hidden_final_norm_first8: Option<Vec<f32>>,
    last_hidden_final_norm_l2: Option<f32>,
    /// The greedy continuation, which does not stop at end-of-text.
    greedy_continuation: Option<Vec<u32>>,
}

/// The outcome of a comparison.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The number of texts compared.
    pub cases: usize,
    /// The number of numbers compared.
    pub numbers: usize,
    /// The largest absolute difference of a logit or of a number of a hidden state.
    pub largest_difference: f32,
    /// The largest difference that is accepted.
    pub tolerance: f32,
    /// The differences beyond the tolerance, one line each.
    pub differences: Vec<String>,
}

impl Check {
    /// Compares a number.
    fn number(&mut self, what: impl FnOnce() -> String, found: f32, expected: f32) {
        let difference = (found - expected).abs();
        self.numbers += 1;
        self.largest_difference = self.largest_difference.max(difference);
        if difference.is_nan() || difference > self.tolerance {
            self.differences.push(format!("{} is {found}, the vectors say {expected}", what()));
        }
    }

    /// Compares token ids.
    fn ids(&mut self, what: &str, found: &[u32], expected: &[u32]) {
        if let Some(at) = (0..found.len().max(expected.len())).find(|&i| found.get(i) != expected.get(i)) {
            let show = |ids: &[u32]| ids.get(at).map_or("nothing".to_owned(), u32::to_string);
            self.differences.push(format!("{what}: token {at} is {}, the vectors say {}", show(found), show(expected)));
        }
    }
}

/// Compares `model` (and `tokenizer`, if it is given) with the vectors in the file `path`.
///
/// # Errors
/// When the file holds no vectors, or those of another vocabulary.
pub fn check(model: &Model, tokenizer: Option<&Tokenizer>, path: &Path, tolerance: f32) -> Result<Check> {
    let vectors: Vectors = files::read_json(path)?;
    let cases = vectors.cases.len();
    let mut check = Check { cases, numbers: 0, largest_difference: 0.0, tolerance, differences: Vec::new() };
    for (index, case) in vectors.cases.iter().enumerate() {
        one_case(model, tokenizer, case, index, &mut check).map_err(|e| e.within(path.display()))?;
    }
    if check.numbers == 0 {
        bail!("{}: there is nothing to compare with; `cases` must hold logits.", path.display());
    }
    Ok(check)
}

/// Compares one case.
fn one_case(model: &Model, tokenizer: Option<&Tokenizer>, case: &Case, index: usize, check: &mut Check) -> Result<()> {
    let (vocabulary, tokens) = (model.config().vocab_size, &case.token_ids);
    let named = case.top5_ids.iter().flatten().flatten();
    if let Some(id) = tokens.iter().chain(named).find(|&&id| id as usize >= vocabulary) {
        bail!("case {index}: the id {id} is beyond the model's vocabulary of {vocabulary}; these are another model's.");
    }
    if tokens.is_empty() || tokens.len() > model.config().max_position_embeddings {
        bail!("case {index}: a text of {} tokens does not fit the model's context.", tokens.len());
    }
    if let (Some(tokenizer), Some(prompt)) = (tokenizer, &case.prompt) {
        check.ids(&format!("case {index}, ids of the prompt"), &tokenizer.encode(prompt)?, tokens);
    }
    let hidden = model.hidden(&[Span::chain(tokens)], None);
    let logits = model.logits(hidden.clone());
    let rows: Vec<&[f32]> = logits.chunks(vocabulary).collect();
    let logit = |row: usize, id: usize| format!("case {index}, token {row}: the logit of {id}");
    if let Some(expected) = &case.logits {
        if expected.len() != rows.len() || expected.iter().any(|row| row.len() != vocabulary) {
            bail!("case {index}: `logits` must have {} rows of {vocabulary} numbers.", rows.len());
        }
        for (row, (found, expected)) in rows.iter().zip(expected).enumerate() {
            for (id, (&found, &expected)) in found.iter().zip(expected).enumerate() {
                check.number(|| logit(row, id), found, expected);
            }
        }
    }
    if let (Some(ids), Some(expected)) = (&case.top5_ids, &case.top5_logits) {
        for (row, (found, (ids, expected))) in rows.iter().zip(ids.iter().zip(expected)).enumerate() {
            for (&id, &expected) in ids.iter().zip(expected) {
                check.number(|| logit(row, id as usize), found[id as usize], expected);
            }
            // No other id may be above the least of them.
            let least = expected.last().copied().unwrap_or(f32::INFINITY);
            let others = (0..).zip(*found).filter(|(id, _)| !ids.contains(id));
            if let Some((id, found)) = others.max_by(|a, b| a.1.total_cmp(b.1))
                && *found > least + check.tolerance
            {
                check.differences.push(format!(
                    "{} is {found}, above the vectors' best {}",
                    logit(row, id as usize),
                    ids.len()
                ));
            }
        }
    }
    let hidden = to_host(hidden);
    let last = &hidden[hidden.len() - model.config().hidden_size..];
    for (i, (&found, &expected)) in last.iter().zip(case.last_hidden_final_norm_first8.iter().flatten()).enumerate() {
        check.number(|| format!("case {index}: number {i} of the last hidden state"), found, expected);
    }
    if let Some(expected) = case.last_hidden_final_norm_l2 {
        let norm = last.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() as f32;
        check.number(|| format!("case {index}: the norm of the last hidden state"), norm, expected);
    }
    if let Some(expected) = &case.greedy_continuation {
        let found = greedy(model, &[], &[tokens], expected.len())?.0.remove(0);
        check.ids(&format!("case {index}, greedy continuation"), &found, expected);
    }
    Ok(())
}
