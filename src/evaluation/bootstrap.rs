//! Confidence intervals of block efficiency, by a paired bootstrap over groups.
//!
//! Documents of one group (questions on the same paragraph, tales from the same prompt) are not independent. Therefore
//! whole groups are drawn with replacement, as many as there are. The base and the variant are summed over the same
//! draw, so that what is hard for both cancels out in the gain. The draws depend only on the seed and the number of
//! groups, so all variants of a table get the same resamples. The intervals are percentile intervals: they run from the
//! 2.5 % to the 97.5 % quantile of the resampled statistic. Quantiles are interpolated linearly between neighbouring
//! order statistics, without correcting for bias or skewness.

use crate::error::{Result, bail};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The tokens and calls of decoding one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// The number of decoded tokens.
    pub tokens: u64,
    /// The number of backbone calls that verified a draft. The prefill of the prompt does not count.
    pub calls: u64,
}

/// 95 % intervals, lower bound first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intervals {
    /// The block efficiency of the variant: decoded tokens / calls, as a ratio of sums.
    pub ratio: [f64; 2],
    /// The gain over the base: the variant's block efficiency / the base's block efficiency - 1.
    pub gain: [f64; 2],
}

/// The sums of the base and the variant over the same documents.
#[derive(Clone, Copy, Default)]
struct Pair {
    base: Counts,
    variant: Counts,
}

/// Computes paired percentile intervals from `resamples` draws of groups. Document i belongs to group `groups[i]`,
/// where any numbers can be used, and has the counts `base[i]` and `variant[i]`. The order of the documents does not
/// matter.
///
/// # Errors
/// Returns an error if the three slices differ in length or are empty, if `resamples` is 0, or if a group has no tokens
/// or no calls.
pub fn intervals(
    groups: &[usize],
    base: &[Counts],
    variant: &[Counts],
    resamples: usize,
    seed: u64,
) -> Result<Intervals> {
    let sums = sums_by_group(groups, base, variant)?;
    if resamples == 0 {
        bail!("a bootstrap needs at least one resample");
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut ratios, mut gains) = (Vec::with_capacity(resamples), Vec::with_capacity(resamples));
    for _ in 0..resamples {
        let mut total = Pair::default();
        for _ in 0..sums.len() {
            total.add(sums[rng.random_range(0..sums.len())]);
        }
        ratios.push(total.variant.ratio());
        gains.push(total.variant.ratio() / total.base.ratio() - 1.0);
    }
    Ok(Intervals { ratio: central_95(ratios), gain: central_95(gains) })
}

/// Sums the counts of each group, in ascending order of the group numbers.
fn sums_by_group(groups: &[usize], base: &[Counts], variant: &[Counts]) -> Result<Vec<Pair>> {
    if groups.is_empty() || base.len() != groups.len() || variant.len() != groups.len() {
        let (groups, base, variant) = (groups.len(), base.len(), variant.len());
        bail!(
            "a paired bootstrap needs the same documents throughout, not {groups} group numbers, {base} counts of the \
             base and {variant} of the variant"
        );
    }
    let mut sums: BTreeMap<usize, Pair> = BTreeMap::new();
    for ((&group, &base), &variant) in groups.iter().zip(base).zip(variant) {
        sums.entry(group).or_default().add(Pair { base, variant });
    }
    for (group, Pair { base, variant }) in &sums {
        if [base.tokens, base.calls, variant.tokens, variant.calls].contains(&0) {
            bail!("group {group} has no decoded tokens or no calls; leave its documents out of the bootstrap");
        }
    }
    Ok(sums.into_values().collect())
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.calls += other.calls;
    }

    fn ratio(self) -> f64 {
        self.tokens as f64 / self.calls as f64
    }
}

impl Pair {
    fn add(&mut self, other: Self) {
        self.base.add(other.base);
        self.variant.add(other.variant);
    }
}

