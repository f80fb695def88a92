//! Tests of what all kinds of heads must do, and of what is special about some.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{
    DraftHeads, FfnConfig, FirstLayer, HeadKind, HeadShape, HeadUnembedding, HydraConfig, LavaHeadsConfig,
    LinearConfig, MedusaConfig, RedrafterConfig, SpeculatorConfig, SpeculatorWeights, Starts,
};
use crate::backbone::{Feature, FeatureTensors, LanguageModelConfig, Model, ModelConfig, Transformer};
use crate::nn::{
    Criterion, FrozenUnembedding, IGNORE, Init, Projection, Targets, Tokens, collect_parameters, from_host,
    load_parameters, to_host, unembed,
};
use crate::storage_type::StorageType;
use crate::training::gradient;

const WIDTH: usize = 4;
const COUNT: usize = 2;
const VOCABULARY: usize = 6;

const MEDUSA: MedusaConfig = MedusaConfig { blocks: 2, unembedding: HeadUnembedding::Frozen };
const OWN: MedusaConfig = MedusaConfig { blocks: 1, unembedding: HeadUnembedding::Own };
const SPECULATOR: SpeculatorConfig =
    SpeculatorConfig { inner: 3, weights: SpeculatorWeights::Backbone, tie_weights: false, scale_input: false };

const LAVA: LavaHeadsConfig = LavaHeadsConfig { hidden: 3, vocabulary_attention: true, look_around: true };

fn ffn(first_layer: FirstLayer, features: &[Feature]) -> FfnConfig {
    FfnConfig { hidden: 3, first_layer, features: features.to_vec() }
}

fn shared() -> FfnConfig {
    ffn(FirstLayer::Shared, &[Feature::Last])
}

/// Runs a check on every kind of heads.
macro_rules! of_every_kind {
    ($check:ident) => {
        $check("ffn", &ffn(FirstLayer::Separate, &[Feature::Last]));
        $check("ffn, shared", &shared());
        $check("ffn, features", &ffn(FirstLayer::Separate, &[Feature::Layer(0), Feature::Layer(3), Feature::Last]));
        $check("ffn, shared, features", &ffn(FirstLayer::Shared, &[Feature::Layer(2), Feature::Last]));
        $check("medusa", &MEDUSA);
        $check("linear", &LinearConfig {});
        $check("medusa, own unembedding", &OWN);
        $check("speculator", &SPECULATOR);
        $check("hydra", &HydraConfig { repeats: 2, ..HydraConfig::default() });
        $check("hydra, own unembedding", &HydraConfig { unembedding: HeadUnembedding::Own, ..HydraConfig::default() });
        $check("redrafter", &RedrafterConfig { blocks: 1, ..RedrafterConfig::default() });
        $check("lava", &LAVA);
        $check("lava, attention alone", &LavaHeadsConfig { look_around: false, ..LAVA });
        $check("lava, look-around alone", &LavaHeadsConfig { vocabulary_attention: false, ..LAVA });
    };
}

fn backbone(width: usize) -> ModelConfig {
    let size = LanguageModelConfig { hidden: width, layers: 3, heads: 2, kv_heads: 1, intermediate: 6, context: 32 };
    ModelConfig::from_scratch(&size, VOCABULARY)
}

/// A model of this width, for heads that read its vocabulary.
fn model(width: usize, dtype: DType) -> Model {
    let transformer = Transformer::new(&backbone(width), &mut Init::seeded(4, &Device::flex().autodiff()));
    Model::in_tensors(match dtype {
        DType::F64 => nudged(&transformer, None, 0.0).valid(),
        _ => transformer.valid(),
    })
}

fn untrained<K: HeadKind>(kind: &K, device: &Device) -> K::Network {
    of_width(kind, WIDTH, device)
}

fn of_width<K: HeadKind>(kind: &K, width: usize, device: &Device) -> K::Network {
    kind.network(HeadShape::above(&backbone(width), COUNT, None), &mut Init::seeded(9, device))
}

/// Casts every parameter to float64 and adds `step` to one number, the one at `index` when all parameters are counted
/// through.
struct Nudge {
    index: Option<usize>,
    step: f64,
    seen: usize,
}

impl ModuleMapper for Nudge {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let (shape, device) = (tensor.dims(), tensor.device());
            let mut values: Vec<f64> = tensor.into_data().convert::<f64>().try_into_vec().unwrap();
            if let Some(local) = self.index.and_then(|i| i.checked_sub(self.seen)).filter(|&i| i < values.len()) {
                values[local] += self.step;
            }
            self.seen += values.len();
            Tensor::from_data(TensorData::new(values, shape), (&device, DType::F64)).require_grad()
        })
    }
}

