//! What a trace will take: disk and time.

use std::path::Path;
use std::time::Instant;

use indicatif::HumanBytes;
use serde::Serialize;

use super::forced::teacher_forced;
use super::make::continuations;
use super::plan::{Item, TracePlan};
use super::{Trace, TraceDocument, TraceText, documents_done};
use crate::backbone::{Backbone, Feature, generate};
use crate::error::Result;
use crate::storage_type::StorageType;

/// Tells how many bytes are free where a path lies.
pub type FreeSpace<'a> = &'a dyn Fn(&Path) -> std::io::Result<u64>;

/// The bytes that this user may still write where `path` lies.
pub fn free_space(path: &Path) -> std::io::Result<u64> {
    fs4::available_space(path)
}

/// Never filled: other programs, and the little files of a run, need some room too.
pub(super) const RESERVE: u64 = 64 << 20;

/// Documents that an estimate reads, at most.
const SAMPLE: usize = 1000;

/// Tokens that an estimate of time decodes.
const TIMED: usize = 8;

/// What a trace will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Documents of the plan.
    pub documents: usize,
    /// Those finished by an earlier process that was stopped.
    pub documents_done: usize,
    /// Tokens of the prompts of all documents that can be traced.
    pub prompt_tokens: u64,
    /// The most tokens after them: `max_new` each, or the room in the context; of the corpus's own text, its tokens.
    pub new_tokens_at_most: u64,
    /// Whether every document was read for the two; else they are scaled up from an even sample of a thousand.
    pub exact: bool,
    /// The columns that are made, each with the disk that it takes while it is made.
    pub columns: Vec<ColumnEstimate>,
    /// Disk that all of it takes while it is made, with its index; once finished it is a little less.
    pub bytes_at_most: u64,
    /// Seconds for the documents that are left, from a few steps of one batch; only where that was asked for.
    pub seconds: Option<f64>,
}

/// What a column will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnEstimate {
    /// Which one.
    pub feature: Feature,
    /// Its rows, with an index while it is made.
    pub bytes_at_most: u64,
}

/// The columns that are to be made, and the type of their numbers.
pub type Columns<'a> = (&'a [Feature], StorageType);

/// Columns of `tokens` tokens of documents whose index takes `index` bytes.
fn columns_of(backbone: &Backbone, (features, dtype): Columns, tokens: u64, index: u64) -> Vec<ColumnEstimate> {
    let row = (backbone.model.config().hidden_size * dtype.bytes()) as u64;
    let one = |&feature: &Feature| ColumnEstimate { feature, bytes_at_most: tokens * row + index };
    features.iter().map(one).collect()
}

impl Estimate {
    /// Of making the trace in `folder` and its columns; `timed` computes the beginning of one batch.
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

    /// Of making columns of a finished trace, of which `documents_done` documents are finished.
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

    /// In a line.
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

/// Bytes in a form to read.
pub(super) fn words(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// The most that a document adds to the journal and to the index.
pub(super) fn index_bytes(entry: &TraceDocument) -> u64 {
    // Twice its JSON; then indentation, and the digits of its places in corpus and files.
    2 * serde_json::to_vec(entry).map_or(0, |text| text.len() as u64) + 160
}

/// Tokens of a prompt that an estimate of time reads before it decodes, and about those that it reads of all prompts.
const SHORT: usize = 16;
const READ: usize = 512;
/// Documents that an estimate of the time of columns reads.
const SMALL_BATCH: usize = 8;

fn seconds_of(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// Seconds of the teacher-forced pass for each token of `texts`.
fn seconds_a_token(backbone: &Backbone, texts: &[&[u32]], features: &[Feature]) -> f64 {
    let Some(first) = texts.first() else { return 0.0 };
    // The first forward also wakes threads and compiles kernels.
    teacher_forced(&backbone.model, &[&first[..1]], features);
    let tokens: usize = texts.iter().map(|text| text.len()).sum();
    seconds_of(|| drop(teacher_forced(&backbone.model, texts, features))) / tokens as f64
}

/// Seconds for each document of a batch of middling length: the beginnings of its prompts are continued by a few tokens, and
/// some of its text is read. That contexts get longer is left out.
fn seconds_a_document(backbone: &Backbone, plan: &TracePlan, features: &[Feature], mut items: Vec<Item>) -> f64 {
    items.sort_by_key(|item| plan.most(item));
    let size = plan.batch.min(items.len());
    let first = (items.len() - size) / 2;
    let batch = &mut items[first..first + size];
    let new = |item: &Item| plan.most(item) - item.prompt.len();
    let Some(steps) = batch.iter().map(new).max() else { return 0.0 };
    let before: usize = batch.iter().map(|item| item.prompt.len()).sum();
    let after: usize = batch.iter().map(|item| plan.most(item)).sum();
    // The first forward also wakes threads and compiles kernels.
    generate(backbone, &[&batch[0].prompt[..1]], 1);
    let each = (READ / size).max(1);
    let read: Vec<&[u32]> = batch.iter().map(|item| &item.prompt[..item.prompt.len().min(each)]).collect();
    // Prompts are read by all layers, whatever the columns.
    let reading = seconds_a_token(backbone, &read, &[Feature::Last]);
    let forcing = if features.is_empty() { 0.0 } else { seconds_a_token(backbone, &read, features) };
    batch.iter_mut().for_each(|item| item.prompt.truncate(SHORT));
    let one = seconds_of(|| drop(continuations(backbone, plan, batch, 1)));
    let some = seconds_of(|| drop(continuations(backbone, plan, batch, 1 + TIMED)));
    let a_step = (some - one).max(0.0) / TIMED as f64;
    // The corpus's own text is not decoded.
    let prefilled = if plan.text == TraceText::Corpus { 0 } else { before };
    (a_step * steps as f64 + reading * prefilled as f64 + forcing * after as f64) / size as f64
}
