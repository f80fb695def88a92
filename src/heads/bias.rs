//! `[heads.bias]`: a bias of every slot's logits by the tokens before it. With it, the candidates of parallel heads depend on
//! the path, at the cost of a few small products a path.
//!
//! For slot j behind a token x, the logits are `U s_j + B m_j`, where s_j is the state of the heads below. `m_j`, of width
//! `rank`, is made of a_j: either `A n(e(x))`, the backbone's embedding e scaled to a mean square of 1 and mapped, or a vector of
//! x's own. B has a row for each token that is drafted from, and begins at zero.

use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, silu};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::carried::{self, Carries, OfHeadsBelow};
use super::feature_sum::scaled;
use super::network::{DraftedTokens, Learning};
use super::{Begun, DraftHeads, Starts};
use crate::backbone::{Feature, FeatureTensors, KvCache, Model, ModelConfig};
use crate::error::Result;
use crate::nn::{Init, Linear, TokenMap, TokenVectors, Tokens, count_parameters};
use crate::storage_type::StorageType;

/// `[heads.bias]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BiasConfig {
    /// What the bias reads besides the token before the slot.
    pub form: BiasForm,
    /// The width that tokens are mapped to.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// What maps tokens to vectors.
    pub tokens: TokenVectors,
    /// Whether heads also learn how likely the first choice for each slot is to be right where those before it were, from
    /// `[s; m]` (the confidence head of DSpark). `drafting.stop = "confidence=P"` ends blocks by it.
    pub confidence: bool,
}

/// What m is made of, given a.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BiasForm {
    /// Nothing else: `m = a` (the Markov head of DSpark).
    Plain,
    /// The slot's state, by a gate: `m = sigmoid(G [s; a] + g) a` (the gated head of DSpark).
    Gated,
    /// The slot's state and all tokens before it in the block: a gated recurrent unit (the recurrent head of DSpark).
    Recurrent,
    /// The slot's state, the mean of the block's, and all tokens before it in the block: the refiner of XPress.
    Refiner,
}

impl Default for BiasConfig {
    fn default() -> Self {
        Self { form: BiasForm::Plain, rank: 64, tokens: TokenVectors::Embeddings, confidence: false }
    }
}

/// Parallel heads with a bias by the tokens before each slot. Their states are `[s_j; m_j]`, `[n, d + rank]`.
#[derive(Module, Debug)]
pub struct BiasedHeads<N: Module> {
    heads: N,
    /// A.
    token: TokenMap,
    /// What makes m of a, where it is not a itself.
    form: Option<Form>,
    /// B, `[tokens drafted from, rank]`.
    bias: Param<Tensor<2>>,
    /// Maps a state to the logit of its confidence.
    confidence: Option<Linear>,
}

/// What makes m of a.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a network")]
enum Form {
    /// G and g.
    Gated(Linear),
    /// `[z; c; o] = J [y_{j-1}; a_j; s_j] + b`, `y_j = sigmoid(z) y_{j-1} + (1 - sigmoid(z)) tanh(c)`, `m_j = tanh(o)`, with y 0
    /// before the block.
    Recurrent(Linear),
    Refiner(Refiner),
}

/// `x_j = W [D s_j; D' mean(s); a_j]` is mixed with those of the slots before, number by number:
/// `c_j = x_j + sum_{i <= j} L_{ji} x_i`, and `m_j = c_j + Q (silu(R c_j) T c_j)`. All L are zero at first.
#[derive(Module, Debug)]
struct Refiner {
    /// D and D'.
    state: Linear,
    mean: Linear,
    /// W.
    input: Linear,
    /// L, `[pairs of a slot and one up to it, rank]`: pair (j, i) is row j (j + 1) / 2 + i.
    mixing: Param<Tensor<2>>,
    /// R, T and Q.
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A row: a slot behind a path.
struct Row {
    /// `[s_j; m_j]`
    state: Tensor<2>,
    /// What the rows behind this one read of it: y, or x of all slots up to this one, side by side.
    kept: Option<Tensor<2>>,
}

/// What a row reads besides tokens.
struct Slot {
    /// The number of the slot; that of head 2 is 0.
    number: usize,
    /// s_j, `[m, d]`.
    state: Tensor<2>,
    /// The mean of the block's states, where it is read.
    mean: Option<Tensor<2>>,
    /// What the rows before kept.
    before: Option<Tensor<2>>,
}

impl Form {
    fn new(form: BiasForm, rank: usize, (d, heads): (usize, usize), init: &mut Init) -> Option<Self> {
        let mut linear = |outputs, inputs: usize| init.linear(outputs, inputs, (inputs as f32).powf(-0.5));
        match form {
            BiasForm::Plain => None,
            BiasForm::Gated => Some(Self::Gated(linear(rank, d + rank).with_bias(init))),
            BiasForm::Recurrent => Some(Self::Recurrent(linear(3 * rank, d + 2 * rank).with_bias(init))),
            BiasForm::Refiner => Some(Self::Refiner(Refiner {
                state: linear(rank, d),
                mean: linear(rank, d),
                input: linear(rank, 3 * rank),
                gate: linear(2 * rank, rank),
                up: linear(2 * rank, rank),
                down: linear(rank, 2 * rank),
                mixing: init.matrix(heads * (heads + 1) / 2, rank, 0.0),
            })),
        }
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Gated(linear) | Self::Recurrent(linear) => vec![linear],
            Self::Refiner(Refiner { state, mean, input, gate, up, down, .. }) => {
                vec![state, mean, input, gate, up, down]
            }
        }
    }

