//! Makes traces: prompts with their continuations, batch by batch.

use std::collections::BTreeMap;
use std::mem;
use std::path::Path;

use super::column::ROWS;
use super::estimate::FreeSpace;
use super::forced::encode;
use super::format::TOKENS;
use super::partial::{Partial, RowFile, Traced, discard};
use super::plan::Item;
use super::responses::Used;
use super::{ColumnPlan, ColumnPlans, Supply, TraceDocument, TracePlan, TraceText};
use crate::backbone::{Backbone, Continuation, Continuing, Feature, continue_each};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::progress::{self, Progress, Reached};

/// Makes the trace in `folder`. If an earlier process finished a part of it, making resumes after that. When all is
/// finished, `mark` is called with the folder, still under its temporary name, to put the mark of completeness into it.
///
/// Where the backbone decodes on the CPU, its states are known once a text is. They then go into the given columns, and these
/// are finished before the trace. Columns of which an earlier process has less than of the trace are left to
/// [`make_columns`](super::make_columns).
///
/// Of a shard only that share of the batches is made, which may be none.
///
/// Documents whose prompt fills the context are left out, and a message says so. If the corpus's own text is traced,
/// documents without one are left out as well.
///
/// # Errors
/// Returns an error if no document can be traced, if responses are not the backbone's own choice, if the type of a column cannot
/// hold a number, if the disk has no room for the next batch, or after an interrupt. Finished batches are kept.
pub fn make(
    backbone: &Backbone,
    plan: &TracePlan,
    folder: &Path,
    columns: ColumnPlans,
    free: FreeSpace,
    mark: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let (header, rows) = (plan.header(backbone), RowFile { name: TOKENS, row_bytes: 4 });
    let width = backbone.model.config().hidden_size;
    let texts = Partial::open(folder, plan.key, &header, rows, plan.documents)?;
    let along = if plan.gives_states(backbone) { columns.plans } else { &[] };
    let mut made = Making { columns: Along::open(along, width, &texts, plan.documents)?, texts, free };
    let features: Vec<Feature> = made.columns.iter().map(|column| column.plan.feature).collect();
    if made.texts.documents() > 0 {
        progress::say(format!("{}: going on after {} documents", plan.title, made.texts.documents()));
    }
    if let Supply::Responses { responses, exact: false } = plan.supply {
        responses.check(backbone, plan)?;
    }
    let mut used = Used::default();
    let share = |documents: usize| plan.shard.map_or(documents, |shard| shard.share(documents));
    let mut bar = Progress::starting_at(plan.title, made.texts.documents(), share(plan.documents));
    for window in plan.windows(made.texts.reached()) {
        let items = plan.window(backbone, window.clone())?;
        // Batches always come in this order, so the finished documents of a window are its first ones. Documents that
        // are left out count as finished in the progress bar.
        let done = made.texts.documents_in(&window);
        let (before, left) = items.split_at(done);
        let mut behind = share(window.end).saturating_sub(left.len());
        // Long documents come first in a window. A token that is read takes about as long as one that is written.
        let cost = |item: &Item| plan.most(item) as f64;
        let (whole, mut spent) = (items.iter().map(cost).sum::<f64>(), before.iter().map(cost).sum::<f64>());
        if plan.text != TraceText::Corpus && !matches!(plan.supply, Supply::Finished(_)) {
            let tokens = left.iter().map(|item| plan.most(item)).max().unwrap_or(0);
            let cure = "Lower `traces.batch` or `traces.max_new`, or leave long prompts out.";
            backbone.model.require_memory(plan.batch.min(left.len()), tokens, cure)?;
        }
        made.require_room(plan, left)?;
        // Texts end in any order, and are written in that of the window.
        let (mut waiting, mut written) = (BTreeMap::new(), 0);
        let mut tokens = made.texts.new_tokens();
        let outcome = continuations(backbone, plan, left, &features, &mut used, &mut |place, text| {
            tokens += text.tokens.len();
            waiting.insert(place, made.encode(&left[place], &text)?);
            loop {
                let batch = written..left.len().min(written + plan.batch);
                if batch.is_empty() || waiting.range(batch.clone()).count() < batch.len() {
                    break;
                }
                written = batch.end;
                let behind = waiting.split_off(&written);
                made.add(mem::replace(&mut waiting, behind).into_values().collect())?;
                made.require_room(plan, &left[written..])?;
            }
            behind += 1;
            spent += cost(&left[place]);
            let done = (window.start as f64 + window.len() as f64 * spent / whole) / plan.documents as f64;
            let words = || format!("documents, {tokens} {} tokens", plan.text.name());
            bar.reach(Reached { done: behind, share: done }, words);
            Ok(())
        });
        if let Err(error) = outcome {
            return Err(stop_if_interrupted(&made.texts).err().unwrap_or(error));
        }
    }
    let Making { texts, columns: along, .. } = made;
    let (kept, new_tokens) = (texts.documents(), texts.new_tokens());
    let context = backbone.model.config().max_position_embeddings;
    let reason = match plan.text {
        TraceText::Corpus => format!("no completion, or a prompt that fills the context of {context} tokens"),
        _ => format!("a prompt that fills the context of {context} tokens"),
    };
    if kept == 0 && plan.shard.is_none() {
        discard(folder)?;
        along.iter().try_for_each(|column| discard(column.plan.folder))?;
        bail!(
            "{}: no document can be traced; every one has {reason}. Check the corpus and its field names.",
            plan.title
        );
    }
    let tokens_hash = files::hash_file(&texts.file(TOKENS))?;
    for Along { number, plan, states } in along {
        states.commit(|data, _| {
            plan.header(width, &tokens_hash).write(data)?;
            (columns.mark)(number, data)
        })?;
    }
    texts.commit(|data, documents| {
        header.write(data, documents)?;
        mark(data)
    })?;
    // Which documents of other shards are left out is not known here.
    let left_out = if plan.shard.is_some() { 0 } else { plan.documents - kept };
    let note = if left_out > 0 { format!(", {left_out} left out: {reason}") } else { String::new() };
    bar.finish(&format!("{kept} documents, {new_tokens} {} tokens{note}{}", plan.text.name(), used.words()));
    Ok(())
}

