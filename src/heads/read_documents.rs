//! What heads read of traced documents.

use super::FrozenHeads;
use super::network::Context;
use crate::backbone::{FeatureTensors, KvCache, Model};
use crate::error::Result;
use crate::traces::Trace;

/// What heads read of traced documents, to draft blocks behind any token of a continuation but the last. Each document has a
/// seat, and gives it up to another.
pub struct ReadDocuments<'a> {
    heads: &'a FrozenHeads,
    model: &'a Model,
    trace: &'a Trace,
    seats: Vec<Option<Seat>>,
    /// What heads that attend keep of the documents, by seat.
    cache: Option<KvCache>,
}

struct Seat {
    /// The states at the document's tokens, from number `first` on.
    states: FeatureTensors,
    first: usize,
    /// The number of tokens that heads which attend keep of it.
    tokens: usize,
}

impl<'a> ReadDocuments<'a> {
    /// Makes `seats` empty seats for documents of a trace.
    pub fn new(heads: &'a FrozenHeads, model: &'a Model, trace: &'a Trace, seats: usize) -> Self {
        let longest = trace.documents().iter().map(|document| document.len()).max().unwrap_or(0);
        let cache = heads.cache(seats, longest + ROOM);
        Self { heads, model, trace, seats: (0..seats).map(|_| None).collect(), cache }
    }

    /// Reads document number `document` of the trace. It takes the place of what was in the seat.
    ///
    /// # Errors
    /// Returns the errors of [`Trace::states`].
    pub fn read(&mut self, seat: usize, document: usize) -> Result<()> {
        let Self { heads, model, trace, cache, .. } = self;
        let entry = &trace.documents()[document];
        let tokens = entry.len() - 1;
        // Nothing is read of the text before the prompt's last token unless heads attend to it.
        let first = if cache.is_some() { 0 } else { entry.prompt - 1 };
        let states = trace.states(document, first..tokens, &heads.features())?.to_device(model.device());
        if let Some(cache) = cache {
            let mut counts = vec![0; self.seats.len()];
            counts[seat] = tokens;
            cache.truncate(seat, 0);
            heads.read(model, cache, &counts, &states);
        }
        self.seats[seat] = Some(Seat { states, first, tokens });
        Ok(())
    }

    /// Returns the states and the context of blocks, without the rows of blocks before. Each of `places` is a seat whose
    /// document was read, in ascending order, and the number of the document's last token before the block.
    pub fn behind(&mut self, places: &[(usize, usize)]) -> (FeatureTensors, Option<Context<'_>>) {
        let seat = |seat: usize| self.seats[seat].as_ref().expect("a document was read");
        let runs = places.chunk_by(|a, b| a.0 == b.0 && a.1 + 1 == b.1).map(|run| {
            let Seat { states, first, .. } = seat(run[0].0);
            states.map(|state| state.narrow(0, run[0].1 - first, run.len()))
        });
        let states = FeatureTensors::concat(&runs.collect::<Vec<_>>());
        let context = self.cache.as_mut().map(|cache| {
            let read = self.seats.iter().enumerate().filter_map(|(at, seat)| Some((at, seat.as_ref()?.tokens)));
            read.for_each(|(seat, tokens)| cache.truncate(seat, tokens));
            Context::new(cache, places.to_vec())
        });
        (states, context)
    }
}

/// The rows of a block for which there is room at once in each seat.
const ROOM: usize = 256;
