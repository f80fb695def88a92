//! The dev documents that decide which checkpoint is kept, and the block efficiency on them.

use super::positions::{Position, of_document};
use crate::lattice::walk;
use crate::traces::Trace;

/// The approximate number of positions that an evaluation uses.
const POSITIONS: usize = 4096;

/// Whole documents, taken at equal intervals from all dev documents.
pub(super) struct DevSet {
    /// The positions of all documents in order. Each document is complete.
    pub positions: Vec<Position>,
    /// The number of positions of each document, which is one less than the number of tokens of its continuation.
    documents: Vec<usize>,
}

impl DevSet {
    pub fn new(traces: &[&Trace]) -> Self {
        let of_trace = |(number, trace): (usize, &&Trace)| -> Vec<Vec<Position>> {
            let documents = trace.documents().iter().enumerate().filter(|(_, entry)| entry.continuation > 0);
            documents.map(|(document, entry)| of_document(number, document, entry, false)).collect()
        };
        let documents: Vec<Vec<Position>> = traces.iter().enumerate().flat_map(of_trace).collect();
        let every = documents.iter().map(Vec::len).sum::<usize>().div_ceil(POSITIONS).max(1);
        let taken: Vec<Vec<Position>> = documents.into_iter().step_by(every).collect();
        Self { documents: taken.iter().map(Vec::len).collect(), positions: taken.concat() }
    }

    /// Replays plain blockwise decoding and returns its block efficiency: decoded tokens / calls, both summed over the
    /// documents. `correct` says, for each head and position, whether the head's first choice is the text's token.
    pub fn block_efficiency(&self, correct: &[Vec<bool>]) -> f64 {
        let (mut tokens, mut calls, mut first) = (0, 0, 0);
        for &positions in &self.documents {
            // The last token of a text has no position, because only slot 1 can hold it.
            let accepted =
                |start: usize| 1 + correct.iter().take_while(|head| start < positions && head[first + start]).count();
            calls += walk(positions + 1, |start| (accepted(start), ())).len();
            tokens += positions + 1;
            first += positions;
        }
        tokens as f64 / calls.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end_at_the_first_miss_and_at_the_documents_end() {
        let dev = DevSet { positions: Vec::new(), documents: vec![4, 0, 2] };
        // Document 1: 5 tokens; document 2: 1 token; document 3: 3 tokens.
        let correct = [vec![true, false, false, true, true, false], vec![true, true, true, false, false, true]];
        // Blocks start at 0 (3 accepted) and 3 (2 accepted); at 0; and at 0 (2 accepted) and 2.
        assert_eq!(dev.block_efficiency(&correct), 9.0 / 5.0);
        assert_eq!(dev.block_efficiency(&[]), 1.0);
    }
}
