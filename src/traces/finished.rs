//! Finished traces from which others are put together: the shards of a trace, or the whole of which a shard is a part.

use std::collections::HashMap;

use super::plan::Item;
use super::{Likely, Trace, TraceDocument};
use crate::backbone::Feature;
use crate::error::{Error, Result, bail};

/// Finished traces, in which documents are found by their ids.
pub struct FinishedTraces {
    /// The traces, each with its title.
    traces: Vec<(String, Trace)>,
    /// The number of the trace of every document, and its number in there.
    places: HashMap<String, (usize, usize)>,
}

impl FinishedTraces {
    /// Puts traces side by side, each under a title for messages.
    ///
    /// # Errors
    /// Returns an error if two of them have the same document.
    pub fn new(traces: Vec<(String, Trace)>) -> Result<Self> {
        let mut places: HashMap<String, (usize, usize)> = HashMap::new();
        for (number, (title, trace)) in traces.iter().enumerate() {
            for (place, document) in trace.documents().iter().enumerate() {
                if let Some((other, _)) = places.insert(document.id.clone(), (number, place)) {
                    bail!(
                        "{title} and {} overlap: both have the document `{}`. Remove one of their folders, and make what is then missing.",
                        traces[other].0,
                        document.id
                    );
                }
            }
        }
        Ok(Self { traces, places })
    }

    fn find(&self, id: &str) -> Result<(&str, &Trace, &TraceDocument)> {
        let Some(&(trace, document)) = self.places.get(id) else {
            let titles: Vec<&str> = self.traces.iter().map(|(title, _)| title.as_str()).collect();
            return Err(Error::new(format!("the document `{id}` is missing in {}.", titles.join(", "))));
        };
        let (title, trace) = &self.traces[trace];
        Ok((title, trace, &trace.documents()[document]))
    }

    /// Returns the tokens that follow the prompt of a document.
    ///
    /// # Errors
    /// Returns an error if no trace has the document, or if it has another prompt or limit there.
    pub(super) fn continuation(&self, item: &Item) -> Result<Vec<u32>> {
        let (title, trace, document) = self.find(&item.id)?;
        let tokens = trace.tokens(document);
        if tokens[..document.prompt] != item.prompt || document.limit != item.limit {
            bail!("{title}: the document `{}` has another prompt or another limit there. Make it again.", item.id);
        }
        Ok(tokens[document.prompt..].to_vec())
    }

    /// Returns the encoded rows of a document in the column of a feature, or none if its trace was opened without that column.
    ///
    /// # Errors
    /// Returns an error if no trace has the document.
    pub(super) fn rows(&self, feature: Feature, id: &str) -> Result<Option<&[u8]>> {
        let (_, trace, document) = self.find(id)?;
        Ok(trace.encoded_rows(feature, document))
    }

    /// Returns the backbone's likeliest tokens at every row of a document.
    ///
    /// # Errors
    /// Returns an error if no trace has the document, or if its trace was opened without them.
    pub(super) fn likely(&self, id: &str) -> Result<&[Likely]> {
        let (title, trace, document) = self.find(id)?;
        let none = || Error::new(format!("{title} has no likeliest tokens."));
        trace.likely_of(document).ok_or_else(none)
    }
}
