//! The backbone's states at the tokens of traces, either from mapped columns or from the backbone itself.

use std::collections::BTreeMap;
use std::ops::Range;

use super::column::Column;
use super::recomputed::Recomputed;
use super::{Trace, TraceDocument};
use crate::backbone::{Feature, FeatureRows};
use crate::error::{Error, Result};

/// The source of a trace's states.
pub(super) enum States {
    /// The mapped columns.
    Columns(Vec<Column>),
    /// The backbone, which computes them.
    Recomputed(Recomputed),
}

/// A token in one of several traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of the trace.
    pub trace: usize,
    /// The number of the document in the trace.
    pub document: usize,
    /// The index of the token in the document, counted from 0 with the prompt included.
    pub row: usize,
}

/// Consecutive rows of a document that are wanted, and the index `to` of the row where they go in the output.
struct Wanted {
    document: usize,
    rows: Range<usize>,
    to: usize,
}

impl Trace {
    /// Returns the features whose states can be read.
    pub fn features(&self) -> Vec<Feature> {
        match &self.states {
            States::Columns(columns) => columns.iter().map(|column| column.header.feature).collect(),
            States::Recomputed(recomputed) => recomputed.features.clone(),
        }
    }

    /// Returns the width d of a state, or 0 if no states can be read.
    pub fn width(&self) -> usize {
        match &self.states {
            States::Columns(columns) => columns.first().map_or(0, |column| column.header.width),
            States::Recomputed(recomputed) => recomputed.width(),
        }
    }

    /// Returns the states of the given features at the tokens `rows` of the document with the number `document`.
    ///
    /// # Errors
    /// Returns an error if the trace has no states of a feature. If states are computed, also returns an error if their
    /// type cannot hold a number.
    pub fn states(&self, document: usize, rows: Range<usize>, features: &[Feature]) -> Result<FeatureRows> {
        let mut states = vec![vec![0.0; rows.len() * self.width()]; features.len()];
        let mut wanted = vec![Wanted { document, rows, to: 0 }];
        if let States::Recomputed(recomputed) = &self.states {
            // Documents are mostly read one after another, so those that follow are computed together with this one.
            let ahead = recomputed.ahead(document, self.documents());
            wanted.extend(ahead.map(|document| Wanted { document, rows: 0..0, to: 0 }));
        }
        self.read(&wanted, features, &mut states)?;
        Ok(FeatureRows::new(features, self.width(), states))
    }

    /// Puts the wanted rows into `states`, which has `[rows, d]` for each feature.
    fn read(&self, wanted: &[Wanted], features: &[Feature], states: &mut [Vec<f32>]) -> Result<()> {
        let (known, width) = (self.features(), self.width());
        let place = |feature: &Feature| {
            known.iter().position(|known| known == feature).ok_or_else(|| {
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Error::new(format!(
                    "the trace has no column `{feature}`; it has {known}. Make it with `draftsmith trace`."
                ))
            })
        };
        let places: Vec<usize> = features.iter().map(place).collect::<Result<_>>()?;
        let mut decoded = Vec::new();
        let mut put = |wanted: &Wanted, state: &mut Vec<f32>, decode: &mut dyn FnMut(&mut Vec<f32>)| {
            decoded.clear();
            decode(&mut decoded);
            state[wanted.to * width..][..decoded.len()].copy_from_slice(&decoded);
        };
        match &self.states {
            States::Columns(columns) => {
                for (&place, state) in places.iter().zip(states) {
                    for one in wanted {
                        let first = self.documents()[one.document].first;
                        let rows = first + one.rows.start..first + one.rows.end;
                        put(one, state, &mut |out| columns[place].decode(rows.clone(), out));
                    }
                }
                Ok(())
            }
            States::Recomputed(recomputed) => {
                let mut by_document: BTreeMap<usize, Vec<&Wanted>> = BTreeMap::new();
                wanted.iter().for_each(|one| by_document.entry(one.document).or_default().push(one));
                let documents: Vec<usize> = by_document.keys().copied().collect();
                let text = |number: usize| {
                    let document: &TraceDocument = &self.documents()[number];
                    (document, self.tokens(document))
                };
                let size = width * recomputed.dtype.bytes();
                recomputed.for_each(&documents, &text, &mut |number, bytes| {
                    for (&place, state) in places.iter().zip(&mut *states) {
                        for &one in &by_document[&number] {
                            let rows = &bytes[place][one.rows.start * size..one.rows.end * size];
                            put(one, state, &mut |out| recomputed.dtype.decode(rows, out));
                        }
                    }
                })
            }
        }
    }
}

/// Returns the states of the given features at tokens of several traces, in the order of `places`.
///
/// # Errors
/// Returns an error in the same cases as [`Trace::states`].
pub fn states_at(traces: &[&Trace], places: &[Place], features: &[Feature]) -> Result<FeatureRows> {
    let width = traces.iter().map(|trace| trace.width()).max().unwrap_or(0);
    let mut states = vec![vec![0.0; places.len() * width]; features.len()];
    for (number, trace) in traces.iter().enumerate() {
        let of_trace = places.iter().enumerate().filter(|(_, place)| place.trace == number);
        let wanted =
            |(to, place): (usize, &Place)| Wanted { document: place.document, rows: place.row..place.row + 1, to };
        trace.read(&of_trace.map(wanted).collect::<Vec<_>>(), features, &mut states)?;
    }
    Ok(FeatureRows::new(features, width, states))
}
