//! The states of a trace without columns. The backbone reads the texts again, batch by batch, whenever states are read.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::TraceDocument;
use super::forced::{encode, teacher_forced};
use crate::backbone::{Backbone, Feature};
use crate::error::Result;
use crate::storage_type::StorageType;

/// The largest number of bytes of states that are kept, in case the same documents are read again. A training draws its
/// positions from all documents, so with larger traces, most states are computed again for every step.
const KEPT: usize = 256 << 20;

/// The number of documents that are computed together.
const BATCH: usize = 16;

/// The states of a document, encoded as columns store them, one buffer per feature.
type Encoded = Arc<Vec<Vec<u8>>>;

/// A source of states that computes them when they are read.
pub(super) struct Recomputed {
    backbone: Arc<Backbone>,
    pub features: Vec<Feature>,
    pub dtype: StorageType,
    kept: Mutex<Kept>,
}

/// The states of the documents that were read last, by the number of the document.
#[derive(Default)]
struct Kept {
    documents: HashMap<usize, (u64, Encoded)>,
    /// The numbers of the documents, ordered by the time of their last reading.
    order: BTreeMap<u64, usize>,
    clock: u64,
    bytes: usize,
}

impl Recomputed {
    pub fn new(backbone: Arc<Backbone>, features: &[Feature], dtype: StorageType) -> Self {
        Self { backbone, features: features.to_vec(), dtype, kept: Mutex::default() }
    }

    /// Returns the width d of a state.
    pub fn width(&self) -> usize {
        self.backbone.model.config().hidden_size
    }

    /// Returns the documents after document `first` that are worth computing together with it. There are none if the
    /// states of `first` are kept.
    pub fn ahead(&self, first: usize, documents: &[TraceDocument]) -> Range<usize> {
        if self.kept().get(first).is_some() {
            return first..first;
        }
        let row = self.features.len() * self.width() * self.dtype.bytes();
        let mut bytes = 0;
        let fits = |document: &&TraceDocument| {
            bytes += document.len() * row;
            bytes <= KEPT / 2
        };
        first + 1..first + documents[first..].iter().take(BATCH).take_while(fits).count().max(1)
    }

    /// Calls `each` with the number and the states of every one of `documents`, which are given by number, in their
    /// order. `text` returns the entry and the tokens of a document.
    ///
    /// # Errors
    /// Returns an error if the type cannot hold a number.
    pub fn for_each<'a>(
        &self,
        documents: &[usize],
        text: &dyn Fn(usize) -> (&'a TraceDocument, &'a [u32]),
        each: &mut dyn FnMut(usize, &[Vec<u8>]),
    ) -> Result<()> {
        for batch in documents.chunks(BATCH) {
            let mut found: Vec<Option<Encoded>> = batch.iter().map(|&number| self.kept().get(number)).collect();
            let missing: Vec<usize> = (0..batch.len()).filter(|&at| found[at].is_none()).collect();
            let texts: Vec<&[u32]> = missing.iter().map(|&at| text(batch[at]).1).collect();
            // No lock is held here, because threads that compute may read states themselves.
            let states = teacher_forced(&self.backbone.model, &texts, &self.features);
            for (&at, states) in missing.iter().zip(states) {
                let id = &text(batch[at]).0.id;
                let encoded =
                    self.features.iter().zip(states).map(|(&name, state)| encode(&state, self.dtype, name, id));
                let encoded: Encoded = Arc::new(encoded.collect::<Result<_>>()?);
                self.kept().put(batch[at], encoded.clone());
                found[at] = Some(encoded);
            }
            batch.iter().zip(found).for_each(|(&number, states)| each(number, &states.expect("found or computed")));
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(encoded: &Encoded) -> usize {
    encoded.iter().map(Vec::len).sum()
}

impl Kept {
    fn get(&mut self, number: usize) -> Option<Encoded> {
        let (asked, encoded) = self.documents.get_mut(&number)?;
        self.order.remove(asked);
        self.clock += 1;
        self.order.insert(self.clock, number);
        *asked = self.clock;
        Some(encoded.clone())
    }

    fn put(&mut self, number: usize, encoded: Encoded) {
        self.clock += 1;
        self.bytes += size(&encoded);
        self.order.insert(self.clock, number);
        if let Some((asked, old)) = self.documents.insert(number, (self.clock, encoded)) {
            // Another thread has computed the same document.
            self.order.remove(&asked);
            self.bytes -= size(&old);
        }
        while self.bytes > KEPT
            && let Some((_, oldest)) = self.order.pop_first()
        {
            let (_, old) = self.documents.remove(&oldest).expect("both lists hold the same documents");
            self.bytes -= size(&old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_asked_for_last_are_kept() {
        let third = || Arc::new(vec![vec![0; KEPT / 3]]);
        let mut kept = Kept::default();
        (0..3).for_each(|number| kept.put(number, third()));
        kept.put(2, third());
        assert!(kept.get(0).is_some(), "what is computed twice counts once");
        kept.put(3, third());
        assert!(kept.get(1).is_none(), "1 was asked for before all others");
        assert!([0, 2, 3].iter().all(|&number| kept.get(number).is_some()));
        assert_eq!((kept.documents.len(), kept.order.len(), kept.bytes), (3, 3, KEPT / 3 * 3));
    }
}
