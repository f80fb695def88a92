//! Making a trace: greedy continuations in batches, then one teacher-forced forward over prompt and continuation for the
//! hidden states, so that a row depends on nothing but its own text.

use std::path::Path;

use super::format::TraceWriter;
use super::{Identity, TraceDocument};
use crate::backbone::{Backbone, Span, generate};
use crate::config::StorageType;
use crate::error::{Result, bail};
use crate::nn::to_host;
use crate::progress::{self, Progress};
use crate::text::Document;

/// What to trace, and how.
pub struct Plan<'a> {
    /// Shown while it runs.
    pub title: &'a str,
    /// The documents whose prompts are continued.
    pub documents: &'a [&'a Document],
    /// Greedy tokens per document, at most.
    pub max_new: usize,
    /// Type of the stored hidden states.
    pub dtype: StorageType,
    /// Documents decoded side by side.
    pub batch: usize,
}

impl Backbone {
    /// What traces of this backbone are bound to.
    pub fn identity(&self) -> Identity {
        Identity { backbone: self.hash.clone(), tokenizer: self.tokenizer.hash().to_owned() }
    }
}

/// Writes the trace into `folder`. Documents whose prompt fills the context are left out, and said.
pub fn make(backbone: &Backbone, plan: &Plan, folder: &Path) -> Result<()> {
    let context = backbone.model.config().max_position_embeddings;
    let width = backbone.model.config().hidden_size;
    let mut writer = TraceWriter::new(folder, backbone.identity(), width, plan.dtype)?;
    let mut bar = Progress::new(plan.title, plan.documents.len());
    let (mut done, mut kept, mut tokens) = (0, 0, 0);
    for chunk in plan.documents.chunks(plan.batch) {
        progress::stop_if_interrupted("tracing")?;
        let mut prompts = Vec::new();
        for document in chunk {
            let ids = backbone.tokenizer.encode(&document.prompt).map_err(|e| e.within(&document.id))?;
            if !ids.is_empty() && ids.len() < context {
                prompts.push((document, ids));
            }
        }
        let only_ids: Vec<&[u32]> = prompts.iter().map(|(_, ids)| ids.as_slice()).collect();
        let continuations = if only_ids.is_empty() { Vec::new() } else { generate(backbone, &only_ids, plan.max_new) };
        let texts: Vec<Vec<u32>> =
            prompts.iter().zip(&continuations).map(|((_, p), c)| [p.as_slice(), c].concat()).collect();
        let hidden = if texts.is_empty() { Vec::new() } else { teacher_forced(backbone, &texts) };
        for (((document, prompt), text), hidden) in prompts.iter().zip(&texts).zip(&hidden) {
            let entry = TraceDocument {
                id: document.id.clone(),
                group: document.group.clone(),
                first: 0,
                prompt: prompt.len(),
                continuation: text.len() - prompt.len(),
                limit: plan.max_new.min(context - prompt.len()),
            };
            tokens += entry.continuation;
            writer.add(entry, text, hidden)?;
        }
        done += chunk.len();
        kept += texts.len();
        bar.update(done, || format!("documents, {tokens} greedy tokens"));
    }
    if kept == 0 {
        bail!(
            "{}: no document can be traced; every prompt is empty or fills the context of {context} tokens.",
            plan.title
        );
    }
    writer.commit()?;
    let left_out = plan.documents.len() - kept;
    let note =
        if left_out > 0 { format!(", {left_out} left out: their prompts fill the context") } else { String::new() };
    bar.finish(&format!("{kept} documents, {tokens} greedy tokens{note}"));
    Ok(())
}

/// Attention weights held at once by the teacher-forced forward: 256 MB of float32.
const WEIGHTS: usize = 1 << 26;

/// Hidden states `[tokens, d]` of every text, in batches padded on the right that keep within memory.
fn teacher_forced(backbone: &Backbone, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let config = backbone.model.config();
    let longest = texts.iter().map(Vec::len).max().unwrap_or(1);
    let rows = (WEIGHTS / (longest * longest * config.num_attention_heads)).max(1);
    texts.chunks(rows).flat_map(|batch| one_forward(backbone, batch)).collect()
}

fn one_forward(backbone: &Backbone, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let width = backbone.model.config().hidden_size;
    let spans: Vec<Span> = texts.iter().map(|text| Span::chain(text)).collect();
    let hidden = to_host(backbone.model.hidden(&spans, None));
    let mut rows = hidden.chunks(width);
    texts.iter().map(|text| rows.by_ref().take(text.len()).flatten().copied().collect()).collect()
}
