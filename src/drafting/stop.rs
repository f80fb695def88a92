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
/// Written as `never`, `length=4`, `max-probability=0.1`, `entropy-bound=0.3`, `confidence=0.3` or `adaedl`.
#[derive(Debug, Clone, Copy, Default, PartialEq, JsonSchema)]
#[schemars(with = "String")]
pub enum StopRule {
    /// Nowhere.
    #[default]
    Never,
    /// Behind so many slots, the pinned one among them.
    Length(usize),
    /// Before the first slot whose head gives its first choice a smaller probability.
    MaxProbability(f64),
    /// Before the first slot with `1 - sqrt(0.2 H)` below this, H the entropy of the head's distribution in nats: a lower
    /// bound of the share of its drafts that are accepted (AdaEDL; arXiv 2410.18351, section 3, with its bound held fixed).
    EntropyBound(f64),
    /// The same by a bound that follows what was accepted, beginning in every document with one that is chosen on dev
    /// ([`AdaptiveStop`](super::AdaptiveStop)).
    Adaptive,
    /// Before the first slot up to which all first choices are right with a smaller probability than this: the product of the
    /// confidences that the heads have learnt to give ([`SlotStats::confidence`]; DSpark).
    Confidence(f64),
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
        if let Self::MaxProbability(bound) | Self::EntropyBound(bound) | Self::Confidence(bound) = self
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

    /// Returns the bound of a rule that looks at one slot alone, and what it compares with the bound where the heads' first choice
    /// has the logit `first`.
    fn of_slot(self, first: f32, stats: SoftmaxStats) -> Option<(f64, f64)> {
        match self {
            Self::MaxProbability(bound) => Some((bound, f64::from(first - stats.log_sum).exp())),
            Self::EntropyBound(bound) => Some((bound, 1.0 - (GAMMA * f64::from(stats.entropy)).max(0.0).sqrt())),
            Self::Never | Self::Length(_) | Self::Confidence(_) | Self::Adaptive => None,
        }
    }

    /// Returns whether nothing is drafted behind a path of `slots` tokens, behind which the heads propose this. Rules that know
    /// more than one slot leave nothing out.
    pub(super) fn leaves_out(self, slots: usize, proposed: &Largest) -> bool {
        let first = proposed.logits.first().copied().unwrap_or(f32::NEG_INFINITY);
        let compared = proposed.stats.and_then(|stats| self.of_slot(first, stats));
        matches!(self, Self::Length(most) if slots >= most) || compared.is_some_and(|(bound, worth)| worth < bound)
    }
}

impl fmt::Display for StopRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Adaptive => f.write_str("adaedl"),
            Self::Length(slots) => write!(f, "length={slots}"),
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
            None if text == "adaedl" => Self::Adaptive,
            Some(("length", Ok(slots))) if f64::fract(slots) == 0.0 && slots >= 0.0 => Self::Length(slots as usize),
            Some(("max-probability", Ok(bound))) => Self::MaxProbability(bound),
            Some(("entropy-bound", Ok(bound))) => Self::EntropyBound(bound),
            Some(("confidence", Ok(bound))) => Self::Confidence(bound),
            _ => bail!(
                "`{text}` is no stop rule; there are never, length=SLOTS, max-probability=BOUND, entropy-bound=BOUND, confidence=BOUND and adaedl, such as max-probability=0.1."
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
/// [`StopRule::Never`] or [`StopRule::Length`]. The distance is infinite if no slot was compared, which [`StopRule::Adaptive`] leaves
/// to its drafter.
///
/// # Panics
/// Panics if the rule compares a slot for which `stats` has no entry, or no confidence.
pub fn early_stop_len(rule: StopRule, lattice: &Lattice, stats: &[SlotStats]) -> (usize, f64) {
    let confidence = |slot: usize| f64::from(stats[slot - 1].confidence.expect("heads that know their confidence"));
    let compared = |slot: usize| match rule {
        StopRule::Confidence(bound) => Some((bound, (1..=slot).map(confidence).product())),
        StopRule::MaxProbability(_) | StopRule::EntropyBound(_) => {
            rule.of_slot(lattice.scores(slot)[0], stats[slot - 1].softmax)
        }
        StopRule::Never | StopRule::Length(_) | StopRule::Adaptive => None,
    };
    if let StopRule::Length(most) = rule {
        return (lattice.slots().min(most), f64::INFINITY);
    }
    let mut tightest = f64::INFINITY;
    for slot in 1..lattice.slots() {
        let Some((bound, worth)) = compared(slot) else { continue };
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
