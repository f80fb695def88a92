//! Stop rules, which end a block early so that slots with little chance of being accepted are not verified.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;

use crate::error::{Error, Result, bail};
use crate::files::serde_as_text;
use crate::heads::SlotStats;
use crate::lattice::Lattice;

/// Says where a block's drafts end before its last slot, because what follows would hardly be accepted.
///
/// Written as `never`, `max-probability=0.1`, `entropy-bound=0.3` or `confidence=0.3`.
#[derive(Debug, Clone, Copy, Default, PartialEq, JsonSchema)]
#[schemars(with = "String")]
pub enum StopRule {
    /// Nowhere.
    #[default]
    Never,
    /// Before the first slot whose head gives its first choice a smaller probability.
    MaxProbability(f64),
    /// Before the first slot with `1 - sqrt(0.2 H)` below this, H the entropy of the head's distribution in nats: a lower
    /// bound of the share of its drafts that are accepted (AdaEDL; arXiv 2410.18351, section 3, with its bound held fixed).
    EntropyBound(f64),
    /// Before the first slot up to which all first choices are right with a smaller probability than this: the product of the
    /// confidences that the heads have learnt to give ([`SlotStats::confidence`]; DSpark).
    Confidence(f64),
}

impl StopRule {
    /// Checks that the bound is a probability.
    ///
    /// # Errors
    /// Fails if the bound does not lie between 0 and 1.
    pub fn validate(self) -> Result<()> {
        if let Self::MaxProbability(bound) | Self::EntropyBound(bound) | Self::Confidence(bound) = self
            && !(0.0..=1.0).contains(&bound)
        {
            bail!("the rule ends blocks at {bound}; the bound must lie between 0 and 1.");
        }
        Ok(())
    }
}

impl fmt::Display for StopRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::MaxProbability(bound) => write!(f, "max-probability={bound}"),
            Self::EntropyBound(bound) => write!(f, "entropy-bound={bound}"),
            Self::Confidence(bound) => write!(f, "confidence={bound}"),
        }
    }
}

impl FromStr for StopRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rule = match text.split_once('=').map(|(name, bound)| (name, bound.parse())) {
            None if text == "never" => Self::Never,
            Some(("max-probability", Ok(bound))) => Self::MaxProbability(bound),
            Some(("entropy-bound", Ok(bound))) => Self::EntropyBound(bound),
            Some(("confidence", Ok(bound))) => Self::Confidence(bound),
            _ => bail!(
                "`{text}` is no stop rule; there are never, max-probability=BOUND, entropy-bound=BOUND and confidence=BOUND, such as max-probability=0.1."
            ),
        };
        rule.validate().map(|()| rule)
    }
}

serde_as_text!(StopRule);

/// The constant gamma of AdaEDL (arXiv 2410.18351, section 3).
const GAMMA: f64 = 0.2;

/// Returns how many slots of a block are drafted, including the pinned one, and the smallest distance from the bound
/// among the slots that were compared with it.
///
/// `stats` are what the heads know of each slot, from the second one on. They are not read if the rule is
/// [`StopRule::Never`]. The distance is infinite if no slot was compared.
///
/// # Panics
/// Panics if the rule compares a slot for which `stats` has no entry, or no confidence.
pub fn early_stop_len(rule: StopRule, lattice: &Lattice, stats: &[SlotStats]) -> (usize, f64) {
    let softmax = |slot: usize| stats[slot - 1].softmax;
    let confidence = |slot: usize| f64::from(stats[slot - 1].confidence.expect("heads that know their confidence"));
    let (bound, worth): (f64, &dyn Fn(usize) -> f64) = match rule {
        StopRule::Never => return (lattice.slots(), f64::INFINITY),
        StopRule::MaxProbability(bound) => {
            (bound, &|slot| f64::from(lattice.scores(slot)[0] - softmax(slot).log_sum).exp())
        }
        StopRule::EntropyBound(bound) => {
            (bound, &|slot| 1.0 - (GAMMA * f64::from(softmax(slot).entropy)).max(0.0).sqrt())
        }
        StopRule::Confidence(bound) => (bound, &|slot| (1..=slot).map(confidence).product()),
    };
    let mut tightest = f64::INFINITY;
    for slot in 1..lattice.slots() {
        let worth = worth(slot);
        tightest = tightest.min((worth - bound).abs());
        if worth < bound {
            return (slot, tightest);
        }
    }
    (lattice.slots(), tightest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::SoftmaxStats;

    #[test]
    fn blocks_end_before_the_first_slot_below_the_bound() {
        let lattice = Lattice::pinned(7, 2, &[1, 3, 2, 4, 5, 6], &[3.0, 2.0, 1.0, 0.0, 4.0, 0.0]).unwrap();
        // The first choices have probabilities of 0.5, 0.2 and 0.9.
        let stats = |score: f32, probability: f32, entropy, confidence| SlotStats {
            softmax: SoftmaxStats { log_sum: score - probability.ln(), entropy },
            confidence: Some(confidence),
        };
        let stats = [stats(3.0, 0.5, 0.2, 0.5), stats(1.0, 0.2, 1.8, 1.0), stats(4.0, 0.9, 3.2, 0.5)];
        let at = |rule| early_stop_len(rule, &lattice, &stats);
        assert_eq!(at(StopRule::Never), (4, f64::INFINITY));
        let (slots, margin) = at(StopRule::MaxProbability(0.3));
        assert!(slots == 2 && (margin - 0.1).abs() < 1e-6, "{slots} {margin}");
        assert_eq!(at(StopRule::MaxProbability(0.1)).0, 4);
        assert_eq!(at(StopRule::MaxProbability(0.6)).0, 1);
        // The values of 1 - sqrt(0.2 H) are 0.8, 0.4 and 0.2.
        let (slots, margin) = at(StopRule::EntropyBound(0.3));
        assert!(slots == 3 && (margin - 0.1).abs() < 1e-6, "{slots} {margin}");
        assert_eq!(at(StopRule::EntropyBound(0.5)).0, 2);
        // The products of confidences are 0.5, 0.5 and 0.25.
        assert_eq!(at(StopRule::Confidence(0.3)), (3, 0.3 - 0.25));
        assert_eq!([0.6, 0.2].map(|bound| at(StopRule::Confidence(bound)).0), [1, 4]);
    }
}
