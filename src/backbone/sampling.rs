//! Draws tokens from the backbone's distribution.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// A sampler of the tokens of one text.
pub struct Sampler {
    temperature: f64,
    top_p: f64,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// Makes a sampler of `softmax(logits / temperature)`, cut to its nucleus: the fewest most probable tokens whose
    /// probabilities sum to `top_p` or more (Holtzman et al. 2020, arXiv 1904.09751). `temperature` must be above 0,
    /// and `top_p` above 0 and at most 1.
    pub fn new(temperature: f64, top_p: f64, seed: u64) -> Self {
        Self { temperature, top_p, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Draws the next token from its logits, `[V]`.
    pub fn draw(&mut self, logits: &[f32]) -> u32 {
        let nucleus = nucleus(logits, self.temperature, self.top_p);
        let index = draw_place(nucleus.iter().map(|(_, weight)| *weight), &mut self.rng);
        nucleus[index].0
    }
}

/// Draws the index of one of the weights, with a probability proportional to the weight. Not all weights may be zero.
pub fn draw_place(
    weights: impl DoubleEndedIterator<Item = f64> + ExactSizeIterator + Clone,
    rng: &mut ChaCha8Rng,
) -> usize {
    let mut left = rng.random::<f64>() * weights.clone().sum::<f64>();
    let hit = weights.clone().position(|weight| {
        left -= weight;
        left < 0.0
    });
    // Rounding may leave a small remainder, which goes to the last index that can be drawn.
    hit.or_else(|| weights.clone().rposition(|weight| weight > 0.0)).unwrap_or(0)
}

/// Returns the tokens and unnormalised weights of the nucleus, the most probable first, ties by smaller id. With a
/// `top_p` of 1 these are all tokens, in the order of their ids.
fn nucleus(logits: &[f32], temperature: f64, top_p: f64) -> Vec<(u32, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: f32| (f64::from(x - largest) / temperature).exp();
    let mut weights: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&x| weight(x))).collect();
    if top_p < 1.0 {
        weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        let reached = weights.iter().position(|(_, weight)| {
            sum += weight;
            sum >= top_p * total
        });
        weights.truncate(reached.map_or(weights.len(), |last| last + 1));
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_tempered_distribution() {
        let logits = [1.0f32, 0.0, 2.0, -1.0];
        let temperature = 0.8;
        let weights = logits.map(|x| (f64::from(x) / temperature).exp());
        let total: f64 = weights.iter().sum();
        let mut sampler = Sampler::new(temperature, 1.0, 7);
        let mut counts = [0.0f64; 4];
        let draws = 20_000.0;
        (0..draws as usize).for_each(|_| counts[sampler.draw(&logits) as usize] += 1.0);
        let chi_square: f64 = counts
            .iter()
            .zip(weights)
            .map(|(count, weight)| {
                let expected = draws * weight / total;
                (count - expected).powi(2) / expected
            })
            .sum();
        // The 99.9 % point of the chi-square distribution with 3 degrees of freedom.
        assert!(chi_square < 16.27, "{chi_square}");
    }

    #[test]
    fn the_nucleus_is_the_fewest_tokens_that_reach_the_share() {
        let logits = [0.1f32, 0.4, 0.3, 0.2].map(f32::ln);
        let ids = |top_p| nucleus(&logits, 1.0, top_p).iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(ids(0.39), [1]);
        assert_eq!(ids(0.5), [1, 2]);
        assert_eq!(ids(0.85), [1, 2, 3]);
        assert_eq!(ids(1.0).len(), 4);
        let mut sampler = Sampler::new(1.0, 0.5, 3);
        assert!((0..200).all(|_| [1, 2].contains(&sampler.draw(&logits))));
    }

    #[test]
    fn a_low_temperature_is_greedy_and_a_seed_repeats() {
        let logits = [0.3f32, 0.5, 0.1];
        let mut cold = Sampler::new(1e-3, 1.0, 1);
        assert!((0..50).all(|_| cold.draw(&logits) == 1));
        let draws = |seed| {
            let mut sampler = Sampler::new(1.0, 1.0, seed);
            (0..50).map(|_| sampler.draw(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draws(4), draws(4));
        assert_ne!(draws(4), draws(5));
    }
}
