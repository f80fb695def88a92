//! Estimates probabilities from counts in bounded memory. Each pass reads n-grams sorted in the order that it needs:
//!
//! 1. `adjust.rs`, suffix order: from windows to the count of every n-gram, and the counts of counts.
//! 2. `discounts.rs`: what is taken off a count.
//! 3. `share.rs`, by context: what is left of each count as a share of its context's sum, and what the context leaves
//!    to the shorter n-grams.
//! 4. `combine.rs`, suffix order, in which an n-gram comes right after its suffix: the probabilities.
//!
//! With counts `a`, discounts `D(a)` of the order, and a context's sum `A` of the `a` that follow it:
//!
//! ```text
//! u(w | c) = (a(c w) - D(a(c w))) / A(c)
//! g(c)     = (sum of the D that were taken off after c, and of the a that were pruned) / A(c)
//!
//! Kneser-Ney, interpolated and modified (Chen and Goodman 1998), a = distinct left neighbours below the highest order:
//! p(w | c) = u(w | c) + g(c) p(w | c without its first word), and g is the back-off weight
//!
//! Katz (1987), a = raw counts, D from Good-Turing:
//! p(w | c) = u(w | c), and the back-off weight is g(c) / (1 - sum over the listed w of p(w | c without its first word))
//! ```
//!
//! The recursion ends at the uniform distribution over the model's vocabulary (see [`Vocabulary`](super::Vocabulary)).
//! `<s>` is never predicted: it is left out of the unigrams' counts of counts and sums, and its own probability is
//! written as log 1. These conventions are those of `lmplz`.

mod adjust;
mod combine;
mod discounts;
mod share;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::key::Packing;
use super::listing::Listing;
use super::sort::{Memory, Record, Sorter};
use super::words::{BOS, EOS, UNK};
use crate::error::{Result, bail};

pub use discounts::{DEFAULT_FALLBACK, Discounts};

/// How an n-gram model sets probability aside for unseen n-grams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Smoothing {
    /// Interpolated modified Kneser-Ney (Chen and Goodman 1998).
    #[default]
    KneserNey,
    /// Katz back-off with Good-Turing discounts of counts up to 5 (Katz 1987).
    Katz,
}

/// How to estimate a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// The smoothing.
    pub smoothing: Smoothing,
    /// The discounts of the counts 1, 2 and more for an order whose counts of counts are degenerate, and for that order
    /// only. Without them, degenerate counts of counts are an error.
    pub discount_fallback: Option<[f64; 3]>,
    /// The pruning thresholds: n-grams of order i + 1 that occur at most `prune[i]` times are not listed, and their
    /// mass goes to the shorter n-grams. The last number also holds for higher orders. Empty keeps all.
    pub prune: Vec<u64>,
}

/// A smoothed model and the discounts that made it.
pub struct Estimate {
    /// The model.
    pub listing: Listing,
    /// The discounts of every order, unigrams first.
    pub discounts: Vec<Discounts>,
}

/// Estimates a smoothed model from `counts`, within `memory`.
///
/// # Errors
/// When the counts of counts are degenerate and there is no fallback, the counts are not those of whole documents, the
/// thresholds fall from one order to the next, or the disk is full.
pub fn estimate(counts: &Counts, options: &Options, memory: &Memory) -> Result<Estimate> {
    if let Some(fallback) = options.discount_fallback {
        discounts::check_fallback(fallback)?;
    }
    if options.prune.is_sorted() {
        let last = options.prune.last().copied().unwrap_or(0);
        let thresholds = (0..counts.order()).map(|index| options.prune.get(index).copied().unwrap_or(last)).collect();
        Run { counts, options, memory, packing: counts.packing(), thresholds }.estimate()
    } else {
        bail!(
            "the pruning thresholds {:?} fall from one order to the next, so that contexts of kept n-grams would be \
             missing. Give numbers that rise or stay the same, unigrams first, such as 0 0 1.",
            options.prune
        );
    }
}

/// One estimation.
struct Run<'a> {
    counts: &'a Counts,
    options: &'a Options,
    memory: &'a Memory,
    packing: Packing,
    /// The pruning threshold of every order.
    thresholds: Vec<u64>,
}

impl Run<'_> {
    fn order(&self) -> usize {
        self.counts.order()
    }

    /// Makes a sorter with its part of the memory: at most four of every order exist at the same time.
    fn sorter<T: Record>(&self) -> Sorter<T> {
        self.memory.sorter(4 * self.order())
    }

    /// Runs all passes.
    fn estimate(&self) -> Result<Estimate> {
        let adjusted = self.adjust()?;
        let discounts = self.discounts(&adjusted)?;
        // <unk> and </s> are listed even if they never occur; <s> is not in the vocabulary over which probabilities sum
        // to 1.
        let listed = adjusted.kept[0] + 1 + u64::from(!adjusted.ended);
        let types = self.counts.vocabulary().padded_types().map_or(listed, |types| types as u64);
        let shares = self.shares(adjusted, &discounts)?;
        let listing = self.combine(shares, types)?;
        Ok(Estimate { listing, discounts })
    }

    /// The unigrams that are listed even if they do not occur.
    const ALWAYS: [u32; 3] = [UNK, BOS, EOS];
}
