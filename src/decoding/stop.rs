//! Where a block ends early: hopeless slots are not verified.

use crate::config::StopRule;
use crate::kernels::SoftmaxStats;
use crate::lattice::Lattice;

/// AdaEDL's gamma (arXiv 2410.18351, section 3).
const GAMMA: f64 = 0.2;

/// How many slots of a block are drafted, the pinned one among them, and how close the tightest slot that was looked at came
/// to its bound. `stats` are those of the heads, from that of slot 2 on; they are not looked at where blocks never end
/// early.
pub fn early_stop_len(rule: StopRule, lattice: &Lattice, stats: &[SoftmaxStats]) -> (usize, f64) {
    let (bound, worth): (f64, &dyn Fn(usize) -> f64) = match rule {
        StopRule::Never => return (lattice.slots(), f64::INFINITY),
        StopRule::MaxProbability(bound) => {
            (bound, &|slot| f64::from(lattice.scores(slot)[0] - stats[slot - 1].log_sum).exp())
        }
        StopRule::EntropyBound(bound) => {
            (bound, &|slot| 1.0 - (GAMMA * f64::from(stats[slot - 1].entropy)).max(0.0).sqrt())
        }
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

    #[test]
    fn blocks_end_before_the_first_slot_below_the_bound() {
        let lattice = Lattice::pinned(7, 2, &[1, 3, 2, 4, 5, 6], &[3.0, 2.0, 1.0, 0.0, 4.0, 0.0]).unwrap();
        // First choices with probabilities of 0.5, 0.2 and 0.9.
        let stats = |score: f32, probability: f32, entropy| SoftmaxStats { log_sum: score - probability.ln(), entropy };
        let stats = [stats(3.0, 0.5, 0.2), stats(1.0, 0.2, 1.8), stats(4.0, 0.9, 3.2)];
        let at = |rule| early_stop_len(rule, &lattice, &stats);
        assert_eq!(at(StopRule::Never), (4, f64::INFINITY));
        let (slots, margin) = at(StopRule::MaxProbability(0.3));
        assert!(slots == 2 && (margin - 0.1).abs() < 1e-6, "{slots} {margin}");
        assert_eq!(at(StopRule::MaxProbability(0.1)).0, 4);
        assert_eq!(at(StopRule::MaxProbability(0.6)).0, 1);
        // 1 - sqrt(0.2 H): 0.8, 0.4, 0.2.
        let (slots, margin) = at(StopRule::EntropyBound(0.3));
        assert!(slots == 3 && (margin - 0.1).abs() < 1e-6, "{slots} {margin}");
        assert_eq!(at(StopRule::EntropyBound(0.5)).0, 2);
    }
}
