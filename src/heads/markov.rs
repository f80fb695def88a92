//! `[heads.markov]`: a bias of every slot's logits by the token before it. With it, the candidates of parallel heads depend on
//! the path, at the cost of one product a path.
//!
//! For slot j behind a token x, the logits are `U s_j + B m_j(x)`, where s_j is the state of the heads below and
//! `m_j(x) = A n(e(x))`, with the backbone's embedding e scaled to a mean square of 1. If it is gated, m is multiplied by
//! `sigmoid(G [s_j; m] + g)`. A and G are small maps; B has a row for each token that is drafted from, and begins at zero. This
//! is the Markov head of DSpark, where A e(x) is a vector of its own for each token.

use burn::module::{Module, ModuleDisplay, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_sum::scaled;
use super::network::{DraftedEmbeddings, Learning};
use super::{Begun, DraftHeads, Rows, Starts, States};
use crate::backbone::{Feature, FeatureTensors, KvCache, Model};
use crate::error::Result;
use crate::nn::{Init, Linear, indices};
use crate::storage_type::StorageType;

/// `[heads.markov]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MarkovConfig {
    /// The width that tokens are mapped to.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// Whether a gate, which reads the slot's state, multiplies what the token before adds.
    pub gated: bool,
}

impl Default for MarkovConfig {
    fn default() -> Self {
        Self { rank: 64, gated: false }
    }
}

/// Parallel heads with a bias by the token before each slot. Their states are `[s_j; m_j]`, `[n, d + rank]`.
#[derive(Module, Debug)]
pub struct MarkovHeads<N: Module> {
    heads: N,
    /// A.
    token: Linear,
    /// G and g, if the bias is gated.
    gate: Option<Linear>,
    /// B, `[tokens drafted from, rank]`.
    bias: Param<Tensor<2>>,
}

impl<N: DraftHeads + Module + ModuleDisplay> MarkovHeads<N> {
    /// Puts a bias on `heads` above `model`, which draft from `vocabulary` tokens.
    pub fn new(heads: N, config: MarkovConfig, (model, vocabulary): (&Model, usize), init: &mut Init) -> Self {
        let (MarkovConfig { rank, gated }, d) = (config, model.config().hidden_size);
        let deviation = |inputs: usize| (inputs as f32).powf(-0.5);
        Self {
            heads,
            token: init.linear(rank, d, deviation(d)),
            gate: gated.then(|| init.linear(rank, d + rank, deviation(d + rank)).with_bias(init)),
            bias: init.zero_embedding(vocabulary, rank).weight,
        }
    }

    /// Returns the states `[m, d + rank]` behind tokens, given the heads' own states and the tokens' embeddings, `[m, d]`.
    fn behind(&self, states: Tensor<2>, tokens: Tensor<2>) -> Tensor<2> {
        let mut bias = self.token.forward(scaled(tokens));
        if let Some(gate) = &self.gate {
            bias = bias.clone() * sigmoid(gate.forward(Tensor::cat(vec![states.clone(), bias], 1)));
        }
        Tensor::cat(vec![states, bias], 1)
    }
}

/// The rows of blocks, of which those of one slot differ by the token before it alone.
struct MarkovRows<'a, N: Module> {
    of: &'a MarkovHeads<N>,
    heads: States<'a>,
    /// The states of the heads below that were asked for, `[n, d]` each.
    slots: Vec<Tensor<2>>,
    /// The block and the slot of each row; head 2 is 0.
    rows: Vec<(usize, usize)>,
    root: Tensor<2>,
}

impl<N: DraftHeads + Module + ModuleDisplay> Rows for MarkovRows<'_, N> {
    fn root(&self) -> Tensor<2> {
        self.root.clone()
    }

    fn expand(&mut self, parents: &[usize], tokens: Tensor<2>) -> Tensor<2> {
        let slot = self.rows[parents[0]].1 + 1;
        while self.slots.len() <= slot {
            let next = (self.heads)(self.slots.len());
            self.slots.push(next);
        }
        let blocks: Vec<usize> = parents.iter().map(|&row| self.rows[row].0).collect();
        let states = self.slots[slot].clone().select(0, indices(blocks.iter().copied(), &tokens.device()));
        self.rows.extend(blocks.into_iter().map(|block| (block, slot)));
        self.of.behind(states, tokens)
    }
}

