//! `[heads.selector]`: a scorer of neighbouring candidates that learns with parallel heads, as the candidate selector of DFlash2
//! does (z-lab/dflash). A rescorer `kind = "selector"` drafts with it.
//!
//! In a training step every head's `top_k` best candidates are scored behind the text's token before them, as `nn/transition.rs` has
//! it, with the heads' states and logits. Where the text's token is not among them, it takes the place of the weakest. The loss is the
//! cross-entropy of the text's token over the candidates, in nats, and its gradients reach the heads through their states and logits.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::{DraftedTokens, Learning};
use super::{Begun, DraftHeads, Starts};
use crate::backbone::{Feature, FeatureTensors, KvCache, Model, ModelConfig};
use crate::bounds::above_zero;
use crate::error::Result;
use crate::nn::{
    FrozenUnembedding, Init, Linear, TokenVectors, Tokens, TransitionNetwork, TransitionShape, count_parameters,
    distinct, from_host, indices, to_host, unit_rows,
};
use crate::storage_type::StorageType;

/// `[heads.selector]`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelectorConfig {
    /// The width that tokens and states are mapped to. DFlash2 takes 256.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// What maps tokens to vectors.
    pub tokens: TokenVectors,
    /// How many candidates of each slot are told apart in training.
    #[schemars(range(min = 2, max = 256))]
    pub top_k: usize,
    /// How much the selector's loss counts beside that of the heads.
    #[schemars(transform = above_zero)]
    pub weight: f64,
}

impl Default for SelectorConfig {
    fn default() -> Self {
        Self { rank: 64, tokens: TokenVectors::Codebooks, top_k: 16, weight: 1.0 }
    }
}

impl SelectorConfig {
    /// Makes an untrained selector for so many slots above a backbone of this shape.
    pub fn network(&self, slots: usize, backbone: &ModelConfig, init: &mut Init) -> TransitionNetwork {
        let shape = TransitionShape { tokens: self.tokens, rank: self.rank, of_slots: true };
        TransitionNetwork::new(shape, slots, (backbone.hidden_size, backbone.vocab_size), init)
    }
}

/// The parameters of a selector begin with this where they are kept beside those of the heads, and the latter with [`OF_HEADS`].
pub(super) const OF_SELECTOR: &str = "selector.";
pub(super) const OF_HEADS: &str = "heads.";

/// Parallel heads and the selector that learns with them. They draft as the heads alone do.
#[derive(Module, Debug)]
pub struct SelectingHeads<N: Module> {
    heads: N,
    selector: TransitionNetwork,
}

impl<N: DraftHeads + Module> SelectingHeads<N> {
    /// Puts an untrained selector beside `heads` above a backbone of this shape.
    pub fn new(heads: N, config: SelectorConfig, backbone: &ModelConfig, init: &mut Init) -> Self {
        let selector = config.network(heads.count(), backbone, init);
        Self { heads, selector }
    }
}

impl<N: DraftHeads + Module> DraftHeads for SelectingHeads<N> {
    fn count(&self) -> usize {
        self.heads.count()
    }

    fn features(&self) -> Vec<Feature> {
        self.heads.features()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        self.heads.begin(starts)
    }

    fn learn<'a>(&'a self, starts: Starts<'a>, drafted: &'a DraftedTokens<'a>) -> Box<dyn Learning + 'a> {
        self.heads.learn(starts, drafted)
    }

    fn neighbours(&self, head: usize) -> Vec<(usize, usize)> {
        self.heads.neighbours(head)
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        self.heads.linears()
    }

    fn pack(&mut self, weights: StorageType) {
        self.heads.pack(weights);
    }

    fn cache(&self, texts: usize, tokens: usize) -> Option<KvCache> {
        self.heads.cache(texts, tokens)
    }

    fn read(&self, model: &Model, cache: &mut KvCache, counts: &[usize], states: &FeatureTensors) {
        self.heads.read(model, cache, counts, states);
    }

    fn products(&self, _: usize) -> usize {
        self.heads.products(count_parameters(&self.heads))
    }

    fn warm_start(&mut self, model: &Model) -> Result<()> {
        self.heads.warm_start(model)
    }

    fn rate_factors(&self) -> Vec<(String, f64)> {
        self.heads.rate_factors().into_iter().map(|(path, factor)| (format!("{OF_HEADS}{path}"), factor)).collect()
    }

    fn selector(&self) -> Option<&TransitionNetwork> {
        Some(&self.selector)
    }
}

