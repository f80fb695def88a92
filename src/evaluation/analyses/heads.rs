//! The analysis of the heads by themselves, whatever drafts from them: how often they are right and how confident they
//! are (arXiv 2404.09221, sections on confidence).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Analysis;
use super::reliability::{Reliability, reliability};
use crate::backbone::Model;
use crate::error::Result;
use crate::evaluation::{EvaluatedSet, Evaluator, ReplayText, Texts};
use crate::nn::{Largest, from_host};
use crate::tables::{Colour, Family, Figure, Lines, Record, Section, Series, Table, XAxis, YAxis, record};

pub const ANALYSIS: Analysis = Analysis { id: "heads", title: "Heads", definition: HeadRow::DEFINITION, fill };

record! {
    /// Every head at every position of the text that has a token for it, whatever is drafted from it; head 1 is the backbone
    /// itself, and head j predicts the token j places on.
    pub struct HeadRow in "heads", each "head" {
        /// All places of the decoded texts at which a block could begin, whether one did or not, and whose block has a slot for
        /// the head (within max_new and the context) with a token of the text in it.
        positions: u64 = "positions" as Count;
        /// For a head from 2 on: the positions whose token is the head's first choice, divided by its positions; null for head
        /// 1, whose first choice the greedy text is.
        accuracy: Option<f64> = "accuracy" as Percent;
        /// For a head from 2 on: the positions whose token is among the head's top_k, divided by its positions.
        accuracy_top_k: Option<f64> = "in top k" as Percent;
        /// The mean over a head's positions of -sum of p ln p, in nats, of its softmax over every token that it drafts from
        /// (the backbone's whole vocabulary for head 1).
        entropy: f64 = "entropy (nats)" as TwoDecimals;
        /// Expected calibration error: the mean over a head's positions of |bin_accuracy - predicted| of the position's bin.
        ece: Option<f64> = "calibration error" as Percent;
    }
}

record! {
    /// How sure each head is, position by position.
    struct HistogramRow in "entropy-histogram", each "head" {
        /// The share of a head's positions whose entropy is at least the number of nats that the column is named after and less
        /// than half a nat above it.
        share: Family<f64> = "from {} nats" as Percent;
    }
}