/// Returns the 2.5 % and the 97.5 % quantile of `values`, which must not be empty.
fn central_95(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_unstable_by(f64::total_cmp);
    [0.025, 0.975].map(|share| {
        let at = share * (values.len() - 1) as f64;
        let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
        below + at.fract() * (above - below)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(tokens: u64, calls: u64) -> Counts {
        Counts { tokens, calls }
    }

    /// Makes documents of 20 to 119 tokens with efficiencies around 1.5, and a variant whose calls follow those of the
    /// base closely.
    fn varied(documents: usize) -> (Vec<Counts>, Vec<Counts>) {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        (0..documents)
            .map(|_| {
                let tokens = rng.random_range(20..120);
                let calls = tokens * rng.random_range(5..10) / 10;
                (counts(tokens, calls), counts(tokens, calls - calls * rng.random_range(0..4) / 10))
            })
            .unzip()
    }

    fn singletons(documents: usize) -> Vec<usize> {
        (0..documents).collect()
    }

    #[test]
    fn identical_documents_leave_no_doubt() {
        let found = intervals(&singletons(8), &[counts(30, 20); 8], &[counts(30, 15); 8], 200, 1).unwrap();
        assert_eq!(found.ratio, [2.0, 2.0]);
        assert_eq!(found.gain, [2.0 / 1.5 - 1.0; 2]);
    }

    #[test]
    fn agrees_with_the_normal_approximation() {
        // Delta method: the standard error of a ratio is the root of the sum of its squared influences. Each bound has
        // to be within 0.15 standard errors; the bootstrap's own noise at 4,000 resamples is about 0.04.
        let (base, variant) = varied(2000);
        let found = intervals(&singletons(2000), &base, &variant, 4000, 5).unwrap();
        let total =
            |all: &[Counts]| all.iter().fold(counts(0, 0), |sum, c| counts(sum.tokens + c.tokens, sum.calls + c.calls));
        let influence = |all: &[Counts]| -> Vec<f64> {
            let sum = total(all);
            let ratio = sum.ratio();
            all.iter().map(|c| (c.tokens as f64 - ratio * c.calls as f64) / sum.calls as f64).collect()
        };
        let error = |influences: Vec<f64>| influences.iter().map(|i| i * i).sum::<f64>().sqrt();
        let check = |found: [f64; 2], centre: f64, error: f64| {
            for (bound, expected) in found.into_iter().zip([centre - 1.96 * error, centre + 1.96 * error]) {
                assert!((bound - expected).abs() < 0.15 * error, "{bound} is not about {expected}");
            }
        };

        let (of_base, of_variant) = (total(&base).ratio(), total(&variant).ratio());
        check(found.ratio, of_variant, error(influence(&variant)));
        let quotient = of_variant / of_base;
        let paired = influence(&variant)
            .into_iter()
            .zip(influence(&base))
            .map(|(v, b)| quotient * (v / of_variant - b / of_base));
        check(found.gain, quotient - 1.0, error(paired.collect()));
    }

    #[test]
    fn base_and_variant_meet_the_same_resamples() {
        // Half the calls in every document is a gain of exactly 100 % in every resample.
        let (base, _) = varied(40);
        let doubled: Vec<Counts> = base.iter().map(|c| counts(2 * c.tokens, c.calls)).collect();
        let found = intervals(&singletons(40), &base, &doubled, 300, 2).unwrap();
        assert_eq!(found.gain, [1.0, 1.0]);
        assert!(found.ratio[0] < found.ratio[1]);
    }

    #[test]
    fn groups_stay_together() {
        // Each group has efficiency 2 only as a whole.
        let documents = [counts(10, 10), counts(10, 10), counts(30, 10), counts(30, 10)];
        let base = [counts(10, 10); 4];
        assert_eq!(intervals(&[70, 3, 70, 3], &base, &documents, 300, 4).unwrap().ratio, [2.0, 2.0]);
        let apart = intervals(&[0, 1, 2, 3], &base, &documents, 300, 4).unwrap().ratio;
        assert!(apart[0] < 2.0 && 2.0 < apart[1]);
    }

    #[test]
    fn the_seed_alone_decides() {
        let (mut base, mut variant) = varied(30);
        let mut groups = singletons(30);
        let first = intervals(&groups, &base, &variant, 100, 7).unwrap();
        assert_ne!(first, intervals(&groups, &base, &variant, 100, 8).unwrap());
        groups.reverse();
        base.reverse();
        variant.reverse();
        assert_eq!(first, intervals(&groups, &base, &variant, 100, 7).unwrap());
    }

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(central_95((0..=40).rev().map(f64::from).collect()), [1.0, 39.0]);
        assert_eq!(central_95(vec![0.0, 80.0]), [2.0, 78.0]);
    }

    #[test]
    fn refuses_what_it_cannot_resample() {
        let one = [counts(2, 1)];
        assert!(intervals(&[], &[], &[], 10, 1).is_err());
        assert!(intervals(&[0], &one, &[], 10, 1).is_err());
        assert!(intervals(&[0], &[], &one, 10, 1).is_err());
        assert!(intervals(&[0], &one, &one, 0, 1).is_err());
        assert!(intervals(&[0], &one, &[counts(2, 0)], 10, 1).is_err());
        assert!(intervals(&[0], &[counts(0, 1)], &one, 10, 1).is_err());
    }
}