fn nudged<N: Module>(heads: &N, index: Option<usize>, step: f64) -> N {
    heads.clone().map(&mut Nudge { index, step, seen: 0 })
}

/// Makes heads in float64 without any zero parameter, because a zero layer would hide the gradient of the layer before
/// it.
fn shaken<K: HeadKind>(kind: &K, device: &Device) -> K::Network {
    let heads = nudged(&untrained(kind, device), None, 0.0);
    (0..heads.num_params()).fold(heads, |h, i| nudged(&h, Some(i), 0.05 * (i as f64).cos()))
}

struct Flat<'a> {
    gradients: &'a GradientsParams,
    values: Vec<f64>,
}

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.get::<D>(param.id).expect("every parameter has a gradient");
        self.values.extend(gradient.into_data().try_into_vec::<f64>().unwrap());
    }
}

fn tensor(rows: usize, columns: usize, shift: f64) -> Tensor<2> {
    let values: Vec<f64> = (0..rows * columns).map(|i| (i as f64 * 0.7 + shift).sin()).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), (&Device::flex(), DType::F64))
}

/// Makes the heads' inputs from the rows of `hidden`: these rows for the last state, and other numbers for other
/// features.
fn read(heads: &dyn DraftHeads, hidden: &Tensor<2>) -> FeatureTensors {
    let features = heads.features();
    let state = |feature: &Feature| match feature {
        Feature::Last => hidden.clone(),
        Feature::Layer(layer) => {
            let [rows, width] = hidden.dims();
            let state = tensor(rows, width, *layer as f64 + 2.0).cast(hidden.dtype());
            if hidden.device().is_autodiff() { state.autodiff() } else { state }
        }
    };
    FeatureTensors::new(&features, features.iter().map(state).collect())
}

/// Returns what is drafted for a slot: made-up embeddings beside the rows of `hidden`.
fn drafted(hidden: &Tensor<2>, slot: usize) -> Tokens {
    let embeddings = tensor(hidden.dims()[0], WIDTH, slot as f64 + 5.0).cast(hidden.dtype());
    let ids: Vec<u32> = (0..hidden.dims()[0]).map(|row| ((row + slot) % VOCABULARY) as u32).collect();
    let tokens = Tokens::new(&ids, embeddings);
    if hidden.device().is_autodiff() { tokens.autodiff() } else { tokens }
}

/// Returns the states of the named heads.
fn states_of(heads: &dyn DraftHeads, hidden: &Tensor<2>, named: &[usize]) -> Vec<Tensor<2>> {
    let (model, drafted) = (model(WIDTH, hidden.dtype()), |slot| drafted(hidden, slot));
    let starts = Starts { model: &model, states: read(heads, hidden), pinned: drafted(0), context: None };
    named.iter().copied().map(heads.begin(starts).chains(&drafted)).collect()
}

fn states(heads: &dyn DraftHeads, hidden: &Tensor<2>) -> Vec<Tensor<2>> {
    states_of(heads, hidden, &[0, 1])
}

fn distance(a: Tensor<2>, b: Tensor<2>) -> f64 {
    (a - b).abs().max().cast(DType::F64).into_scalar::<f64>()
}

/// The targets of each head at three positions, some of which are ignored.
const TARGETS: [[u32; 3]; COUNT] = [[4, IGNORE, 0], [IGNORE, 2, 5]];

/// Returns the sum of both heads' mean losses, with those of what they predict beside their own slots, and what a training step finds
/// of its gradient.
fn loss(
    heads: &dyn DraftHeads,
    model: &Model,
    hidden: &Tensor<2>,
    table: &Tensor<2>,
) -> (f64, Tensor<1>, GradientsParams) {
    let frozen = FrozenUnembedding::new(Projection::new(table.clone()));
    let drafted = |slot| drafted(hidden, slot);
    let starts = Starts { model, states: read(heads, hidden), pinned: drafted(0), context: None };
    let mut learning = heads.learn(starts, &drafted);
    let (mut sum, mut of_own, mut gradients) = (0.0, Vec::new(), Vec::new());
    let beside = (0..COUNT).flat_map(|head| heads.neighbours(head));
    for (number, slot) in (0..COUNT).map(|head| (head, head)).chain(beside) {
        let (state, targets) = (learning.state(number), Targets::of_tokens(&TARGETS[slot % COUNT]));
        let gradient = match heads.unembedding(slot) {
            None => {
                let result = frozen.loss(state, &targets, None, Criterion::CrossEntropy, Some(0.5));
                sum += result.sum() * 0.5;
                result.gradient.unwrap()
            }
            Some(own) => {
                let plain = own.clone().without_autodiff();
                let result = unembed(state, plain, &targets, None, Criterion::CrossEntropy, Some(0.5));
                let [of_state, of_table] = result.gradients.unwrap();
                sum += result.loss * 0.5;
                of_own.push((own * of_table).sum());
                of_state
            }
        };
        gradients.push((number, gradient));
    }
    let (objective, known) = learning.back(gradients);
    (sum, of_own.into_iter().fold(objective, |a, b| a + b), known)
}