record! {
    /// How far ahead heads lose confidence step by step.
    pub struct HMaxRow in "h-max", each "data set" {
        /// The largest i such that entropy rises strictly from head 2, the first that drafts, to head i; head 1, the frozen
        /// backbone, is left out, as heads trained on its greedy text can be surer than it is.
        h_max: u64 = "h_max" as Count;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let (heads, names) = (&*set.heads, |place: usize| (place + 1).to_string());
    let h_max = h_max(&heads.iter().skip(1).map(|head| head.entropy).collect::<Vec<_>>());
    let rises = match h_max {
        h if h == heads.len() => "to the last head".to_owned(),
        h => format!("up to head {h}"),
    };
    section.notes.push(format!("From head 2 on, entropy rises {rises}."));
    if heads.len() > 1 {
        section.figures = figures(heads, h_max, set.evaluator.top_k);
    }
    let row = |(place, head): (usize, &HeadQuality)| {
        let &HeadQuality { positions, accuracy, accuracy_top_k, entropy, .. } = head;
        let ece = head.calibration.as_ref().map(|calibration| calibration.ece);
        (names(place), HeadRow { positions, accuracy, accuracy_top_k, entropy, ece })
    };
    let histogram = |(place, head): (usize, &HeadQuality)| {
        let share = head.entropy_histogram.iter().enumerate();
        let share = share.map(|(bin, share)| ((bin as f64 / 2.0).to_string(), *share)).collect();
        (names(place), HistogramRow { share })
    };
    section.tables.push(Table::of(heads.iter().enumerate().map(row)));
    section.tables.push(Table::of(heads.iter().enumerate().map(histogram)).detail());
    section.tables.push(Table::of([(set.name.clone(), HMaxRow { h_max: h_max as u64 })]).detail());
    Ok(())
}

fn figures(heads: &[HeadQuality], h_max: usize, top_k: usize) -> Vec<Figure> {
    let by_head = |label: &str, colour, value: fn(&HeadQuality) -> Option<f64>| {
        let points = heads.iter().enumerate().filter_map(|(place, head)| Some([place as f64 + 1.0, value(head)?]));
        Series::new(label, colour, points)
    };
    let x = || XAxis::Positions("head".into());
    let accuracy = vec![
        by_head(&format!("among the top {top_k}"), Colour::Ink, |head| head.accuracy_top_k),
        by_head("first choice", Colour::Accent, |head| head.accuracy),
    ];
    let entropy = by_head("mean entropy", Colour::Accent, |head| Some(head.entropy)).ringed(Some(h_max as f64));
    let histogram = |(place, head): (usize, &HeadQuality)| {
        let points = head.entropy_histogram.iter().enumerate().map(|(bin, share)| [bin as f64 / 2.0, *share]);
        Series::new(format!("head {}", place + 1), colour(place), points)
    };
    let histograms = heads.iter().enumerate().map(histogram).collect();
    vec![
        Figure::new(
            "head-accuracy",
            "Accuracy of the heads",
            "At all positions, not only where blocks begin, and whatever the heads before said.",
            Lines::new(x(), YAxis::Shares("share of positions".into()), accuracy),
        ),
        Figure::new(
            "head-entropy",
            "Entropy of the heads",
            "Mean over positions; the ringed head is the last of an unbroken rise from head 2 on, h_max.",
            Lines::new(x(), YAxis::FromZero("nats".into()), vec![entropy]),
        ),
        Figure::new(
            "entropy-histogram",
            "Entropy by position",
            "A histogram for each head, in steps of half a nat.",
            Lines::new(
                XAxis::Linear("entropy in nats, from".into()),
                YAxis::Shares("share of positions".into()),
                histograms,
            ),
        ),
    ]
}

/// Returns the colour of the head at a place. Place 0 is the backbone, and the others are the heads.
pub fn colour(place: usize) -> Colour {
    place.checked_sub(1).map_or(Colour::Ink, Colour::Cycle)
}

/// Returns the largest i for which the mean entropies of heads 2 to i rise strictly. `entropies` begins with that of
/// head 2.
///
/// Unlike in the paper, head 1 is left out. It is the frozen backbone, and heads that were trained on its greedy text
/// are often more confident than it is. The rise would then end before it begins.
fn h_max(entropies: &[f64]) -> usize {
    let rises = entropies.windows(2).take_while(|pair| pair[1] > pair[0]).count();
    if entropies.is_empty() { 1 } else { 2 + rises }
}

/// The width of a bin of the histograms, in nats.
const BIN: f32 = 0.5;

/// The quality of one head on a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadQuality {
    /// The number of positions that were considered.
    pub positions: u64,
    /// The mean entropy of the softmax over all tokens that the head drafts from, in nats.
    pub entropy: f64,
    /// The histogram of the entropy. Entry i is the share of positions with an entropy of at least i/2 nats and less
    /// than (i+1)/2.
    pub entropy_histogram: Vec<f64>,
    /// The share of positions whose token is the head's first choice. None for head 1, whose first choice is the greedy
    /// text itself.
    pub accuracy: Option<f64>,
    /// The share of positions whose token is among the head's top k.
    pub accuracy_top_k: Option<f64>,
    /// How well the probability of the first choice predicts how often it is right.
    pub calibration: Option<Reliability>,
}

/// Measures every head, beginning with the backbone, over the documents of the test split. `test` is the key of the
/// split's trace.
///
/// # Errors
/// Returns an error if the results cannot be written.
pub fn measure(evaluator: &Evaluator, test: &str, texts: &Texts) -> Result<Arc<Vec<HeadQuality>>> {
    let key = evaluator.findings.key("heads", &(test, evaluator.heads_key, evaluator.top_k));
    evaluator.findings.find(&key, || Ok(qualities(&texts.texts, &evaluator.backbone.model, evaluator.top_k)))
}

