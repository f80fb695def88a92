//! Prunes the n-grams that matter least (Stolcke 1998, "Entropy-based pruning of backoff language models").

use super::super::listing::Listing;
use super::super::sort::Memory;
use super::super::words::{BOS, EOS};
use super::{Model, ROOT};
use crate::error::{Result, bail};

/// Probability mass below this is rounding error.
const NOTHING: f64 = 1e-12;

impl Model {
    /// Returns the model without the n-grams whose removal, each by itself, raises the model's perplexity on its own
    /// text by a share below `threshold` (1e-8 is usual), with new back-off weights. It works from the highest order
    /// down. Unigrams stay, and so do the contexts of the n-grams that are left. The work is done in memory and takes 9
    /// bytes for each n-gram besides the model.
    ///
    /// As in the paper, the frequency of a context is taken from the model itself. The lower orders of a Kneser-Ney
    /// model are not made for that, so Katz models suffer less from pruning.
    ///
    /// # Errors
    /// When the threshold is not positive, or the model is quantised.
    pub fn prune(&self, threshold: f64, memory: &Memory) -> Result<Listing> {
        if !(threshold > 0.0 && threshold.is_finite()) {
            bail!("the pruning threshold is {threshold}; it must be above 0, for instance 1e-8.");
        }
        if self.header.quantised {
            bail!(
                "the model is quantised: its rounded values would be taken for exact. Prune the one it was made from."
            );
        }
        let mut pruning = Pruning { model: self, kept: vec![true; self.header.arcs() as usize], backoffs: Vec::new() };
        let contexts = pruning.contexts();
        for n in (2..=self.order()).rev() {
            let bases = self.header.bases();
            for context in bases[n - 2]..bases[n - 1] {
                pruning.prune(context, contexts[context as usize], threshold);
            }
        }
        pruning.weigh();
        pruning.listing(memory)
    }
}

struct Pruning<'a> {
    model: &'a Model,
    /// For each arc, whether its n-gram is kept.
    kept: Vec<bool>,
    /// For each node, its new log10 back-off weight; empty until [`Pruning::weigh`].
    backoffs: Vec<f64>,
}

impl Pruning<'_> {
    /// Returns the probability of every context. That of `<s>` is one per document.
    fn contexts(&self) -> Vec<f64> {
        let columns = &self.model.columns;
        let mut contexts = vec![0.0; columns.nodes() as usize];
        contexts[ROOT as usize] = 1.0;
        for node in 0..columns.nodes() {
            for arc in columns.arcs(node).filter(|&arc| arc < columns.nodes()) {
                let log10 = match columns.words().get(arc as usize) {
                    BOS => self.model.follow(self.model.empty(), EOS).0,
                    _ => self.model.log10_prob(arc),
                };
                contexts[arc as usize] = contexts[node as usize] * 10f64.powf(log10);
            }
        }
        contexts
    }

    /// Drops what matters too little after one context.
    fn prune(&mut self, context: u32, probability: f64, threshold: f64) {
        let model = self.model;
        let columns = &model.columns;
        let suffix = super::State(columns.suffix(context));
        // The probability of each word after the context, and after the shorter one.
        let arcs: Vec<(u32, f64, f64)> = columns
            .arcs(context)
            .map(|arc| {
                let shorter = model.follow(suffix, columns.words().get(arc as usize)).0;
                (arc, 10f64.powf(model.log10_prob(arc)), 10f64.powf(shorter))
            })
            .collect();
        let unlisted = 1.0 - arcs.iter().map(|arc| arc.1).sum::<f64>();
        let unlisted_shorter = 1.0 - arcs.iter().map(|arc| arc.2).sum::<f64>();
        for (arc, own, shorter) in arcs {
            let leads_on = arc < columns.nodes() && columns.arcs(arc).any(|next| self.kept[next as usize]);
            if !leads_on && divergence(probability, own, shorter, unlisted, unlisted_shorter).exp_m1() < threshold {
                self.kept[arc as usize] = false;
            }
        }
    }

    /// Computes the new back-off weights, those of shorter contexts first.
    fn weigh(&mut self) {
        let columns = &self.model.columns;
        for node in 0..columns.nodes() {
            let (mut own, mut shorter, mut listed) = (0.0, 0.0, false);
            for arc in columns.arcs(node).filter(|&arc| node != ROOT && self.kept[arc as usize]) {
                own += 10f64.powf(self.model.log10_prob(arc));
                shorter += 10f64.powf(self.log10(columns.suffix(node), columns.words().get(arc as usize)));
                listed = true;
            }
            let weight = match () {
                // Nothing follows, so a query continues from the suffix as it is.
                () if !listed => 0.0,
                () if 1.0 - own < NOTHING || 1.0 - shorter < NOTHING => {
                    f64::from(columns.backoffs().get(node as usize))
                }
                () => ((1.0 - own) / (1.0 - shorter)).log10(),
            };
            self.backoffs.push(weight);
        }
    }

    /// Returns the log10 probability of `word` after the context `node`, whose suffixes already have their new weights.
    fn log10(&self, mut node: u32, word: u32) -> f64 {
        let mut log10 = 0.0;
        loop {
            match self.model.find(node, word).filter(|&arc| self.kept[arc as usize]) {
                Some(arc) => return log10 + self.model.log10_prob(arc),
                None if node == ROOT => return f64::NEG_INFINITY,
                None => {
                    log10 += self.backoffs[node as usize];
                    node = self.model.columns.suffix(node);
                }
            }
        }
    }

    /// Returns what is left as a listing.
    fn listing(&self, memory: &Memory) -> Result<Listing> {
        self.model.list(memory, |arc| self.kept[arc as usize], |node| self.backoffs[node as usize] as f32)
    }
}