/// What a selector reads in a training step, slot after slot.
#[derive(Default)]
pub(super) struct SelectorSlots {
    /// The heads' states, `[n, d]` each.
    pub states: Vec<Tensor<2>>,
    /// The tokens before the slots, n each.
    pub before: Vec<Vec<u32>>,
    /// What the heads are to predict, n each, in the numbering of what is drafted from; none where nothing is.
    pub targets: Vec<Vec<Option<u32>>>,
    /// The factors of the slots' losses, each of which is a sum over rows.
    pub weights: Vec<f64>,
}

/// The loss of a selector.
pub(super) struct SelectorLoss {
    /// The weighted sum of the cross-entropies.
    pub loss: f64,
    /// The gradients with respect to the heads' states, through their logits as well, `[n, d]` each.
    pub states: Vec<Tensor<2>>,
    /// Those with respect to the selector's parameters.
    pub parameters: GradientsParams,
    /// In how many places the text's token has the best score, of how many.
    pub right: (usize, usize),
}

impl SelectorSlots {
    /// Computes the loss of a selector that tells `top_k` candidates apart, and its gradients. The heads draft through `unembedding`,
    /// whose numbers stand for the ids `vocabulary`, or for all.
    pub fn loss(
        &self,
        selector: &TransitionNetwork,
        top_k: usize,
        (unembedding, vocabulary): (&FrozenUnembedding, Option<&[u32]>),
        model: &Model,
    ) -> SelectorLoss {
        let (slots, n, device) = (self.states.len(), self.before[0].len(), model.device());
        let k = top_k.min(unembedding.table().dims()[0]);
        // By slot and row: the candidates, their logits, and the place of the target among them.
        let found: Vec<_> = (0..slots).map(|slot| self.candidates(slot, k, unembedding)).collect();
        let of_rows = move || (0..n).flat_map(move |row| (0..slots).map(move |slot| (slot, row)));
        let (mut ids, mut logits, mut before, mut sought) =
            (Vec::new(), Vec::new(), Vec::new(), vec![0.0; n * slots * k]);
        for (place, (slot, row)) in of_rows().enumerate() {
            ids.extend_from_slice(&found[slot].ids[row * k..][..k]);
            logits.extend_from_slice(&found[slot].logits[row * k..][..k]);
            before.push(self.before[slot][row]);
            if let Some(target) = found[slot].places[row] {
                sought[place * k + target] = self.weights[slot] as f32;
            }
        }
        let id = |number: &u32| vocabulary.map_or(*number, |ids| ids[*number as usize]);
        let (distinct, rows) = distinct(ids.iter().map(id));
        let tokens = |ids: &[u32]| Tokens::new(ids, unit_rows(model.embed(ids))).autodiff();
        let leaf = |tensor: Tensor<2>| tensor.autodiff().require_grad();
        let states: Vec<Tensor<2>> = self.states.iter().cloned().map(leaf).collect();
        let heads = leaf(from_host(logits, [n * slots, k], device));
        let [_, d] = self.states[0].dims();
        let by_row: Vec<Tensor<3>> = states.iter().map(|states| states.clone().reshape([n, 1, d])).collect();
        let gates = selector.gates(unit_rows(Tensor::cat(by_row, 1).reshape([n * slots, d])), n);
        let after = selector.after.forward(&tokens(&distinct)).select(0, indices(rows, device));
        let after = after.reshape([n * slots, k, selector.rank()]);
        let scores = selector.behind(&tokens(&before), gates, after, heads.clone().reshape([n, slots, k]));
        let scores = log_softmax(scores, 2).reshape([n * slots, k]);
        let of_places = to_host(scores.clone().without_autodiff());
        let objective = (scores * from_host::<2>(sought, [n * slots, k], device).autodiff()).sum().neg();
        let mut backward = objective.clone().backward();
        let of_logits = to_host(heads.grad_remove(&mut backward).expect("scores are made of it"));
        let gradient_of = |(slot, states): (usize, &Tensor<2>)| {
            let through_state = states.grad_remove(&mut backward).expect("gates are made of it");
            let of_slot: Vec<f32> =
                (0..n).flat_map(|row| &of_logits[(row * slots + slot) * k..][..k]).copied().collect();
            through_state + unembedding.weighted_rows(&found[slot].ids, &of_slot, n, device)
        };
        let of_states: Vec<Tensor<2>> = states.iter().enumerate().map(gradient_of).collect();
        let best = |row: &[f32]| row.iter().enumerate().fold(0, |best, (at, x)| if *x > row[best] { at } else { best });
        let places = of_rows().map(|(slot, row)| found[slot].places[row]);
        let known = of_places.chunks(k).zip(places).filter_map(|(row, place)| Some(best(row) == place?));
        let (right, all) = known.fold((0, 0), |(right, all), hit| (right + usize::from(hit), all + 1));
        SelectorLoss {
            loss: f64::from(to_host(objective.without_autodiff())[0]),
            states: of_states,
            parameters: GradientsParams::from_module(&mut backward, selector),
            right: (right, all),
        }
    }

