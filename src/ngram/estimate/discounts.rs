//! Discounts: what is taken off a count, to be given to unseen n-grams.

use super::adjust::{Adjusted, CountsOfCounts};
use super::{Run, Smoothing};
use crate::error::{Result, bail};

/// The discounts of `--discount-fallback` if no numbers follow it.
pub const DEFAULT_FALLBACK: [f64; 3] = [0.5, 1.0, 1.5];

/// The largest count that Good-Turing discounts.
const LARGEST_DISCOUNTED: usize = 5;

/// The discounts of one order.
#[derive(Debug, Clone, PartialEq)]
pub struct Discounts {
    /// The discounts of the counts 1, 2, ...
    pub amounts: Vec<f64>,
    /// The discount of every larger count.
    pub beyond: f64,
    /// Whether the counts of counts were degenerate, so that these are the fallback discounts.
    pub fallback: bool,
}

impl Discounts {
    /// Returns the discount of a count.
    pub(super) fn of(&self, count: u64) -> f64 {
        match count {
            0 => 0.0,
            _ => self.amounts.get(count as usize - 1).copied().unwrap_or(self.beyond),
        }
    }

    /// Makes discounts of three amounts, the last of which applies to all larger counts.
    fn of_three(amounts: [f64; 3], fallback: bool) -> Self {
        Self { amounts: amounts.to_vec(), beyond: amounts[2], fallback }
    }
}

/// Returns whether each discount, of the counts 1, 2, ..., is at least 0 and at most the count.
fn in_range(amounts: &[f64]) -> bool {
    (1..).zip(amounts).all(|(count, amount)| (0.0..=f64::from(count)).contains(amount))
}

/// Fails unless the fallback discounts are in range.
pub(super) fn check_fallback(amounts: [f64; 3]) -> Result<()> {
    if !in_range(&amounts) {
        bail!(
            "the fallback discounts {} {} {} are out of range: they must lie between 0 and 1, 0 and 2, 0 and 3. \
             Use 0.5 1 1.5.",
            amounts[0],
            amounts[1],
            amounts[2]
        );
    }
    Ok(())
}

impl Run<'_> {
    /// Computes the discounts of every order from its counts of counts, or takes the fallback.
    pub(super) fn discounts(&self, adjusted: &Adjusted) -> Result<Vec<Discounts>> {
        let one = |(n, of_counts): (usize, &CountsOfCounts)| match self.options.smoothing {
            Smoothing::KneserNey => self.order_discounts(n, of_counts, "Kneser-Ney", kneser_ney),
            Smoothing::Katz => self.order_discounts(n, of_counts, "Good-Turing", good_turing),
        };
        (1..).zip(&adjusted.of_counts).map(one).collect()
    }

    fn order_discounts(
        &self,
        n: usize,
        of_counts: &CountsOfCounts,
        method: &str,
        discounts: fn(&CountsOfCounts) -> Result<Discounts, String>,
    ) -> Result<Discounts> {
        match (discounts(of_counts), self.options.discount_fallback) {
            (Ok(discounts), _) => Ok(discounts),
            (Err(_), Some(amounts)) => Ok(Discounts::of_three(amounts, true)),
            (Err(reason), None) => bail!(
                "the {method} discounts of order {n} cannot be estimated: the counts of counts n1 to n6 are {:?}, which is \
                 degenerate ({reason}). The text is too small or too regular. Give more text or a lower order, or pass \
                 --discount-fallback to use the discounts 0.5, 1 and 1.5 for this order.",
                &of_counts[1..=6]
            ),
        }
    }
}

/// Computes the three discounts of Chen and Goodman, or says why there are none.
fn kneser_ney(of_counts: &CountsOfCounts) -> Result<Discounts, String> {
    if let Some(count) = (1..=3).find(|&count| of_counts[count] == 0) {
        return Err(format!("no n-gram has the count {count}"));
    }
    let [_, n1, n2, n3, n4, ..] = of_counts.map(|number| number as f64);
    let y = n1 / (n1 + 2.0 * n2);
    let amounts = [1.0 - 2.0 * y * n2 / n1, 2.0 - 3.0 * y * n3 / n2, 3.0 - 4.0 * y * n4 / n3];
    match in_range(&amounts) {
        true => Ok(Discounts::of_three(amounts, false)),
        false => {
            let [d1, d2, d3] = amounts;
            Err(format!("they give D1 = {d1:.3}, D2 = {d2:.3}, D3+ = {d3:.3}, out of range"))
        }
    }
}

/// Computes the Good-Turing discounts of the counts 1 to k = 5 in Katz's form. A count r keeps the share `(r* / r - m)
/// / (1 - m)` of itself, with `r* = (r + 1) n(r+1) / n(r)` and `m = (k + 1) n(k+1) / n(1)`. So the sum of all discounts
/// is the Good-Turing estimate of the unseen mass.
fn good_turing(of_counts: &CountsOfCounts) -> Result<Discounts, String> {
    if let Some(count) = (1..=LARGEST_DISCOUNTED + 1).find(|&count| of_counts[count] == 0) {
        return Err(format!("no n-gram has the count {count}"));
    }
    let n = of_counts.map(|number| number as f64);
    let most = (LARGEST_DISCOUNTED + 1) as f64 * n[LARGEST_DISCOUNTED + 1] / n[1];
    let amounts: Vec<f64> = (1..=LARGEST_DISCOUNTED)
        .map(|count| {
            let r = count as f64;
            let kept = ((r + 1.0) * n[count + 1] / (n[count] * r) - most) / (1.0 - most);
            r * (1.0 - kept)
        })
        .collect();
    match most < 1.0 && in_range(&amounts) {
        true => Ok(Discounts { amounts, beyond: 0.0, fallback: false }),
        false => Err(format!("they give the discounts {amounts:.3?}, out of range")),
    }
}
