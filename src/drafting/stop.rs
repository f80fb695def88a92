//! Stop rules, which end a block early so that slots with little chance of being accepted are not verified.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;

use crate::error::{Error, Result, bail};
use crate::files::serde_as_text;
use crate::heads::SlotStats;
use crate::kernels::SoftmaxStats;
use crate::lattice::Lattice;
use crate::nn::Largest;

/// Says where a block's drafts end before its last slot, because what follows would hardly be accepted.
///
/// Written as `never`, `length=4`, `adaedl`, or what is measured with its bound: `max-probability=0.1`, `entropy-bound=0.3`,
/// `confidence=0.3`. Without a bound, dev chooses it: `confidence`.
#[derive(Debug, Clone, Copy, Default, PartialEq, JsonSchema)]
#[schemars(with = "String")]
pub enum StopRule {
    /// Nowhere.
    #[default]
    Never,
    /// Behind so many slots, the pinned one among them.
    Length(usize),
    /// Before the first slot where this is below the bound.
    Below(StopMeasure, f64),
    /// The same by a bound that is chosen on dev ([`Settings::stop_bound`](super::Settings::stop_bound)).
    Tuned(StopMeasure),
    /// As [`StopMeasure::EntropyBound`], by a bound that follows what was accepted, beginning in every document with one that is
    /// chosen on dev (AdaEDL).
    Adaptive,
}

/// What a stop rule compares with its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMeasure {
    /// The probability that the slot's head gives its first choice.
    MaxProbability,
    /// `1 - sqrt(0.2 H)`, H the entropy of the head's distribution in nats: a lower bound of the share of its drafts that are
    /// accepted (AdaEDL; arXiv 2410.18351, section 3, with its bound held fixed).
    EntropyBound,
    /// The probability that all first choices up to the slot are right: the product of the confidences that the heads have
    /// learnt to give ([`SlotStats::confidence`]; DSpark).
    Confidence,
}

impl StopMeasure {
    const ALL: [(Self, &'static str); 3] = [
        (Self::MaxProbability, "max-probability"),
        (Self::EntropyBound, "entropy-bound"),
        (Self::Confidence, "confidence"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|&(measure, _)| measure == self).map_or("", |(_, name)| name)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(measure, _)| measure)
    }

    /// Returns the measure of one slot by itself, where the heads' first choice has the logit `first`. None if it takes more
    /// than that.
    fn of_slot(self, first: f32, stats: SoftmaxStats) -> Option<f64> {
        match self {
            Self::MaxProbability => Some(f64::from(first - stats.log_sum).exp()),
            Self::EntropyBound => Some(1.0 - (GAMMA * f64::from(stats.entropy)).max(0.0).sqrt()),
            Self::Confidence => None,
        }
    }
}

impl StopRule {
    /// Checks that the bound is a probability, or the length of a block.
    ///
    /// # Errors
    /// Fails if the bound does not lie between 0 and 1, or if a length is 0.
    pub fn validate(self) -> Result<()> {
        if self == Self::Length(0) {
            bail!(
                "the rule ends blocks behind 0 slots; the pinned token is always verified, so the length is at least 1."
            );
        }
        if let Self::Below(_, bound) = self
            && !(0.0..=1.0).contains(&bound)
        {
            bail!("the rule ends blocks at {bound}; the bound must lie between 0 and 1.");
        }
        Ok(())
    }

    /// Returns whether the rule reads what the heads know of a slot.
    pub fn reads_stats(self) -> bool {
        !matches!(self, Self::Never | Self::Length(_))
    }

    /// Returns whether dev chooses the rule's bound.
    pub fn is_tuned(self) -> bool {
        matches!(self, Self::Tuned(_) | Self::Adaptive)
    }

    /// Returns what the rule compares with a bound, if it does.
    pub fn measure(self) -> Option<StopMeasure> {
        match self {
            Self::Below(measure, _) | Self::Tuned(measure) => Some(measure),
            Self::Adaptive => Some(StopMeasure::EntropyBound),
            Self::Never | Self::Length(_) => None,
        }
    }

    /// Returns whether the rule goes by the confidence that heads have learnt.
    pub fn reads_confidence(self) -> bool {
        self.measure() == Some(StopMeasure::Confidence)
    }

    /// Returns whether the rule decides by its own numbers and what the heads know of one slot, so that it can end drafts behind any
    /// path. Others know the first choices of a whole block, or are completed by dev.
    pub fn knows_paths(self) -> bool {
        !self.is_tuned() && !self.reads_confidence()
    }

