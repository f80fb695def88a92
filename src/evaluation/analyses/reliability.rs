//! The reliability of the heads' probabilities: how often the first choice is right, compared with its predicted
//! probability.

use serde::{Deserialize, Serialize};

use super::Analysis;
use super::heads::colour;
use crate::error::Result;
use crate::evaluation::EvaluatedSet;
use crate::tables::{Colour, Figure, Lines, Record, Section, Series, Table, XAxis, YAxis, record};

pub const ANALYSIS: Analysis =
    Analysis { id: "reliability", title: "Reliability of the heads", definition: ReliabilityRow::DEFINITION, fill };

record! {
    /// How often a head's first choice is right beside how probable the head says it is: the head's positions, by rising
    /// predicted probability, in ten bins of equally many.
    struct ReliabilityRow in "reliability", each "bin" {
        /// The number of a head; head j predicts the token j places on.
        head: u64 = "head" as Count;
        /// The positions in the bin: a tenth of the head's, or one more.
        bin_positions: u64 = "positions" as Count;
        /// The mean, over the bin, of the probability that the head gives its first choice, by its softmax over every token that
        /// it drafts from.
        predicted: f64 = "predicted" as Percent;
        /// Of the bin's positions, the share at which the head's first choice is the text's token.
        bin_accuracy: f64 = "right" as Percent;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let right = Series::new("as often as said", Colour::Baseline, [[0.0, 0.0], [1.0, 1.0]]);
    let (mut rows, mut series) = (Vec::new(), vec![right]);
    for (place, head) in set.heads.iter().enumerate() {
        let (number, Some(Reliability { bins, .. })) = (place as u64 + 1, &head.calibration) else { continue };
        let points = bins.iter().map(|bin| [bin.predicted, bin.bin_accuracy]);
        series.push(Series::new(format!("head {number}"), colour(place), points));
        for (bin, &ReliabilityBin { bin_positions, predicted, bin_accuracy }) in bins.iter().enumerate() {
            let row = ReliabilityRow { head: number, bin_positions, predicted, bin_accuracy };
            rows.push((format!("head {number}, bin {}", bin + 1), row));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let lines = Lines::new(
        XAxis::Linear("predicted probability of the first choice".into()),
        YAxis::Shares("share of positions where it is right".into()),
        series,
    );
    let caption = "Ten bins of equally many positions for each head; below the diagonal a head is too sure.";
    section.figures.push(Figure::new("reliability", "Reliability of the heads", caption, lines));
    section.tables.push(Table::of(rows).detail());
    Ok(())
}

/// The number of bins, which have equal numbers of predictions. There are fewer bins if there are fewer predictions.
const BINS: usize = 10;

/// A reliability diagram, and the number that sums it up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// The expected calibration error: the mean over positions of |accuracy - predicted| of their bin.
    pub ece: f64,
    /// The bins in ascending order of predicted probability. Their numbers of positions differ by at most one.
    pub bins: Vec<ReliabilityBin>,
}

/// One bin of a reliability diagram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// The number of positions in the bin.
    pub bin_positions: u64,
    /// The mean predicted probability of the first choice.
    pub predicted: f64,
    /// The share of positions at which the first choice was right.
    pub bin_accuracy: f64,
}

/// Makes the diagram from predicted probabilities and whether each prediction was right. Returns none if there are no
/// predictions. Equal probabilities keep their order.
pub fn reliability(mut predictions: Vec<(f64, bool)>) -> Option<Reliability> {
    let all = predictions.len();
    let count = BINS.min(all);
    predictions.sort_by(|a, b| a.0.total_cmp(&b.0));
    let of_bin = |number: usize| {
        let bin = &predictions[number * all / count..(number + 1) * all / count];
        let share = |sum: f64| sum / bin.len() as f64;
        ReliabilityBin {
            bin_positions: bin.len() as u64,
            predicted: share(bin.iter().map(|(probability, _)| probability).sum()),
            bin_accuracy: share(bin.iter().filter(|(_, right)| *right).count() as f64),
        }
    };
    let bins: Vec<ReliabilityBin> = (0..count).map(of_bin).collect();
    let error = |bin: &ReliabilityBin| (bin.bin_accuracy - bin.predicted).abs() * bin.bin_positions as f64;
    (all > 0).then(|| Reliability { ece: bins.iter().map(error).sum::<f64>() / all as f64, bins })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_have_equal_mass_and_the_error_is_their_weighted_gap() {
        // There are 25 predictions, right or wrong in a fixed pattern. The expected values are recomputed bin by bin
        // from the sorted list.
        let all: Vec<(f64, bool)> = (0..25u32).map(|i| (f64::from(i * 7 % 25) / 25.0, i % 3 == 0)).collect();
        let found = reliability(all.clone()).unwrap();
        let mut sorted = all;
        sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let sizes: Vec<u64> = found.bins.iter().map(|bin| bin.bin_positions).collect();
        assert_eq!(sizes, [2, 3, 2, 3, 2, 3, 2, 3, 2, 3]);
        let (mut rest, mut error) = (&sorted[..], 0.0);
        for bin in &found.bins {
            let (these, others) = rest.split_at(bin.bin_positions as usize);
            rest = others;
            let (mut sum, mut right) = (0.0, 0.0);
            for (probability, hit) in these {
                sum += probability;
                right += f64::from(u8::from(*hit));
            }
            assert!((bin.predicted - sum / these.len() as f64).abs() < 1e-12);
            assert!((bin.bin_accuracy - right / these.len() as f64).abs() < 1e-12);
            error += (sum - right).abs() / 25.0;
        }
        assert!(rest.is_empty() && (found.ece - error).abs() < 1e-12);
    }

    #[test]
    fn few_predictions_are_bins_of_one_and_none_are_nothing() {
        let found = reliability(vec![(0.75, true), (0.25, false)]).unwrap();
        assert_eq!((found.ece, found.bins.len()), (0.25, 2));
        assert_eq!(reliability(Vec::new()), None);
    }
}