fn gradients_agree<K: HeadKind>(name: &str, kind: &K) {
    let (heads, model) = (shaken(kind, &Device::flex().autodiff()), model(WIDTH, DType::F64));
    let (hidden, table) = (tensor(3, WIDTH, 0.3).autodiff(), tensor(VOCABULARY, WIDTH, 1.1));
    let (_, objective, known) = loss(&heads, &model, &hidden, &table);
    let gradients = gradient(&heads, objective, known);
    let mut flat = Flat { gradients: &gradients, values: Vec::new() };
    heads.visit(&mut flat);
    assert_eq!(flat.values.len(), heads.num_params());
    let step = 1e-6;
    for (i, gradient) in flat.values.iter().enumerate() {
        let at = |step| loss(&nudged(&heads, Some(i), step), &model, &hidden, &table).0;
        let difference = (at(step) - at(-step)) / (2.0 * step);
        assert!((difference - gradient).abs() < 1e-8, "{name} {i}: {gradient} {difference}");
    }
}

#[test]
fn gradients_of_the_loss_agree_with_finite_differences_in_float64() {
    of_every_kind!(gradients_agree);
}

fn repeats_the_backbone<K: HeadKind>(name: &str, kind: &K) {
    let heads = untrained(kind, &Device::flex());
    let features = kind.features(&backbone(WIDTH)).unwrap();
    assert_eq!((heads.count(), heads.features()), (COUNT, features), "{name}");
    let hidden = tensor(3, WIDTH, 0.3).cast(DType::F32);
    for state in states(&heads, &hidden) {
        assert_eq!(distance(state, hidden.clone()), 0.0, "{name}");
    }
}

#[test]
fn an_untrained_head_repeats_the_backbones_prediction() {
    of_every_kind!(repeats_the_backbone);
}

fn same_alone<K: HeadKind>(name: &str, kind: &K) {
    let heads = shaken(kind, &Device::flex().autodiff()).valid();
    let hidden = tensor(3, WIDTH, 0.3);
    let together = states(&heads, &hidden);
    assert!(distance(together[0].clone(), together[1].clone()) > 0.0, "{name}");
    for (index, expected) in together.into_iter().enumerate() {
        let alone = states_of(&heads, &hidden, &[index]).remove(0);
        assert_eq!(distance(alone, expected), 0.0, "{name}");
    }
}

#[test]
fn a_head_gives_the_same_alone_as_among_the_others() {
    of_every_kind!(same_alone);
}

fn copies_the_unembedding<K: HeadKind>(name: &str, kind: &K) {
    let model = Model::in_tensors(Transformer::new(&backbone(WIDTH), &mut Init::seeded(4, &Device::flex())));
    let table = model.unembedding();
    let mut heads = untrained(kind, &Device::flex().autodiff());
    heads.warm_start(&model).unwrap();
    for head in 0..COUNT {
        let own = heads.unembedding(head);
        assert_eq!(own.is_some(), kind.owns_unembedding(), "{name}");
        if let Some(own) = own {
            assert_eq!(distance(own.clone().without_autodiff(), table.clone()), 0.0);
            assert!(own.is_require_grad());
        }
    }
}

#[test]
fn an_unembedding_of_its_own_begins_as_the_backbones() {
    of_every_kind!(copies_the_unembedding);
}