/// Returns the Kullback-Leibler divergence, in nats, of the model without one n-gram from the model with it. Its last
/// word has the probability `own` after the context, which itself has the probability `context`, and `shorter` after
/// the shorter context. `unlisted` is the mass of the words not listed after the context, and `unlisted_shorter` is the
/// mass that the shorter context gives to them.
fn divergence(context: f64, own: f64, shorter: f64, unlisted: f64, unlisted_shorter: f64) -> f64 {
    let weight_without = ((unlisted.max(0.0) + own) / (unlisted_shorter.max(0.0) + shorter)).ln();
    let word = if own > 0.0 { own * (shorter.ln() + weight_without - own.ln()) } else { 0.0 };
    let rest = if unlisted > NOTHING && unlisted_shorter > NOTHING {
        unlisted * (weight_without - (unlisted / unlisted_shorter).ln())
    } else {
        0.0
    };
    -context * (word + rest)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{documents, listing};
    use super::*;
    use proptest::prelude::*;

    /// Returns the distribution over `<unk>`, `</s>` and the ids 2 to 13 after a context.
    fn distribution(model: &Model, context: &[u32]) -> Vec<f64> {
        let state = model.state_of(context, false);
        let listed = (2..14).filter(|&id| model.find(ROOT, id + 3).is_some());
        let mut probs: Vec<f64> = listed.map(|id| model.extend(state, id).0.exp()).collect();
        probs.extend([model.extend(state, 99).0.exp(), model.end(state).exp()]);
        probs
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_pruned_model_is_normalised_and_a_part_of_the_whole(
            order in 2usize..=4, texts in documents(), exponent in -6f64..-0.5, context in prop::collection::vec(2u32..13, 0..4),
        ) {
            let whole = Model::compile(&listing(order, None, &texts)).unwrap();
            let left = whole.prune(10f64.powf(exponent), &Memory::usual()).unwrap();
            let pruned = Model::compile(&left).unwrap();
            prop_assert_eq!(pruned.sizes()[0], whole.sizes()[0]);
            prop_assert!(pruned.sizes().iter().zip(whole.sizes()).all(|(left, whole)| left <= whole));
            let sum: f64 = distribution(&pruned, &context).iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }

        /// Compares the closed form with the sum over all words, for one bigram left out.
        #[test]
        fn the_divergence_is_that_of_the_distributions(texts in documents(), which in any::<prop::sample::Index>()) {
            let model = Model::compile(&listing(2, None, &texts)).unwrap();
            let bigrams: Vec<(u32, u32)> = (model.header.bases()[0]..model.columns.nodes())
                .flat_map(|node| model.columns.arcs(node).map(move |arc| (node, arc)))
                .collect();
            let (node, arc) = bigrams[which.index(bigrams.len())];
            let context = model.columns.words().get(node as usize);
            prop_assume!(context > EOS);
            let mut pruning = Pruning { model: &model, kept: vec![true; model.header.arcs() as usize], backoffs: Vec::new() };
            let probability = pruning.contexts()[node as usize];
            let arcs: Vec<u32> = model.columns.arcs(node).collect();
            let sums = |of: &dyn Fn(u32) -> f64| 1.0 - arcs.iter().map(|&arc| of(arc)).sum::<f64>();
            let own = |arc| 10f64.powf(model.log10_prob(arc));
            let shorter = |arc| 10f64.powf(model.follow(model.empty(), model.columns.words().get(arc as usize)).0);
            let closed = divergence(probability, own(arc), shorter(arc), sums(&own), sums(&shorter));

            pruning.kept[arc as usize] = false;
            pruning.weigh();
            let without = Model::compile(&pruning.listing(&Memory::usual()).unwrap()).unwrap();
            let (p, q) = (distribution(&model, &[context - 3]), distribution(&without, &[context - 3]));
            let summed: f64 = p.iter().zip(&q).map(|(p, q)| probability * p * (p / q).ln()).sum();
            prop_assert!((closed - summed).abs() < 1e-6 + 1e-4 * summed.abs(), "{closed} {summed}");
        }
    }
}
