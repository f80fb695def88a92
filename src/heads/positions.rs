//! The positions that heads learn from: what they read there and what they are to predict.

use burn::tensor::Device;

use super::HeadInput;
use crate::nn::{IGNORE, from_host};
use crate::traces::{Trace, TraceDocument};

/// A hidden state that heads predict from: trace, document, token.
#[derive(Clone, Copy)]
pub(super) struct Position {
    trace: u32,
    document: u32,
    row: u32,
}

/// Every token whose next-but-one token exists and lies in the continuation, or anywhere if the prompt counts as well.
pub(super) fn positions(traces: &[&Trace], prompt: bool) -> Vec<Position> {
    let of_document = |(document, entry): (usize, &TraceDocument), trace: usize| {
        let first = if prompt { 0 } else { entry.prompt - 1 };
        let last = entry.len().saturating_sub(2);
        (first..last.max(first)).map(move |row| Position {
            trace: trace as u32,
            document: document as u32,
            row: row as u32,
        })
    };
    let of_trace = |(trace, entries): (usize, &&Trace)| {
        entries.documents().iter().enumerate().flat_map(move |d| of_document(d, trace)).collect::<Vec<_>>()
    };
    traces.iter().enumerate().flat_map(of_trace).collect()
}

/// What heads read at positions.
pub(super) fn input(traces: &[&Trace], positions: &[Position], device: &Device) -> HeadInput {
    let width = traces[0].width();
    let mut values = Vec::with_capacity(positions.len() * width);
    for position in positions {
        let trace = traces[position.trace as usize];
        trace.hidden_row(&trace.documents()[position.document as usize], position.row as usize, &mut values);
    }
    HeadInput { hidden: from_host(values, [positions.len(), width], device) }
}

/// The tokens that head `index` (0 is head 2) is to predict from positions; none past the document's end.
pub(super) fn targets(traces: &[&Trace], positions: &[Position], index: usize) -> Vec<u32> {
    let target = |position: &Position| {
        let trace = traces[position.trace as usize];
        let tokens = trace.tokens(&trace.documents()[position.document as usize]);
        tokens.get(position.row as usize + 2 + index).copied().unwrap_or(IGNORE)
    };
    positions.iter().map(target).collect()
}
