//! What heads read of a traced document.

use std::ops::Range;

use super::FrozenHeads;
use super::network::Context;
use crate::backbone::{FeatureTensors, KvCache, Model};
use crate::error::Result;
use crate::traces::Trace;

/// What heads read of a document, to draft blocks behind any token of its continuation but the last.
pub struct ReadDocument {
    /// The states at its tokens, from number `first` on.
    states: FeatureTensors,
    first: usize,
    /// What heads that attend keep of it, and the number of its tokens there.
    cache: Option<KvCache>,
    tokens: usize,
}

impl FrozenHeads {
    /// Reads document number `document` of a trace.
    ///
    /// # Errors
    /// Returns the errors of [`Trace::states`].
    pub fn read_document(&self, model: &Model, trace: &Trace, document: usize) -> Result<ReadDocument> {
        let entry = &trace.documents()[document];
        let (mut cache, tokens) = (self.cache(1, 2 * entry.len()), entry.len() - 1);
        // Nothing is read of the text before the prompt's last token unless heads attend to it.
        let first = if cache.is_some() { 0 } else { entry.prompt - 1 };
        let states = trace.states(document, first..tokens, &self.features())?.to_device(model.device());
        if let Some(cache) = &mut cache {
            self.read(model, cache, &[tokens], &states);
        }
        Ok(ReadDocument { states, first, cache, tokens })
    }
}

impl ReadDocument {
    /// Returns the states and the context of blocks behind each of these tokens, without the rows of blocks before.
    pub fn behind(&mut self, tokens: Range<usize>) -> (FeatureTensors, Option<Context<'_>>) {
        let states = self.states.map(|state| state.narrow(0, tokens.start - self.first, tokens.len()));
        let context = self.cache.as_mut().map(|cache| {
            cache.truncate(0, self.tokens);
            Context::new(cache, tokens.map(|token| (0, token)).collect())
        });
        (states, context)
    }
}
