//! Makes traces: prompts with their continuations, batch by batch.

use std::path::Path;

use super::estimate::FreeSpace;
use super::format::TOKENS;
use super::partial::{Partial, RowFile, Traced, discard};
use super::plan::Item;
use super::responses::Used;
use super::{Supply, TraceDocument, TracePlan, TraceText};
use crate::backbone::{Backbone, generate, sample};
use crate::error::{Error, Result, bail};
use crate::progress::{self, Progress, Reached};

/// Makes the trace in `folder`. If an earlier process finished a part of it, making resumes after that. When all is
/// finished, `mark` is called with the folder, still under its temporary name, to put the mark of completeness into it.
///
/// Of a shard only that share of the batches is made, which may be none.
///
/// Documents whose prompt fills the context are left out, and a message says so. If the corpus's own text is traced,
/// documents without one are left out as well.
///
/// # Errors
/// Returns an error if no document can be traced, if responses are not the backbone's own choice, if the disk has no room for the next batch, or after an interrupt.
/// The room is checked before the batch is computed. After the last two errors, finished batches are kept.
pub fn make(
    backbone: &Backbone,
    plan: &TracePlan,
    folder: &Path,
    free: FreeSpace,
    mark: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let (header, rows) = (plan.header(backbone), RowFile { name: TOKENS, row_bytes: 4 });
    let mut partial = Partial::open(folder, plan.key, &header, rows, plan.documents)?;
    if partial.documents() > 0 {
        progress::say(format!("{}: going on after {} documents", plan.title, partial.documents()));
    }
    if let Supply::Responses { responses, exact: false } = plan.supply {
        responses.check(backbone, plan)?;
    }
    let mut used = Used::default();
    let share = |documents: usize| plan.shard.map_or(documents, |shard| shard.share(documents));
    let mut bar = Progress::starting_at(plan.title, partial.documents(), share(plan.documents));
    for window in plan.windows(partial.reached()) {
        let items = plan.window(backbone, window.clone())?;
        // Batches always come in this order, so the finished documents of a window are its first ones. Documents that
        // are left out count as finished in the progress bar.
        let done = partial.documents_in(&window);
        let mut behind = share(window.end).saturating_sub(items.len() - done);
        // Long documents come first in a window. A token that is read takes about as long as one that is written.
        let cost = |items: &[Item]| items.iter().map(|item| plan.most(item)).sum::<usize>() as f64;
        let (whole, mut spent) = (cost(&items), cost(&items[..done]));
        for batch in items[done..].chunks(plan.batch) {
            stop_if_interrupted(&partial)?;
            let longest = |item: &Item| item.entry(0, plan.most(item) - item.prompt.len());
            let longest: Vec<TraceDocument> = batch.iter().map(longest).collect();
            if plan.text != TraceText::Corpus && !matches!(plan.supply, Supply::Finished(_)) {
                let tokens = longest.iter().map(TraceDocument::len).max().unwrap_or(0);
                let cure = "Lower `traces.batch` or `traces.max_new`, or leave long prompts out.";
                backbone.model.require_memory(batch.len(), tokens, cure)?;
            }
            partial.require_room(partial.bytes(longest.iter()), free)?;
            let computed = match compute(backbone, plan, batch, &mut used) {
                Ok(computed) => computed,
                Err(error) => return Err(stop_if_interrupted(&partial).err().unwrap_or(error)),
            };
            partial.add(computed)?;
            behind += batch.len();
            spent += cost(batch);
            let done = (window.start as f64 + window.len() as f64 * spent / whole) / plan.documents as f64;
            let words = || format!("documents, {} {} tokens", partial.new_tokens(), plan.text.name());
            bar.reach(Reached { done: behind, share: done }, words);
        }
    }
    let (kept, new_tokens) = (partial.documents(), partial.new_tokens());
    let context = backbone.model.config().max_position_embeddings;
    let reason = match plan.text {
        TraceText::Corpus => format!("no completion, or a prompt that fills the context of {context} tokens"),
        _ => format!("a prompt that fills the context of {context} tokens"),
    };
    if kept == 0 && plan.shard.is_none() {
        discard(folder)?;
        bail!(
            "{}: no document can be traced; every one has {reason}. Check the corpus and its field names.",
            plan.title
        );
    }
    partial.commit(|data, documents| {
        header.write(data, documents)?;
        mark(data)
    })?;
    // Which documents of other shards are left out is not known here.
    let left_out = if plan.shard.is_some() { 0 } else { plan.documents - kept };
    let note = if left_out > 0 { format!(", {left_out} left out: {reason}") } else { String::new() };
    bar.finish(&format!("{kept} documents, {new_tokens} {} tokens{note}{}", plan.text.name(), used.words()));
    Ok(())
}

/// Returns an error after an interrupt. It says how many documents are kept, and where.
pub(super) fn stop_if_interrupted(partial: &Partial) -> Result<()> {
    if progress::interrupted() {
        return Err(Error::interrupted(format!(
            "interrupted while tracing; {} documents are kept in {}. Start the same command again to go on.",
            partial.documents(),
            partial.folder().display()
        )));
    }
    Ok(())
}

/// Returns the continuations of a batch of prompts that the backbone or the corpus gives, each of at most `max_new` tokens.
///
/// # Errors
/// Returns an error after an interrupt.
pub(super) fn continuations(
    backbone: &Backbone,
    plan: &TracePlan,
    batch: &[Item],
    max_new: usize,
) -> Result<Vec<Vec<u32>>> {
    let prompts: Vec<&[u32]> = batch.iter().map(|item| item.prompt.as_slice()).collect();
    match plan.text {
        TraceText::Greedy => generate(backbone, &prompts, max_new),
        TraceText::Sampled => {
            let mut samplers: Vec<_> = batch.iter().map(|item| plan.sampling.of(&item.id)).collect();
            sample(backbone, &prompts, max_new, &mut samplers)
        }
        TraceText::Corpus => {
            Ok(batch.iter().map(|item| item.given[..item.given.len().min(max_new)].to_vec()).collect())
        }
    }
}

/// Computes the texts of a batch, or takes them from where the plan says.
fn compute(backbone: &Backbone, plan: &TracePlan, batch: &[Item], used: &mut Used) -> Result<Vec<Traced>> {
    let texts = match plan.supply {
        Supply::Backbone => continuations(backbone, plan, batch, plan.max_new)?,
        Supply::Finished(finished) => batch.iter().map(|item| finished.continuation(item)).collect::<Result<_>>()?,
        Supply::Responses { responses, exact } => responses.continuations(backbone, batch, exact, used)?,
    };
    let traced = |(item, continuation): (&Item, Vec<u32>)| Traced {
        index: item.index,
        entry: item.entry(0, continuation.len()),
        rows: item.prompt.iter().chain(&continuation).flat_map(|token| token.to_le_bytes()).collect(),
    };
    Ok(batch.iter().zip(texts).map(traced).collect())
}