    /// Returns whether nothing is drafted behind a path of `slots` tokens, behind which the heads propose this. Rules that do not know
    /// paths ([`StopRule::knows_paths`]) leave nothing out.
    pub(super) fn leaves_out(self, slots: usize, proposed: &Largest) -> bool {
        let first = proposed.logits.first().copied().unwrap_or(f32::NEG_INFINITY);
        match self {
            Self::Length(most) => slots >= most,
            Self::Below(measure, bound) => {
                proposed.stats.and_then(|stats| measure.of_slot(first, stats)).is_some_and(|worth| worth < bound)
            }
            Self::Never | Self::Tuned(_) | Self::Adaptive => false,
        }
    }
}

impl fmt::Display for StopRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Adaptive => f.write_str(ADAPTIVE),
            Self::Length(slots) => write!(f, "length={slots}"),
            Self::Below(measure, bound) => write!(f, "{}={bound}", measure.name()),
            Self::Tuned(measure) => f.write_str(measure.name()),
        }
    }
}

impl FromStr for StopRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, bound) = text.split_once('=').map_or((text, None), |(name, bound)| (name, Some(bound.parse())));
        let rule = match (name, StopMeasure::named(name), bound) {
            ("never", _, None) => Self::Never,
            (ADAPTIVE, _, None) => Self::Adaptive,
            ("length", _, Some(Ok(slots))) if f64::fract(slots) == 0.0 && slots >= 0.0 => Self::Length(slots as usize),
            (_, Some(measure), Some(Ok(bound))) => Self::Below(measure, bound),
            (_, Some(measure), None) => Self::Tuned(measure),
            _ => bail!(
                "`{text}` is no stop rule; there are never, length=SLOTS, max-probability=BOUND, entropy-bound=BOUND, confidence=BOUND, the same without a bound, which dev then chooses, and adaedl."
            ),
        };
        rule.validate().map(|()| rule)
    }
}

serde_as_text!(StopRule);

/// The name of the rule whose bound follows what is accepted.
const ADAPTIVE: &str = "adaedl";

/// The constant gamma of AdaEDL (arXiv 2410.18351, section 3).
const GAMMA: f64 = 0.2;

/// Returns how many slots of a block are drafted, including the pinned one, and the smallest distance from the bound
/// among the slots that were compared with it.
///
/// `stats` are what the heads know of each slot, from the second one on. They are not read if the rule is
/// [`StopRule::Never`] or [`StopRule::Length`]. The distance is infinite if no slot was compared. A rule whose bound dev chooses
/// compares none: its drafter does.
///
/// # Panics
/// Panics if the rule compares a slot for which `stats` has no entry, or no confidence.
pub fn early_stop_len(rule: StopRule, lattice: &Lattice, stats: &[SlotStats]) -> (usize, f64) {
    let (measure, bound) = match rule {
        StopRule::Below(measure, bound) => (measure, bound),
        StopRule::Length(most) => return (lattice.slots().min(most), f64::INFINITY),
        StopRule::Never | StopRule::Tuned(_) | StopRule::Adaptive => return (lattice.slots(), f64::INFINITY),
    };
    let confidence = |slot: usize| f64::from(stats[slot - 1].confidence.expect("heads that know their confidence"));
    let mut tightest = f64::INFINITY;
    for slot in 1..lattice.slots() {
        let of_slot = measure.of_slot(lattice.scores(slot)[0], stats[slot - 1].softmax);
        let worth = of_slot.unwrap_or_else(|| (1..=slot).map(confidence).product());
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
        assert_eq!([1, 3, 9].map(|slots| at(StopRule::Length(slots)).0), [1, 3, 4]);
        let (slots, margin) = at(StopRule::Below(StopMeasure::MaxProbability, 0.3));
        assert!(slots == 2 && (margin - 0.1).abs() < 1e-6, "{slots} {margin}");
        assert_eq!(at(StopRule::Below(StopMeasure::MaxProbability, 0.1)).0, 4);
        assert_eq!(at(StopRule::Below(StopMeasure::MaxProbability, 0.6)).0, 1);
        // The values of 1 - sqrt(0.2 H) are 0.8, 0.4 and 0.2.
        let (slots, margin) = at(StopRule::Below(StopMeasure::EntropyBound, 0.3));
        assert!(slots == 3 && (margin - 0.1).abs() < 1e-6, "{slots} {margin}");
        assert_eq!(at(StopRule::Below(StopMeasure::EntropyBound, 0.5)).0, 2);
        // The products of confidences are 0.5, 0.5 and 0.25.
        assert_eq!(at(StopRule::Below(StopMeasure::Confidence, 0.3)), (3, 0.3 - 0.25));
        assert_eq!([0.6, 0.2].map(|bound| at(StopRule::Below(StopMeasure::Confidence, bound)).0), [1, 4]);
    }
}
