//! Estimates of how much disk and time a trace will take.

use std::path::Path;
use std::time::Instant;

use indicatif::HumanBytes;
use serde::Serialize;

use super::forced::teacher_forced;
use super::make::decode;
use super::plan::{Item, TracePlan};
use super::{Supply, Trace, TraceDocument, TraceText, documents_done};
use crate::backbone::{Backbone, Continuing, Feature, generate};
use crate::error::Result;
use crate::progress;
use crate::storage_type::StorageType;

/// A function that returns the number of free bytes where a path lies.
pub type FreeSpace<'a> = &'a dyn Fn(&Path) -> std::io::Result<u64>;

/// Returns the number of bytes that this user may still write where `path` lies.
///
/// # Errors
/// Returns an error if the operating system cannot tell.
pub fn free_space(path: &Path) -> std::io::Result<u64> {
    fs4::available_space(path)
}

/// The number of bytes that are always left free, because other programs and the small files of a run need some room
/// too.
pub(super) const RESERVE: u64 = 64 << 20;

/// The largest number of documents that an estimate reads.
const SAMPLE: usize = 1000;

/// The number of tokens that an estimate of time decodes for each document.
const TIMED: usize = 8;

/// An estimate of what a trace will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// The number of documents of the plan.
    pub documents: usize,
    /// The number of documents that an earlier process finished before it was stopped.
    pub documents_done: usize,
    /// The number of tokens in the prompts of all documents that can be traced.
    pub prompt_tokens: u64,
    /// The largest number of tokens after the prompts: for each document `max_new` or the room in the context, or if
    /// the corpus's own text is traced, the tokens of that.
    pub new_tokens_at_most: u64,
    /// Whether the two numbers of tokens were counted on every document. If not, they are extrapolated from at most a
    /// thousand documents at equal intervals.
    pub exact: bool,
    /// The columns to be made, each with the disk that it takes while it is made.
    pub columns: Vec<ColumnEstimate>,
    /// The largest number of bytes that everything takes on disk while it is made, the index included. The finished
    /// trace takes a little less.
    pub bytes_at_most: u64,
    /// The seconds that the remaining documents take, measured on a few steps of one batch. None unless it was asked
    /// for.
    pub seconds: Option<f64>,
}

/// An estimate of what a column will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnEstimate {
    /// The feature that the column holds.
    pub feature: Feature,
    /// The largest number of bytes of its rows, and of its index while it is made.
    pub bytes_at_most: u64,
}

/// The features of the columns to be made, and the type of their numbers.
pub type Columns<'a> = (&'a [Feature], StorageType);

/// Returns the estimates of columns for `tokens` tokens, of documents whose index takes `index` bytes.
fn columns_of(backbone: &Backbone, (features, dtype): Columns, tokens: u64, index: u64) -> Vec<ColumnEstimate> {
    let row = (backbone.model.config().hidden_size * dtype.bytes()) as u64;
    let one = |&feature: &Feature| ColumnEstimate { feature, bytes_at_most: tokens * row + index };
    features.iter().map(one).collect()
}

impl Estimate {
    /// Estimates what it takes to make the trace in `folder` and its columns. If `timed` is set, the beginning of one
    /// batch is computed to estimate the time.
    ///
    /// # Errors
    /// Returns an error if a document cannot be read or tokenised.
    pub fn new(backbone: &Backbone, plan: &TracePlan, columns: Columns, folder: &Path, timed: bool) -> Result<Self> {
        let every = plan.documents.div_ceil(SAMPLE).max(1);
        let read = (0..plan.documents).step_by(every);
        let share = plan.documents as f64 / read.len().max(1) as f64;
        let mut items = Vec::new();
        for index in read {
            items.extend(plan.item(backbone, index)?);
        }
        let scaled = |sum: u64| if every == 1 { sum } else { (sum as f64 * share).ceil() as u64 };
        let most: u64 = items.iter().map(|item| plan.most(item) as u64).sum();
        let prompts: u64 = items.iter().map(|item| item.prompt.len() as u64).sum();
        let index: u64 = items.iter().map(|item| index_bytes(&item.entry(0, item.limit))).sum();
        let documents_done = documents_done(folder, plan.key);
        let left = (items.len() as f64 * share - documents_done as f64).max(0.0);
        let of_columns = columns_of(backbone, columns, scaled(most), scaled(index));
        let of_tokens = scaled(4 * most + index);
        Ok(Self {
            documents: plan.documents,
            documents_done,
            prompt_tokens: scaled(prompts),
            new_tokens_at_most: scaled(most - prompts),
            exact: every == 1,
            bytes_at_most: of_tokens + of_columns.iter().map(|column| column.bytes_at_most).sum::<u64>(),
            columns: of_columns,
            seconds: timed.then(|| seconds_a_document(backbone, plan, columns.0, items) * left),
        })
    }