/// Compares with the formula, written out for one position in plain numbers.
#[test]
fn a_speculator_takes_in_one_token_a_head() {
    let heads = shaken(&SPECULATOR, &Device::flex().autodiff()).valid();
    let hidden = tensor(1, WIDTH, 0.3);
    let values = |tensor: Tensor<2>| tensor.into_data().try_into_vec::<f64>().unwrap();
    let parameters = collect_f64(&heads);
    let matrix = |name: &str, x: &[f64]| -> Vec<f64> {
        parameters[name].chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    };
    let scaled = |x: &[f64]| -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        x.iter().map(|x| x / (mean + 1e-5).sqrt()).collect()
    };
    let carried = 0.5f64.powf(0.5 / COUNT as f64);
    let share = (1.0 - carried * carried).sqrt() / carried;
    let h = values(hidden.clone());
    let mut state = scaled(&h);
    for (head, found) in states(&heads, &hidden).into_iter().enumerate() {
        let stage = |part: &str, number: &str| format!("{part}.{head}.{number}");
        let token = matrix(&stage("token", "weight"), &scaled(&values(tensor(1, WIDTH, head as f64 + 5.0))));
        let mixed: Vec<f64> =
            matrix(&stage("carry", "weight"), &state).iter().zip(token).map(|(s, t)| s + share * t).collect();
        let mean = mixed.iter().sum::<f64>() / 3.0;
        let variance = mixed.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3.0;
        let (weight, bias) = (&parameters[&stage("norm", "weight")], &parameters[&stage("norm", "bias")]);
        let normed =
            mixed.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - mean) / (variance + 1e-5).sqrt() * w + b);
        state = normed.map(|x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))).collect();
        let down = matrix(&stage("output", "weight"), &state);
        for (((found, h), down), bias) in
            values(found).iter().zip(&h).zip(&down).zip(&parameters[&stage("output", "bias")])
        {
            assert!((found - (h + down + bias)).abs() < 1e-6, "head {head}: {found}");
        }
    }
}

fn collect_f64(heads: &impl Module) -> std::collections::BTreeMap<String, Vec<f64>> {
    let found = collect_parameters(heads);
    found.into_iter().map(|(name, (_, values))| (name, values.into_iter().map(f64::from).collect())).collect()
}

/// The kind of heads is recorded in `heads.json`, not in the parameters' names.
#[test]
fn parameters_are_named_by_field_and_index() {
    fn names<K: HeadKind>(kind: &K) -> Vec<String> {
        collect_parameters(&untrained(kind, &Device::flex())).into_keys().collect()
    }
    let (separate, shared) = (names(&ffn(FirstLayer::Separate, &[Feature::Last])), names(&shared()));
    let (medusa, features) = (names(&MEDUSA), names(&ffn(FirstLayer::Shared, &[Feature::Layer(2), Feature::Last])));
    let (linear, own, speculator) = (names(&LinearConfig {}), names(&OWN), names(&SPECULATOR));
    let up_and_down = ["down.bias", "down.weight", "up.bias", "up.weight"];
    assert_eq!(separate[..4], up_and_down.map(|name| format!("heads.0.{name}")));
    assert_eq!(shared, ["down.0.bias", "down.0.weight", "down.1.bias", "down.1.weight", "up.bias", "up.weight"]);
    assert_eq!(features[4], "inputs.projections.0.weight");
    assert_eq!(medusa[..3], ["heads.0.blocks.0.bias", "heads.0.blocks.0.weight", "heads.0.blocks.1.bias"]);
    assert_eq!(linear, ["heads.0.bias", "heads.0.weight", "heads.1.bias", "heads.1.weight"]);
    assert_eq!(own[..3], ["heads.0.blocks.0.bias", "heads.0.blocks.0.weight", "heads.0.unembedding.weight"]);
    let lists = ["carry.0.weight", "carry.1.weight", "norm.0.bias", "norm.0.weight", "norm.1.bias", "norm.1.weight"];
    assert_eq!(speculator[..6], lists);
}

#[test]
fn a_shared_first_layer_is_as_wide_as_all_heads_together() {
    let parameters = collect_parameters(&untrained(&shared(), &Device::flex()));
    assert_eq!(parameters["up.weight"].0, [COUNT * 3, WIDTH]);
    assert_eq!(parameters["down.1.weight"].0, [WIDTH, COUNT * 3]);
}

struct Ids(Vec<String>);

impl ModuleVisitor for Ids {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.id.to_string());
    }
}

/// Medusa's trainer lists the same block several times, which ties the weights.
#[test]
fn medusa_blocks_are_distinct() {
    let heads = untrained(&MEDUSA, &Device::flex());
    let mut ids = Ids(Vec::new());
    heads.visit(&mut ids);
    assert_eq!(ids.0.len(), COUNT * 2 * 2, "a matrix and a bias for each block of each head");
    assert_eq!(ids.0.iter().collect::<BTreeSet<_>>().len(), ids.0.len(), "{:?}", ids.0);
    // A change to one block must move only the head of this block, and only as this block would.
    let mut values = collect_parameters(&heads);
    let weight: Vec<f32> = (0..WIDTH * WIDTH).map(|i| (i as f32).cos()).collect();
    values.get_mut("heads.1.blocks.1.weight").unwrap().1.clone_from(&weight);
    let heads = load_parameters(heads, values).unwrap();
    let hidden = tensor(3, WIDTH, 0.3).cast(DType::F32);
    let weight: Tensor<2> = from_host(weight, [WIDTH, WIDTH], &Device::flex());
    let expected = hidden.clone() + silu(hidden.clone().matmul(weight.transpose()));
    let found = states(&heads, &hidden);
    assert_eq!(distance(found[0].clone(), hidden), 0.0);
    assert!(distance(found[1].clone(), expected) < 1e-6);
}