/// A trace in the making.
struct Making<'a> {
    texts: Partial,
    columns: Vec<Along<'a>>,
    free: FreeSpace<'a>,
}

/// A column that is made along with its trace. It has the same documents in the same order.
struct Along<'a> {
    /// The number of the column among those that were given.
    number: usize,
    plan: &'a ColumnPlan<'a>,
    states: Partial,
}

impl<'a> Along<'a> {
    /// Opens those of the columns that have all documents of which there are texts. What else they have is dropped.
    fn open(plans: &'a [ColumnPlan<'a>], width: usize, texts: &Partial, documents: usize) -> Result<Vec<Self>> {
        let mut along = Vec::new();
        for (number, plan) in plans.iter().enumerate() {
            // The tokens are not known before the trace is finished.
            let header = plan.header(width, "");
            let rows = RowFile { name: ROWS, row_bytes: header.row_bytes() };
            let mut states = Partial::open(plan.folder, &plan.key, &header, rows, documents)?;
            if states.follow(texts)? {
                along.push(Self { number, plan, states });
            }
        }
        Ok(along)
    }
}

impl Making<'_> {
    /// Checks that the disk has room for the next batch of `left`, if any is left.
    fn require_room(&self, plan: &TracePlan, left: &[Item]) -> Result<()> {
        let longest = |item: &Item| item.entry(0, plan.most(item) - item.prompt.len());
        let batch: Vec<TraceDocument> = left.iter().take(plan.batch).map(longest).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let partials = self.columns.iter().map(|column| &column.states).chain([&self.texts]);
        self.texts.require_room(partials.map(|partial| partial.bytes(batch.iter())).sum(), self.free)
    }

    /// Returns a document as rows of the columns, and of the trace itself at the end.
    fn encode(&self, item: &Item, text: &Continuation) -> Result<Vec<Traced>> {
        let traced = |rows| Traced { index: item.index, entry: item.entry(0, text.tokens.len()), rows };
        let column = |(column, states): (&Along, &Vec<f32>)| {
            let ColumnPlan { dtype, feature, .. } = *column.plan;
            encode(states, dtype, feature, &item.id).map(traced)
        };
        let mut rows: Vec<Traced> = self.columns.iter().zip(&text.states).map(column).collect::<Result<_>>()?;
        rows.push(traced(item.prompt.iter().chain(&text.tokens).flat_map(|token| token.to_le_bytes()).collect()));
        Ok(rows)
    }

    /// Adds a batch. Columns come first, so that none of them ever has less than the trace.
    fn add(&mut self, batch: Vec<Vec<Traced>>) -> Result<()> {
        let mut rows: Vec<_> = batch.into_iter().map(Vec::into_iter).collect();
        let partials = self.columns.iter_mut().map(|column| &mut column.states).chain([&mut self.texts]);
        for partial in partials {
            partial.add(rows.iter_mut().filter_map(Iterator::next).collect())?;
        }
        Ok(())
    }
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

/// Calls `ended` with the continuation of each document and its number in `items`, once it is known: computed, or taken from where
/// the plan says. Where the backbone decodes, the states called `features` come with it.
///
/// # Errors
/// Returns an error after an interrupt, and those of `ended`.
fn continuations(
    backbone: &Backbone,
    plan: &TracePlan,
    items: &[Item],
    features: &[Feature],
    used: &mut Used,
    ended: &mut dyn FnMut(usize, Continuation) -> Result<()>,
) -> Result<()> {
    // In batches of other sizes, an accelerator may take another of two tokens that are as good as equally likely.
    let together = if plan.is_decoded() && backbone.model.is_packed() { items.len() } else { plan.batch };
    for (number, batch) in items.chunks(together.max(1)).enumerate() {
        progress::stop_if_interrupted("tracing")?;
        let mut ended = |place: usize, text| ended(number * together + place, text);
        let texts = match plan.supply {
            _ if plan.is_decoded() => {
                let how = Continuing { max_new: plan.max_new, side_by_side: plan.batch, features };
                decode(backbone, plan, batch, how, &mut ended)?;
                continue;
            }
            Supply::Backbone => batch.iter().map(|item| item.given.clone()).collect(),
            Supply::Finished(finished) => {
                batch.iter().map(|item| finished.continuation(item)).collect::<Result<_>>()?
            }
            Supply::Responses { responses, exact } => responses.continuations(backbone, batch, exact, used)?,
        };
        for (place, tokens) in texts.into_iter().enumerate() {
            ended(place, Continuation { tokens, states: Vec::new() })?;
        }
    }
    Ok(())
}

/// Continues the prompts of documents by the backbone's tokens.
///
/// # Errors
/// Returns an error after an interrupt, and those of `ended`.
pub(super) fn decode(
    backbone: &Backbone,
    plan: &TracePlan,
    items: &[Item],
    how: Continuing,
    ended: &mut dyn FnMut(usize, Continuation) -> Result<()>,
) -> Result<()> {
    let prompts: Vec<&[u32]> = items.iter().map(|item| item.prompt.as_slice()).collect();
    let mut samplers: Vec<_> = items.iter().map(|item| plan.sampling.of(&item.id)).collect();
    let samplers = (plan.text == TraceText::Sampled).then_some(&mut samplers[..]);
    continue_each(backbone, &prompts, how, samplers, ended).map(drop)
}