    /// The candidates of a slot, `k` for each row, with the target in place of the weakest where it is not among them.
    fn candidates(&self, slot: usize, k: usize, unembedding: &FrozenUnembedding) -> SlotCandidates {
        let (states, targets) = (&self.states[slot], &self.targets[slot]);
        let largest = unembedding.table().largest(states.clone(), k, false);
        let sought: Vec<u32> = targets.iter().map(|target| target.unwrap_or(0)).collect();
        let of_targets = unembedding.logits_of(states.clone(), &sought);
        let mut found = SlotCandidates::default();
        for ((largest, &target), logit) in largest.into_iter().zip(targets).zip(of_targets) {
            let (mut ids, mut logits) = (largest.ids, largest.logits);
            // Logits that are not finite make a loss that is not, which ends the training in a sentence.
            ids.resize(k, 0);
            logits.resize(k, f32::NAN);
            found.places.push(target.map(|target| {
                ids.iter().position(|&id| id == target).unwrap_or_else(|| {
                    (ids[k - 1], logits[k - 1]) = (target, logit);
                    k - 1
                })
            }));
            found.ids.extend(ids);
            found.logits.extend(logits);
        }
        found
    }
}

/// The candidates of a slot, row after row.
#[derive(Default)]
struct SlotCandidates {
    ids: Vec<u32>,
    logits: Vec<f32>,
    /// The place of each row's target.
    places: Vec<Option<usize>>,
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::Device;

    use super::*;
    use crate::backbone::{LanguageModelConfig, Transformer};
    use crate::nn::{Projection, Values, collect_parameters, gradients_by_name, load_parameters};

    const D: usize = 4;
    const ROWS: usize = 3;
    const SLOTS: usize = 2;
    const K: usize = 3;
    const VOCABULARY: usize = 9;
    /// The ids that are drafted from.
    const DRAFTED: [u32; 6] = [0, 2, 3, 5, 6, 8];