    /// Returns m, and what is kept for the slots behind, given a `[m, rank]`.
    fn run(&self, slot: Slot, token: Tensor<2>) -> (Tensor<2>, Option<Tensor<2>>) {
        let Slot { state, before, .. } = &slot;
        let [rows, rank] = token.dims();
        match self {
            Self::Gated(gate) => {
                let gate = gate.forward(Tensor::cat(vec![state.clone(), token.clone()], 1));
                (token * sigmoid(gate), None)
            }
            Self::Recurrent(joint) => {
                let before = before.clone().unwrap_or_else(|| Tensor::zeros([rows, rank], &token.device()));
                let read = joint.forward(Tensor::cat(vec![before.clone(), token, state.clone()], 1));
                let part = |number: usize| read.clone().narrow(1, number * rank, rank);
                let keep = sigmoid(part(0));
                let kept = keep.clone() * before + (keep.neg() + 1.0) * part(1).tanh();
                (part(2).tanh(), Some(kept))
            }
            Self::Refiner(refiner) => refiner.run(slot, token),
        }
    }
}

impl Refiner {
    fn run(&self, slot: Slot, token: Tensor<2>) -> (Tensor<2>, Option<Tensor<2>>) {
        let Slot { number, state, mean, before } = slot;
        let rank = token.dims()[1];
        let mean = mean.expect("the refiner reads the mean of a block's states");
        let read = vec![self.state.forward(state), self.mean.forward(mean), token];
        let new = self.input.forward(Tensor::cat(read, 1));
        let kept = Tensor::cat(before.into_iter().chain([new.clone()]).collect(), 1);
        let mixing = self.mixing.val().narrow(0, number * (number + 1) / 2, number + 1);
        let part = |slot| kept.clone().narrow(1, slot * rank, rank) * mixing.clone().narrow(0, slot, 1);
        let mixed = (0..=number).map(part).fold(new, |sum, part| sum + part);
        let inner = silu(self.gate.forward(mixed.clone())) * self.up.forward(mixed.clone());
        (mixed + self.down.forward(inner), Some(kept))
    }
}

impl<N: DraftHeads + Module + ModuleDisplay> BiasedHeads<N> {
    /// Puts a bias on `heads` above a backbone of this shape, which draft from `vocabulary` tokens.
    pub fn new(heads: N, config: BiasConfig, (backbone, vocabulary): (&ModelConfig, usize), init: &mut Init) -> Self {
        let (BiasConfig { form, rank, tokens, confidence }, d) = (config, backbone.hidden_size);
        let token = TokenMap::new(tokens, rank, (d, backbone.vocab_size), init);
        let form = Form::new(form, rank, (d, heads.count()), init);
        let confidence = confidence.then(|| init.zero_linear(1, d + rank).with_bias(init));
        Self { heads, token, form, bias: init.zero_embedding(vocabulary, rank).weight, confidence }
    }

    /// Returns the heads below, and the linear layers above them.
    fn parts(&mut self) -> (&mut N, Vec<&mut Linear>) {
        let of_form = self.form.iter_mut().flat_map(Form::linears);
        (&mut self.heads, self.token.linear().into_iter().chain(of_form).chain(&mut self.confidence).collect())
    }

    /// Returns whether a slot is biased by the states of all.
    fn reads_mean(&self) -> bool {
        matches!(self.form, Some(Form::Refiner(_)))
    }