/// Heads in a training step. What the heads below are is a leaf of the pieces that the bias is made of.
struct MarkovLearning<'a, N: Module> {
    of: &'a MarkovHeads<N>,
    heads: Box<dyn Learning + 'a>,
    drafted: &'a DraftedEmbeddings<'a>,
    /// The states of heads that were asked for: below, and with the bias.
    asked: Vec<(usize, Tensor<2>, Tensor<2>)>,
}

impl<N: DraftHeads + Module + ModuleDisplay> Learning for MarkovLearning<'_, N> {
    fn state(&mut self, head: usize) -> Tensor<2> {
        let below = self.heads.state(head).autodiff().require_grad();
        let state = self.of.behind(below.clone(), (self.drafted)(head));
        self.asked.push((head, below, state.clone()));
        state.without_autodiff()
    }

    fn back(self: Box<Self>, gradients: Vec<(usize, Tensor<2>)>) -> (Tensor<1>, GradientsParams) {
        let asked = |head| self.asked.iter().find(|(asked, ..)| *asked == head).expect("it was asked for");
        let products = gradients.iter().map(|(head, gradient)| (asked(*head).2.clone() * gradient.clone()).sum());
        let mut backward = products.reduce(|a, b| a + b).expect("at least one head").backward();
        let below = gradients.iter().map(|&(head, _)| {
            let gradient = asked(head).1.grad_remove(&mut backward);
            (head, gradient.expect("a state with a bias is made of the one below"))
        });
        let below = below.collect();
        let mut known = GradientsAccumulator::new();
        known.accumulate(self.of, GradientsParams::from_module(&mut backward, self.of));
        let (objective, of_heads) = self.heads.back(below);
        known.accumulate(self.of, of_heads);
        (objective, known.grads())
    }
}

impl<N: DraftHeads + Module + ModuleDisplay> DraftHeads for MarkovHeads<N> {
    fn count(&self) -> usize {
        self.heads.count()
    }

    fn features(&self) -> Vec<Feature> {
        self.heads.features()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let pinned = starts.pinned.clone();
        let Begun::Parallel(mut heads) = self.heads.begin(starts) else {
            unreachable!("sequential heads read what was drafted already")
        };
        let first = heads(0);
        let rows = (0..first.dims()[0]).map(|block| (block, 0)).collect();
        let root = self.behind(first.clone(), pinned);
        Begun::Sequential(Box::new(MarkovRows { of: self, heads, slots: vec![first], rows, root }))
    }

    fn learn<'a>(&'a self, starts: Starts<'a>, drafted: &'a DraftedEmbeddings<'a>) -> Box<dyn Learning + 'a> {
        let heads = self.heads.learn(starts, drafted);
        Box::new(MarkovLearning { of: self, heads, drafted, asked: Vec::new() })
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        [&mut self.token].into_iter().chain(&mut self.gate).chain(self.heads.linears()).collect()
    }

    fn pack(&mut self, weights: StorageType) {
        self.heads.pack(weights);
        [&mut self.token].into_iter().chain(&mut self.gate).for_each(|linear| linear.freeze(weights));
    }

    fn cache(&self, texts: usize, tokens: usize) -> Option<KvCache> {
        self.heads.cache(texts, tokens)
    }

    fn read(&self, model: &Model, cache: &mut KvCache, counts: &[usize], states: &FeatureTensors) {
        self.heads.read(model, cache, counts, states);
    }

    fn bias(&self) -> Option<Tensor<2>> {
        Some(self.bias.val())
    }

    fn warm_start(&mut self, model: &Model) -> Result<()> {
        self.heads.warm_start(model)
    }

