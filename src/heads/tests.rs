//! What every member of the family must do, and what is particular to some.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{DraftHeads, HeadInput, Heads};
use crate::config::{FfnConfig, FirstLayer, HeadArchitecture, LinearConfig, MedusaConfig};
use crate::nn::{IGNORE, Init, collect_parameters, from_host, load_parameters, unembed};

const WIDTH: usize = 4;
const COUNT: usize = 2;
const BOTH: [usize; COUNT] = [0, 1];

fn architectures() -> [HeadArchitecture; 4] {
    let ffn = |first_layer| HeadArchitecture::Ffn(FfnConfig { hidden: 3, first_layer });
    [
        ffn(FirstLayer::Separate),
        ffn(FirstLayer::Shared),
        HeadArchitecture::Medusa(MedusaConfig { blocks: 2 }),
        HeadArchitecture::Linear(LinearConfig {}),
    ]
}

fn untrained(architecture: &HeadArchitecture, device: &Device) -> Heads {
    Heads::new(architecture, COUNT, WIDTH, &mut Init::seeded(9, device))
}

/// Casts every parameter to float64 and adds `step` to the `index`-th number of all of them.
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

fn nudged(heads: &Heads, index: Option<usize>, step: f64) -> Heads {
    heads.clone().map(&mut Nudge { index, step, seen: 0 })
}

/// Heads in float64 none of whose parameters is zero: a zero layer hides the gradient of the one before it.
fn shaken(architecture: &HeadArchitecture, device: &Device) -> Heads {
    let heads = nudged(&untrained(architecture, device), None, 0.0);
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

fn states(heads: &Heads, hidden: &Tensor<2>) -> Vec<Tensor<2>> {
    heads.states(HeadInput { hidden: hidden.clone() }, &BOTH).collect()
}

fn distance(a: Tensor<2>, b: Tensor<2>) -> f64 {
    (a - b).abs().max().cast(DType::F64).into_scalar::<f64>()
}

/// What each head is to predict at three positions, some of them ignored.
const TARGETS: [[u32; 3]; COUNT] = [[4, IGNORE, 0], [IGNORE, 2, 5]];

/// The sum of both heads' mean losses.
fn loss(heads: &Heads, hidden: &Tensor<2>, table: &Tensor<2>) -> f64 {
    let one = |(state, targets): (Tensor<2>, &[u32; 3])| {
        unembed(state.without_autodiff(), table.clone(), targets, 0.5, false).loss * 0.5
    };
    states(heads, hidden).into_iter().zip(&TARGETS).map(one).sum()
}

#[test]
fn gradients_of_the_loss_agree_with_finite_differences_in_float64() {
    for architecture in architectures() {
        let heads = shaken(&architecture, &Device::flex().autodiff());
        let (hidden, table) = (tensor(3, WIDTH, 0.3), tensor(6, WIDTH, 1.1));
        let parts = states(&heads, &hidden.clone().autodiff()).into_iter().zip(&TARGETS).map(|(state, targets)| {
            let result = unembed(state.clone().without_autodiff(), table.clone(), targets, 0.5, false);
            (state * result.hidden_gradient).sum()
        });
        let mut backward = parts.reduce(|sum, part| sum + part).unwrap().backward();
        let gradients = GradientsParams::from_module(&mut backward, &heads);
        let mut flat = Flat { gradients: &gradients, values: Vec::new() };
        heads.visit(&mut flat);
        assert_eq!(flat.values.len(), heads.num_params());
        let step = 1e-6;
        for (i, gradient) in flat.values.iter().enumerate() {
            let difference = loss(&nudged(&heads, Some(i), step), &hidden, &table)
                - loss(&nudged(&heads, Some(i), -step), &hidden, &table);
            assert!((difference / (2.0 * step) - gradient).abs() < 1e-8, "{architecture:?} {i}: {gradient}");
        }
    }
}

#[test]
fn an_untrained_head_repeats_the_backbones_prediction() {
    for architecture in architectures() {
        let heads = untrained(&architecture, &Device::flex());
        assert_eq!(heads.count(), COUNT);
        let hidden = tensor(3, WIDTH, 0.3).cast(DType::F32);
        for state in states(&heads, &hidden) {
            assert_eq!(distance(state, hidden.clone()), 0.0, "{architecture:?}");
        }
    }
}

#[test]
fn a_head_gives_the_same_alone_as_among_the_others() {
    for architecture in architectures() {
        let heads = shaken(&architecture, &Device::flex().autodiff()).valid();
        let hidden = tensor(3, WIDTH, 0.3);
        let together = states(&heads, &hidden);
        assert!(distance(together[0].clone(), together[1].clone()) > 0.0, "{architecture:?}");
        for (index, expected) in together.into_iter().enumerate() {
            let alone = heads.states(HeadInput { hidden: hidden.clone() }, &[index]).next().unwrap();
            assert_eq!(distance(alone, expected), 0.0, "{architecture:?}");
        }
    }
}

/// Which member it is stands in `heads.json`, not in the names: files of schema 1 have these.
#[test]
fn parameters_are_named_by_field_and_index() {
    let names = |architecture| -> Vec<String> {
        collect_parameters(&untrained(&architecture, &Device::flex())).into_keys().collect()
    };
    let [separate, shared, medusa, linear] = architectures().map(names);
    let up_and_down = ["down.bias", "down.weight", "up.bias", "up.weight"];
    assert_eq!(separate[..4], up_and_down.map(|name| format!("heads.0.{name}")));
    assert_eq!(shared, ["down.0.bias", "down.0.weight", "down.1.bias", "down.1.weight", "up.bias", "up.weight"]);
    assert_eq!(medusa[..3], ["heads.0.blocks.0.bias", "heads.0.blocks.0.weight", "heads.0.blocks.1.bias"]);
    assert_eq!(linear, ["heads.0.bias", "heads.0.weight", "heads.1.bias", "heads.1.weight"]);
}

#[test]
fn a_shared_first_layer_is_as_wide_as_all_heads_together() {
    let parameters = collect_parameters(&untrained(&architectures()[1], &Device::flex()));
    assert_eq!(parameters["up.weight"].0, [COUNT * 3, WIDTH]);
    assert_eq!(parameters["down.1.weight"].0, [WIDTH, COUNT * 3]);
}

struct Ids(Vec<String>);

impl ModuleVisitor for Ids {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.id.to_string());
    }
}

/// Medusa's trainer lists one block several times, which ties their weights.
#[test]
fn medusa_blocks_are_distinct() {
    let heads = untrained(&architectures()[2], &Device::flex());
    let mut ids = Ids(Vec::new());
    heads.visit(&mut ids);
    assert_eq!(ids.0.len(), COUNT * 2 * 2, "a matrix and a bias for each block of each head");
    assert_eq!(ids.0.iter().collect::<BTreeSet<_>>().len(), ids.0.len(), "{:?}", ids.0);
    // A weight of one block moves one head, and only as that block does.
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