fn same_bits<K: HeadKind>(name: &str, kind: &K) {
    let (device, rows, width) = (Device::flex(), 21, 40);
    let transformer = Transformer::new(&backbone(width), &mut Init::seeded(4, &device));
    let model = Model::freeze(&transformer, StorageType::Float32).unwrap();
    let part = |shift: f32, from: usize, count: usize| {
        let numbers = (0..rows * width).map(|i| (i as f32 * 0.7 + shift).sin()).collect();
        from_host(numbers, [rows, width], &device).narrow(0, from, count)
    };
    let states = |heads: &K::Network, from: usize, count: usize| -> Vec<Vec<f32>> {
        let drafted = |slot: usize| {
            let ids: Vec<u32> = (from..from + count).map(|row| ((row + slot) % VOCABULARY) as u32).collect();
            Tokens::new(&ids, part(slot as f32 + 5.0, from, count))
        };
        let read = read(heads, &part(0.0, 0, rows)).map(|state| state.narrow(0, from, count));
        let starts = Starts { model: &model, states: read, pinned: drafted(0), context: None };
        [0, 1].map(heads.begin(starts).chains(&drafted)).map(to_host).into()
    };
    let heads = of_width(kind, width, &device);
    let mut parameters = collect_parameters(&heads);
    let numbers = parameters.values_mut().flat_map(|(_, numbers)| numbers.iter_mut());
    numbers.enumerate().for_each(|(i, x)| *x += 0.1 * (i as f32).cos());
    let mut heads = load_parameters(heads, parameters).unwrap();
    let before = states(&heads, 0, rows);
    // The error of rounding every weight once.
    for (weights, near) in [(StorageType::Float32, 1e-5), (StorageType::Float16, 2e-2), (StorageType::Bfloat16, 2e-1)] {
        heads.pack(weights);
        let together = states(&heads, 0, rows);
        for (before, together) in before.iter().zip(&together) {
            let largest = before.iter().zip(together).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest < near, "{name}, {weights:?}: {largest}");
            assert!(largest > 0.0 || weights == StorageType::Float32, "{name}, {weights:?}: nothing is rounded");
        }
        for row in 0..rows {
            for (alone, together) in states(&heads, row, 1).iter().zip(&together) {
                assert_eq!(alone[..], together[row * width..][..width], "{name}, {weights:?}, row {row}");
            }
        }
    }
}

/// Documents can be drafted for together only if no document's candidates depend on the others.
#[test]
fn frozen_on_the_cpu_a_row_has_the_same_bits_alone_and_beside_others() {
    of_every_kind!(same_bits);
}

/// Compares with the formula. The hidden layers give zero, so that a head's state is the sum itself.
#[test]
fn features_are_scaled_projected_and_summed() {
    let kind = ffn(FirstLayer::Separate, &[Feature::Layer(1), Feature::Last]);
    let heads = untrained(&kind, &Device::flex());
    let mut values = collect_parameters(&heads);
    let weight: Vec<f32> = (0..WIDTH * WIDTH).map(|i| (i as f32).cos()).collect();
    values.get_mut("inputs.projections.0.weight").unwrap().1.clone_from(&weight);
    let heads = load_parameters(heads, values).unwrap();
    let hidden = tensor(3, WIDTH, 0.3).cast(DType::F32);
    let found = to_host(states(&heads, &hidden).remove(1));
    let (hidden, layer) = (to_host(hidden), to_host(tensor(3, WIDTH, 3.0)));
    for (row, layer) in layer.chunks(WIDTH).enumerate() {
        let root = (layer.iter().map(|x| x * x).sum::<f32>() / WIDTH as f32 + 1e-5).sqrt();
        for (column, weights) in weight.chunks(WIDTH).enumerate() {
            let projected: f32 = weights.iter().zip(layer).map(|(w, x)| w * x / root).sum();
            let at = row * WIDTH + column;
            assert!((found[at] - (hidden[at] + projected)).abs() < 1e-5, "{row} {column}");
        }
    }
}
