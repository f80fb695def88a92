//! Turns a model back into a listing.

use super::super::key::{Key, Packing};
use super::super::listing::{Entry, List, Listing};
use super::super::sort::{Memory, Sorter};
use super::{Model, ROOT};
use crate::error::Result;

impl Model {
    /// Returns the n-grams of the model, from which [`Model::compile`] makes the same model again. This takes 16 bytes
    /// for each context, besides the listing.
    pub fn listing(&self, memory: &Memory) -> Result<Listing> {
        self.list(memory, |_| true, |node| self.columns.backoffs().get(node as usize))
    }

    /// Returns the n-grams that are `kept`; `backoff` gives the log10 weights of those that are contexts. Numbers
    /// follow the order of the words within an order, so every list is already sorted.
    pub(super) fn list(
        &self,
        memory: &Memory,
        kept: impl Fn(u32) -> bool,
        backoff: impl Fn(u32) -> f32,
    ) -> Result<Listing> {
        let (header, columns) = (&self.header, &self.columns);
        let order = header.sizes.len();
        let packing = Packing::new(order);
        let mut keys = vec![Key::EMPTY];
        let mut parents = ROOT..ROOT + 1;
        let mut orders = Vec::with_capacity(order);
        for n in 1..=order {
            let mut sorter: Sorter<Entry> = memory.sorter(2 * order);
            let (mut size, mut longer_keys) = (0, Vec::new());
            for (parent, &key) in parents.clone().zip(&keys) {
                for arc in columns.arcs(parent) {
                    let key = packing.append(key, n - 1, columns.words().get(arc as usize));
                    if n < order {
                        longer_keys.push(key);
                    }
                    if kept(arc) {
                        let log10_backoff = if n < order { backoff(arc) } else { 0.0 };
                        sorter.push(Entry { key, log10_prob: self.log10_prob(arc) as f32, log10_backoff })?;
                        size += 1;
                    }
                }
            }
            orders.push(List { entries: sorter.finish()?, size });
            keys = longer_keys;
            parents = parents.end..parents.end + header.sizes[n - 1] as u32;
        }
        Ok(Listing { vocabulary: header.vocabulary.clone(), packing, memory: memory.clone(), orders })
    }
}