    /// Returns what a slot reads of the heads below: their state there and, where slots are biased by it, the mean of all.
    fn of_heads_below(&self) -> OfHeadsBelow<'_> {
        let mut mean_of_all = None;
        Box::new(move |head, below| {
            let mean = self
                .reads_mean()
                .then(|| mean_of_all.get_or_insert_with(|| mean((0..self.count()).map(&mut *below))).clone());
            [below(head)].into_iter().chain(mean).collect()
        })
    }

    /// Runs rows behind tokens.
    fn behind(&self, slot: Slot, tokens: Tokens) -> Row {
        let tokens = Tokens { embeddings: scaled(tokens.embeddings), ..tokens };
        let (state, token) = (slot.state.clone(), self.token.forward(&tokens));
        let (bias, kept) = match &self.form {
            None => (token, None),
            Some(form) => form.run(slot, token),
        };
        Row { state: Tensor::cat(vec![state, bias], 1), kept }
    }
}

fn mean(states: impl ExactSizeIterator<Item = Tensor<2>>) -> Tensor<2> {
    let count = states.len();
    states.reduce(|a, b| a + b).expect("at least one head") / count as f32
}

impl<N: DraftHeads + Module + ModuleDisplay> Carries for BiasedHeads<N> {
    fn row(
        &self,
        head: usize,
        read: Vec<Tensor<2>>,
        carried: Option<Tensor<2>>,
        tokens: Tokens,
    ) -> (Tensor<2>, Option<Tensor<2>>) {
        let slot = Slot { number: head, state: read[0].clone(), mean: read.get(1).cloned(), before: carried };
        let Row { state, kept } = self.behind(slot, tokens);
        (state, kept)
    }
}

impl<N: DraftHeads + Module + ModuleDisplay> DraftHeads for BiasedHeads<N> {
    fn count(&self) -> usize {
        self.heads.count()
    }

    fn features(&self) -> Vec<Feature> {
        self.heads.features()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let pinned = starts.pinned.clone();
        carried::begin_above(self, self.heads.begin(starts), self.of_heads_below(), pinned)
    }

    fn learn<'a>(&'a self, starts: Starts<'a>, drafted: &'a DraftedTokens<'a>) -> Box<dyn Learning + 'a> {
        carried::learn_above(self, self.heads.learn(starts, drafted), self.of_heads_below(), drafted)
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let (heads, own) = self.parts();
        own.into_iter().chain(heads.linears()).collect()
    }

    fn pack(&mut self, weights: StorageType) {
        let (heads, own) = self.parts();
        heads.pack(weights);
        own.into_iter().for_each(|linear| linear.freeze(weights));
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

    fn products(&self, parameters: usize) -> usize {
        let below = count_parameters(&self.heads);
        // The rows of B are counted with the unembedding, and codebooks are looked up.
        let mut own = parameters - below - self.bias.val().dims().iter().product::<usize>();
        if let TokenMap::Codebook(codebook) = &self.token {
            own -= codebook.weight.val().dims().iter().product::<usize>();
        }
        self.heads.products(below) + self.count() * own
    }

    fn confidence(&self, states: Tensor<2>) -> Option<Tensor<2>> {
        Some(self.confidence.as_ref()?.forward(states))
    }

    fn knows_confidence(&self) -> bool {
        self.confidence.is_some()
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
    use std::cell::RefCell;

    use burn::module::ModuleMapper;
    use burn::optim::GradientsParams;
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

    const FORMS: [(BiasForm, TokenVectors); 5] = [
        (BiasForm::Plain, TokenVectors::Embeddings),
        (BiasForm::Plain, TokenVectors::Codebooks),
        (BiasForm::Gated, TokenVectors::Embeddings),
        (BiasForm::Recurrent, TokenVectors::Embeddings),
        (BiasForm::Refiner, TokenVectors::Codebooks),
    ];

    fn heads(model: &Model, (form, tokens): (BiasForm, TokenVectors)) -> BiasedHeads<FfnHeads> {
        let init = &mut Init::seeded(5, &Device::flex().autodiff());
        let below = FfnConfig { hidden: 5, ..FfnConfig::default() }.network(HeadShape::new(3, model), init);
        let config = BiasConfig { form, rank: 3, tokens, confidence: false };
        BiasedHeads::new(below, config, (model.config(), VOCABULARY), init).map(&mut Shake(0.0))
    }

    fn tokens(rows: usize, shift: f32) -> Tokens {
        let ids: Vec<u32> = (0..rows).map(|row| (row + shift as usize) as u32 % VOCABULARY as u32).collect();
        Tokens::new(&ids, numbers(rows, shift))
    }

    fn numbers(rows: usize, shift: f32) -> Tensor<2> {
        let values = (0..rows * WIDTH).map(|at| (at as f32 * 0.7 + shift).sin()).collect();
        from_host(values, [rows, WIDTH], &Device::flex())
    }

    /// What a training step learns piece by piece is what automatic differentiation of the whole gives.
    #[test]
    fn a_training_step_learns_what_automatic_differentiation_does() {
        let model = model();
        for form in FORMS {
            let heads = heads(&model, form);
            let drafted = |slot: usize| tokens(BLOCKS, slot as f32).autodiff();
            let read = FeatureTensors::new(&[Feature::Last], vec![numbers(BLOCKS, 9.0).autodiff()]);
            let starts = || Starts { model: &model, states: read.clone(), pinned: drafted(0), context: None };
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
                assert_eq!(found[name].len(), expected.len(), "{form:?}: {name}");
                let far = found[name].iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < 1e-4, "{form:?}: {name}: {far}");
                // B is learnt where logits are made.
                assert_eq!(expected.iter().any(|x| *x != 0.0), name != "bias", "{form:?}: {name}");
            }
        }
    }

