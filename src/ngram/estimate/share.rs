//! Computes each n-gram's share of its context, and what the context leaves to shorter n-grams.

use bytemuck::{Pod, Zeroable};

use super::super::key::Key;
use super::super::sort::{Record, Sorted, Sorter};
use super::super::words::{BOS, EOS};
use super::adjust::{Adjusted, Gram};
use super::discounts::Discounts;
use super::{Run, Smoothing};
use crate::error::Result;

/// An n-gram that is to be listed.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Share {
    /// The words in suffix order.
    pub(super) key: Key,
    /// u, the n-gram's own part of its probability.
    pub(super) own: f64,
    /// The weight of the shorter n-gram's probability.
    pub(super) lower: f64,
}

impl Record for Share {
    fn key(&self) -> Key {
        self.key
    }
}

/// What a context leaves to shorter n-grams.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Left {
    /// The context in suffix order.
    pub(super) key: Key,
    /// g, the mass that is left.
    pub(super) mass: f64,
}

impl Record for Left {
    fn key(&self) -> Key {
        self.key
    }
}

/// The shares of all orders, unigrams first, and what the contexts of every length leave, the empty one first.
pub(super) struct Shares {
    pub(super) shares: Vec<Sorted<Share>>,
    pub(super) left: Vec<Sorted<Left>>,
}

impl Run<'_> {
    /// Computes the shares of all orders.
    pub(super) fn shares(&self, adjusted: Adjusted, discounts: &[Discounts]) -> Result<Shares> {
        let (mut all_shares, mut all_left) = (Vec::new(), Vec::new());
        for (n, (grams, discounts)) in (1..).zip(adjusted.grams.into_iter().zip(discounts)) {
            let (mut shares, mut left) = (self.sorter(), self.sorter());
            let mut context = Vec::new();
            let mut reader = grams.read()?;
            while let Some(first) = reader.next()? {
                let key = self.packing.prefix(first.key, n - 1);
                context.clear();
                context.push(first);
                while let Some(gram) = reader.peek()
                    && self.packing.prefix(gram.key, n - 1) == key
                {
                    context.push(*gram);
                    reader.advance()?;
                }
                let mass = self.share(n, &context, discounts, &mut shares)?;
                // Whatever is pruned wholly leaves everything, which need not be said.
                if context.iter().any(|gram| !gram.pruned()) {
                    left.push(Left { key, mass })?;
                }
                if n == 1 {
                    for word in Self::ALWAYS.into_iter().filter(|&word| word != EOS || !adjusted.ended) {
                        // <s> is certain; the others have the uniform share of what is left.
                        let (own, lower) = if word == BOS { (1.0, 0.0) } else { (0.0, mass) };
                        shares.push(Share { key: self.packing.pack([word]), own, lower })?;
                    }
                }
            }
            all_shares.push(shares.finish()?);
            all_left.push(left.finish()?);
        }
        Ok(Shares { shares: all_shares, left: all_left })
    }

    /// Adds the n-grams of one context to `shares`, and returns the mass that they leave.
    fn share(&self, n: usize, context: &[Gram], discounts: &Discounts, shares: &mut Sorter<Share>) -> Result<f64> {
        let mut sum = context.iter().map(|gram| gram.count() as f64).sum::<f64>();
        let mut taken = context
            .iter()
            .map(|gram| if gram.pruned() { gram.count() as f64 } else { discounts.of(gram.count()) })
            .sum::<f64>();
        // Good-Turing takes nothing off a large count. In a context with large counts only, one more occurrence, of
        // something unseen, keeps the unseen possible (as in SRILM).
        if taken == 0.0 {
            (sum, taken) = (sum + 1.0, 1.0);
        }
        let mass = taken / sum;
        // Katz does not interpolate, except for the unigrams: what they leave is spread evenly over the vocabulary.
        let lower = if n == 1 || self.options.smoothing == Smoothing::KneserNey { mass } else { 0.0 };
        for gram in context.iter().filter(|gram| !gram.pruned()) {
            let last = self.packing.word(gram.key, n - 1);
            let key = self.packing.prefix(self.packing.prepend(last, gram.key), n);
            let own = (gram.count() as f64 - discounts.of(gram.count())) / sum;
            shares.push(Share { key, own, lower })?;
        }
        Ok(mass)
    }
}