    /// Estimates what it takes to make columns of a finished trace. The first `documents_done` documents, in the order
    /// of the files, are finished.
    pub fn of_columns(
        backbone: &Backbone,
        trace: &Trace,
        columns: Columns,
        documents_done: usize,
        timed: bool,
    ) -> Self {
        let documents = trace.documents();
        let tokens: usize = documents.iter().map(TraceDocument::len).sum();
        let prompts: usize = documents.iter().map(|document| document.prompt).sum();
        let index = documents.iter().map(index_bytes).sum();
        let of_columns = columns_of(backbone, columns, tokens as u64, index);
        let order = trace.in_file_order();
        let left = &order[documents_done.min(order.len())..];
        let left: Vec<&[u32]> = left.iter().map(|&number| trace.tokens(&documents[number])).collect();
        Self {
            documents: documents.len(),
            documents_done,
            prompt_tokens: prompts as u64,
            new_tokens_at_most: (tokens - prompts) as u64,
            exact: true,
            bytes_at_most: of_columns.iter().map(|column| column.bytes_at_most).sum(),
            columns: of_columns,
            seconds: timed.then(|| {
                let tokens = left.iter().map(|text| text.len()).sum::<usize>();
                let sample = left.iter().take(SMALL_BATCH).map(|text| &text[..text.len().min(READ / SMALL_BATCH)]);
                seconds_a_token(backbone, &sample.collect::<Vec<_>>(), columns.0) * tokens as f64
            }),
        }
    }

    /// Returns the estimate in a line of text. `free` is the number of free bytes on the disk.
    pub fn words(&self, free: u64) -> String {
        let about = if self.exact { "" } else { "about " };
        let short =
            if self.bytes_at_most > free { "; that may not suffice, and it will stop before it is full" } else { "" };
        format!(
            "{} documents, {about}{} prompt tokens, {about}{} of disk at most; {} are free{short}",
            self.documents,
            self.prompt_tokens,
            words(self.bytes_at_most),
            words(free)
        )
    }
}

/// Returns a number of bytes in a readable form.
pub(super) fn words(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// Returns an upper bound on the bytes that a document adds to the journal and to the index.
pub(super) fn index_bytes(entry: &TraceDocument) -> u64 {
    // The entry's JSON is written twice. The rest is for indentation and for the digits of its indices in the corpus
    // and the files.
    2 * serde_json::to_vec(entry).map_or(0, |text| text.len() as u64) + 160
}

/// The number of tokens of a prompt that an estimate of time reads before it decodes.
const SHORT: usize = 16;
/// The approximate number of tokens that an estimate of time reads, all texts taken together.
const READ: usize = 512;
/// The number of documents that are read to estimate the time of columns.
const SMALL_BATCH: usize = 8;

/// Returns the seconds that `work` takes.
fn seconds_of(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// Measures the seconds per token of the teacher-forced pass over `texts`.
fn seconds_a_token(backbone: &Backbone, texts: &[&[u32]], features: &[Feature]) -> f64 {
    let Some(first) = texts.first() else { return 0.0 };
    // After an interrupt nobody reads the estimate.
    let forced = |texts: &[&[u32]]| {
        teacher_forced(&backbone.model, texts, features).take_while(|_| !progress::interrupted()).for_each(drop);
    };
    // The first forward pass also starts threads and compiles kernels, so it is not measured.
    forced(&[&first[..1]]);
    let tokens: usize = texts.iter().map(|text| text.len()).sum();
    seconds_of(|| forced(texts)) / tokens as f64
}

/// Measures the seconds per document on a batch of medium length. The beginnings of its prompts are continued by a few
/// tokens, and some of its text is read. The estimate does not consider that contexts grow longer.
fn seconds_a_document(backbone: &Backbone, plan: &TracePlan, features: &[Feature], mut items: Vec<Item>) -> f64 {
    items.sort_by_key(|item| plan.most(item));
    let size = plan.batch.min(items.len());
    let first = (items.len() - size) / 2;
    let batch = &mut items[first..first + size];
    let new = |item: &Item| plan.most(item) - item.prompt.len();
    let Some(steps) = batch.iter().map(new).max() else { return 0.0 };
    let before: usize = batch.iter().map(|item| item.prompt.len()).sum();
    let after: usize = batch.iter().map(|item| plan.most(item)).sum();
    // The first forward pass also starts threads and compiles kernels, so it is not measured.
    let _ = generate(backbone, &[&batch[0].prompt[..1]], 1);
    let each = (READ / size).max(1);
    let read: Vec<&[u32]> = batch.iter().map(|item| &item.prompt[..item.prompt.len().min(each)]).collect();
    if matches!(plan.supply, Supply::Responses { .. }) {
        // Whoever checks responses reads them once; what is decoded after all is not known.
        let reading = seconds_a_token(backbone, &read, &[&[Feature::Last][..], features].concat());
        return reading * after as f64 / size as f64;
    }
    // Prompts are read by all layers, whichever columns are made.
    let reading = seconds_a_token(backbone, &read, &[Feature::Last]);
    let along = features.is_empty() || plan.gives_states(backbone);
    let forcing = if along { 0.0 } else { seconds_a_token(backbone, &read, features) };
    batch.iter_mut().for_each(|item| item.prompt.truncate(SHORT));
    let decoding = |max_new| {
        let how = Continuing { max_new, side_by_side: size, features: &[] };
        seconds_of(|| drop(decode(backbone, plan, batch, how, &mut |_, _| Ok(()))))
    };
    // The corpus's own text is not decoded, so its prompts are not read in advance.
    let (a_step, prefilled) = match plan.text {
        TraceText::Corpus => (0.0, 0),
        _ => ((decoding(1 + TIMED) - decoding(1)).max(0.0) / TIMED as f64, before),
    };
    (a_step * steps as f64 + reading * prefilled as f64 + forcing * after as f64) / size as f64
}