    fn model() -> Model {
        let size = LanguageModelConfig { hidden: D, layers: 1, heads: 1, kv_heads: 1, intermediate: 8, context: 16 };
        let config = ModelConfig::from_scratch(&size, VOCABULARY);
        Model::in_tensors(Transformer::new(&config, &mut Init::seeded(2, &Device::flex())))
    }

    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|at| (seed + 1.7 * at as f32).sin()).collect()
    }

    fn unit(row: &[f32]) -> Vec<f64> {
        let size = (row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / D as f64 + 1e-12).sqrt();
        row.iter().map(|&x| f64::from(x) / size).collect()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn wide(row: &[f32]) -> Vec<f64> {
        row.iter().map(|&x| f64::from(x)).collect()
    }

    /// The loss by its definition, of one cell after the other, in float64. The candidates are given, as the loss is not continuous
    /// where they change.
    fn by_definition(
        parameters: &BTreeMap<String, Values>,
        states: &[Vec<f32>],
        SelectorSlots { before, targets, weights, .. }: &SelectorSlots,
        candidates: &[Vec<u32>],
        (embeddings, unembedding): (&[f32], &[f32]),
    ) -> f64 {
        let of = |name: &str, row: usize, width: usize| wide(&parameters[name].1[row * width..][..width]);
        let mut loss = 0.0;
        for (slot, row) in (0..SLOTS).flat_map(|slot| (0..ROWS).map(move |row| (slot, row))) {
            let Some(target) = targets[slot][row] else { continue };
            let state = &states[slot][row * D..][..D];
            let map = |name: &str, token: u32| -> Vec<f64> {
                let embedding = unit(&embeddings[token as usize * D..][..D]);
                (0..2).map(|r| dot(&of(name, r, D), &embedding)).collect()
            };
            let gate = |r: usize| 1.0 + dot(&of("gate.weight", r, D), &unit(state)) + of("slot_gates", slot, 2)[r];
            let query: Vec<f64> =
                map("before.weight", before[slot][row]).iter().enumerate().map(|(r, a)| a * gate(r)).collect();
            let score = |&number: &u32| {
                let logit = dot(&wide(state), &wide(&unembedding[number as usize * D..][..D]));
                let after = map("after.weight", DRAFTED[number as usize]);
                f64::from(parameters["head_weights"].1[slot]) * logit + dot(&query, &after)
            };
            let candidates = &candidates[slot][row * K..][..K];
            let sum: f64 = candidates.iter().map(|one| score(one).exp()).sum();
            loss += weights[slot] * (sum.ln() - score(&target));
        }
        loss
    }

    /// One target is among the best candidates, one is not and takes the place of the weakest, and one is missing.
    #[test]
    fn the_loss_and_its_gradients_are_those_of_the_definition() {
        let (model, device) = (model(), Device::flex());
        let unembedding: Vec<f32> = numbers(DRAFTED.len() * D, 0.4);
        let frozen =
            FrozenUnembedding::new(Projection::new(from_host(unembedding.clone(), [DRAFTED.len(), D], &device)));
        let config = SelectorConfig { rank: 2, tokens: TokenVectors::Embeddings, ..SelectorConfig::default() };
        let network = config.network(SLOTS, model.config(), &mut Init::seeded(3, &device.clone().autodiff()));
        let mut parameters = collect_parameters(&network);
        for (seed, (_, numbers)) in parameters.values_mut().enumerate() {
            numbers.iter_mut().enumerate().for_each(|(at, x)| *x += 0.5 * (seed as f32 + 2.3 * at as f32).cos());
        }
        let network = load_parameters(network, parameters.clone()).unwrap();
        let states: Vec<Vec<f32>> = (0..SLOTS).map(|slot| numbers(ROWS * D, 5.0 * slot as f32)).collect();
        let logits = |slot: usize, row: usize| -> Vec<f64> {
            let state = wide(&states[slot][row * D..][..D]);
            unembedding.chunks(D).map(|token| dot(&state, &wide(token))).collect()
        };
        let ranked = |slot: usize, row: usize| -> Vec<u32> {
            let logits = logits(slot, row);
            let mut numbers: Vec<u32> = (0..DRAFTED.len() as u32).collect();
            numbers.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            numbers
        };
        // The second best, the worst, and nothing; then other places.
        let targets = vec![
            vec![Some(ranked(0, 0)[1]), Some(ranked(0, 1)[5]), None],
            vec![Some(ranked(1, 0)[4]), None, Some(ranked(1, 2)[0])],
        ];
        let candidates: Vec<Vec<u32>> = (0..SLOTS)
            .map(|slot| {
                let of_row = |row: usize| {
                    let mut best = ranked(slot, row)[..K].to_vec();
                    if let Some(target) = targets[slot][row].filter(|target| !best.contains(target)) {
                        best[K - 1] = target;
                    }
                    best
                };
                (0..ROWS).flat_map(of_row).collect()
            })
            .collect();
        let embeddings = to_host(model.embed(&(0..VOCABULARY as u32).collect::<Vec<u32>>()));
        let slots = SelectorSlots {
            states: states.iter().map(|state| from_host(state.clone(), [ROWS, D], &device)).collect(),
            before: vec![vec![1, 4, 8], vec![7, 0, 2]],
            targets,
            weights: vec![0.5, 0.25],
        };
        let loss_of = |parameters: &BTreeMap<String, Values>, states: &[Vec<f32>]| {
            by_definition(parameters, states, &slots, &candidates, (&embeddings, &unembedding))
        };
        let found = slots.loss(&network, K, (&frozen, Some(&DRAFTED)), &model);
        let expected = loss_of(&parameters, &states);
        assert!((found.loss - expected).abs() < 1e-5, "{} {expected}", found.loss);
        assert_eq!(found.right.1, 4);

        let slope = |nudged: &dyn Fn(f32) -> f64| (nudged(5e-3) - nudged(-5e-3)) / 1e-2;
        for (slot, gradient) in found.states.into_iter().enumerate() {
            for (at, found) in to_host(gradient).into_iter().enumerate() {
                let expected = slope(&|by| {
                    let mut states = states.clone();
                    states[slot][at] += by;
                    loss_of(&parameters, &states)
                });
                assert!((f64::from(found) - expected).abs() < 2e-3, "slot {slot}, {at}: {found} {expected}");
            }
        }
        let of_parameters = gradients_by_name(&network, &found.parameters);
        for (name, (_, values)) in &parameters {
            assert_eq!(of_parameters[name].len(), values.len(), "{name}");
            for (at, &found) in of_parameters[name].iter().enumerate() {
                let expected = slope(&|by| {
                    let mut parameters = parameters.clone();
                    parameters.get_mut(name).unwrap().1[at] += by;
                    loss_of(&parameters, &states)
                });
                assert!((f64::from(found) - expected).abs() < 2e-3, "{name} {at}: {found} {expected}");
            }
        }
    }
}