    fn rate_factors(&self) -> Vec<(String, f64)> {
        self.heads.rate_factors().into_iter().map(|(path, factor)| (format!("heads.{path}"), factor)).collect()
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::module::ModuleMapper;
    use burn::tensor::Device;

    use super::*;
    use crate::backbone::{LanguageModelConfig, ModelConfig, Transformer};
    use crate::heads::{FfnConfig, FfnHeads, HeadKind, HeadShape};
    use crate::nn::{from_host, gradients_by_name, to_host};
    use crate::training::gradient;

    const WIDTH: usize = 6;
    const BLOCKS: usize = 4;
    const VOCABULARY: usize = 9;

    fn model() -> Model {
        let size =
            LanguageModelConfig { hidden: WIDTH, layers: 1, heads: 1, kv_heads: 1, intermediate: 8, context: 16 };
        let config = ModelConfig::from_scratch(&size, VOCABULARY);
        Model::in_tensors(Transformer::new(&config, &mut Init::seeded(2, &Device::flex())))
    }

    /// Makes every number another one.
    struct Shake(f32);

    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|old| {
                let (shape, device) = (old.dims(), old.device().without_autodiff());
                let shaken = to_host(old.clone().without_autodiff()).into_iter().map(|x| {
                    self.0 += 1.0;
                    x + 0.3 * self.0.sin()
                });
                from_host(shaken.collect(), shape, &device).autodiff().require_grad()
            })
        }
    }

    fn heads(model: &Model, gated: bool) -> MarkovHeads<FfnHeads> {
        let init = &mut Init::seeded(5, &Device::flex().autodiff());
        let below = FfnConfig { hidden: 5, ..FfnConfig::default() }.network(HeadShape::new(3, model), init);
        let config = MarkovConfig { rank: 3, gated };
        MarkovHeads::new(below, config, (model, VOCABULARY), init).map(&mut Shake(0.0))
    }

    fn numbers(rows: usize, shift: f32) -> Tensor<2> {
        let values = (0..rows * WIDTH).map(|at| (at as f32 * 0.7 + shift).sin()).collect();
        from_host(values, [rows, WIDTH], &Device::flex())
    }

    /// What a training step learns piece by piece is what automatic differentiation of the whole gives.
    #[test]
    fn a_training_step_learns_what_automatic_differentiation_does() {
        let model = model();
        for gated in [false, true] {
            let heads = heads(&model, gated);
            let drafted = |slot: usize| numbers(BLOCKS, slot as f32).autodiff();
            let read = FeatureTensors::new(&[Feature::Last], vec![numbers(BLOCKS, 9.0).autodiff()]);
            let starts = || Starts { states: read.clone(), pinned: drafted(0), context: None };
            let factor = |state: &Tensor<2>, head: usize| (state.clone() + head as f32).sin();

            let mut learning = heads.learn(starts(), &drafted);
            let states: Vec<Tensor<2>> = (0..3).map(|head| learning.state(head)).collect();
            let gradients: Vec<(usize, Tensor<2>)> = (0..3).map(|head| (head, factor(&states[head], head))).collect();
            let (objective, known) = learning.back(gradients.clone());
            let found = gradients_by_name(&heads, &gradient(&heads, objective, known));

            let mut whole = heads.begin(starts()).chains(&drafted);
            let products = (0..3).map(|head| {
                let state = whole(head);
                assert_eq!(to_host(state.clone().without_autodiff()), to_host(states[head].clone()));
                (state * gradients[head].1.clone()).sum()
            });
            let mut backward = products.reduce(|a, b| a + b).unwrap().backward();
            let expected = gradients_by_name(&heads, &GradientsParams::from_module(&mut backward, &heads));
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            for (name, expected) in &expected {
                assert_eq!(found[name].len(), expected.len(), "{name}");
                let far = found[name].iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < 1e-4, "{name}: {far}");
                // B is learnt where logits are made.
                assert_eq!(expected.iter().any(|x| *x != 0.0), name != "bias", "{name}");
            }
        }
    }

    /// Without a gate, what a token adds is a map of its embedding, whatever the state is.
    #[test]
    fn the_bias_is_a_map_of_the_token() {
        let model = model();
        let heads = heads(&model, false);
        let (states, tokens) = (numbers(2, 1.0), numbers(2, 4.0));
        let found = to_host(heads.behind(states.autodiff(), tokens.clone().autodiff()).without_autodiff());
        let map = to_host(heads.token.weight.val().without_autodiff());
        for (found, token) in found.chunks(WIDTH + 3).zip(to_host(tokens).chunks(WIDTH)) {
            let size = (token.iter().map(|x| x * x).sum::<f32>() / WIDTH as f32 + 1e-5).sqrt();
            for (found, row) in found[WIDTH..].iter().zip(map.chunks(WIDTH)) {
                let expected: f32 = row.iter().zip(token).map(|(a, x)| a * x / size).sum();
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}
