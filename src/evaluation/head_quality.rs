//! The heads by themselves, whatever drafts from them: how often they are right and how sure they are (arXiv 2404.09221,
//! sections on confidence).
//!
//! All of it is over the same positions: every place of a traced continuation at which a block could begin and whose block
//! has a slot for the head with a token of the text in it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Reliability, ReplayText, reliability};
use crate::backbone::Model;
use crate::nn::{Largest, from_host};

/// Width of a histogram's bin in nats.
const BIN: f32 = 0.5;

/// One head over a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadQuality {
    /// Its number; head 1 is the backbone itself.
    pub head: u64,
    /// Positions looked at.
    pub positions: u64,
    /// Mean entropy of its softmax over all that it drafts from, in nats.
    pub entropy: f64,
    /// Entry i is the share of positions with an entropy from i/2 nats up to (i+1)/2.
    pub entropy_histogram: Vec<f64>,
    /// Share of positions whose token is its first choice; none for head 1, whose first choice the greedy text is.
    pub accuracy: Option<f64>,
    /// Share of positions whose token is among its `top_k`.
    pub accuracy_top_k: Option<f64>,
    /// Whether its first choice is as often right as its probability says.
    pub calibration: Option<Reliability>,
}

/// Every head from the backbone on, over `texts`, with the candidates of the top `k`.
pub fn head_qualities(texts: &[ReplayText], model: &Model, k: usize) -> Vec<HeadQuality> {
    let first: Vec<f32> = texts.iter().flat_map(|text| backbone_entropies(text, model)).collect();
    let (entropy, entropy_histogram) = summed_up(&first);
    let positions = first.len() as u64;
    let head1 = HeadQuality {
        head: 1,
        positions,
        entropy,
        entropy_histogram,
        accuracy: None,
        accuracy_top_k: None,
        calibration: None,
    };
    let slots = texts.iter().flat_map(|text| &text.lattices).map(|lattice| lattice.slots()).max().unwrap_or(0);
    std::iter::once(head1).chain((1..slots).map(|slot| of_slot(texts, slot, k))).collect()
}

/// Entropy of the backbone's next token at every position of the continuation.
fn backbone_entropies(text: &ReplayText, model: &Model) -> Vec<f32> {
    let rows = text.lattices.len();
    let hidden = from_host(text.hidden.clone(), [rows, text.hidden.len() / rows], model.device());
    let entropy = |found: Largest| found.stats.expect("it was asked for").entropy;
    model.projection().largest(hidden, 1, true).into_iter().map(entropy).collect()
}

/// The head of a slot from 1 on.
fn of_slot(texts: &[ReplayText], slot: usize, k: usize) -> HeadQuality {
    let (mut entropies, mut first_choices, mut among) = (Vec::new(), Vec::new(), 0u64);
    for text in texts {
        let heads = text.stats.len() / text.lattices.len();
        for (t, &token) in text.continuation().iter().skip(slot).enumerate() {
            let lattice = &text.lattices[t];
            if slot >= lattice.slots() {
                continue;
            }
            let stats = text.stats[t * heads + slot - 1];
            let (ids, scores) = (lattice.ids(slot), lattice.scores(slot));
            entropies.push(stats.entropy);
            first_choices.push((f64::from(scores[0] - stats.log_sum).exp(), ids[0] == token));
            among += u64::from(ids.iter().take(k).any(|&id| id == token));
        }
    }
    let (entropy, entropy_histogram) = summed_up(&entropies);
    let share = |part: u64| (!entropies.is_empty()).then(|| part as f64 / entropies.len() as f64);
    HeadQuality {
        head: slot as u64 + 1,
        positions: entropies.len() as u64,
        entropy,
        entropy_histogram,
        accuracy: share(first_choices.iter().filter(|(_, right)| *right).count() as u64),
        accuracy_top_k: share(among),
        calibration: reliability(first_choices),
    }
}

/// Mean and histogram.
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
    fn a_bin_is_half_a_nat_and_begins_with_its_lower_end() {
        let (mean, histogram) = summed_up(&[0.0, 0.499, 0.5, 2.25]);
        assert!((mean - 3.249 / 4.0).abs() < 1e-6);
        assert_eq!(histogram, [0.5, 0.25, 0.0, 0.0, 0.25]);
        assert_eq!(summed_up(&[]), (0.0, vec![]));
    }
}