/// Measures every head, beginning with the backbone, over `texts` with the top `k` candidates.
fn qualities(texts: &[ReplayText], model: &Model, k: usize) -> Vec<HeadQuality> {
    let first: Vec<f32> = texts.iter().flat_map(|text| backbone_entropies(text, model)).collect();
    let (entropy, entropy_histogram) = summed_up(&first);
    let positions = first.len() as u64;
    let head1 =
        HeadQuality { positions, entropy, entropy_histogram, accuracy: None, accuracy_top_k: None, calibration: None };
    let slots = texts.iter().flat_map(|text| &text.lattices).map(|lattice| lattice.slots()).max().unwrap_or(0);
    std::iter::once(head1).chain((1..slots).map(|slot| of_slot(texts, slot, k))).collect()
}

/// Returns the entropy of the backbone's next token at every position of the continuation.
fn backbone_entropies(text: &ReplayText, model: &Model) -> Vec<f32> {
    let rows = text.lattices.len();
    let hidden = from_host(text.hidden.clone(), [rows, text.hidden.len() / rows], model.device());
    let entropy = |found: Largest| found.stats.expect("it was asked for").entropy;
    model.projection().largest(hidden, 1, true).into_iter().map(entropy).collect()
}

/// Measures the head of a slot, from slot 1 on. Slots are counted from 0, which is the backbone's.
fn of_slot(texts: &[ReplayText], slot: usize, k: usize) -> HeadQuality {
    let (mut entropies, mut first_choices, mut among) = (Vec::new(), Vec::new(), 0u64);
    for text in texts {
        let heads = text.stats.len() / text.lattices.len();
        for (t, &token) in text.continuation().iter().skip(slot).enumerate() {
            let lattice = &text.lattices[t];
            if slot >= lattice.slots() {
                continue;
            }
            let stats = text.stats[t * heads + slot - 1].softmax;
            let (ids, scores) = (lattice.ids(slot), lattice.scores(slot));
            entropies.push(stats.entropy);
            first_choices.push((f64::from(scores[0] - stats.log_sum).exp(), ids[0] == token));
            among += u64::from(ids.iter().take(k).any(|&id| id == token));
        }
    }
    let (entropy, entropy_histogram) = summed_up(&entropies);
    let share = |part: u64| (!entropies.is_empty()).then(|| part as f64 / entropies.len() as f64);
    HeadQuality {
        positions: entropies.len() as u64,
        entropy,
        entropy_histogram,
        accuracy: share(first_choices.iter().filter(|(_, right)| *right).count() as u64),
        accuracy_top_k: share(among),
        calibration: reliability(first_choices),
    }
}

/// Returns the mean and the histogram of entropies.
fn summed_up(entropies: &[f32]) -> (f64, Vec<f64>) {
    let all = entropies.len().max(1) as f64;
    let mut histogram = Vec::new();
    for entropy in entropies {
        let bin = (entropy / BIN).max(0.0) as usize;
        if bin >= histogram.len() {
            histogram.resize(bin + 1, 0.0);
        }
        histogram[bin] += 1.0;
    }
    histogram.iter_mut().for_each(|count| *count /= all);
    (entropies.iter().map(|&entropy| f64::from(entropy)).sum::<f64>() / all, histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_must_rise_from_head_to_head() {
        assert_eq!(h_max(&[1.0, 2.0, 3.0, 2.9, 4.0]), 4);
        assert_eq!(h_max(&[1.0, 2.0, 3.0]), 4);
        assert_eq!(h_max(&[1.0, 1.0, 3.0]), 2);
        assert_eq!(h_max(&[1.0]), 2);
        assert_eq!(h_max(&[]), 1);
    }

    #[test]
    fn a_bin_is_half_a_nat_and_begins_with_its_lower_end() {
        let (mean, histogram) = summed_up(&[0.0, 0.499, 0.5, 2.25]);
        assert!((mean - 3.249 / 4.0).abs() < 1e-6);
        assert_eq!(histogram, [0.5, 0.25, 0.0, 0.0, 0.25]);
        assert_eq!(summed_up(&[]), (0.0, vec![]));
    }
}
