//! Temperatures that correct how confident each head is, one for each slot, fitted on dev.

use super::replay::most_slots;
use super::{ReplayText, oracle_lengths};

/// The largest temperature; the smallest is its reciprocal. Temperatures are bounded because late slots have few
/// targets to fit them on.
const WIDEST: f64 = 4.0;
/// The number of times that the interval of a temperature's logarithm is halved, down to a width of about 2e-7.
const HALVINGS: usize = 24;

/// Fits the temperature of each slot (temperature scaling; Guo et al. 2017). It is the temperature at which the softmax
/// of the candidates' scores makes the targets most likely. This uses all starts of `texts` at which the target is
/// among the top `k` in this slot and in every slot before. The temperature is 1 for the pinned slot, and for slots
/// without such a start.
pub fn slot_temperatures(texts: &[ReplayText], k: usize) -> Vec<f64> {
    // For each slot and start: the scores of the candidates minus the score of the target.
    let mut seen: Vec<Vec<Vec<f64>>> = vec![Vec::new(); most_slots(texts)];
    for text in texts {
        let target = text.continuation();
        for (t, length) in oracle_lengths(text, k).into_iter().enumerate() {
            let lattice = &text.lattices[t];
            for slot in 1..length {
                let width = k.min(lattice.width(slot));
                let (ids, scores) = (&lattice.ids(slot)[..width], &lattice.scores(slot)[..width]);
                let place = ids.iter().position(|id| *id == target[t + slot]).expect("a covered target");
                seen[slot].push(scores.iter().map(|score| f64::from(score - scores[place])).collect());
            }
        }
    }
    seen.iter().map(|seen| most_likely(seen)).collect()
}

/// Returns the temperature with the largest likelihood. The log-likelihood is concave in the inverse temperature, so
/// its slope says on which side the maximum lies.
fn most_likely(seen: &[Vec<f64>]) -> f64 {
    if seen.is_empty() {
        return 1.0;
    }
    // Returns the negative slope with respect to the inverse temperature. Each start adds the mean, under the softmax,
    // of the scores minus the score of the target.
    let ahead = |inverse: f64| -> f64 {
        let of_one = |leads: &Vec<f64>| {
            let most = leads.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights = leads.iter().map(|lead| ((lead - most) * inverse).exp());
            let (sum, total) = weights
                .zip(leads)
                .fold((0.0, 0.0), |(sum, total), (weight, lead)| (sum + weight * lead, total + weight));
            sum / total
        };
        seen.iter().map(of_one).sum()
    };
    let (mut low, mut high) = (-WIDEST.ln(), WIDEST.ln());
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        if ahead((-middle).exp()) > 0.0 { low = middle } else { high = middle }
    }
    ((low + high) / 2.0).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Draws one of these scores at a temperature, and returns all scores minus the drawn one.
    fn drawn(rng: &mut ChaCha8Rng, scores: &[f64], temperature: f64) -> Vec<f64> {
        let weights: Vec<f64> = scores.iter().map(|score| (score / temperature).exp()).collect();
        let mut left = rng.random_range(0.0..weights.iter().sum());
        let place = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        let target = scores[place.unwrap_or(0)];
        scores.iter().map(|score| score - target).collect()
    }

    #[test]
    fn the_temperature_that_targets_were_drawn_at_is_found() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for temperature in [0.5, 1.0, 2.5] {
            let seen: Vec<Vec<f64>> = (0..20_000)
                .map(|_| {
                    let scores: Vec<f64> = (0..8).map(|_| rng.random_range(-4.0..4.0)).collect();
                    drawn(&mut rng, &scores, temperature)
                })
                .collect();
            let found = most_likely(&seen);
            assert!((found / temperature - 1.0).abs() < 0.03, "{temperature}: {found}");
        }
    }

    #[test]
    fn nothing_to_see_leaves_scores_alone_and_certainty_ends_at_the_bounds() {
        assert_eq!(most_likely(&[]), 1.0);
        // The first choice is always right, or always wrong.
        assert!((most_likely(&[vec![0.0, -1.0]]) * WIDEST - 1.0).abs() < 1e-3);
        assert!((most_likely(&[vec![1.0, 0.0]]) / WIDEST - 1.0).abs() < 1e-3);
    }

    proptest! {
        /// Checks that no temperature on a grid has a larger likelihood.
        #[test]
        fn the_likelihood_is_largest(
            seen in prop::collection::vec((prop::collection::vec(-3f64..3.0, 2..6), any::<prop::sample::Index>()), 1..12),
        ) {
            let seen: Vec<Vec<f64>> = seen
                .into_iter()
                .map(|(scores, at)| scores.iter().map(|score| score - scores[at.index(scores.len())]).collect())
                .collect();
            let log_likelihood = |temperature: f64| -> f64 {
                let of_one = |leads: &Vec<f64>| -leads.iter().map(|lead| (lead / temperature).exp()).sum::<f64>().ln();
                seen.iter().map(of_one).sum()
            };
            let found = log_likelihood(most_likely(&seen));
            for step in -20..=20 {
                let temperature = WIDEST.powf(f64::from(step) / 20.0);
                prop_assert!(log_likelihood(temperature) <= found + 1e-6, "{temperature}");
            }
        }
    }
}
