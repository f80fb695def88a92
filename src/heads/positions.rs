//! The positions that heads learn from, with their inputs and targets.

use super::vocabulary::Vocabulary;
use crate::backbone::{Feature, FeatureRows};
use crate::error::Result;
use crate::nn::{IGNORE, Targets};
use crate::traces::{Place, Trace, TraceDocument, states_at};

/// A token that heads predict from, given by its trace, its document and its index in the document.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position {
    pub trace: u32,
    pub document: u32,
    pub row: u32,
}

/// Returns every position of a document from which head 2 has something to predict: the token two places on must exist.
/// The next token must also lie in the continuation, unless the prompt counts as well.
pub(super) fn of_document(trace: usize, document: usize, entry: &TraceDocument, prompt: bool) -> Vec<Position> {
    let first = if prompt { 0 } else { entry.prompt - 1 };
    let last = entry.len().saturating_sub(2).max(first);
    (first..last).map(|row| Position { trace: trace as u32, document: document as u32, row: row as u32 }).collect()
}

/// Returns the positions of all documents of a trace.
pub(super) fn of_trace(number: usize, trace: &Trace, prompt: bool) -> impl Iterator<Item = Position> {
    trace.documents().iter().enumerate().flat_map(move |(document, entry)| of_document(number, document, entry, prompt))
}

impl Position {
    fn of<'a>(&self, traces: &[&'a Trace]) -> (&'a Trace, &'a TraceDocument) {
        let trace = traces[self.trace as usize];
        (trace, &trace.documents()[self.document as usize])
    }

    /// Returns the token `ahead` places after the position's own, or none beyond the document's end.
    fn token(&self, traces: &[&Trace], ahead: usize) -> Option<u32> {
        let (trace, document) = self.of(traces);
        trace.tokens(document).get(self.row as usize + ahead).copied()
    }

    /// Returns the id of the document.
    pub fn id<'a>(&self, traces: &[&'a Trace]) -> &'a str {
        &self.of(traces).1.id
    }
}

/// The texts before some positions, for heads that attend to them.
pub(super) struct Texts {
    /// The trace and the document of each text.
    pub documents: Vec<(usize, usize)>,
    /// The number of tokens of each text, up to the last of its positions.
    pub counts: Vec<usize>,
    /// For each position, its text and the number of its token.
    pub places: Vec<(usize, usize)>,
}

impl Texts {
    /// Returns the texts before the positions, which are in the order of their documents.
    pub fn of(positions: &[Position]) -> Self {
        let mut texts = Self { documents: Vec::new(), counts: Vec::new(), places: Vec::new() };
        for &Position { trace, document, row } in positions {
            let (document, row) = ((trace as usize, document as usize), row as usize);
            if texts.documents.last() != Some(&document) {
                texts.documents.push(document);
                texts.counts.push(0);
            }
            let text = texts.documents.len() - 1;
            texts.counts[text] = texts.counts[text].max(row + 1);
            texts.places.push((text, row));
        }
        texts
    }

    /// Returns the states called `features` at all tokens of the texts, text after text.
    ///
    /// # Errors
    /// Returns the errors of [`Trace::states`].
    pub fn states(&self, traces: &[&Trace], features: &[Feature]) -> Result<FeatureRows> {
        let of_text = |(&(trace, document), &count): (&(usize, usize), &usize)| {
            traces[trace].states(document, 0..count, features)
        };
        let parts: Vec<FeatureRows> = self.documents.iter().zip(&self.counts).map(of_text).collect::<Result<_>>()?;
        Ok(FeatureRows::concat(&parts.iter().collect::<Vec<_>>()))
    }

    /// Returns the columns that the longest text takes with `heads` rows behind every position.
    pub fn columns(&self, heads: usize) -> usize {
        let mut rows = vec![0; self.counts.len()];
        self.places.iter().for_each(|place| rows[place.0] += heads);
        let longest = self.counts.iter().copied().max().unwrap_or(0);
        longest + rows.into_iter().max().unwrap_or(0)
    }

    /// Returns where the positions are among all tokens of the texts.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        let firsts = self.counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end - count)
        });
        let firsts: Vec<usize> = firsts.collect();
        self.places.iter().map(move |&(text, row)| firsts[text] + row)
    }
}

/// Returns the states called `features` at the positions.
///
/// # Errors
/// Returns the errors of [`states_at`].
pub(super) fn features_at(traces: &[&Trace], positions: &[Position], features: &[Feature]) -> Result<FeatureRows> {
    let place = |position: &Position| Place {
        trace: position.trace as usize,
        document: position.document as usize,
        row: position.row as usize,
    };
    states_at(traces, &positions.iter().map(place).collect::<Vec<_>>(), features)
}

/// Returns where the backbone predicts what head `index` (0 is head 2) is to predict at a position.
pub(super) fn teacher_of(position: &Position, index: usize) -> Position {
    Position { row: position.row + 1 + index as u32, ..*position }
}

/// Returns the text's tokens in slot `slot` (0 is slot 1) of the block that begins at each position. Beyond the
/// document's end, the last token is repeated; nothing is predicted from these repetitions.
pub(super) fn drafted(traces: &[&Trace], positions: &[Position], slot: usize) -> Vec<u32> {
    let token = |position: &Position| {
        let ahead = (0..=slot + 1).rev().find_map(|ahead| position.token(traces, ahead));
        ahead.expect("a position has a token")
    };
    positions.iter().map(token).collect()
}

/// Returns what head `index` (0 is head 2) is to predict at the positions, in the numbering of `vocabulary`. A target
/// gives the share 1 - `soft` to the text's token and the share `soft` to the backbone's distribution: to its likeliest
/// tokens where the trace keeps them, otherwise to a teacher ([`teacher_of`]). Shares of tokens outside the
/// vocabulary go to the tokens inside. There is no target if no token inside has a share, or beyond the document's end.
pub(super) fn targets(
    traces: &[&Trace],
    positions: &[Position],
    index: usize,
    soft: f64,
    vocabulary: Option<&Vocabulary>,
) -> Targets {
    let number = |token: u32| vocabulary.map_or(Some(token), |vocabulary| vocabulary.number(token));
    let mut targets = Targets::default();
    for position in positions {
        let Some(token) = position.token(traces, 2 + index) else {
            targets.push(IGNORE, []);
            continue;
        };
        let mut shares: Vec<(u32, f32)> = Vec::new();
        if soft < 1.0 {
            shares.extend(number(token).map(|token| (token, (1.0 - soft) as f32)));
        }
        let mut taught = 0.0;
        if soft > 0.0 {
            let (trace, document) = position.of(traces);
            if let Some(likely) = trace.likely(document, position.row as usize + 1 + index) {
                let sum: f32 = likely.iter().map(|entry| entry.probability).sum();
                let share = |probability: f32| soft as f32 * probability / sum;
                shares.extend(likely.iter().filter_map(|entry| Some((number(entry.token)?, share(entry.probability)))));
            } else {
                taught = soft as f32;
            }
        }
        let sum: f32 = taught + shares.iter().map(|share| share.1).sum::<f32>();
        // The sum is exactly 1 if nothing was left out and nothing was rounded.
        if sum != 1.0 {
            shares.iter_mut().for_each(|share| share.1 /= sum);
            taught = if taught > 0.0 { taught / sum } else { 0.0 };
        }
        targets.push_taught(number(token).unwrap_or(IGNORE), shares, taught);
    }
    targets
}
