//! Turns shares into probabilities and back-off weights.

use bytemuck::{Pod, Zeroable};

use super::super::key::Key;
use super::super::listing::{Entry, List, Listing};
use super::super::sort::{Reader, Record, Sorted, Sorter};
use super::super::words::{MAX_ORDER, to_id};
use super::share::{Left, Share, Shares};
use super::{Run, Smoothing};
use crate::error::{Error, Result};

/// A listed n-gram, with the probability of its last word after the shorter context.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Lower {
    /// The context in suffix order, then the last word.
    key: Key,
    prob: f64,
}

impl Record for Lower {
    fn key(&self) -> Key {
        self.key
    }
}

impl Run<'_> {
    /// Computes the probabilities and the back-off weights of all listed n-grams; `types` is the size of the
    /// vocabulary.
    pub(super) fn combine(&self, mut shares: Shares, types: u64) -> Result<Listing> {
        if self.options.smoothing == Smoothing::Katz {
            shares.left = self.katz_weights(&shares, types)?;
        }
        let order = self.order();
        let mut contexts: Vec<Reader<Left>> = shares.left.iter().skip(1).map(Sorted::read).collect::<Result<_>>()?;
        let mut sorters: Vec<Sorter<Entry>> = (0..order).map(|_| self.sorter()).collect();
        let mut sizes = vec![0; order];
        self.walk(&shares, types, |n, share, prob, _| {
            let mut weight = 1.0;
            if let Some(contexts) = contexts.get_mut(n - 1)
                && let Some(&Left { key, mass }) = contexts.peek()
                && key <= share.key
            {
                if key < share.key {
                    return Err(self.unlisted(key, n));
                }
                weight = mass;
                contexts.advance()?;
            }
            sizes[n - 1] += 1;
            let key = self.packing.reverse(share.key, n);
            let (log10_prob, log10_backoff) = (prob.log10().min(0.0) as f32, weight.log10() as f32);
            sorters[n - 1].push(Entry { key, log10_prob, log10_backoff })
        })?;
        if let Some((context, n)) = contexts.iter().zip(1..).find_map(|(left, n)| Some((left.peek()?, n))) {
            return Err(self.unlisted(context.key, n));
        }
        drop(contexts);
        drop(shares);
        let mut orders = Vec::with_capacity(order);
        for (sorter, size) in sorters.into_iter().zip(sizes) {
            orders.push(List { entries: sorter.finish()?, size });
        }
        let vocabulary = self.counts.vocabulary().clone();
        Ok(Listing { vocabulary, packing: self.packing, memory: self.memory.clone(), orders })
    }

    /// Makes the error that a context of `n` words is not listed itself, as no part of a text is.
    fn unlisted(&self, context: Key, n: usize) -> Error {
        let ids: Vec<i64> = self.packing.words(context, n).rev().map(to_id).collect();
        Error::new(format!(
            "these are not the counts of whole documents: something follows {ids:?}, which itself is not counted. Count the text again; \
             a table from another program needs the window of every token."
        ))
    }

    /// Calls `each(order, n-gram, its probability, that of its suffix)` for every n-gram to be listed, in suffix order.
    /// In that order, the last n-gram that is one word shorter is the suffix of an n-gram, which is always listed too.
    fn walk(
        &self,
        shares: &Shares,
        types: u64,
        mut each: impl FnMut(usize, &Share, f64, f64) -> Result<()>,
    ) -> Result<()> {
        let mut readers: Vec<Reader<Share>> = shares.shares.iter().map(Sorted::read).collect::<Result<_>>()?;
        let mut probs = [1.0 / types as f64; MAX_ORDER + 1];
        loop {
            let heads = (1..).zip(&readers).filter_map(|(n, reader)| reader.peek().map(|share| (share.key, n)));
            let Some((_, n)) = heads.min() else { return Ok(()) };
            let share = readers[n - 1].next()?.expect("peeked");
            let prob = share.own + share.lower * probs[n - 1];
            probs[n] = prob;
            each(n, &share, prob, probs[n - 1])?;
        }
    }

    /// Computes Katz's back-off weights: the mass that a context leaves, divided by the mass that the shorter context
    /// gives to the words that are not listed after it.
    fn katz_weights(&self, shares: &Shares, types: u64) -> Result<Vec<Sorted<Left>>> {
        let order = self.order();
        let mut sorters: Vec<Sorter<Lower>> = (0..order).map(|_| self.sorter()).collect();
        self.walk(shares, types, |n, share, _, prob| {
            let key = self.packing.rotate(share.key, n);
            sorters[n - 1].push(Lower { key, prob })
        })?;
        let mut weights = Vec::with_capacity(order);
        for ((n, lower), left) in (1..).zip(sorters).zip(&shares.left) {
            let (lower, mut contexts) = (lower.finish()?, left.read()?);
            let mut lower = lower.read()?;
            let mut sorter = self.sorter();
            while let Some(Left { key, mass }) = contexts.next()? {
                let mut listed = 0.0;
                while let Some(gram) = lower.peek()
                    && self.packing.prefix(gram.key, n - 1) <= key
                {
                    listed += gram.prob;
                    lower.advance()?;
                }
                // If every word is listed, nothing is left to back off to.
                let unlisted = (1.0 - listed).max(1e-9);
                sorter.push(Left { key, mass: mass / unlisted })?;
            }
            weights.push(sorter.finish()?);
        }
        Ok(weights)
    }
}