    /// Passes over all slots, each of which reads what the pass before chose (as XPress drafts), settle a slot each: as the one that
    /// is drafted behind those before it.
    #[test]
    fn a_pass_over_all_slots_settles_one() {
        let model = model();
        for form in FORMS {
            let heads = heads(&model, form);
            let table = from_host(
                (0..VOCABULARY * (WIDTH + 3)).map(|at| (at as f32 * 1.9).sin()).collect(),
                [VOCABULARY, WIDTH + 3],
                &Device::flex(),
            );
            let choose = |state: Tensor<2>| -> Vec<u32> {
                let logits = to_host(state.without_autodiff().matmul(table.clone().transpose()));
                let best = |row: &[f32]| (0..VOCABULARY).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
                logits.chunks(VOCABULARY).map(best).collect()
            };
            let read = FeatureTensors::new(&[Feature::Last], vec![numbers(BLOCKS, 9.0).autodiff()]);
            let embed = |ids: &[u32]| Tokens::new(ids, model.embed(ids)).autodiff();
            let pinned = vec![1u32, 4, 2, 8];
            let starts =
                |pinned: &[u32]| Starts { model: &model, states: read.clone(), pinned: embed(pinned), context: None };
            // By slot: the pinned tokens, then what is drafted.
            let chain = RefCell::new(vec![pinned.clone()]);
            let drafted = |slot: usize| embed(&chain.borrow()[slot]);
            let mut states = heads.begin(starts(&pinned)).chains(&drafted);
            for head in 0..3 {
                let chosen = choose(states(head));
                chain.borrow_mut().push(chosen);
            }
            let mut passes = vec![pinned.clone(), vec![0; BLOCKS], vec![0; BLOCKS], vec![0; BLOCKS]];
            for pass in 1..=3 {
                let before = passes.clone();
                let drafted = |slot: usize| embed(&before[slot]);
                let mut states = heads.begin(starts(&pinned)).chains(&drafted);
                (0..3).for_each(|head| passes[head + 1] = choose(states(head)));
                assert_eq!(passes[..=pass], chain.borrow()[..=pass], "{form:?}");
            }
            assert!(chain.borrow()[1..].iter().flatten().any(|&token| token != chain.borrow()[1][0]), "{form:?}");
        }
    }

    /// In the plain form, what a token adds is a map of its embedding, whatever the state is.
    #[test]
    fn the_bias_is_a_map_of_the_token() {
        let model = model();
        let heads = heads(&model, FORMS[0]);
        let (state, tokens) = (numbers(2, 1.0).autodiff(), tokens(2, 4.0));
        let slot = Slot { number: 0, state, mean: None, before: None };
        let found = to_host(heads.behind(slot, tokens.clone().autodiff()).state.without_autodiff());
        let TokenMap::Embeddings(map) = &heads.token else { panic!("the default is a map") };
        let map = to_host(map.weight.val().without_autodiff());
        for (found, token) in found.chunks(WIDTH + 3).zip(to_host(tokens.embeddings).chunks(WIDTH)) {
            let size = (token.iter().map(|x| x * x).sum::<f32>() / WIDTH as f32 + 1e-5).sqrt();
            for (found, row) in found[WIDTH..].iter().zip(map.chunks(WIDTH)) {
                let expected: f32 = row.iter().zip(token).map(|(a, x)| a * x / size).sum();
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}
